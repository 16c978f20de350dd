//! Calls on one node by itself.

use serde_json::json;

use crate::common::{Client, node, post};

#[tokio::test]
async fn a_client_is_asked_and_answers() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let url = node.url("/v1/call");
    let called = tokio::spawn(async move {
        post(&url, &json!({"to": {"user": "42"}, "data": {"ask": 1}})).await
    });
    let call = client.json().await;
    assert_eq!(
        (&call["type"], &call["data"]),
        (&json!("call"), &json!({"ask": 1}))
    );
    let answer = json!({"type": "answer", "ref": call["ref"], "data": "yes"});
    client.send(&answer.to_string()).await;
    let (status, said) = called.await.expect("an answer");
    assert_eq!((status, &said["data"]), (200, &json!("yes")), "{said}");
    let url = node.url("/v1/call");
    let (status, said) = post(&url, &json!({"to": {"user": "43"}, "data": 1})).await;
    assert_eq!((status, &said["error"]["code"]), (404, &json!("offline")));
}

/// A call waits in the client's queue like a push, and must not make it grow.
#[tokio::test]
async fn a_client_that_takes_nothing_is_not_asked_more_than_its_queue_holds() {
    let node = node(&[("PUSH_QUEUE_BYTES", "4096")]);
    let slow = Client::v1(&node.ws_url("42")).await;
    let url = node.url("/v1/call");
    let body = json!({"to": {"user": "42"}, "data": "x".repeat(900_000), "timeout_ms": 200});
    let mut codes = Vec::new();
    for _ in 0..31 {
        let (_, said) = post(&url, &body).await;
        codes.push(said["error"]["code"].as_str().expect("a code").to_owned());
        if codes.last().is_some_and(|code| code == "busy") {
            break;
        }
    }
    assert_eq!(codes.last().map(String::as_str), Some("busy"), "{codes:?}");
    drop(slow);
}

/// Without Redis there are no streams, and a client is told so.
#[tokio::test]
async fn a_client_cannot_send_to_services_here() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    client
        .send(r#"{"type":"send","route":"chat.say","ref":1,"data":1}"#)
        .await;
    let heard = client.json().await;
    assert_eq!(
        (&heard["code"], &heard["ref"]),
        (&json!("no_upstream"), &json!(1))
    );
}
