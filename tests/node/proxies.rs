//! How proxies name their clients, other than by `X-Forwarded-For`: the PROXY protocol, and other
//! headers.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::common::{Node, http, node};
use crate::raw::{HANDSHAKE, Raw};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 127.0.0.1 5678 80\r\n";
const V1_OTHER_PORT: &[u8] = b"PROXY TCP4 192.0.2.1 127.0.0.1 5679 80\r\n";
/// 192.0.2.2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x02\x7F\0\0\x01\x16\x2E\0\x50";

fn proxied(trusted: &str) -> Node {
    node(&[
        ("PUSH_LISTEN", "proxy:127.0.0.1:0"),
        ("PUSH_TCP_LISTEN", "proxy:127.0.0.1:0"),
        ("PUSH_API_LISTEN", "127.0.0.1:0"),
        ("PUSH_TRUSTED_PROXIES", trusted),
        ("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("PUSH_STORE_ADDRESS", "true"),
    ])
}

/// Where the node listens for lines.
fn lines(node: &Node) -> SocketAddr {
    let mut words = node.greeting.split_whitespace();
    words
        .find_map(|word| word.strip_prefix("proxy:"))
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| panic!("no lines: {}", node.greeting))
}

/// Connects a WebSocket after these bytes; the status.
async fn connect(node: &Node, user: &str, first: &[u8], headers: &str) -> (Raw, u16) {
    let request = format!("GET /ws?user={user} HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}{headers}\r\n");
    let mut raw = Raw::open(node.client_address()).await;
    raw.send(&[first, request.as_bytes()].concat()).await;
    let status = raw.answer().await.status;
    (raw, status)
}

async fn address_of(node: &Node, user: &str) -> Value {
    let url = node.push_url.replace("push", &format!("users/{user}"));
    let shown = http().get(url).send().await.expect("an answer");
    let shown: Value = shown.json().await.expect("JSON");
    shown["connections"][0]["addr"].clone()
}

#[tokio::test]
async fn clients_of_a_tcp_balancer_are_counted_by_the_address_that_it_names() {
    let node = proxied("127.0.0.1");
    let mut open = Vec::new();
    for (user, first, expected) in [("a", V1, 101), ("b", V1_OTHER_PORT, 503), ("c", V2, 101)] {
        let (raw, status) = connect(&node, user, first, "").await;
        assert_eq!(status, expected, "{}", first.escape_ascii());
        open.push(raw);
    }
    assert_eq!(address_of(&node, "a").await, "192.0.2.1");
    assert_eq!(address_of(&node, "c").await, "192.0.2.2");
    drop(open);
}

#[tokio::test]
async fn plain_tcp_has_its_limit_per_address_too() {
    let node = proxied("127.0.0.0/8");
    let mut open = Vec::new();
    for (first, expected) in [
        (V1, "ready"),
        (V1_OTHER_PORT, "error"),
        (V2, "ready"),
        // No client named: the proxy's own.
        (b"PROXY UNKNOWN\r\n", "ready"),
        (b"PROXY UNKNOWN\r\n", "error"),
    ] {
        let mut raw = Raw::open(lines(&node)).await;
        let connect = b"{\"type\":\"connect\",\"user\":\"lines\"}\n";
        raw.send(&[first, connect].concat()).await;
        let line = raw.line().await;
        let said: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(said["type"], expected, "{} {line}", first.escape_ascii());
        if expected == "error" {
            assert_eq!(said["code"], json!("full"), "{line}");
        }
        open.push(raw);
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_may_begin_with_a_proxy_header_and_it_must() {
    let refused = async |node: &Node| {
        let label = r#"reason="proxy_header""#;
        node.labelled("accepts_refused_total", label).await
    };
    let node_of_others = proxied("10.0.0.1");
    let mut raw = Raw::open(node_of_others.client_address()).await;
    raw.try_send(&[V1, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"].concat())
        .await;
    raw.end().await;
    assert_eq!(refused(&node_of_others).await, 1.0);

    let node = proxied("127.0.0.1");
    for first in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PROXY \r\nGET /\r\n",
    ] {
        let mut raw = Raw::open(node.client_address()).await;
        raw.try_send(first).await;
        raw.end().await;
    }
    assert_eq!(refused(&node).await, 2.0);
    node.until_logged("without a PROXY header").await;
}

/// A node whose listeners demand no header.
fn undeclared(trusted: &str) -> Node {
    node(&[
        ("PUSH_TRUSTED_PROXIES", trusted),
        ("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("PUSH_STORE_ADDRESS", "true"),
    ])
}

#[tokio::test]
async fn on_any_listener_a_trusted_proxy_may_name_its_client_so_and_need_not() {
    let node = undeclared("127.0.0.1");
    let mut open = Vec::new();
    for (user, first, headers, expected) in [
        ("a", V1, "", 101),
        ("b", V1_OTHER_PORT, "", 503),
        ("c", V2, "", 101),
        ("d", b"", "X-Forwarded-For: 192.0.2.3\r\n", 101),
        ("e", b"", "X-Forwarded-For: 192.0.2.3\r\n", 503),
    ] {
        let (raw, status) = connect(&node, user, first, headers).await;
        assert_eq!(status, expected, "{user} {}", first.escape_ascii());
        open.push(raw);
    }
    assert_eq!(address_of(&node, "a").await, "192.0.2.1");
    assert_eq!(address_of(&node, "d").await, "192.0.2.3");
    let mut lines = Raw::open(node.lines[0]).await;
    let connect = b"{\"type\":\"connect\",\"user\":\"f\"}\n";
    lines.send(&[V1_OTHER_PORT, connect].concat()).await;
    let line = lines.line().await;
    assert!(line.contains("\"full\""), "{line}");
    // One that connects and says nothing, as some do that only look, harms nobody.
    drop(Raw::open(node.client_address()).await);
    let (_raw, status) = connect_late(&node).await;
    assert_eq!(status, 101);
}

/// Connects a WebSocket, whose request comes byte by byte.
async fn connect_late(node: &Node) -> (Raw, u16) {
    let request = format!("GET /ws?user=g HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}\r\n");
    let mut raw = Raw::open(node.client_address()).await;
    for byte in request.as_bytes() {
        raw.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    let status = raw.answer().await.status;
    (raw, status)
}

#[tokio::test]
async fn who_is_no_trusted_proxy_cannot_name_itself() {
    let node = undeclared("10.0.0.1");
    let (_raw, status) = connect(&node, "a", V1, "").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn the_header_that_names_clients_is_a_setting_and_no_other_counts() {
    let node = node(&[
        ("PUSH_TRUSTED_PROXIES", "127.0.0.1"),
        ("PUSH_ADDRESS_HEADER", "Forwarded"),
        ("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "1"),
    ]);
    let mut open = Vec::new();
    for (headers, expected) in [
        ("Forwarded: for=192.0.2.1;proto=https\r\n", 101),
        ("Forwarded: for=\"192.0.2.1:4711\"\r\n", 503),
        ("Forwarded: for=\"[2001:db8::1]:4711\"\r\n", 101),
        (
            "Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.9\r\n",
            503,
        ),
        // The proxy's own.
        ("X-Forwarded-For: 192.0.2.7\r\n", 101),
        ("X-Forwarded-For: 192.0.2.8\r\n", 503),
    ] {
        let (raw, status) = connect(&node, "42", b"", headers).await;
        assert_eq!(status, expected, "{headers}");
        open.push(raw);
    }
}
