//! Whose place a client behind a proxy takes, where the proxy names nobody that can be read.

use std::net::SocketAddr;

use crate::common::{Node, node};
use crate::raw::{HANDSHAKE, Raw};

/// Connects through a trusted proxy that sends this `X-Forwarded-For`; the status.
async fn connect(address: SocketAddr, forwarded: Option<&[u8]>) -> (Raw, u16) {
    let mut request = format!("GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}").into_bytes();
    if let Some(forwarded) = forwarded {
        request.extend(b"X-Forwarded-For: ");
        request.extend(forwarded);
        request.extend(b"\r\n");
    }
    request.extend(b"\r\n");
    let mut raw = Raw::open(address).await;
    raw.send(&request).await;
    let status = raw.answer().await.status;
    (raw, status)
}

fn behind_a_proxy() -> Node {
    node(&[
        ("PUSH_TRUSTED_PROXIES", "127.0.0.1"),
        ("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "2"),
    ])
}

#[tokio::test]
async fn whom_a_proxy_does_not_name_shares_the_limit_of_the_proxy() {
    let node = behind_a_proxy();
    let mut open = Vec::new();
    for (forwarded, expected) in [
        (None, 101),
        (Some(&b"unknown"[..]), 101),
        (Some(b"\xff"), 503),
        (Some(b"1.1.1.1, _hidden"), 503),
        (None, 503),
        // What a client wrote before it does not hide whom the proxy names.
        (Some(b"\xff, 1.1.1.1"), 101),
        (Some(b"1.1.1.1"), 101),
        (Some(b"\xfe, 1.1.1.1"), 503),
    ] {
        let (raw, status) = connect(node.client_address(), forwarded).await;
        let shown = forwarded.map(<[u8]>::escape_ascii);
        let shown = shown.map(|shown| shown.to_string());
        assert_eq!(status, expected, "{shown:?}");
        open.push(raw);
    }
}

#[tokio::test]
async fn a_64_of_ipv6_is_one_client() {
    let node = behind_a_proxy();
    let mut open = Vec::new();
    for (forwarded, expected) in [
        (&b"2001:db8:0:1::1"[..], 101),
        (b"2001:db8:0:1::2", 101),
        (b"2001:db8:0:1:ffff::3", 503),
        (b"2001:db8:0:2::1", 101),
    ] {
        let (raw, status) = connect(node.client_address(), Some(forwarded)).await;
        assert_eq!(status, expected, "{}", forwarded.escape_ascii());
        open.push(raw);
    }
}
