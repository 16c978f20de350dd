//! Tokens, sessions, bans and limits at the door of each transport: the same as by WebSocket.

use serde_json::{Value, json};

use crate::common::grants::{
    SECRET, SETTINGS, a_new_token_takes_topics_away, a_session_says_what_may_be_subscribed,
    a_token_says_what_may_be_subscribed, token,
};
use crate::common::passes::ask;
use crate::common::tokens::{Issuer, now};
use crate::common::transports::{
    AnyClient, TRANSPORTS, Transport, connect, connect_as, refused_as,
};
use crate::common::{Node, http, node};

async fn one_of_each(node: &Node, who: &[(&str, &str)]) -> Vec<AnyClient> {
    let mut clients = Vec::new();
    for by in TRANSPORTS {
        clients.push(connect_as(by, node, who).await);
    }
    clients
}

async fn all_refused(node: &Node, who: &[(&str, &str)], code: &str) {
    for by in TRANSPORTS {
        assert_eq!(refused_as(by, node, who).await, code, "{by:?}");
    }
}

/// Each hears why it ends, and that it would not help to come back.
async fn all_end(clients: &mut [AnyClient], code: u16, reason: &str) {
    for client in clients {
        let bye = client.bye(code, reason).await;
        assert_eq!(bye.get("retry_ms"), None, "{bye}");
    }
}

#[tokio::test]
async fn a_token_lets_in_and_its_end_ends_the_connection() {
    let exact = [("PUSH_JWT_LEEWAY_SECONDS", "0")];
    let node = node(&[&SETTINGS[..], &exact].concat());
    all_refused(&node, &[], "token_missing").await;
    all_refused(&node, &[("token", "a.b.c")], "token_invalid").await;
    let good = token("42", None);
    all_refused(&node, &[("token", &good), ("user", "43")], "wrong_user").await;
    let end = now() + 8;
    let short = Issuer::secret(SECRET).token(&json!({"sub": "42", "exp": end}));
    let mut clients = one_of_each(&node, &[("token", &short), ("user", "42")]).await;
    for client in &mut clients {
        assert_eq!(client.ready["user"], "42");
        let warning = client.json().await;
        assert_eq!(warning["type"], "expiring", "{warning}");
    }
    let mut stays = connect_as(Transport::Tcp, &node, &[("token", &short)]).await;
    assert_eq!(stays.json().await["type"], "expiring");
    let auth = json!({"type": "auth", "ref": 1, "token": good});
    stays.send(&auth).await;
    let reply = stays.json().await;
    assert_eq!(
        (&reply["type"], &reply["ref"]),
        (&json!("reply"), &json!(1))
    );
    all_end(&mut clients, 4004, "token expired").await;
    assert!(now() >= end, "not before its time");
    stays.send(&json!({"type": "ping"})).await;
    assert_eq!(stays.json().await["type"], "pong");
    all_refused(&node, &[("token", &short)], "token_expired").await;
    assert!(!node.log().contains("eyJ"), "a token stands in the log");
}

#[tokio::test]
async fn an_event_source_shows_its_token_in_a_header_or_the_query() {
    let node = node(&SETTINGS);
    let url = node.url("/sse");
    let bearer = format!("Bearer {}", token("42", None));
    let answer = http().get(&url).header("authorization", bearer).send();
    assert_eq!(answer.await.expect("an answer").status(), 200);
    let answer = http().get(&url).send().await.expect("an answer");
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn the_end_of_a_session_reaches_each_transport() {
    let node = node(&SETTINGS);
    let wish = json!({"user": "42", "device": "till", "ttl_seconds": 300});
    let (_, opened) = ask("POST", &node.url("/v1/sessions"), &wish).await;
    let token = opened["token"].as_str().expect("a token");
    let mut clients = one_of_each(&node, &[("token", token)]).await;
    let (_, shown) = ask("GET", &node.url("/v1/users/42"), &Value::Null).await;
    for (row, by) in shown["connections"]
        .as_array()
        .expect("rows")
        .iter()
        .zip(TRANSPORTS)
    {
        assert_eq!(row["transport"], by.name());
        assert_eq!(row["device"], "till");
    }
    let end = json!({"session": opened["session"]});
    let (_, ended) = ask("DELETE", &node.url("/v1/sessions"), &end).await;
    assert_eq!(ended["ended"], true, "{ended}");
    all_end(&mut clients, 4004, "token expired").await;
    all_refused(&node, &[("token", token)], "token_invalid").await;
}

#[tokio::test]
async fn a_ban_closes_and_refuses_each_transport() {
    let node = node(&[]);
    let mut clients = one_of_each(&node, &[("user", "42")]).await;
    let ban = json!({"seconds": 300});
    let (_, answer) = ask("PUT", &node.url("/v1/users/42/ban"), &ban).await;
    assert_eq!(answer["connections"], 3, "{answer}");
    all_end(&mut clients, 4006, "banned").await;
    all_refused(&node, &[("user", "42")], "banned").await;
    ask("DELETE", &node.url("/v1/users/42/ban"), &Value::Null).await;
    one_of_each(&node, &[("user", "42")]).await;
}

#[tokio::test]
async fn a_users_limit_counts_connections_of_all_transports() {
    let newest = node(&[("PUSH_MAX_CONNECTIONS_PER_USER", "3")]);
    let mut first = one_of_each(&newest, &[("user", "42")]).await;
    let _second = one_of_each(&newest, &[("user", "42")]).await;
    all_end(&mut first, 4005, "replaced").await;
    let oldest = node(&[
        ("PUSH_MAX_CONNECTIONS_PER_USER", "3"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ]);
    let mut first = one_of_each(&oldest, &[("user", "42")]).await;
    all_refused(&oldest, &[("user", "42")], "too_many_connections").await;
    first[0].send(&json!({"type": "ping"})).await;
    assert_eq!(first[0].json().await["type"], "pong");
    connect(Transport::Sse, &oldest, "43", None).await;
}

#[tokio::test]
async fn a_token_says_what_may_be_subscribed_here() {
    let node = node(&SETTINGS);
    a_token_says_what_may_be_subscribed(&node).await;
    a_session_says_what_may_be_subscribed(&node, &node).await;
}

#[tokio::test]
async fn a_new_token_takes_topics_away_here() {
    let node = node(&SETTINGS);
    a_new_token_takes_topics_away(&node, &node).await;
}
