//! Sessions, bans and limits of one node by itself.

use serde_json::json;

use crate::common::passes::{self, ask, refused};
use crate::common::{Client, node};

#[tokio::test]
async fn a_session_lets_its_bearer_in_until_it_is_ended() {
    let node = node(&[("PUSH_AUTH", "session")]);
    passes::sessions(&node, &node).await;
    passes::bad_requests(&node).await;
    let log = node.log();
    assert!(!log.contains("token="), "{log}");
}

#[tokio::test]
async fn a_ban_holds_until_it_is_lifted() {
    let node = node(&[]);
    passes::bans(&node, &node).await;
    let (status, answer) = ask("POST", &node.url("/v1/sessions"), &json!({})).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (409, &json!("sessions_off"))
    );
}

#[tokio::test]
async fn a_ban_ends_by_itself() {
    let node = node(&[]);
    ask("PUT", &node.url("/v1/users/a/ban"), &json!({"seconds": 2})).await;
    assert_eq!(refused(&node.ws_url("a")).await, (403, "banned".to_owned()));
    crate::common::eventually(async || {
        let answer = tokio_tungstenite::connect_async(node.ws_url("a")).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn bans_can_be_switched_off() {
    let node = node(&[("PUSH_BANS", "false")]);
    let (status, answer) = ask("PUT", &node.url("/v1/users/a/ban"), &json!({"seconds": 2})).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (409, &json!("bans_off"))
    );
    Client::v1(&node.ws_url("a")).await;
}

#[tokio::test]
async fn a_users_connections_are_limited() {
    let newest = node(&[("PUSH_MAX_CONNECTIONS_PER_USER", "2")]);
    passes::newest_wins(&newest, &newest).await;
    passes::at_the_same_moment(&newest, &newest, 10, 2, true).await;
    let oldest = node(&[
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ]);
    passes::oldest_wins(&oldest, &oldest).await;
    passes::at_the_same_moment(&oldest, &oldest, 10, 1, false).await;
}

#[tokio::test]
async fn a_users_connections_are_limited_for_each_device() {
    let node = node(&[("PUSH_MAX_CONNECTIONS_PER_DEVICE", "1")]);
    let mut phone = Client::v1(&node.ws_url("a&device=phone")).await;
    let mut desk = Client::v1(&node.ws_url("a&device=desk")).await;
    let _phone = Client::v1(&node.ws_url("a&device=phone")).await;
    assert_eq!(phone.close_frame().await, (4005, "replaced".to_owned()));
    desk.send(r#"{"type":"ping"}"#).await;
    desk.hears_next("pong").await;
}
