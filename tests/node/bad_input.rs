//! What senders get wrong, and the words they get for it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, http, node, openapi, post_text};
use crate::raw::Raw;
use crate::sender::{JSON, call, post_raw, push};

#[tokio::test]
async fn bad_pushes_are_refused_with_words_that_name_the_fault() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let many_users: Vec<String> = (0..1001).map(|n| format!("u{n}")).collect();
    let cases = [
        ("", "EOF"),
        ("nonsense", "expected"),
        // The mark is skipped.
        ("\u{FEFF}{}", "`to`"),
        ("{}", "`to`"),
        (r#"{"to":{"user":"42"}}"#, "`data`"),
        (r#"{"data":1}"#, "`to`"),
        (r#"{"to":{"user":"42"},"data":1,"urgent":true}"#, "`urgent`"),
        (r#"{"to":{"user":"42","node":"a"},"data":1}"#, "`node`"),
        (
            r#"{"to":{"user":"42"},"data":1,"except":{"user":"x"}}"#,
            "`user`",
        ),
        (r#"{"to":"42","data":1}"#, "42"),
        (r#"{"to":{"user":4.2},"data":1}"#, "4.2"),
        (r#"{"to":{"users":"42"},"data":1}"#, "42"),
        (r#"{"to":{"user":"42"},"data":1,"id":5}"#, "5"),
        (
            r#"{"to":{},"data":1}"#,
            "one of user, users, topic, topics, fd or all",
        ),
        (r#"{"to":{"all":false},"data":1}"#, "to.all must be true"),
        (r#"{"to":{"all":"true"},"data":1}"#, "to.all must be true"),
        (r#"{"to":{"user":"42","all":true},"data":1}"#, "only one of"),
        (
            r#"{"to":{"user":"42","users":["43"]},"data":1}"#,
            "only one of",
        ),
        (
            r#"{"to":{"users":["42"],"fd":"a.1/1"},"data":1}"#,
            "only one of",
        ),
        (
            r#"{"to":{"users":[]},"data":1}"#,
            "to.users must not be empty",
        ),
        (r#"{"to":{"user":""},"data":1}"#, "user id must be 1 to 256"),
        (
            r#"{"to":{"user":"a\u0000b"},"data":1}"#,
            "user id must be 1 to 256",
        ),
        (
            r#"{"to":{"user":"a\u007fb"},"data":1}"#,
            "user id must be 1 to 256",
        ),
        (
            r#"{"to":{"user":"a\nb"},"data":1}"#,
            "user id must be 1 to 256",
        ),
        (
            r#"{"to":{"users":["42","\u0085"]},"data":1}"#,
            "user id must be 1 to 256",
        ),
        (r#"{"to":{"fd":"7"},"data":1}"#, "connection id must be"),
        (r#"{"to":{"fd":"a.1/0"},"data":1}"#, "connection id must be"),
        (
            r#"{"to":{"user":"42"},"data":1,"id":""}"#,
            "id must be 1 to 128",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"id":"\u0000"}"#,
            "id must be 1 to 128",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"policy":"keep"}"#,
            "policy must be",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"policy":"latest:"}"#,
            "policy must be",
        ),
        (r#"{"to":{"user":"42"},"data":1,"wait":"read"}"#, "`read`"),
        (
            r#"{"to":{"user":"42"},"data":1,"timeout_ms":0}"#,
            "timeout_ms must be",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"timeout_ms":30001}"#,
            "timeout_ms must be",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"timeout_ms":-1}"#,
            "timeout_ms must be",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"timeout_ms":1000.5}"#,
            "timeout_ms must be",
        ),
        (
            r#"{"to":{"user":"42"},"data":1,"data":2}"#,
            "duplicate field `data`",
        ),
        (r#"{"to":{"user":"42"},"data":01}"#, "number"),
        (r#"{"to":{"user":"42"},"data":NaN}"#, "expected"),
        (r#"{"to":{"user":"42"},"data":1} x"#, "trailing"),
        (
            r#"{"to":{"user":"42"},"data":1}{"to":{"user":"42"},"data":1}"#,
            "trailing",
        ),
        (r#"{"to":{"user":"42"},"data":"\ud800"}"#, ""),
        ("[", "array"),
        (r#""just text""#, "just text"),
    ];
    let long = [
        (
            json!({"to": {"users": many_users}, "data": 1}).to_string(),
            "to.users has 1001 users",
        ),
        (
            json!({"to": {"all": true}, "except": {"users": many_users}, "data": 1}).to_string(),
            "except has over 1000 users",
        ),
        (
            json!({"to": {"user": "x".repeat(257)}, "data": 1}).to_string(),
            "user id must be 1 to 256",
        ),
        (
            json!({"to": {"user": "42"}, "id": "x".repeat(129), "data": 1}).to_string(),
            "id must be 1 to 128",
        ),
    ];
    let long = long.iter().map(|(body, words)| (body.as_str(), *words));
    for (body, words) in cases.into_iter().chain(long) {
        let shown = &body[..body.len().min(80)];
        let (status, answer) = post_text(&node.push_url, JSON, body.to_owned()).await;
        if body.contains(r"\ud800") && status == 200 {
            // RFC 8259, 8.2: a lone surrogate is grammatical. Passed on as it came.
            assert_eq!(client.text().await, r#""\ud800""#);
            continue;
        }
        assert_eq!(status, 400, "{shown}: {answer}");
        if let Ok(body) = serde_json::from_str::<Value>(body)
            && !words.contains("duplicate")
        {
            let allowed = openapi::check_body(&node.push_url, &body);
            assert!(allowed.is_err(), "openapi.json: {shown}");
        }
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["error"]["code"], "bad_request", "{shown}: {answer}");
        let message = answer["error"]["message"].as_str().expect("words");
        assert!(
            message.contains(words),
            "{shown}: {message:?} lacks {words:?}"
        );
    }
    // Bytes that are no text at all.
    let (status, _) = post_text(&node.push_url, JSON, vec![0xFF, 0xFE, 0]).await;
    assert_eq!(status, 400);
    let bad_text = b"{\"to\":{\"user\":\"42\"},\"data\":\"\xFF\"}".to_vec();
    let (status, _) = post_text(&node.push_url, JSON, bad_text).await;
    assert_eq!(status, 400);
    push(&node, json!({"to": {"user": "42"}, "data": "marker"})).await;
    client.hears_next("marker").await;
}

#[tokio::test]
async fn a_body_is_bounded_whatever_its_headers_claim() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let body = |length: usize| {
        let empty = r#"{"to":{"user":"42"},"data":""}"#.len();
        let padding = "x".repeat(length - empty);
        format!(r#"{{"to":{{"user":"42"}},"data":"{padding}"}}"#)
    };
    const MIB: usize = 1 << 20;
    for (length, status) in [(MIB, 200), (MIB + 1, 413), (3 * MIB, 413)] {
        let body = body(length);
        let plain = format!("Content-Length: {length}\r\n");
        let answer = post_raw(&node, &plain, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{length} bytes: {answer:?}");
        let mut chunked = Vec::new();
        for chunk in body.as_bytes().chunks(50_000) {
            chunked.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let answer = post_raw(&node, "Transfer-Encoding: chunked\r\n", &chunked).await;
        assert_eq!(answer.status, status, "{length} bytes, chunked: {answer:?}");
        if status == 413 {
            assert_eq!(answer.code(), "too_large");
        }
    }
    for _ in 0..2 {
        assert_eq!(
            client.text().await.len(),
            MIB - r#"{"to":{"user":"42"},"data":}"#.len()
        );
    }
    // A claim alone is enough, or costs nothing: nobody waits for what may never come.
    let claim = post_raw(
        &node,
        "Content-Length: 99999999999\r\nConnection: close\r\n",
        &[b' '; MIB + 1],
    )
    .await;
    assert_eq!(claim.status, 413, "{claim:?}");
    push(&node, json!({"to": {"user": "42"}, "data": "marker"})).await;
    client.hears_next("marker").await;
}

#[tokio::test]
async fn two_lengths_of_one_body_are_not_believed() {
    let node = node(&[]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let body = br#"{"to":{"user":"42"},"data":"smuggled"}"#;
    let length = body.len();
    for headers in [
        format!("Content-Length: {length}\r\nContent-Length: 5\r\n"),
        format!("Content-Length: {length}, 5\r\n"),
        "Content-Length: -1\r\n".to_owned(),
        format!("Content-Length: +{length}\r\n"),
        "Transfer-Encoding: gzip\r\n".to_owned(),
        "Transfer-Encoding: chunked, gzip\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\n".to_owned(),
    ] {
        let answer = post_raw(&node, &headers, body).await;
        assert_eq!(answer.status, 400, "{headers}{answer:?}");
    }
    // Of a length and chunks, the chunks count, and nothing behind them is taken for another
    // request (RFC 9112, 6.1).
    let real = br#"{"to":{"user":"42"},"data":"in chunks"}"#;
    let chunked = [
        format!("{:x}\r\n", real.len()).as_bytes(),
        real,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let behind = format!("POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    let sent = [&chunked[..], behind.as_bytes(), body].concat();
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    ] {
        let mut raw = Raw::open(node.client_address()).await;
        let head = format!(
            "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{headers}\r\n"
        );
        raw.send(&[head.as_bytes(), &sent].concat()).await;
        let answer = raw.answer().await;
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        raw.end().await;
        if answer.status == 200 {
            assert_eq!(client.json().await, "in chunks");
        } else {
            assert_eq!(answer.status, 400, "{answer:?}");
        }
    }
    push(&node, json!({"to": {"user": "42"}, "data": "marker"})).await;
    client.hears_next("marker").await;
}

/// Ten seconds of waiting.
#[tokio::test]
async fn a_slow_body_is_given_up_after_ten_seconds() {
    let node = node(&[]);
    let stalled = async {
        let begun = Instant::now();
        let answer = post_raw(&node, "Content-Length: 100\r\n", b"{").await;
        (begun.elapsed(), answer)
    };
    let dripping = async {
        let begun = Instant::now();
        let mut raw = Raw::open(node.client_address()).await;
        raw.send(b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
            .await;
        // A pace, not a hope: a byte now and then must not buy more time.
        while raw.is_silent_for(Duration::from_secs(1)).await {
            raw.try_send(b" ").await;
        }
        (begun.elapsed(), raw.answer().await)
    };
    let (stalled, dripping) = tokio::join!(stalled, dripping);
    for (name, (after, answer)) in [("stalled", stalled), ("dripping", dripping)] {
        assert_eq!(answer.status, 408, "{name}: {answer:?}");
        assert_eq!(answer.code(), "timeout", "{name}: {answer:?}");
        // A machine may be slow, but no clock runs ahead.
        let window = Duration::from_secs(9)..Duration::from_secs(29);
        assert!(window.contains(&after), "{name}: answered after {after:?}");
    }
}

#[tokio::test]
async fn wrong_paths_methods_and_content_types_get_their_status() {
    let node = node(&[]);
    for (method, path, status, allow) in [
        ("GET", "/nothing", 404, ""),
        ("GET", "/v1", 404, ""),
        ("POST", "/v1/push/x", 404, ""),
        ("POST", "/v2/push", 404, ""),
        ("GET", "/metrics", 404, ""),
        ("GET", "/healthz", 404, ""),
        ("GET", "/readyz", 404, ""),
        ("GET", "/v1/push", 405, "POST"),
        ("PUT", "/v1/push", 405, "POST"),
        ("POST", "/v1/users/42", 405, "GET, HEAD, DELETE"),
        ("GET", "/v1/connections/a.1/1", 405, "DELETE"),
        ("POST", "/v1/nodes", 405, "GET, HEAD"),
        ("GET", "/v1/nodes/a/drain", 405, "POST"),
        ("POST", "/", 405, "GET, HEAD"),
    ] {
        let (seen, allowed, answer) = call(method, &node.url(path)).await;
        assert_eq!((seen, allowed.as_str()), (status, allow), "{method} {path}");
        assert!(
            answer["error"]["code"].is_string(),
            "{method} {path}: {answer}"
        );
    }
    for (method, path) in [("POST", "/metrics"), ("DELETE", "/healthz")] {
        let (status, allow, _) = call(method, &node.admin_url(path)).await;
        assert_eq!(status, 405, "{method} {path}");
        assert!(allow.starts_with("GET"), "{method} {path}: {allow}");
    }
    let body = r#"{"to":{"user":"nobody"},"data":1}"#;
    for (content_type, status) in [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/x-ndjson", 200),
        ("text/plain", 415),
        // A page of any host may send a form without asking.
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("", 415),
    ] {
        let (seen, answer) = post_text(&node.push_url, content_type, body).await;
        assert_eq!(seen, status, "{content_type}: {answer}");
    }
}

#[tokio::test]
async fn senders_need_one_of_the_keys_where_there_are_any() {
    let keys = "first-key-0123456789,second-key-0123456789";
    let node = node(&[("PUSH_API_KEYS", keys)]);
    let mut client = Client::plain(&node.ws_url("42")).await;
    let body = json!({"to": {"user": "42"}, "data": 1});
    for (authorization, status) in [
        (Some("Bearer first-key-0123456789"), 200),
        (Some("bearer second-key-0123456789"), 200),
        (None, 401),
        (Some(""), 401),
        (Some("Bearer"), 401),
        (Some("Bearer wrong-key-0123456789"), 401),
        (Some("Bearer first-key-012345678"), 401),
        (Some("Basic first-key-0123456789"), 401),
        (Some("first-key-0123456789"), 401),
    ] {
        for (method, path) in [
            ("POST", "/v1/push"),
            ("GET", "/v1/users/nobody"),
            ("DELETE", "/v1/users/nobody"),
            ("GET", "/v1/nodes"),
            ("DELETE", "/v1/connections/a.1/1"),
            ("POST", "/v1/nodes/nobody/drain"),
        ] {
            let mut request = http().request(method.parse().unwrap(), node.url(path));
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            if path == "/v1/push" {
                request = request.json(&body);
            }
            let answer = request.send().await.unwrap();
            let seen = answer.status().as_u16();
            if status == 401 {
                assert_eq!(seen, 401, "{method} {path} {authorization:?}");
                let wants = answer.headers().get("www-authenticate");
                assert_eq!(wants.expect("how to").to_str().unwrap(), "Bearer");
            } else {
                assert!(seen != 401, "{method} {path} {authorization:?}: {seen}");
            }
        }
    }
    // Bytes that are no text in the header are no key either.
    let mut raw = Raw::open(node.client_address()).await;
    raw.send(b"GET /v1/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xFF\r\n\r\n")
        .await;
    let answer = raw.answer().await;
    assert!([400, 401].contains(&answer.status), "{answer:?}");

    assert_eq!(client.json().await, 1);
    assert_eq!(client.json().await, 1);
    let marker = json!({"to": {"user": "42"}, "data": "marker"});
    let request = http()
        .post(&node.push_url)
        .bearer_auth("first-key-0123456789");
    assert_eq!(request.json(&marker).send().await.unwrap().status(), 200);
    client.hears_next("marker").await;
}
