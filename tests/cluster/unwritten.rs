//! A node that cannot write its rows: others do not take a missing row for proof that its user is
//! offline.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, node_on, post};

/// Well within the time between two beats, which is 3 s.
const SOON: Duration = Duration::from_secs(1);

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

/// Waits until a node has renewed its lease.
async fn until_beat(redis: &Redis, lease: &str) {
    let before = redis.cli(&["GET", lease]);
    eventually(async || match redis.cli(&["GET", lease]) {
        now if now != before => Ok(()),
        now => Err(now),
    })
    .await;
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
    until_beat(&redis, "pn:node:a").await;
    let comes = Instant::now();
    let url = b.ws_url("77");
    let client = tokio::spawn(async move { Client::v1(&url).await });
    // By its lease alone, others would hear of it with their next beat.
    let mut falsely = 0;
    let heard = loop {
        let asked = comes.elapsed();
        match push(&a, "77").await {
            (200, answer) if answer["status"] == "offline" => falsely += 1,
            _ => break asked,
        }
    };
    println!("heard after {heard:.1?}; {falsely} pushes were answered offline until then");
    assert!(heard < SOON, "{heard:?}");
    let _client = client.await.expect("a client");
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

/// The last look-up of a push ends at its deadline, without an answer.
#[tokio::test]
async fn a_push_that_redis_keeps_waiting_names_what_it_had_found_before() {
    let redis = Redis::start();
    let (a, b) = pair(&redis);
    allow(&redis, &BUT_ROWS);
    let _client = Client::v1(&b.ws_url("77")).await;
    until_said(&a, "77", 503, "reason", "Redis denies permission").await;
    let url = a.push_url.clone();
    let patient = json!({"to": {"user": "77"}, "data": 1, "timeout_ms": 1_500});
    let push = tokio::spawn(async move { post(&url, &patient).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(redis.cli(&["CLIENT", "PAUSE", "3000", "ALL"]), "OK");
    let (code, answer) = push.await.expect("an answer");
    let reason = &answer["reason"];
    assert_eq!((code, reason), (503, &json!("Redis denies permission")));
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

/// Redis lost everything, and goes on without the rows of one node. Others push past its clients
/// meanwhile, and are told `routed` for those that are elsewhere.
#[tokio::test]
async fn who_was_told_of_a_loss_before_its_row_was_back_is_told_again() {
    let redis = Redis::start();
    let (a, b) = pair(&redis);
    let _here = Client::v1(&a.ws_url("77")).await;
    let mut there = Client::v1(&b.ws_url("77")).await;
    allow(&redis, &BUT_ROWS);
    assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    assert_eq!(there.json().await["type"], "resync");
    eventually(async || match &*redis.cli(&["HLEN", "pn:user:{77}"]) {
        "1" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    let (_, answer) = push(&a, "77").await;
    let told = ["status", "connections", "reason"].map(|field| &answer[field]);
    assert_eq!(told, [&json!("routed"), &json!(1), &Value::Null]);
    allow(&redis, &["resetkeys", "~*"]);
    assert_eq!(there.json().await["type"], "resync");
    let row = redis.cli(&["HKEYS", "pn:user:{77}"]);
    assert!(row.contains(&there.connection()), "{row}");
}

/// The beat that finds the loss fails later on, and the next one finds the lease again.
#[tokio::test]
async fn a_loss_that_a_failing_beat_found_is_told_of_once_beats_succeed() {
    let redis = Redis::start();
    let (_a, b) = pair(&redis);
    let mut there = Client::v1(&b.ws_url("77")).await;
    let but_boots = ["resetkeys", "~pn:node*", "~pn:user*", "~pn:topic*", "%R~*"];
    allow(&redis, &but_boots);
    until_said(&b, "78", 503, "reason", "Redis denies permission").await;
    assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    // Or this would show that something was lost.
    assert_eq!(redis.cli(&["SADD", "pn:boots", &b.id]), "1");
    eventually(async || match &*redis.cli(&["GET", "pn:node:b"]) {
        "" => Err("no lease"),
        _ => Ok(()),
    })
    .await;
    allow(&redis, &["resetkeys", "~*"]);
    let sign = r#"sign="forgotten""#;
    eventually(async || match b.labelled("losses_total", sign).await {
        0.0 => Err("not told"),
        _ => Ok(()),
    })
    .await;
    assert_eq!(there.json().await["type"], "resync");
    eventually(async || match redis.cli(&["HKEYS", "pn:user:{77}"]) {
        row if row.contains(&there.connection()) => Ok(()),
        row => Err(row),
    })
    .await;
}

/// The row was found missing before, and is written again together with all others.
#[tokio::test]
async fn a_lost_row_that_is_back_with_all_others_is_told_of_with_them() {
    let redis = Redis::start();
    let (_a, b) = pair(&redis);
    let mut there = Client::v1(&b.ws_url("77")).await;
    allow(&redis, &BUT_ROWS);
    assert_eq!(redis.cli(&["DEL", "pn:user:{77}"]), "1");
    let told = async |sign: &str| {
        let sign = format!("sign=\"{sign}\"");
        b.labelled("losses_total", &sign).await
    };
    eventually(
        async || match b.metric("registry_rows_restored_total").await {
            1.0 => Ok(()),
            other => Err(other),
        },
    )
    .await;
    assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    assert_eq!(there.json().await["type"], "resync");
    allow(&redis, &["resetkeys", "~*"]);
    assert_eq!(there.json().await["type"], "resync");
    assert_eq!(redis.cli(&["HLEN", "pn:user:{77}"]), "1");
    eventually(async || match told("forgotten").await {
        2.0 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(told("lost_row").await, 0.0);
}
