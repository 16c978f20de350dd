//! The requests that both lanes are compared by.

/// The key of senders, where one is set.
pub(super) const KEY: &str = "0123456789abcdef";

const PUSH: &str = r#"{"to":{"user":"42"},"data":"to both"}"#;
const LINE: &str = "POST /v1/push HTTP/1.1";
const HOST: &str = "Host: x";
const JSON: &str = "Content-Type: application/json";

/// The bytes of a request, and what is special about it.
pub(super) struct Request {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

fn raw(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Request {
    Request {
        name: name.into(),
        bytes: bytes.into(),
    }
}

/// A request of these lines, the first of which names it.
fn lines(named: &str, line: &str, headers: &[&str], body: &[u8]) -> Request {
    let head = [&[line], headers].concat().join("\r\n");
    raw(named, [head.as_bytes(), b"\r\n\r\n", body].concat())
}

/// The usual head, with another body.
fn body(body: &str) -> Request {
    let length = format!("Content-Length: {}", body.len());
    let headers = [HOST, JSON, &length];
    let name: String = body.chars().take(60).collect();
    lines(&name, LINE, &headers, body.as_bytes())
}

/// The usual request with these headers too.
fn with(headers: &[&str]) -> Request {
    let length = format!("Content-Length: {}", PUSH.len());
    let all = [&[HOST, JSON, &length], headers].concat();
    lines(&headers.join(", "), LINE, &all, PUSH.as_bytes())
}

/// The request of these headers, and a `Content-Length` that is right.
fn of(headers: &[&str]) -> Request {
    let length = format!("Content-Length: {}", PUSH.len());
    let all = [headers, &[&length]].concat();
    lines(&headers.join(", "), LINE, &all, PUSH.as_bytes())
}

/// The usual headers under another request line.
fn under(line: &str) -> Request {
    let length = format!("Content-Length: {}", PUSH.len());
    lines(line, line, &[HOST, JSON, &length], PUSH.as_bytes())
}

/// All orders of four headers.
fn orders() -> Vec<Request> {
    let length = format!("Content-Length: {}", PUSH.len());
    let all = [HOST, JSON, &length, "User-Agent: a sender"];
    let mut orders = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| ![a, b].contains(c)) {
                let d = 6 - a - b - c;
                let order = [all[a], all[b], all[c], all[d]];
                let name = format!("order {a}{b}{c}{d}");
                orders.push(lines(&name, LINE, &order, PUSH.as_bytes()));
            }
        }
    }
    orders
}

/// Requests that take the fast lane.
pub(super) fn usual() -> Vec<Request> {
    let length = PUSH.len();
    let mut all = vec![body(PUSH)];
    all.extend(orders());
    for headers in [
        format!("host: x\r\ncontent-type: application/json\r\ncontent-length: {length}"),
        format!("HOST: x\r\nCONTENT-TYPE: APPLICATION/JSON\r\nCONTENT-LENGTH: {length}"),
        format!("Host:x\r\nContent-Type:text/json\r\nContent-Length:{length}"),
        format!("Host: x \t\r\n{JSON}; charset=utf-8\r\nContent-Length: \t 00{length} \t"),
        format!("{HOST}\n{JSON}\nContent-Length: {length}"),
    ] {
        all.push(lines(&headers, LINE, &[&headers], PUSH.as_bytes()));
    }
    for header in [
        "Connection: keep-alive",
        "connection:  Keep-Alive ",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate, br",
        "X-Empty:",
        "X-Latin: \u{e9}",
        "X-Forwarded-For: 192.0.2.1",
        "Authorization: Bearer of another node",
        "Cookie: a=b\r\nCookie: c=d",
    ] {
        all.push(with(&[header]));
    }
    for host in ["127.0.0.1:1", "[::1]:80", "localhost", "node-1", "x:", ""] {
        all.push(of(&[&format!("Host: {host}"), JSON]));
    }
    let long = format!("{}{}", PUSH, " ".repeat(16 * 1024 - PUSH.len()));
    for text in [
        r#" { "to" : {"user":"42"} , "data" : [1, {"a": null}] }"#,
        r#"{"to":{"user":"none"},"data":1}"#,
        r#"{"to":{"user":"42"},"id":"once","data":1}"#,
        r#"{"to":{"user":"42"},"id":"once","data":1}"#,
        r#"{"to":{"users":["42","43","none"]},"data":1}"#,
        r#"{"to":{"topic":"news"},"data":1}"#,
        r#"{"to":{"topics":["news","sport"]},"data":1}"#,
        r#"{"to":{"all":true},"data":1}"#,
        r#"{"to":{"fd":"other.1/7"},"data":1}"#,
        r#"{"to":{"user":"42"},"wait":"written","data":1}"#,
        r#"{"to":{"user":"none"},"wait":"acked","timeout_ms":1,"data":1}"#,
        r#"{"to":{"user":"42"},"except":{"users":["42"]},"data":1}"#,
        r#"{"to":{"user":"42"},"event":"e","policy":"drop","data":"é"}"#,
        &long,
    ] {
        all.push(body(text));
    }
    all
}

