//! Redis is there and refuses: `/readyz`, a metric and the log name the reason, and the log is not
//! flooded.

use serde_json::Value;

use crate::common::{Node, Redis, eventually, http, node_on};

async fn readiness(node: &Node) -> Value {
    let answer = http().get(node.admin_url("/readyz")).send().await;
    answer.expect("an answer").json().await.expect("JSON")
}

async fn until_down(node: &Node, reason: &str) {
    eventually(async || match readiness(node).await {
        body if body["reason"] == reason => Ok(()),
        body => Err(body),
    })
    .await;
}

async fn refused(node: &Node, kind: &str) -> f64 {
    let label = format!("kind=\"{kind}\"");
    node.labelled("redis_errors_total", &label).await
}

/// Waits until so many more commands were refused.
async fn after_refusals(node: &Node, kind: &str, count: f64) {
    let before = refused(node, kind).await;
    eventually(async || match refused(node, kind).await {
        seen if seen >= before + count => Ok(()),
        seen => Err(format!("{seen} of {kind}")),
    })
    .await;
}

/// How often a node has logged this at `warn`.
fn warned(node: &Node, words: &str) -> usize {
    let log = node.log();
    let is_ours = |line: &&str| line.contains(" WARN ") && line.contains(words);
    log.lines().filter(is_ours).count()
}

#[tokio::test]
async fn too_few_replicas_are_named_once() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    assert!(
        node.metrics()
            .await
            .contains("redis_errors_total{kind=\"NOREPLICAS\"} 0\n")
    );
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    until_down(&node, "Redis has too few replicas").await;
    // Until the lease has expired, and then on: each beat finds it missing.
    eventually(async || match redis.cli(&["EXISTS", "pn:node:a"]) {
        gone if gone == "0" => Ok(()),
        there => Err(there),
    })
    .await;
    after_refusals(&node, "NOREPLICAS", 12.0).await;
    let named = warned(&node, "Redis has too few replicas");
    assert!((1..=2).contains(&named), "named {named} times");
    let forgotten = warned(&node, "Redis has forgotten this node");
    assert!(forgotten <= 1, "said {forgotten} times");
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    node.wait_ready();
    node.until_logged("Redis serves this node again").await;
}

#[tokio::test]
async fn a_redis_that_cannot_save_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let redis = Redis::start_with(&["--dir", folder.path().to_str().expect("UTF-8")]);
    let node = node_on(&redis, "a");
    drop(folder);
    redis.cli(&["CONFIG", "SET", "save", "900 1"]);
    redis.cli(&["BGSAVE"]);
    until_down(&node, "Redis cannot save its data").await;
    after_refusals(&node, "MISCONF", 4.0).await;
    assert_eq!(warned(&node, "Redis cannot save its data"), 1);
    redis.cli(&["CONFIG", "SET", "save", ""]);
    node.wait_ready();
}
