//! A node that cannot write its rows: others do not take a missing row for proof that its user is
//! offline.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, node_on, post};

/// What a node needs beside rows: its lease, the sets of nodes, and the lists of its rows.
const BUT_ROWS: [&str; 6] = [
    "resetkeys",
    "~pn:node*",
    "~pn:boots*",
    "~pn:users:*",
    "~pn:topics:*",
    "%R~*",
];

/// Two nodes; the second has a user of Redis of its own, whose rights can be changed.
fn pair(redis: &Redis) -> (Node, Node) {
    let all = ["ACL", "SETUSER", "b", "on", ">pw", "~*", "&*", "+@all"];
    assert_eq!(redis.cli(&all), "OK");
    let a = node_on(redis, "a");
    let url = redis.url().replace("redis://", "redis://b:pw@");
    let b = crate::common::node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "b")]);
    (a, b)
}

fn allow(redis: &Redis, keys: &[&str]) {
    let rights = [&["ACL", "SETUSER", "b"], keys].concat();
    assert_eq!(redis.cli(&rights), "OK");
}

async fn push(node: &Node, user: &str) -> (u16, Value) {
    let push = json!({"to": {"user": user}, "data": 1, "timeout_ms": 300});
    post(&node.push_url, &push).await
}

async fn until_said(node: &Node, user: &str, code: u16, field: &str, word: &str) {
    eventually(async || match push(node, user).await {
        (is, answer) if is == code && answer[field] == word => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn while_a_node_cannot_write_rows_its_lease_says_so_and_nobody_is_offline_elsewhere() {
    let redis = Redis::start();
    let (a, b) = pair(&redis);
    assert_eq!(push(&a, "77").await.1["status"], "offline");
    allow(&redis, &BUT_ROWS);
    let _client = Client::v1(&b.ws_url("77")).await;
    until_said(&a, "77", 503, "reason", "Redis denies permission").await;
    let lease = redis.cli(&["GET", "pn:node:b"]);
    assert!(
        lease.contains(r#""unwritten":"Redis denies permission""#),
        "{lease}"
    );
    // Its own senders are told the same of users who are not there.
    until_said(&b, "78", 503, "reason", "Redis denies permission").await;
    allow(&redis, &["resetkeys", "~*"]);
    until_said(&a, "77", 200, "status", "routed").await;
    until_said(&a, "78", 200, "status", "offline").await;
    let lease = redis.cli(&["GET", "pn:node:b"]);
    assert!(!lease.contains("unwritten"), "{lease}");
}

#[tokio::test]
async fn while_a_node_that_listens_cannot_renew_its_lease_nobody_is_offline_elsewhere() {
    let redis = Redis::start();
    let (a, b) = pair(&redis);
    allow(&redis, &["resetkeys", "%R~*"]);
    let _client = Client::v1(&b.ws_url("77")).await;
    let late = "a node cannot renew its lease, and may have rows to write";
    until_said(&a, "77", 503, "reason", late).await;
    allow(&redis, &["resetkeys", "~*"]);
    until_said(&a, "77", 200, "status", "routed").await;
    until_said(&a, "78", 200, "status", "offline").await;
}
