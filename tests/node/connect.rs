//! From a socket to a connection: who is let in, and what the others are told.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Client, Node, http, node, post, refused_handshake};
use crate::raw::{Answer, FIN, HANDSHAKE, PONG, Raw, TEXT, frame};

/// One request on a socket of its own.
async fn ask(node: &Node, request: &str) -> Answer {
    Raw::open(node.client_address()).await.ask(request).await
}

#[tokio::test]
async fn a_push_reaches_a_plain_client_and_one_of_the_subprotocol() {
    let node = node(&[]);
    let mut plain = Client::plain(&node.ws_url("42")).await;
    let mut v1 = Client::v1(&node.ws_url("42")).await;
    let push = json!({"to": {"user": "42"}, "id": "m1", "data": {"hello": "world"}});
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!((status, &answer["status"]), (200, &json!("routed")));
    assert_eq!(answer["connections"], 2);
    assert_eq!(plain.json().await, json!({"hello": "world"}));
    let message = json!({"type": "message", "id": "m1", "data": {"hello": "world"}});
    assert_eq!(v1.json().await, message);
    let ready = v1.ready.expect("v1 gets ready");
    assert_eq!(ready["node"], node.id.as_str());
    assert_eq!(ready["user"], "42");
    assert!(ready["fd"].as_u64().is_some_and(|fd| fd > 0), "{ready}");
}

#[tokio::test]
async fn the_answer_to_a_good_handshake_follows_the_rfc() {
    let node = node(&[]);
    let wants = "Sec-WebSocket-Protocol: other, pushnode.v1\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n";
    for (headers, protocol) in [("", None), (wants, Some("pushnode.v1"))] {
        let request = format!("GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}{headers}\r\n");
        let answer = ask(&node, &request).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        // The example of RFC 6455, 1.3.
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{answer:?}"
        );
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("sec-websocket-protocol"), protocol);
        assert_eq!(answer.header("sec-websocket-extensions"), None);
    }
}

