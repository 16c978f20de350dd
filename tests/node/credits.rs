//! What a client answers does not count for the rate of what it may send.

use serde_json::{Value, json};

use crate::common::keep::{keep, resume};
use crate::common::{Client, Node, node, post};
use crate::raw::{FIN, PONG, Raw, TEXT, frame};

/// Ten frames in a second, which these clients exceed by their answers alone.
const RATE: [(&str, &str); 1] = [("PUSH_CLIENT_RATE", "10")];
/// More than the rate lets pass within two seconds, and so within one or another of them.
const MANY: usize = 41;

async fn push_many(node: &Node) {
    let push = |n| json!({"to": {"user": "42"}, "id": format!("m{n}"), "data": n});
    let batch: Vec<Value> = (0..MANY).map(push).collect();
    let (status, answer) = post(&node.push_url, &json!(batch)).await;
    assert_eq!(status, 200, "{answer}");
}

async fn is_heard(client: &mut Client) {
    client.send(r#"{"type":"ping"}"#).await;
    assert_eq!(client.json().await, json!({"type": "pong"}));
}

#[tokio::test]
async fn acknowledging_what_was_pushed_is_free() {
    let node = node(&RATE);
    let mut client = Client::v1(&node.ws_url("42")).await;
    push_many(&node).await;
    let mut acks = Vec::new();
    for _ in 0..MANY {
        let message = client.json().await;
        acks.push(json!({"type": "ack", "id": message["id"]}).to_string());
    }
    for ack in &acks {
        client.send(ack).await;
    }
    is_heard(&mut client).await;
}

#[tokio::test]
async fn acknowledging_what_was_kept_is_free() {
    let node = node(&RATE);
    let client = Client::v1(&node.ws_url("42")).await;
    let since = resume(&client);
    drop(client);
    for n in 0..MANY {
        keep(&node, "42", n).await;
    }
    let mut client = Client::v1(&format!("{}&since={since}", node.ws_url("42"))).await;
    for _ in 0..MANY {
        let message = client.json().await;
        let ack = json!({"type": "ack", "id": message["resume"]});
        client.send(&ack.to_string()).await;
    }
    is_heard(&mut client).await;
}

#[tokio::test]
async fn answering_calls_is_free() {
    let node = node(&RATE);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let url = node.url("/v1/call");
    // Together, and no more than may wait for one client.
    let calls: Vec<_> = (0..31)
        .map(|_| {
            let url = url.clone();
            let body = json!({"to": {"user": "42"}, "data": 1});
            tokio::spawn(async move { post(&url, &body).await.0 })
        })
        .collect();
    let mut answers = Vec::new();
    for _ in 0..calls.len() {
        let call = client.json().await;
        answers.push(json!({"type": "answer", "ref": call["ref"], "data": 1}).to_string());
    }
    for answer in &answers {
        client.send(answer).await;
    }
    for call in calls {
        assert_eq!(call.await.expect("an answer"), 200);
    }
    is_heard(&mut client).await;
}

#[tokio::test]
async fn answers_to_nothing_count() {
    for (first, payload) in [
        (FIN | PONG, &b""[..]),
        (FIN | TEXT, br#"{"type":"ack","id":"x"}"#),
        (FIN | TEXT, br#"{"type":"answer","ref":"x","data":1}"#),
    ] {
        let node = node(&RATE);
        let mut raw = Raw::v1(&node, "42").await;
        let many: Vec<u8> = (0..MANY).flat_map(|_| frame(first, payload)).collect();
        raw.send(&many).await;
        assert_eq!(raw.frame().await.json()["type"], "bye");
        let (code, reason) = raw.close_frame().await;
        assert_eq!((code, reason.as_str()), (1008, "too many messages"));
    }
}
