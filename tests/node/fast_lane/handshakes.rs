//! The fast lane for `GET /ws`: which handshakes it reads, and that no answer tells.
//!
//! Both nodes have the lane. One of them gets an empty line before each request, which the HTTP
//! library skips (RFC 9112, 2.2) and the lane leaves to it.

use serde_json::{Value, json};

use super::{AT_ONCE, answers, until_read};
use crate::common::passes::ask;
use crate::common::tokens::{Issuer, claims};
use crate::common::{Node, eventually, node};
use crate::raw::{FIN, HANDSHAKE, PING, Raw, frame};

const LINE: &str = "GET /ws?user=42 HTTP/1.1";
const V1: &str = "Sec-WebSocket-Protocol: pushnode.v1";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What a client sends, in pieces.
type Sent = Vec<Vec<u8>>;

struct Doors {
    fast: Node,
    slow: Node,
}

impl Doors {
    fn start(settings: &[(&str, &str)]) -> Self {
        let (fast, slow) = (node(settings), node(settings));
        Self { fast, slow }
    }

    fn both(&self) -> [&Node; 2] {
        [&self.fast, &self.slow]
    }

    /// Sends each to both nodes, on a connection of its own. All of them are read by the lane, or
    /// none.
    async fn compare(&self, all: &[Sent], are_fast: bool) {
        let before = self.fast.metric("handshakes_fast_total").await;
        for some in all.chunks(AT_ONCE) {
            let pieces: Vec<Vec<&[u8]>> = some
                .iter()
                .map(|sent| sent.iter().map(Vec::as_slice).collect())
                .collect();
            let fast = answers(self.fast.client_address(), &pieces).await;
            let behind: Vec<Vec<&[u8]>> = pieces
                .iter()
                .map(|pieces| [&[&b"\r\n"[..]], &pieces[..]].concat())
                .collect();
            let slow = answers(self.slow.client_address(), &behind).await;
            for (sent, (fast, slow)) in some.iter().zip(fast.iter().zip(&slow)) {
                let sent = sent.concat();
                let sent = sent.escape_ascii();
                assert_eq!(alike(fast), alike(slow), "{sent}");
                assert!(fast.starts_with("HTTP/1."), "{fast:?} to {sent}");
            }
        }
        let fast = self.fast.metric("handshakes_fast_total").await - before;
        let expected = if are_fast { all.len() as f64 } else { 0.0 };
        let first = all[0].concat();
        assert_eq!(fast, expected, "from {}", first.escape_ascii());
        assert_eq!(self.slow.metric("handshakes_fast_total").await, 0.0);
        assert_eq!(counted(&self.fast).await, counted(&self.slow).await);
    }

    /// As [`Doors::compare`], one after the other.
    async fn compare_each(&self, all: &[String], are_fast: bool) {
        for one in all {
            self.compare(&[vec![one.clone().into_bytes()]], are_fast)
                .await;
        }
    }
}

/// An answer without what tells its node.
fn alike(answer: &str) -> String {
    match answer.split_once("\r\n\r\n") {
        Some((head, rest)) if rest.contains(r#""type":"ready""#) => format!("{head}, then ready"),
        _ => answer.to_owned(),
    }
}

/// What a node counts of handshakes.
async fn counted(node: &Node) -> Vec<String> {
    let metrics = node.metrics().await;
    let names = [
        "connects_total",
        "handshakes_refused",
        "accepts_refused",
        "requests_refused",
    ];
    let is_named = |line: &&str| {
        let name = line.strip_prefix("pushnode_").unwrap_or_default();
        names.iter().any(|one| name.starts_with(one))
    };
    let mut lines: Vec<String> = metrics
        .lines()
        .filter(is_named)
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

fn request(line: &str, headers: &[&str]) -> String {
    format!("{line}\r\n{}\r\n\r\n", headers.join("\r\n"))
}

/// A good handshake with these headers too.
fn with(headers: &str) -> String {
    format!("{LINE}\r\nHost: x\r\n{HANDSHAKE}{headers}\r\n\r\n")
}

/// A good handshake for another target.
fn to(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}{headers}\r\n")
}

/// A good handshake without the header that begins so.
fn without(begin: &str, instead: &str) -> String {
    let all = format!("Host: x\r\n{HANDSHAKE}");
    let kept = all
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with(begin));
    format!("{LINE}\r\n{}{instead}\r\n", kept.collect::<String>())
}

