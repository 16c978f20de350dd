//! How an event stream is cut on the wire, and what its end says.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::tokens::{Issuer, now};
use crate::common::transports::Bytes;
use crate::common::{Node, http, node, post};
use crate::sender::call;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A stream over HTTP/1.1, its head read.
async fn open(node: &Node, query: &str) -> Bytes {
    let mut socket = TcpStream::connect(node.client_address())
        .await
        .expect("a connection");
    let request = format!("GET /sse?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut stream = Bytes::over(socket);
    let head = stream.until("\r\n\r\n").await.expect("a head");
    assert!(head.contains("\r\ntransfer-encoding: chunked"), "{head}");
    stream
}

/// The next chunk; `None` for the last one.
async fn chunk(stream: &mut Bytes) -> Option<String> {
    let size = stream.until("\r\n").await.expect("a chunk, not the end");
    let size = usize::from_str_radix(&size, 16).expect("a size");
    let chunk = stream.until("\r\n").await.expect("the whole of it");
    assert_eq!(chunk.len(), size, "{chunk}");
    (size > 0).then_some(chunk)
}

/// The goodbye, and whether the last chunk comes behind it; then the connection ends.
async fn goodbye(stream: &mut Bytes) -> (String, bool) {
    let bye = loop {
        let chunk = chunk(stream).await.expect("a chunk");
        if chunk.contains("event: bye\n") {
            break chunk;
        }
    };
    let rest = stream.rest().await;
    assert!([&b""[..], b"0\r\n\r\n"].contains(&&rest[..]), "{rest:?}");
    (bye, !rest.is_empty())
}

#[tokio::test]
async fn each_event_is_a_chunk_of_its_own() {
    let node = node(&[("PUSH_SSE_BEAT_SECONDS", "1")]);
    let mut stream = open(&node, "user=42").await;
    let ready = chunk(&mut stream).await.expect("ready");
    assert!(ready.starts_with("event: ready\n"), "{ready}");
    let data = "x".repeat(70_000);
    for data in ["short", &data] {
        for keep in [false, true] {
            let push = json!({"to": {"user": "42"}, "data": data, "keep": keep});
            assert_eq!(post(&node.push_url, &push).await.0, 200);
            let event = loop {
                match chunk(&mut stream).await.expect("an event") {
                    beat if beat == ":\n" => {}
                    event => break event,
                }
            };
            assert!(event.ends_with(&format!("data: \"{data}\"\n\n")), "{event}");
            assert_eq!(event.starts_with("id: "), keep, "{event}");
        }
    }
    let all = json!({"to": {"all": true}, "data": "all"});
    assert_eq!(post(&node.push_url, &all).await.0, 200);
    let mut beats = 0;
    let event = loop {
        match chunk(&mut stream).await.expect("an event") {
            beat if beat == ":\n" => beats += 1,
            event => break event,
        }
    };
    assert_eq!(event, "data: \"all\"\n\n");
    // No empty line behind it, which some readers take for an event.
    while beats == 0 {
        assert_eq!(chunk(&mut stream).await.as_deref(), Some(":\n"));
        beats += 1;
    }
}

#[tokio::test]
async fn only_a_goodbye_for_good_finishes_a_stream() {
    let mut node = node(&[("PUSH_DRAIN_SECONDS", "1"), ("PUSH_CLIENT_RATE", "10")]);
    let mut kicked = open(&node, "user=kicked").await;
    call("DELETE", &node.url("/v1/users/kicked")).await;
    let (bye, is_finished) = goodbye(&mut kicked).await;
    assert!(bye.contains("\nid: bye\n") && bye.contains("4001"), "{bye}");
    assert!(is_finished);

    let mut drained = open(&node, "user=drained").await;
    node.signal("TERM");
    let (bye, is_finished) = goodbye(&mut drained).await;
    assert!(bye.contains("\nretry: ") && !bye.contains("id:"), "{bye}");
    assert!(!is_finished, "it comes back");
    node.wait_exit();
}

#[tokio::test]
async fn a_killed_node_does_not_finish_its_streams() {
    let node = node(&[]);
    let mut stream = open(&node, "user=42").await;
    chunk(&mut stream).await.expect("ready");
    node.kill();
    assert_eq!(stream.rest().await, b"");
}

/// "Come back with a new token" must not stand in the way of who does.
#[tokio::test]
async fn who_was_sent_away_for_a_token_comes_back_with_another() {
    let node = node(&[
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWT_SECRETS", SECRET),
        ("PUSH_JWT_LEEWAY_SECONDS", "0"),
    ]);
    let token =
        |seconds: u64| Issuer::secret(SECRET).token(&json!({"sub": "42", "exp": now() + seconds}));
    let mut stream = open(&node, &format!("token={}", token(3))).await;
    let ready = chunk(&mut stream).await.expect("ready");
    let id = ready.lines().find_map(|line| line.strip_prefix("id: "));
    let (bye, is_finished) = goodbye(&mut stream).await;
    assert!(bye.contains("4004") && !bye.contains("id:"), "{bye}");
    assert!(!is_finished, "it may come back");
    let again = http()
        .get(node.url(&format!("/sse?token={}", token(300))))
        .header("last-event-id", id.expect("an id"));
    assert_eq!(again.send().await.expect("an answer").status(), 200);
}
