//! What is promised where Redis evicts keys: who may have missed a kept message is not told that
//! nothing is missing.

use serde_json::json;

use crate::common::keep::{connect, keep, ready, resume};
use crate::common::{Node, Redis, eventually, node_on, post};

/// Keys that Redis evicts before all others: they end before any lease does.
const FILLING: usize = 40;

/// A Redis that evicts what ends first, and two nodes that count what it evicts from now on.
async fn evicting() -> (Redis, Node, Node) {
    let policy = ["--maxmemory-policy", "volatile-ttl"];
    let redis = Redis::start_with(&[&policy[..], &["--maxmemory-samples", "64"]].concat());
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    for node in [&a, &b] {
        eventually(async || match node.metric("redis_may_evict").await {
            1.0 => Ok(()),
            other => Err(other),
        })
        .await;
    }
    (redis, a, b)
}

/// A kept message that no client is given, and whose inbox is gone afterwards, as is all that tells of
/// it. The row stands again before any node looks at it.
async fn keep_in_vain(redis: &Redis, sender: &Node, row: Option<(&str, &str)>) {
    redis.cli(&["DEL", "pn:user:{42}"]);
    let body = json!({"to": {"user": "42"}, "keep": true, "data": 1});
    assert_eq!(post(&sender.push_url, &body).await.1["status"], "stored");
    if let Some((field, value)) = row {
        assert_eq!(redis.cli(&["HSET", "pn:user:{42}", field, value]), "1");
    }
    assert_eq!(redis.cli(&["DEL", "pn:inbox:{42}", "pn:pos:{42}"]), "2");
}

/// Has Redis evict some keys, none of which is a node's, until this node has noticed.
async fn evict(redis: &Redis, node: &Node) {
    let text = "x".repeat(10_000);
    for key in 0..FILLING {
        let key = format!("filling:{key}");
        assert_eq!(redis.cli(&["SET", &key, &text, "EX", "8"]), "OK");
    }
    let count = |section: &str, name: &str| -> u64 {
        let info = redis.cli(&["INFO", section]);
        let count = info.lines().find_map(|line| line.trim().strip_prefix(name));
        count.expect("a field").parse().expect("a number")
    };
    let below = count("memory", "used_memory:") - 50_000;
    redis.cli(&["CONFIG", "SET", "maxmemory", &below.to_string()]);
    // Not for longer than this takes: later it would be the turn of leases.
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(count("stats", "evicted_keys:") > 0);
    eventually(async || match node.metric("redis_evictions_total").await {
        0.0 => Err("not noticed"),
        _ => Ok(()),
    })
    .await;
}

/// The first message of an inbox was evicted while its reader, who had read nothing, was away. The
/// next one is the first of a new inbox.
#[tokio::test]
async fn who_had_read_nothing_is_not_told_that_nothing_was_evicted() {
    let (redis, a, b) = evicting().await;
    let client = connect(&a, "42", None).await;
    let token = resume(&client);
    drop(client);
    keep_in_vain(&redis, &b, None).await;
    evict(&redis, &a).await;
    keep(&b, "42", 2).await;
    eventually(async || {
        let back = connect(&b, "42", Some(&token)).await;
        match ready(&back, "recovered").as_bool() {
            Some(false) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(a.labelled("losses_total", r#"sign="forgotten""#).await, 0.0);
}

/// The same while the reader is connected.
#[tokio::test]
async fn a_reader_of_nothing_is_told_before_or_soon_after_another_first_message() {
    let (redis, a, b) = evicting().await;
    let mut client = connect(&a, "42", None).await;
    let row = redis.cli(&["HGETALL", "pn:user:{42}"]);
    let (field, value) = row.split_once('\n').expect("a field and its value");
    keep_in_vain(&redis, &b, Some((field, value.trim()))).await;
    evict(&redis, &a).await;
    keep(&b, "42", 2).await;
    let mut lacking = vec!["resync", "message"];
    while !lacking.is_empty() {
        let object = client.json().await;
        lacking.retain(|kind| object["type"] != *kind);
    }
    assert_eq!(a.labelled("losses_total", r#"sign="forgotten""#).await, 0.0);
}