/// Handshakes that the lane reads, good and bad.
fn usual() -> Vec<String> {
    let lines: Vec<&str> = HANDSHAKE.lines().chain(["Host: x"]).collect();
    let mut all = Vec::new();
    for first in 0..lines.len() {
        let (behind, before) = lines.split_at(first);
        let turned = [before, behind].concat();
        let back: Vec<&str> = turned.iter().rev().copied().collect();
        all.extend([request(LINE, &turned), request(LINE, &back)]);
    }
    all.push(with("X-A: b").replace("\r\n", "\n"));
    all.push(format!(
        "{LINE}\r\n{}\r\n",
        format!("host: x\r\n{HANDSHAKE}").to_lowercase()
    ));
    for target in [
        "/ws",
        "/ws?",
        "/ws?user=",
        "/ws?user=%34%32&x=%C3%A9",
        "/ws?user=42&device=d&beat=true",
        "/ws?user=42&user=43",
        "/ws?user=42&since=x",
        "/ws?user=42&topics=a,b",
        "/ws?user=42#x",
        "/ws?user=\u{e9}",
    ] {
        all.extend([to(target, ""), to(target, &format!("{V1}\r\n"))]);
    }
    all.push(to("/ws?user=42&since=x&refuse=frame", &format!("{V1}\r\n")));
    for headers in [
        V1,
        "Sec-WebSocket-Protocol: other, pushnode.v1",
        "Sec-WebSocket-Protocol: PUSHNODE.V1",
        "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: pushnode.v1",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Authorization: Bearer x",
        "Authorization: a\r\nAuthorization: b",
        "Cookie: a=b\r\nCookie: c=d",
        "X-Empty:",
        "X-Latin: \u{e9}",
        "Connection: close",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Origin: http://x",
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: ?",
        "Origin: http://x\r\nOrigin: http://x",
        "Sec-Fetch-Site: cross-site",
        "Host: x",
        "Origin: http://x\r\nSec-Fetch-Site: cross-site",
        "X-Forwarded-For: 192.0.2.1",
    ] {
        all.push(with(headers));
    }
    for (begin, instead) in [
        ("Upgrade", ""),
        ("Upgrade", "Upgrade: h2c\r\n"),
        ("Connection", ""),
        ("Host", ""),
        ("Connection", "Connection: keep-alive, UPGRADE\r\n"),
        ("Host", "Host: a b\r\n"),
        (
            "Host",
            "Host: evil.example:9\r\nOrigin: http://evil.example:9\r\n",
        ),
        ("Sec-WebSocket-V", ""),
        ("Sec-WebSocket-V", "Sec-WebSocket-Version: 8\r\n"),
        ("Sec-WebSocket-K", ""),
        ("Sec-WebSocket-K", "Sec-WebSocket-Key: YWJj\r\n"),
        ("X", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        ("Upgrade", "Connection: close\r\n"),
        ("Connection", "Connection: close\r\n"),
    ] {
        all.push(without(begin, instead));
    }
    all
}

/// Handshakes, and what looks like them, for the HTTP library.
fn unusual() -> Vec<String> {
    let many: String = (0..40).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let mut all = vec![
        with(many.trim_end()),
        with(&format!("X-Long: {}", "x".repeat(5 * 1024))),
        with("Content-Length: 3") + "abc",
        with("Transfer-Encoding: chunked") + "0\r\n\r\n",
    ];
    for line in [
        "POST /ws?user=42 HTTP/1.1",
        "HEAD /ws?user=42 HTTP/1.1",
        "OPTIONS /ws HTTP/1.1",
        "get /ws?user=42 HTTP/1.1",
        "GET /ws?user=42 HTTP/1.0",
        "GET /ws?user=42 HTTP/1.2",
        "GET /ws/?user=42 HTTP/1.1",
        "GET //ws?user=42 HTTP/1.1",
        "GET /wss HTTP/1.1",
        "GET /WS?user=42 HTTP/1.1",
        "GET /%77s?user=42 HTTP/1.1",
        "GET /ws/x HTTP/1.1",
        "GET http://x/ws?user=42 HTTP/1.1",
        "GET  /ws?user=42 HTTP/1.1",
        "GET /ws",
        "GET /ws?user=4 2 HTTP/1.1",
        "GET / HTTP/1.1",
    ] {
        all.push(format!("{line}\r\nHost: x\r\n{HANDSHAKE}\r\n"));
    }
    for headers in [
        "Content-Length: 0",
        "Expect: 100-continue",
        "X-Fold: a\r\n b",
        "X-Space : a",
        "X-Null: \0",
    ] {
        all.push(with(headers));
    }
    all
}

#[tokio::test]
async fn a_usual_handshake_is_answered_as_by_the_other() {
    let doors = Doors::start(&[]);
    doors.compare_each(&usual(), true).await;
}

#[tokio::test]
async fn an_unusual_handshake_is_left_to_the_other() {
    let doors = Doors::start(&[]);
    doors.compare_each(&unusual(), false).await;
}

#[tokio::test]
async fn a_handshake_may_be_cut_anywhere() {
    let doors = Doors::start(&[]);
    for whole in [with(V1), to("/ws", "")] {
        let bytes = whole.as_bytes();
        let cut = |at: usize| vec![bytes[..at].to_vec(), bytes[at..].to_vec()];
        let cuts: Vec<Sent> = (1..bytes.len()).map(cut).collect();
        doors.compare(&cuts, true).await;
        let pieces: Sent = bytes.chunks(7).map(<[u8]>::to_vec).collect();
        doors.compare(&[pieces], true).await;
    }
}

#[tokio::test]
async fn what_comes_behind_a_handshake_is_heard() {
    let doors = Doors::start(&[]);
    let ping = frame(FIN | PING, b"early");
    let next = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n";
    let good = with("X: y");
    for (first, then) in [(&good, &ping[..]), (&to("/ws", ""), next)] {
        let whole = [first.as_bytes(), then].concat();
        // The last, empty part gives the node time to read all before the end: what comes together
        // with it is not answered for certain.
        doors
            .compare(&[vec![whole.clone(), Vec::new()]], true)
            .await;
        let cuts = first.len() - 2..whole.len();
        let cut = |at: usize| vec![whole[..at].to_vec(), whole[at..].to_vec(), Vec::new()];
        doors
            .compare(&cuts.map(cut).collect::<Vec<_>>(), true)
            .await;
    }
    // A second one on a connection is read by the lane only behind what that has answered.
    let push = r#"{"to":{"user":"42"},"data":1}"#;
    let push = format!(
        "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{push}",
        push.len()
    );
    doors
        .compare(&[vec![(push + &good).into_bytes()]], true)
        .await;
    let nothing = String::from_utf8(next.to_vec()).expect("text");
    doors
        .compare(&[vec![(nothing + &good).into_bytes()]], false)
        .await;
}

#[tokio::test]
async fn tokens_count_in_both_lanes() {
    let doors = Doors::start(&[
        ("PUSH_AUTH", "jwt"),
        ("PUSH_JWT_SECRETS", SECRET),
        ("PUSH_ORIGINS", "https://app.example"),
    ]);
    let signer = Issuer::secret(SECRET);
    let token = |user: &str| signer.token(&claims(user));
    let mut old = claims("1");
    old["exp"] = json!(1_000_000_000);
    for node in doors.both() {
        ask(
            "PUT",
            &node.url("/v1/users/9/ban"),
            &json!({"seconds": 300}),
        )
        .await;
    }
    let mut all = Vec::new();
    for token in [
        token("1"),
        token("9"),
        signer.token(&old),
        "x".to_owned(),
        String::new(),
    ] {
        all.push(to(&format!("/ws?token={token}"), ""));
        all.push(to("/ws", &format!("Authorization: Bearer {token}\r\n")));
        all.push(to("/ws?user=2", &format!("{V1}, bearer.{token}\r\n")));
        all.push(to(
            &format!("/ws?refuse=frame&token={token}"),
            &format!("{V1}\r\n"),
        ));
    }
    let good = format!("/ws?token={}", token("1"));
    for origin in ["https://app.example", "https://evil.example", "null"] {
        all.push(to(&good, &format!("Origin: {origin}\r\n")));
        all.push(to("/ws", &format!("Origin: {origin}\r\n")));
    }
    doors.compare_each(&all, true).await;
}

#[tokio::test]
async fn caps_count_in_both_lanes() {
    let doors = Doors::start(&[
        ("PUSH_TRUSTED_PROXIES", "127.0.0.1"),
        ("PUSH_MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ]);
    let of = |user: &str, address: &str| {
        to(
            &format!("/ws?user={user}"),
            &format!("X-Forwarded-For: {address}\r\n"),
        )
    };
    let mut held = Vec::new();
    for node in doors.both() {
        let mut raw = Raw::open(node.client_address()).await;
        let empty = if held.is_empty() { "" } else { "\r\n" };
        let answer = raw.ask(&(empty.to_owned() + &of("1", "192.0.2.1"))).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        held.push(raw);
    }
    let all = [
        ("1", "192.0.2.2"),
        ("2", "192.0.2.1"),
        ("2", "192.0.2.3"),
        ("3", "?"),
    ];
    let all = all.map(|(user, address)| of(user, address));
    doors.compare_each(&all, true).await;
    let bodies = [json!("too_many_connections"), json!("full")];
    for (request, code) in all.iter().zip(bodies) {
        let mut raw = Raw::open(doors.fast.client_address()).await;
        let answer = raw.ask(request).await;
        assert_eq!(json!(answer.code()), code, "{answer:?}");
    }
}

/// Who was let in by the kernel before the doors closed is told so.
#[tokio::test]
async fn a_leaving_node_refuses_in_both_lanes() {
    let doors = Doors::start(&[("PUSH_DRAIN_SECONDS", "1")]);
    let mut told = Vec::new();
    for node in doors.both() {
        let before = node.sockets().len();
        let mut raw = Raw::open(node.client_address()).await;
        // Linux keeps a silent connection back for a second.
        eventually(async || match node.sockets().len() {
            now if now > before => Ok(()),
            now => Err((before, now)),
        })
        .await;
        let mut marker = Raw::open(node.client_address()).await;
        until_read(&mut marker).await;
        node.signal("TERM");
        let address = node.client_address();
        eventually(
            async || match tokio::net::TcpStream::connect(address).await {
                Err(_) => Ok(()),
                Ok(_) => Err("it still listens"),
            },
        )
        .await;
        let empty = if told.is_empty() { "" } else { "\r\n" };
        let answer = raw.ask(&format!("{empty}{}", with(V1))).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(body["error"]["code"], "draining", "{body}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        told.push((super::without_dates(&answer.head), answer.body));
    }
    assert_eq!(told[0], told[1]);
}
