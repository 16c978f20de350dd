//! Event streams that come back to another node, and what reading leaves in Redis.

use serde_json::{Value, json};

use crate::common::transports::{Transport, connect_back};
use crate::common::{Client, Node, Redis, keep, logs, node_on, streams};

#[tokio::test]
async fn an_event_stream_goes_on_from_every_event_at_another_node() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    streams::goes_on_from_every_event(&a, &b, &a).await;
}

#[tokio::test]
async fn an_event_stream_claims_only_what_its_id_covers_in_redis() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    streams::claims_only_what_its_id_covers(&node).await;
}

#[tokio::test]
async fn an_event_stream_with_a_foreign_id_begins_anew_with_redis() {
    let redis = Redis::start();
    streams::begins_anew_with_a_foreign_id(&node_on(&redis, "a")).await;
}

/// The reply to a subscription that resumes, whatever the client hears before it.
async fn resume(node: &Node, token: &str) -> Value {
    let mut client = Client::v1(&node.ws_url("follower")).await;
    let request = json!({"type": "subscribe", "topic": "run.17", "since": token, "ref": 1});
    client.send(&request.to_string()).await;
    loop {
        let heard = client.json().await;
        if heard["ref"] == 1 {
            return heard;
        }
    }
}

/// Keys of inboxes and logs.
fn kept_keys(redis: &Redis) -> Vec<String> {
    let keys = redis.cli(&["KEYS", "pn:*"]);
    let is_kept = |key: &&str| {
        let kinds = ["pn:pos:", "pn:logpos:", "pn:inbox:", "pn:log:"];
        kinds.iter().any(|kind| key.starts_with(kind))
    };
    keys.lines().filter(is_kept).map(str::to_owned).collect()
}

#[tokio::test]
async fn reading_writes_nothing() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Client::v1(&format!("{}&topics=a,b&since=0", node.ws_url("42"))).await;
    for since in [None, Some("0"), Some("7.8-9")] {
        logs::follow(&mut client, "c", since).await;
    }
    let who = [("user", "43"), ("topics", "d,e")];
    let first = connect_back(Transport::Sse, &node, &who, None).await;
    let id = first.last_id.clone().expect("an id");
    let again = connect_back(Transport::Sse, &node, &who, Some(&id)).await;
    assert_eq!(again.ready["recovered"], true, "{}", again.ready);
    assert_eq!(kept_keys(&redis), Vec::<String>::new());
    // What is kept then reaches them all the same.
    logs::keep(&node, "c", 1).await;
    logs::hears(&mut client, "c", 1..=1).await;
}

/// A position where nothing was kept proves nothing once Redis has lost all that it had.
#[tokio::test]
async fn nothing_is_claimed_after_redis_lost_what_was_kept() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let who = [("user", "42"), ("topics", "run.17")];
    let first = connect_back(Transport::Sse, &node, &who, None).await;
    let id = first.last_id.clone().expect("an id");
    let (mut v1, reply) = logs::follower(&node, "run.17", None).await;
    let token = reply["resume"].as_str().expect("a token").to_owned();
    drop(first);
    logs::keep(&node, "run.17", 1).await;
    keep::keep(&node, "42", 2).await;
    logs::hears(&mut v1, "run.17", 1..=1).await;
    redis.cli(&["FLUSHALL"]);
    let back = connect_back(Transport::Sse, &node, &who, Some(&id)).await;
    assert_eq!(back.ready["recovered"], false, "{}", back.ready);
    let reply = resume(&node, &token).await;
    assert_eq!(reply["recovered"], false, "{reply}");
    // Nor once there is something again.
    logs::keep(&node, "run.17", 3).await;
    let reply = resume(&node, &token).await;
    assert_eq!(reply["recovered"], false, "{reply}");
}
