//! Senders' and clients' HTTP connections between and after requests: how long an idle one stays
//! open, one whose other end does not read, and one of which a side was shut down.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::common::{Client, eventually, node};
use crate::raw::{HANDSHAKE, Raw};

const GET: &str = "GET /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn an_idle_connection_stays_open_for_as_long_as_its_answers_say() {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    let answer = raw.ask(GET).await;
    assert_eq!(
        answer.header("keep-alive"),
        Some("timeout=75"),
        "{answer:?}"
    );
    // Past the time that a request's headers have.
    assert!(raw.is_silent_for(Duration::from_secs(12)).await);
    assert_eq!(raw.ask(GET).await.status, 200);

    let closing = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answer = raw.ask(&closing).await;
    assert_eq!(answer.header("keep-alive"), None, "{answer:?}");
    raw.end().await;
}

#[tokio::test]
async fn the_time_of_an_idle_connection_is_a_setting() {
    let node = node(&[("PUSH_KEEPALIVE_SECONDS", "1")]);
    let mut raw = Raw::open(node.client_address()).await;
    let answer = raw.ask(GET).await;
    assert_eq!(answer.header("keep-alive"), Some("timeout=1"), "{answer:?}");
    raw.end().await;
}

#[tokio::test]
async fn who_asks_and_never_reads_loses_its_place() {
    let node = node(&[
        ("PUSH_MAX_CONNECTIONS", "1"),
        ("PUSH_WRITE_SECONDS", "1"),
        ("PUSH_API_LISTEN", "127.0.0.1:0"),
    ]);
    let stuck = Raw::open_narrow(node.client_address()).await;
    let (reading, mut writing) = stuck.socket.into_split();
    let asking = tokio::spawn(async move {
        // Until the node has closed it.
        while writing
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .is_ok()
        {}
    });
    eventually(async || {
        let mut raw = Raw::open(node.client_address()).await;
        let request = format!("GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}\r\n");
        match raw.ask(&request).await.status {
            101 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    asking.await.expect("the end of its connection");
    drop(reading);
}

#[tokio::test]
async fn a_sender_that_shuts_its_side_down_gets_its_answer() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let mut raw = Raw::open(node.client_address()).await;
    let push = json!({"to": {"user": "42"}, "id": "1", "data": 1, "wait": "acked",
        "timeout_ms": 30_000})
    .to_string();
    let request = format!(
        "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Content-Length: {}\r\n\r\n{push}",
        push.len()
    );
    raw.send(request.as_bytes()).await;
    raw.socket.shutdown().await.expect("shut down");
    assert_eq!(client.json().await["id"], "1");
    client.send(r#"{"type":"ack","id":"1"}"#).await;
    let answer = raw.answer().await;
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((answer.status, &body["status"]), (200, &json!("acked")));
    raw.end().await;
}
