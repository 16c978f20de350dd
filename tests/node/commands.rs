//! Commands and statistics of one node by itself.

use serde_json::json;

use crate::common::topics::call;
use crate::common::{Client, node, post};

#[tokio::test]
async fn one_node_answers_for_itself() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let (_, stats) = call(&node, "GET", "/v1/stats").await;
    assert_eq!(stats["missing"], json!([]));
    let own = &stats["answers"][0];
    assert_eq!(own["node"], *node.id);
    assert_eq!(
        (&own["connections"], &own["backplane"]),
        (&json!(1), &json!("embedded"))
    );

    let url = node.url("/v1/commands");
    let (status, answer) = post(&url, &json!({"cmd": "kick", "user": "42"})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["answers"],
        json!([{"node": node.id, "connections": 1}])
    );
    assert_eq!(client.close_frame().await.0, 4001);
}

#[tokio::test]
async fn a_node_that_is_told_to_leave_says_so_and_leaves() {
    let mut node = node(&[("PUSH_DRAIN_SECONDS", "0")]);
    let url = node.url("/v1/commands");
    let name = node.id.rsplit_once('.').expect("a boot part").0.to_owned();
    let (status, answer) = post(&url, &json!({"cmd": "drain", "nodes": [name]})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        answer["answers"],
        json!([{"node": node.id, "state": "draining"}])
    );
    let status = tokio::task::spawn_blocking(move || node.wait_exit())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
}