#[tokio::test]
async fn what_is_no_handshake_gets_its_status_and_the_metrics_tell() {
    let node = node(&[]);
    let without = |name: &str| {
        let lines = HANDSHAKE.split_inclusive("\r\n");
        let kept: String = lines.filter(|line| !line.starts_with(name)).collect();
        assert_ne!(kept, HANDSHAKE, "{name} was there");
        kept
    };
    let with = |name: &str, value: &str| format!("{}{name}: {value}\r\n", without(name));
    let get = "GET /ws?user=42 HTTP/1.1";
    let user = |query: &str| format!("GET /ws{query} HTTP/1.1");
    let good = HANDSHAKE.to_owned();
    let (key, version) = ("Sec-WebSocket-Key", "Sec-WebSocket-Version");
    let cases = [
        ("POST /ws?user=42 HTTP/1.1".to_owned(), good.clone(), 405),
        ("DELETE /ws?user=42 HTTP/1.1".to_owned(), good.clone(), 405),
        ("GET /ws?user=42 HTTP/1.0".to_owned(), good.clone(), 426),
        (get.to_owned(), String::new(), 426),
        (get.to_owned(), without("Upgrade"), 426),
        (get.to_owned(), with("Upgrade", "h2c"), 426),
        (get.to_owned(), without("Connection"), 426),
        (get.to_owned(), with("Connection", "keep-alive"), 426),
        (get.to_owned(), without(version), 426),
        (get.to_owned(), with(version, "8"), 426),
        (get.to_owned(), with(version, "13, 8"), 426),
        (get.to_owned(), without(key), 400),
        (get.to_owned(), with(key, ""), 400),
        (get.to_owned(), with(key, "YWJj"), 400),
        (get.to_owned(), with(key, "dGhlIHNhbXBsZSBub25jZ!=="), 400),
        (
            get.to_owned(),
            format!("{good}{key}: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            400,
        ),
        (user(""), good.clone(), 400),
        (user("?user="), good.clone(), 400),
        (user("?device=phone"), good.clone(), 400),
        (user("?user=a%00b"), good.clone(), 400),
        (user("?user=a%7Fb"), good.clone(), 400),
        (user("?user=%C2%85"), good.clone(), 400),
        (user("?user=%C3"), good.clone(), 400),
        (user("?user=%FF"), good.clone(), 400),
        (user("?user=a%0Ab"), good.clone(), 400),
        (user("?user=%EF%BF%BD"), good.clone(), 400),
        (
            user(&format!("?user={}", "x".repeat(257))),
            good.clone(),
            400,
        ),
        (
            user(&format!("?user=42&device={}", "x".repeat(65))),
            good.clone(),
            400,
        ),
    ];
    let count = cases.len();
    for (line, headers, status) in cases {
        let answer = ask(&node, &format!("{line}\r\nHost: x\r\n{headers}\r\n")).await;
        assert_eq!(answer.status, status, "{line}\n{headers}\n{answer:?}");
        assert_ne!(answer.code(), "", "an error for programs: {answer:?}");
        match status {
            405 => assert_eq!(answer.header("allow"), Some("GET"), "{answer:?}"),
            426 => {
                assert_eq!(answer.header(version), Some("13"), "{answer:?}");
                assert_eq!(answer.header("upgrade"), Some("websocket"), "{answer:?}");
            }
            _ => {}
        }
    }
    assert_eq!(node.metric("handshakes_refused_total").await, count as f64);
    assert_eq!(node.metric("connects_total").await, 0.0);

    // The grammar's whole alphabet, plain and escaped, passes.
    for spelling in ["a.b_c:d@e-F9", "a.b_c%3Ad%40e-F9"] {
        Client::v1(&node.ws_url(spelling)).await;
    }
}

#[tokio::test]
async fn a_web_page_may_connect_if_its_origin_is_its_host_or_in_the_list() {
    let of_host = node(&[]);
    let listed = node(&[("PUSH_ORIGINS", "https://app.example.org")]);
    let any = node(&[("PUSH_ORIGINS", "*")]);
    let connect = async |node: &Node, origin: &str| {
        let request = format!(
            "GET /ws?user=42 HTTP/1.1\r\nHost: push.example.org\r\nOrigin: {origin}\r\n{HANDSHAKE}\r\n"
        );
        ask(node, &request).await
    };
    for (name, node, origin, status) in [
        ("own", &of_host, "http://push.example.org", 101),
        ("own, behind TLS", &of_host, "https://push.example.org", 101),
        ("foreign", &of_host, "https://evil.example.net", 403),
        (
            "foreign port",
            &of_host,
            "https://push.example.org:444",
            403,
        ),
        ("longer", &of_host, "https://push.example.org.evil.net", 403),
        ("null", &of_host, "null", 403),
        ("listed", &listed, "https://app.example.org", 101),
        (
            "own, and not listed",
            &listed,
            "https://push.example.org",
            101,
        ),
        (
            "listed, in plain text",
            &listed,
            "http://app.example.org",
            403,
        ),
        ("null", &listed, "null", 403),
        ("any", &any, "https://evil.example.net", 101),
    ] {
        let answer = connect(node, origin).await;
        assert_eq!(answer.status, status, "{name}, {origin}: {answer:?}");
        if status == 403 {
            assert_eq!(answer.code(), "origin", "{answer:?}");
        }
    }
    let (status, _) = refused_handshake(&of_host.ws_url("")).await;
    assert_eq!(status, 400, "no origin at all is no browser, and welcome");
}

#[tokio::test]
async fn a_v1_ping_right_behind_the_handshake_is_not_lost() {
    let node = node(&[]);
    let mut raw = Raw::open(node.client_address()).await;
    let request = format!(
        "GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}Sec-WebSocket-Protocol: pushnode.v1\r\n\r\n"
    );
    let ping = frame(FIN | TEXT, br#"{"type":"ping"}"#);
    raw.send(&[request.as_bytes(), &ping, &frame(FIN | 0x9, b"early")].concat())
        .await;
    assert_eq!(raw.answer().await.status, 101);
    assert_eq!(raw.frame().await.json()["type"], "ready", "ready is first");
    assert_eq!(raw.frame().await.json(), json!({"type": "pong"}));
    let pong = raw.frame().await;
    assert_eq!((pong.first, &pong.payload[..]), (FIN | PONG, &b"early"[..]));
}

#[tokio::test]
async fn headers_are_bounded_in_bytes_and_number() {
    let node = node(&[]);
    let request = |headers: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let lines = |count: usize| -> String { (0..count).map(|n| format!("X-{n}: y\r\n")).collect() };
    for (name, headers, status) in [
        ("15 KiB", format!("Cookie: {}\r\n", "x".repeat(15_000)), 200),
        ("17 KiB", format!("Cookie: {}\r\n", "x".repeat(17_000)), 431),
        ("1 MiB", format!("Cookie: {}\r\n", "x".repeat(1 << 20)), 431),
        ("90 headers", lines(90), 200),
        ("101 headers", lines(101), 431),
    ] {
        let mut raw = Raw::open(node.client_address()).await;
        raw.try_send(request(&headers).as_bytes()).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    let long = format!("GET /?{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    let mut raw = Raw::open(node.client_address()).await;
    raw.try_send(long.as_bytes()).await;
    let answer = raw.answer().await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    // And none of it has harmed the node.
    assert_eq!(ask(&node, &request("")).await.status, 200);
}

/// Ten seconds of waiting, all cases at once.
#[tokio::test]
async fn a_client_that_does_not_finish_its_request_is_let_go_after_ten_seconds() {
    let node = node(&[
        ("PUSH_MAX_CONNECTIONS", "5"),
        ("PUSH_KEEPALIVE_SECONDS", "12"),
    ]);
    let close_after = async |sent: &str| {
        let begun = Instant::now();
        let mut raw = Raw::open(node.client_address()).await;
        raw.send(sent.as_bytes()).await;
        let rest = raw.rest().await;
        (begun.elapsed(), String::from_utf8_lossy(&rest).into_owned())
    };
    let dripping = async {
        let begun = Instant::now();
        let mut raw = Raw::open(node.client_address()).await;
        raw.send(b"GET / HTTP/1.1\r\n").await;
        for n in 0.. {
            // A pace, not a hope: a byte now and then must not buy more time.
            if !raw.is_silent_for(Duration::from_secs(1)).await {
                break;
            }
            raw.try_send(format!("X-{n}: y\r\n").as_bytes()).await;
            assert!(n < 30, "still open");
        }
        (begun.elapsed(), String::new())
    };
    let kept_alive = async {
        let begun = Instant::now();
        let mut raw = Raw::open(node.client_address()).await;
        let answer = raw.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(answer.status, 200);
        let rest = raw.rest().await;
        (begun.elapsed(), String::from_utf8_lossy(&rest).into_owned())
    };
    let (silent, half_line, half_head, dripping, kept_alive) = tokio::join!(
        close_after(""),
        close_after("GET /ws?us"),
        close_after("GET /ws?user=42 HTTP/1.1\r\nHost: x\r\n"),
        dripping,
        kept_alive,
    );
    for (name, (after, rest)) in [
        ("silent", silent),
        ("half a line", half_line),
        ("half a head", half_head),
        ("dripping", dripping),
        ("kept alive", kept_alive),
    ] {
        // A machine may be slow, but no clock runs ahead.
        let window = Duration::from_secs(9)..Duration::from_secs(29);
        assert!(window.contains(&after), "{name}: closed after {after:?}");
        assert!(
            rest.is_empty() || rest.starts_with("HTTP/1.1 408"),
            "{name}: {rest}"
        );
    }
    // All five places are free again.
    for n in 0..5 {
        let answer = http().get(node.url("/")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "request {n}");
    }
}
