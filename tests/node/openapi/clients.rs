//! What clients are answered, those that come too late included.

use super::seen::Seen;
use crate::common::{http, node};
use crate::raw::{HANDSHAKE, Raw};

pub(super) const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Clients, over every transport that is HTTP, and what they look at.
pub(super) async fn come(seen: &mut Seen) {
    let named = node(&[("PUSH_PUBLIC_URL", "https://push-1.example.com")]);
    let ws = named.url("/ws?user=42");
    seen.expect("connect 101", "GET", &ws, &WEBSOCKET, "").await;
    let v1 = [&WEBSOCKET[..], &[("sec-websocket-protocol", "pushnode.v1")]].concat();
    seen.expect("connect 101", "GET", &ws, &v1, "").await;
    seen.expect(
        "connect 400 bad_request",
        "GET",
        &named.url("/ws"),
        &WEBSOCKET,
        "",
    )
    .await;
    seen.expect("connect 426 upgrade_required", "GET", &ws, &[], "")
        .await;
    let stranger = [&WEBSOCKET[..], &[("origin", "https://evil.example")]].concat();
    seen.expect("connect 403 origin", "GET", &ws, &stranger, "")
        .await;
    seen.expect("getPage 200", "GET", &named.url("/"), &[], "")
        .await;
    seen.expect("headPage 200", "HEAD", &named.url("/"), &[], "")
        .await;
    let script = named.url("/pushnode.js");
    let head = http().head(&script).send().await.expect("an answer");
    let tag = head.headers()["etag"].to_str().expect("a tag");
    for (method, name) in [("GET", "getScript"), ("HEAD", "headScript")] {
        let (whole, known) = (format!("{name} 200"), format!("{name} 304"));
        seen.expect(&whole, method, &script, &[], "").await;
        let has_it = [("if-none-match", tag)];
        seen.expect(&known, method, &script, &has_it, "").await;
    }
    seen.expect(
        "getOpenapi 200",
        "GET",
        &named.url("/openapi.json"),
        &[],
        "",
    )
    .await;
    let route = named.url("/v1/route");
    seen.expect("route 200", "GET", &route, &[], "").await;
    seen.expect(
        "route 400 bad_request",
        "GET",
        &format!("{route}?strategy=best"),
        &[],
        "",
    )
    .await;
    let unnamed = node(&[]);
    seen.expect(
        "route 503 unavailable",
        "GET",
        &unnamed.url("/v1/route"),
        &[],
        "",
    )
    .await;
    let events = named.url("/sse?user=42");
    let own = named.url("").trim_end_matches('/').to_owned();
    for headers in [&[][..], &[("origin", own.as_str())]] {
        seen.expect("connectEvents 200", "GET", &events, headers, "")
            .await;
    }
    let gone = [("last-event-id", "bye")];
    seen.expect("connectEvents 204", "GET", &events, &gone, "")
        .await;
    seen.expect(
        "connectEvents 403 origin",
        "GET",
        &events,
        &[("origin", "https://evil.example")],
        "",
    )
    .await;
    let port = named.client_address().port();
    let (host, origin) = (
        format!("evil.example:{port}"),
        format!("http://evil.example:{port}"),
    );
    let rebound = [("host", host.as_str()), ("origin", origin.as_str())];
    let upgrade = [&WEBSOCKET[..], &rebound].concat();
    seen.expect("connect 403 host", "GET", &ws, &upgrade, "")
        .await;
    for (id, method, url) in [
        ("connectEvents", "GET", &events),
        ("preflightEvents", "OPTIONS", &events),
        ("route", "GET", &route),
        ("preflightRoute", "OPTIONS", &route),
    ] {
        let evil = [("origin", "https://evil.example")];
        let (by_host, by_origin) = (format!("{id} 403 host"), format!("{id} 403 origin"));
        seen.expect(&by_host, method, url, &rebound, "").await;
        seen.expect(&by_origin, method, url, &evil, "").await;
        if method == "OPTIONS" {
            let allowed = format!("{id} 204");
            let page = [("origin", own.as_str())];
            seen.expect(&allowed, method, url, &page, "").await;
        }
    }
    let strict = node(&[("PUSH_TOPICS", "chat.*"), ("PUSH_MAX_TOPICS", "1")]);
    for (name, path) in [
        ("400 bad_request", "?user=%00"),
        ("400 too_many_topics", "?user=42&topics=chat.1,chat.2"),
        ("403 forbidden", "?user=42&topics=news"),
    ] {
        let (ws, events) = (
            strict.url(&format!("/ws{path}")),
            strict.url(&format!("/sse{path}")),
        );
        seen.expect(&format!("connect {name}"), "GET", &ws, &WEBSOCKET, "")
            .await;
        seen.expect(&format!("connectEvents {name}"), "GET", &events, &[], "")
            .await;
    }
}

/// Requests that were under way when the node began to leave. Whether the node has read their
/// beginning by then cannot be seen from here, so it is tried until it has.
pub(super) async fn come_too_late(seen: &mut Seen) {
    // An event stream says when to reconnect: an `EventSource` stops at any other status.
    for (path, headers, status) in [("/ws?user=42", HANDSHAKE, 503), ("/sse?user=42", "", 200)] {
        comes_too_late(seen, path, headers, status).await;
    }
}

async fn comes_too_late(seen: &mut Seen, path: &str, headers: &str, status: u16) {
    for _ in 0..20 {
        let node = node(&[]);
        // It does not answer the close frame, and so keeps the node for a while.
        let _silent = Raw::plain(&node, "silent").await;
        let mut raw = Raw::open(node.client_address()).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n").as_bytes())
            .await;
        seen.call("GET", &node.url("/"), &[], "").await;
        node.signal("TERM");
        // It may have ended already, on a slow machine.
        let url = node.admin_url("/readyz");
        let is_ready = |answer: reqwest::Response| answer.status() == 200;
        while http().get(&url).send().await.is_ok_and(is_ready) {}
        raw.try_send(format!("{headers}\r\n").as_bytes()).await;
        let mut start = [0];
        if raw.socket.peek(&mut start).await.is_ok_and(|read| read > 0) {
            assert_eq!(seen.hear("GET", path, &mut raw).await, status);
            return;
        }
    }
    panic!("no node answered {path} while it was leaving");
}
