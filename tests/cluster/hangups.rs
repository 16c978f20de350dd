//! Senders that are gone before their answer, and nodes that leave before it: what was read whole
//! is carried out whole.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Client, Node, Redis, eventually, http, node_on, node_with, send_signal};

/// Sends a request and closes the connection.
async fn ask_and_go(node: &Node, method: &str, path: &str, body: &Value) {
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(node.client_address())
        .await
        .expect("a connection");
    socket.write_all(request.as_bytes()).await.expect("sent");
}

#[tokio::test]
async fn what_a_sender_asked_for_is_done_after_it_has_gone() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut bad = Client::v1(&b.ws_url("bad")).await;
    let mut kept = Client::v1(&b.ws_url("kept")).await;
    let mut plain = Client::v1(&b.ws_url("plain")).await;

    // Nothing is done before the senders are gone.
    send_signal(redis.pid(), "STOP");
    let ban = json!({"seconds": 900});
    ask_and_go(&a, "PUT", "/v1/users/bad/ban", &ban).await;
    let push = json!({"to": {"user": "kept"}, "data": "k", "keep": true});
    ask_and_go(&a, "POST", "/v1/push", &push).await;
    let push = json!({"to": {"user": "plain"}, "data": "p"});
    ask_and_go(&a, "POST", "/v1/push", &push).await;
    // The pushes have been read, so their senders' connections have ended or will.
    eventually(async || match a.metric("shares_under_way").await {
        2.0 => Ok(()),
        other => Err(other),
    })
    .await;
    send_signal(redis.pid(), "CONT");

    assert_eq!(plain.json().await["data"], "p");
    assert_eq!(kept.json().await["data"], "k");
    assert_eq!(bad.close_frame().await.0, 4006);
}

#[tokio::test]
async fn a_leaving_node_carries_out_what_it_has_read() {
    let redis = Redis::start();
    let mut a = node_with(&redis, "a", &[("PUSH_DRAIN_SECONDS", "0")]);
    let b = node_on(&redis, "b");
    let mut client = Client::v1(&b.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "id": "1", "data": 1, "wait": "acked",
        "timeout_ms": 5000});
    let answer = tokio::spawn(http().post(&a.push_url).json(&push).send());
    assert_eq!(client.json().await["id"], "1");
    a.signal("TERM");
    // It has no clients of its own and takes no more.
    eventually(
        async || match TcpStream::connect(a.client_address()).await {
            Ok(_) => Err("it accepts"),
            Err(_) => Ok(()),
        },
    )
    .await;
    client.send(r#"{"type":"ack","id":"1"}"#).await;
    let answer = answer.await.expect("a task").expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["status"], "acked", "{answer}");
    assert!(a.wait_exit().success(), "{}", a.log());
}
