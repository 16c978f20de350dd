//! Redis loses everything while a node stands still, which cannot write its rows again.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Client, Redis, eventually, node_on, post, send_signal};

/// Longer than other nodes need for their rows, shorter than a lease lasts.
const STILL: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_user_of_a_node_that_stands_still_is_not_called_offline() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut client = Client::v1(&a.ws_url("42")).await;
    // Both know of each other.
    eventually(async || {
        let answer = reqwest::get(b.url("/v1/nodes")).await.expect("an answer");
        let nodes: serde_json::Value = answer.json().await.expect("JSON");
        match nodes.to_string().contains(&format!("{:?}", a.id)) {
            true => Ok(()),
            false => Err(nodes),
        }
    })
    .await;
    send_signal(a.pid(), "STOP");
    redis.cli(&["FLUSHALL"]);
    let lost = Instant::now();
    let push = json!({"to": {"user": "42"}, "data": "lost", "timeout_ms": 300});
    while lost.elapsed() < STILL {
        let (_, answer) = post(&b.push_url, &push).await;
        assert_ne!(
            answer["status"],
            "offline",
            "{answer} after {:?}",
            lost.elapsed()
        );
    }
    send_signal(a.pid(), "CONT");
    let found = json!({"to": {"user": "42"}, "data": "found", "timeout_ms": 300});
    eventually(async || {
        let (_, answer) = post(&b.push_url, &found).await;
        match answer["status"] == "routed" {
            true => Ok(()),
            false => Err(answer),
        }
    })
    .await;
    while client.json().await["data"] != "found" {}
}
