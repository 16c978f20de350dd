//! Between SIGTERM and the goodbyes: balancers go on sending for a while, and are served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::common::transports::{Transport, connect_to};
use crate::common::{Client, Node, PATIENCE, Redis, eventually, http, node_with, post};

const BODY: &str = r#"{"to":{"user":"42"},"data":1}"#;

/// Sends a push on this connection; what came back until the node closed it, or until the end of
/// the answer.
async fn push(stream: &mut TcpStream) -> std::io::Result<String> {
    let request = format!(
        "POST /v1/push HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let is_whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.split("content-length: ").nth(1)?;
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        (body.len() >= length).then_some(text.clone())
    };
    loop {
        if let Some(text) = is_whole(&answer) {
            return Ok(text);
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await;
        if read.expect("an answer in time")? == 0 {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

async fn is_closed(stream: &mut TcpStream) {
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
    assert_eq!(read.expect("a close in time").expect("no reset"), 0);
}

async fn open(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

async fn until_unready(node: &Node) {
    eventually(async || {
        let answer = http().get(node.admin_url("/readyz")).send().await;
        match answer.expect("an answer").status().as_u16() {
            503 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_will_leave_is_unready_and_serves_everybody() {
    let redis = Redis::start();
    let mut a = node_with(&redis, "a", &[("PUSH_PRESTOP_SECONDS", "3600")]);
    let b = node_with(&redis, "b", &[]);
    let mut client = Client::plain(&a.ws_url("42")).await;
    let mut kept = open(a.client_address()).await;
    let answer = push(&mut kept).await.expect("an answer");
    assert!(answer.contains("keep-alive: timeout="), "{answer}");

    a.signal("TERM");
    until_unready(&a).await;
    // On the connection that is there, which this ends, and on a new one.
    for mut stream in [kept, open(a.client_address()).await] {
        let answer = push(&mut stream).await.expect("an answer");
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        is_closed(&mut stream).await;
    }
    for _ in 0..3 {
        assert_eq!(client.json().await, 1);
    }
    // New clients by every transport, also for senders elsewhere.
    let mut late = Client::v1(&a.ws_url("late")).await;
    let mut events = connect_to(a.client_address(), Transport::Sse, "late", None).await;
    let mut lines = connect_to(a.lines[0], Transport::Tcp, "late", None).await;
    let body = json!({"to": {"user": "late"}, "data": 7});
    let (status, answer) = post(&b.push_url, &body).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(3)),
        "{answer}"
    );
    assert_eq!(late.json().await["data"], 7);
    events.hears(7).await;
    lines.hears(7).await;
    a.signal("TERM");
    assert_eq!(a.wait_exit().code(), Some(143), "{}", a.log());
}

/// The kernel has let them in, so they must be answered, although the door is closed by now.
#[tokio::test]
async fn who_has_connected_before_the_door_is_closed_is_answered() {
    const PRESTOP: Duration = Duration::from_secs(5);
    let redis = Redis::start();
    let settings = [("PUSH_PRESTOP_SECONDS", "5"), ("PUSH_DRAIN_SECONDS", "0")];
    let mut a = node_with(&redis, "a", &settings);
    let mut client = Client::plain(&a.ws_url("42")).await;
    let (mut idle, mut kept) = (
        open(a.client_address()).await,
        open(a.client_address()).await,
    );
    for stream in [&mut idle, &mut kept] {
        push(stream).await.expect("an answer");
    }
    let start = Instant::now();
    a.signal("TERM");
    until_unready(&a).await;
    // It stands still until it is late, and then has to see to everything at once.
    a.signal("STOP");
    let address = a.client_address();
    let senders: Vec<_> = (0..40)
        .map(|_| tokio::spawn(async move { push(&mut open(address).await).await }))
        .chain([tokio::spawn(async move { push(&mut kept).await })])
        .collect();
    tokio::time::sleep((PRESTOP + PRESTOP / 10).saturating_sub(start.elapsed())).await;
    a.signal("CONT");
    for sender in senders {
        let answer = sender.await.expect("a sender").expect("no reset");
        assert!(answer.starts_with("http/1.1 200 "), "{answer:?}");
    }
    is_closed(&mut idle).await;
    while !matches!(client.message().await, Message::Close(_)) {}
    client.end().await;
    assert!(a.wait_exit().success(), "{}", a.log());
}
