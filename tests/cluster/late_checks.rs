//! What was let in while Redis could not be read is looked up as soon as Redis answers.

use serde_json::json;

use crate::common::tokens::{Issuer, claims};
use crate::common::{Client, Node, Redis, node_with, send_signal};

const SECRET: &str = "correct horse battery staple: 32 bytes";

fn jwt_node(redis: &Redis) -> Node {
    let settings = [("PUSH_AUTH", "jwt"), ("PUSH_JWT_SECRETS", SECRET)];
    node_with(redis, "a", &settings)
}

fn token(user: &str) -> String {
    Issuer::secret(SECRET).token(&claims(user))
}

async fn connect(node: &Node, user: &str) -> Client {
    let token = token(user);
    let url = format!("ws://{}/ws?token={token}", node.client_address());
    Client::v1(&url).await
}

/// Carried out while Redis stands still: not for longer than a handshake waits, so that no other
/// sign of loss has the node look again.
async fn without_redis<T>(redis: &Redis, act: impl Future<Output = T>) -> T {
    send_signal(redis.pid(), "STOP");
    let done = act.await;
    send_signal(redis.pid(), "CONT");
    done
}

async fn is_sent_away(client: &mut Client, code: u16) {
    while client.json().await["type"] != "bye" {}
    assert_eq!(client.close_frame().await.0, code);
}

async fn stays(client: &mut Client) {
    client.send(r#"{"type":"ping"}"#).await;
    while client.json().await["type"] != "pong" {}
}

#[tokio::test]
async fn a_banned_user_who_came_while_redis_stood_still_is_sent_away() {
    let redis = Redis::start();
    let node = jwt_node(&redis);
    redis.cli(&["SET", "pn:ban:{42}", "", "EX", "100"]);
    let both = async { (connect(&node, "42").await, connect(&node, "43").await) };
    let (mut banned, mut another) = without_redis(&redis, both).await;
    is_sent_away(&mut banned, 4006).await;
    stays(&mut another).await;
}

#[tokio::test]
async fn a_banned_user_who_renewed_while_redis_stood_still_is_sent_away() {
    let redis = Redis::start();
    let node = jwt_node(&redis);
    let mut client = connect(&node, "42").await;
    // Nobody announces it to the node.
    redis.cli(&["SET", "pn:ban:{42}", "", "EX", "100"]);
    let renewed = without_redis(&redis, async {
        let auth = json!({"type": "auth", "token": token("42"), "ref": 1});
        client.send(&auth.to_string()).await;
        loop {
            let heard = client.json().await;
            if heard["ref"] == 1 {
                break heard;
            }
        }
    });
    assert_eq!(renewed.await["type"], "reply");
    is_sent_away(&mut client, 4006).await;
}

#[tokio::test]
async fn one_connection_too_many_that_came_while_redis_stood_still_is_sent_away() {
    for (policy, first_stays) in [("oldest", true), ("newest", false)] {
        let redis = Redis::start();
        let settings = [
            ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
            ("PUSH_SESSION_POLICY", policy),
        ];
        let (a, b) = (
            node_with(&redis, "a", &settings),
            node_with(&redis, "b", &settings),
        );
        let mut first = Client::v1(&a.ws_url("42")).await;
        let url = b.ws_url("42");
        let mut second = without_redis(&redis, Client::v1(&url)).await;
        let (kept, gone) = match first_stays {
            true => (&mut first, &mut second),
            false => (&mut second, &mut first),
        };
        is_sent_away(gone, 4005).await;
        stays(kept).await;
    }
}