/// Requests that are right, and not for the fast lane.
pub(super) fn unusual() -> Vec<Request> {
    let long = format!("{}{}", PUSH, " ".repeat(16 * 1024 + 1 - PUSH.len()));
    let longer = format!("X-Long: {}", "x".repeat(5 * 1024));
    let many: Vec<String> = (0..40).map(|n| format!("X-{n}: {n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let chunked = format!("{:x}\r\n{PUSH}\r\n0\r\n\r\n", PUSH.len());
    let chunks = [HOST, JSON, "Transfer-Encoding: chunked"];
    let json_lines = "Content-Type: application/x-ndjson";
    let mut all = vec![
        body(&long),
        body(&format!("[{PUSH}]")),
        body("[]"),
        body(&format!("\u{feff}{PUSH}")),
        lines("chunked", LINE, &chunks, chunked.as_bytes()),
        of(&[HOST, json_lines]),
        with(&many),
        with(&[&longer]),
        under("POST http://x/v1/push HTTP/1.1"),
        under("POST /v1/push HTTP/1.0"),
        under("POST /v1/push?a=b HTTP/1.1"),
        lines("HTTP/1.0 of old", "GET / HTTP/1.0", &[], b""),
        lines("the page", "GET / HTTP/1.1", &[HOST], b""),
        lines("HEAD", "HEAD / HTTP/1.1", &[HOST], b""),
        raw(
            "an empty line first",
            [b"\r\n", &body(PUSH).bytes[..]].concat(),
        ),
    ];
    let bare = String::from_utf8(body(PUSH).bytes).expect("text");
    all.push(raw("bare line feed", bare.replacen("1.1\r\n", "1.1\n", 1)));
    for header in [
        "TE: trailers",
        "Trailer: x",
        "Connection: close",
        "Connection: Close",
        "Connection: keep-alive, close",
        "Connection: x",
        "Connection: keep-alive\r\nConnection: close",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Expect: something",
        "Content-Encoding: identity",
        "Origin: http://x",
        "Sec-Fetch-Site: none",
        "Sec-Fetch-Site: same-origin",
    ] {
        all.push(with(&[header]));
    }
    all
}

/// Requests that are refused.
pub(super) fn refused() -> Vec<Request> {
    let mut all = Vec::new();
    for text in [
        "{",
        "{}",
        "7",
        "\"text\"",
        r#"{"to":{"user":""},"data":1}"#,
        r#"{"to":{"user":"42"},"data":1,"unknown":1}"#,
        r#"{"to":{"user":"42"},"data":1}}"#,
        r#"{"to":{"user":"42"},"to":{"user":"42"},"data":1}"#,
        r#"{"to":{"user":"42"},"data":1,"keep":true,"policy":"drop"}"#,
    ] {
        all.push(body(text));
    }
    for line in [
        "GET /v1/push HTTP/1.1",
        "HEAD /v1/push HTTP/1.1",
        "PUT /v1/push HTTP/1.1",
        "OPTIONS /v1/push HTTP/1.1",
        "post /v1/push HTTP/1.1",
        "POST /v1/push/ HTTP/1.1",
        "POST //v1/push HTTP/1.1",
        "POST /v1/pusher HTTP/1.1",
        "POST /v1/push HTTP/1.2",
        "POST /v1/push http/1.1",
        "POST  /v1/push HTTP/1.1",
        "POST /v1/push  HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        all.push(under(line));
    }
    let json_twice = [HOST, JSON, JSON];
    for headers in [
        &[JSON][..],
        &[HOST, HOST, JSON],
        &["Host: a b", JSON],
        &["Host: x:y", JSON],
        &["Host: push.example.org", JSON],
        &["Host: push.example.org:80", JSON],
        &[HOST],
        &[HOST, "Content-Type: text/plain"],
        &[HOST, "Content-Type:"],
        &[HOST, "Content-Type: application/json\u{e9}"],
        &json_twice,
    ] {
        all.push(of(headers));
    }
    for header in [
        "Content-Length: 7",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Content-Encoding: gzip",
        "Origin: null",
        "Origin: http://evil.example",
        "Sec-Fetch-Site: cross-site",
        "Authorization: Basic \u{e9}",
        "Authorization: a\r\nAuthorization: b",
        "Last-Event-ID: 1\r\nLast-Event-ID: 2",
        "X-Fold: a\r\n b",
        "X-Space : a",
        "X\u{e9}: a",
        ": a",
        "X-Null: \0",
    ] {
        all.push(with(&[header]));
    }
    for length in [
        "+37",
        "-1",
        "0x25",
        "37, 37",
        "",
        "99999999999999999999",
        "1048577",
    ] {
        let length = format!("Content-Length: {length}");
        all.push(lines(
            &length,
            LINE,
            &[HOST, JSON, &length],
            PUSH.as_bytes(),
        ));
    }
    all.push(lines("no length", LINE, &[HOST, JSON], b""));
    all.push(lines(
        "length 0",
        LINE,
        &[HOST, JSON, "Content-Length: 0"],
        b"",
    ));
    all.push(lines(
        "ends early",
        LINE,
        &[HOST, JSON, "Content-Length: 9"],
        b"{",
    ));
    let huge = format!("X-Huge: {}", "x".repeat(20 * 1024));
    all.push(lines("a huge head", LINE, &[HOST, JSON, &huge], b""));
    all
}

/// Requests with a right key, or with another one or none.
pub(super) fn with_key(is_right: bool) -> Vec<Request> {
    let headers: &[String] = &match is_right {
        true => [
            format!("Authorization: Bearer {KEY}"),
            format!("authorization: bearer {KEY}"),
            format!("AUTHORIZATION: BEARER  {KEY} "),
            format!("Authorization: Bearer {KEY}\r\nX-Other: 1"),
        ],
        false => [
            format!("Authorization: Bearer {KEY}0"),
            format!("Authorization: Basic {KEY}"),
            format!("Authorization: {KEY}"),
            "Authorization:".to_owned(),
        ],
    };
    let mut all: Vec<Request> = headers.iter().map(|header| with(&[header])).collect();
    // Who has a key may use any name.
    for host in ["push.example.org", "x"] {
        let key = if is_right { KEY } else { "wrong" };
        let key = format!("Authorization: Bearer {key}");
        all.push(of(&[&format!("Host: {host}"), JSON, &key]));
    }
    all
}

/// Requests that are cut in two, and whether they take the fast lane.
pub(super) fn to_cut() -> Vec<(Request, bool)> {
    let chunked = format!("{:x}\r\n{PUSH}\r\n0\r\n\r\n", PUSH.len());
    let chunks = [HOST, JSON, "Transfer-Encoding: chunked"];
    vec![
        (body(PUSH), true),
        (with(&["Connection: keep-alive", "X-Latin: \u{e9}"]), true),
        (body("{}"), false),
        (lines("chunked", LINE, &chunks, chunked.as_bytes()), false),
        (
            lines("no path", "GET /v1/nothing HTTP/1.1", &[HOST], b""),
            false,
        ),
    ]
}
