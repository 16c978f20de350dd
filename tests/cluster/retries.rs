//! The same id again, at the same node or at another: what the answers say of it.

use serde_json::{Value, json};

use crate::common::keep::{connect, hears};
use crate::common::{Client, Node, Redis, node_on, post, send_signal};

async fn status(node: &Node, body: &Value) -> String {
    let (code, answer) = post(&node.push_url, body).await;
    assert_eq!(code, 200, "{answer}");
    answer["status"].as_str().expect("a status").to_owned()
}

#[tokio::test]
async fn a_repeat_is_called_a_duplicate_by_every_node() {
    let redis = Redis::start();
    let [a, b, c] = ["a", "b", "c"].map(|name| node_on(&redis, name));
    let mut client = Client::plain(&b.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "id": "once", "data": 1});
    let with = |wait: &str| {
        let mut push = push.clone();
        push["wait"] = json!(wait);
        push
    };
    assert_eq!(status(&a, &push).await, "routed");
    assert_eq!(status(&a, &push).await, "duplicate", "where it was sent");
    assert_eq!(client.text().await, "1");
    // Whoever did not send it learns that from the node that has the user.
    for wait in ["written", "acked"] {
        assert_eq!(status(&c, &with(wait)).await, "duplicate", "{wait}");
        assert_eq!(status(&a, &with(wait)).await, "duplicate", "{wait}");
    }
    assert_eq!(status(&b, &push).await, "duplicate", "where the user is");
    assert_eq!(status(&c, &push).await, "duplicate", "it has learned that");

    let other = json!({"to": {"user": "42"}, "id": "other", "data": 0});
    assert_eq!(status(&a, &other).await, "routed");
    assert_eq!(status(&c, &other).await, "routed", "as far as it is proven");
    assert_eq!(status(&c, &other).await, "duplicate");
    assert_eq!(client.text().await, "0");

    let several = json!({"to": {"users": ["42", "43"]}, "id": "both", "data": 2});
    assert_eq!(status(&a, &several).await, "routed");
    let (_, again) = post(&a.push_url, &several).await;
    assert_eq!(again["targets"][0]["status"], "duplicate", "{again}");
    assert_eq!(again["targets"][1]["status"], "offline", "{again}");
    assert_eq!(client.text().await, "2");
    assert_eq!(
        status(&a, &json!({"to": {"user": "42"}, "data": 3})).await,
        "routed"
    );
    assert_eq!(client.text().await, "3", "nothing came twice");
}

#[tokio::test]
async fn a_repeat_to_everybody_or_to_one_connection_is_a_duplicate_too() {
    let redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_on(&redis, name));
    let mut client = Client::v1(&b.ws_url("42")).await;
    let all = json!({"to": {"all": true}, "id": "news", "data": 1});
    assert_eq!(status(&a, &all).await, "routed");
    assert_eq!(client.json().await["data"], 1);
    assert_eq!(status(&a, &all).await, "duplicate");
    assert_eq!(status(&b, &all).await, "duplicate");
    let fd = client.connection();
    let one = json!({"to": {"fd": fd}, "id": "one", "data": 2});
    assert_eq!(status(&a, &one).await, "routed");
    assert_eq!(client.json().await["data"], 2);
    assert_eq!(status(&a, &one).await, "duplicate");
    assert_eq!(
        status(&a, &json!({"to": {"fd": fd}, "data": 3})).await,
        "routed"
    );
    assert_eq!(client.json().await["data"], 3, "nothing came twice");
}

#[tokio::test]
async fn a_push_that_reached_nobody_is_no_duplicate_of_itself() {
    let redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_on(&redis, name));
    let push = json!({"to": {"user": "42"}, "id": "once", "data": 1});
    assert_eq!(status(&a, &push).await, "offline");
    let mut client = Client::plain(&b.ws_url("42")).await;
    assert_eq!(status(&a, &push).await, "routed");
    assert_eq!(client.text().await, "1");
}

#[tokio::test]
async fn a_retry_after_an_outage_is_carried_out_at_once_by_any_node() {
    let redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_on(&redis, name));
    let mut client = connect(&b, "42", None).await;
    let push = json!({
        "to": {"user": "42"}, "id": "once", "keep": true, "data": 1, "timeout_ms": 1000,
    });
    send_signal(redis.pid(), "STOP");
    let (code, answer) = post(&a.push_url, &push).await;
    assert_eq!(code, 503, "{answer}");
    send_signal(redis.pid(), "CONT");
    // Within its own second: no claim of the first try stands in the way.
    for node in [&b, &a] {
        let answer = status(node, &push).await;
        assert!(["routed", "duplicate"].contains(&&*answer), "{answer}");
    }
    hears(&mut client, 1..=1).await;
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]).trim(), "1");
}
