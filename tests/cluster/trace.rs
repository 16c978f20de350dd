//! A trace names the nodes to which a message went, and theirs say what became of it there.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, http, node_on, post};

/// The node's answer as soon as its verdict begins like this.
async fn says(node: &Node, id: &str, verdict: &str) -> Value {
    let url = node.url(&format!("/v1/users/42/trace?id={id}"));
    eventually(async || {
        let answer = http().get(&url).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        match answer["verdict"].as_str() {
            Some(words) if words.starts_with(verdict) => Ok(answer),
            _ => Err(answer),
        }
    })
    .await
}

#[tokio::test]
async fn each_node_tells_its_part() {
    let mut redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let client = Client::v1(&b.ws_url("42")).await;
    let body = json!({"to": {"user": "42"}, "id": "m1", "data": 1, "wait": "written"});
    post(&a.push_url, &body).await;
    let words = format!("written to {}, which can say more", b.id);
    let answer = says(&a, "m1", &words).await;
    assert_eq!(answer["nodes"], json!([a.id]));
    assert_eq!(answer["connections"][0]["node"], b.id, "{answer}");
    let pushed = &answer["events"][0];
    assert_eq!(
        (&pushed["what"], &pushed["nodes"]),
        (&json!("pushed"), &json!([b.id]))
    );
    let answer = says(&b, "m1", "delivered to 1 connection").await;
    assert_eq!(answer["events"][1]["fates"]["written"], 1, "{answer}");

    // An envelope for somebody who is no longer there.
    drop(client);
    eventually(async || match b.metric("connections").await {
        0.0 => Ok(()),
        count => Err(count),
    })
    .await;
    let late = r#"{"to":{"user":"42"},"id":"m2","data":1}"#;
    redis.cli(&["PUBLISH", &format!("pn:n:{{{}}}", b.id), late]);
    says(&b, "m2", "came too late").await;

    // Without Redis: its sender was told, and so is whoever asks.
    redis.kill();
    let push = json!({"to": {"user": "42"}, "id": "m3", "data": 1, "timeout_ms": 200});
    let (status, _) = post(&a.push_url, &push).await;
    assert_eq!(status, 503);
    let answer = says(&a, "m3", "not routed, and its sender was told: ").await;
    assert_eq!(answer["connections"], json!([]));
    assert!(answer["reason"].is_string(), "{answer}");
}
