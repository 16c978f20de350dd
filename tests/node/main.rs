//! The shortest story: connect, push, see it arrive; alone and across two nodes.

#[path = "../common/mod.rs"]
mod common;

use common::{Client, Redis, node, node_on, post};
use serde_json::json;

#[tokio::test]
async fn a_push_reaches_the_user_of_a_node_by_itself() {
    let node = node(&[]);
    let mut plain = Client::plain(&node.ws_url("42")).await;
    let mut v1 = Client::v1(&node.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "id": "m1", "data": {"hello": "world"}});
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!((status, &answer["status"]), (200, &json!("routed")));
    assert_eq!(answer["connections"], 2);
    assert_eq!(plain.json().await, json!({"hello": "world"}));
    let message = json!({"type": "message", "id": "m1", "data": {"hello": "world"}});
    assert_eq!(v1.json().await, message);
}

#[tokio::test]
async fn a_push_into_one_node_reaches_the_user_on_the_other() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut client = Client::v1(&a.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "data": 1, "wait": "written"});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"], &answer["nodes"]),
        (200, &json!("written"), &json!(1))
    );
    assert_eq!(client.json().await["data"], 1);
}
