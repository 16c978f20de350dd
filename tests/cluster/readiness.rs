//! `/readyz` while Redis does not serve a node: who stays in service, and who does not.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, http, node_with, start_node};

const TAKES_CLIENTS: [(&str, &str); 1] = [("PUSH_READY_WITHOUT_REDIS", "true")];

async fn readiness(node: &Node) -> (u16, Value) {
    let answer = http().get(node.admin_url("/readyz")).send().await;
    let answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn until(node: &Node, code: u16, status: &str) -> Value {
    eventually(async || match readiness(node).await {
        (is, body) if is == code && body["status"] == status => Ok(body),
        other => Err(other),
    })
    .await
}

#[tokio::test]
async fn without_redis_all_nodes_stay_in_service_and_let_clients_in() {
    let mut redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_with(&redis, name, &TAKES_CLIENTS));
    assert_eq!(readiness(&a).await, (200, json!({"status": "ready"})));
    redis.kill();
    for node in [&a, &b] {
        let body = until(node, 200, "degraded").await;
        assert!(body["reason"].is_string(), "{body}");
        Client::v1(&node.ws_url("42")).await;
    }
    redis.restart();
    until(&a, 200, "ready").await;
    until(&b, 200, "ready").await;
}

#[tokio::test]
async fn a_node_that_starts_without_redis_is_not_in_service() {
    let mut redis = Redis::start();
    redis.kill();
    let url = redis.url();
    let node = start_node(&[("PUSH_REDIS_URL", &url), TAKES_CLIENTS[0]]);
    until(&node, 503, "not ready").await;
    redis.restart();
    until(&node, 200, "ready").await;
}

#[tokio::test]
async fn where_redis_refuses_all_nodes_all_stay_in_service() {
    let redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_with(&redis, name, &TAKES_CLIENTS));
    // Reads are answered: each sees the leases of the other, and how they end.
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let oom = "Redis is out of memory";
    for node in [&a, &b] {
        assert_eq!(until(node, 200, "degraded").await["reason"], oom);
    }
    let began = tokio::time::Instant::now();
    // Longer than the lease, after which a node that is alone would know.
    while began.elapsed() < std::time::Duration::from_secs(14) {
        for node in [&a, &b] {
            let (code, body) = readiness(node).await;
            assert_eq!(code, 200, "{body}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until(&a, 200, "ready").await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_alone_leaves_the_service() {
    let redis = Redis::start();
    let allowed = ["on", ">secret", "allcommands", "allkeys", "allchannels"];
    for user in ["one", "two"] {
        redis.cli(&[&["ACL", "SETUSER", user][..], &allowed].concat());
    }
    let [a, b] = [("a", "one"), ("b", "two")].map(|(name, user)| {
        let login = [
            ("PUSH_REDIS_USERNAME", user),
            ("PUSH_REDIS_PASSWORD", "secret"),
        ];
        node_with(&redis, name, &[&login[..], &TAKES_CLIENTS].concat())
    });
    // Redis ends the subscription of that user, and takes its beats all the same.
    redis.cli(&["ACL", "SETUSER", "one", "resetchannels"]);
    until(&a, 200, "degraded").await;
    until(&a, 503, "not ready").await;
    assert_eq!(readiness(&b).await, (200, json!({"status": "ready"})));
    let nodes = http()
        .get(b.url("/v1/nodes"))
        .send()
        .await
        .expect("an answer");
    let nodes: Value = nodes.json().await.expect("JSON");
    assert_eq!(nodes["nodes"][0]["degraded"], true, "{nodes}");
    assert_eq!(nodes["nodes"][1]["degraded"], Value::Null, "{nodes}");
    redis.cli(&["ACL", "SETUSER", "one", "allchannels"]);
    until(&a, 200, "ready").await;
}
