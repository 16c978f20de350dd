//! The fast lane for `POST /v1/push`: which requests take it, and that no answer tells.
//!
//! Of two nodes one trusts the address of the test as a proxy, so its connections do not take the
//! fast lane. Both get the same bytes and must answer the same bytes, except for `Date`.

mod crowds;
mod handshakes;
mod requests;

use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Client, Node, PATIENCE, eventually, node};
use crate::raw::Raw;
use crate::sender::{push, summary};

use requests::{KEY, Request, refused, usual, with_key};

/// Connections open at a time: what is sent in pieces must be whole within 10 s.
const AT_ONCE: usize = 16;

/// A node with the fast lane and one without, each with the same connections.
struct Twins {
    fast: Node,
    slow: Node,
    _clients: Vec<Client>,
}

impl Twins {
    async fn start(settings: &[(&str, &str)]) -> Self {
        // The clients do not read, and so do not answer.
        let settings = &[settings, &[("PUSH_PING_SECONDS", "3600")]].concat();
        let fast = node(settings);
        let slow = node(&[&settings[..], &[("PUSH_TRUSTED_PROXIES", "127.0.0.1")]].concat());
        let mut clients = Vec::new();
        for node in [&fast, &slow] {
            for user in ["42", "42", "43"] {
                clients.push(Client::plain(&node.ws_url(user)).await);
            }
        }
        Self {
            fast,
            slow,
            _clients: clients,
        }
    }

    /// How many pushes of each node took the fast lane.
    async fn fast_pushes(&self) -> (f64, f64) {
        let count = async |node: &Node| node.metric("pushes_fast_total").await;
        (count(&self.fast).await, count(&self.slow).await)
    }

    /// Sends each request on a connection of its own, in the same pieces to both nodes, many at a
    /// time. Answers how many took the fast lane.
    async fn compare(&self, requests: &[(String, Vec<&[u8]>)]) -> f64 {
        let before = self.fast_pushes().await;
        self.compare_answers(requests).await;
        let after = self.fast_pushes().await;
        assert_eq!(after.1, 0.0, "requests of proxies do not take it");
        after.0 - before.0
    }

    async fn compare_answers(&self, requests: &[(String, Vec<&[u8]>)]) {
        for requests in requests.chunks(AT_ONCE) {
            let pieces: Vec<_> = requests.iter().map(|(_, pieces)| pieces.clone()).collect();
            let fast = answers(self.fast.client_address(), &pieces).await;
            let slow = answers(self.slow.client_address(), &pieces).await;
            for ((name, pieces), (fast, slow)) in requests.iter().zip(fast.iter().zip(&slow)) {
                let sent = pieces.concat();
                assert_eq!(fast, slow, "{name}: {}", sent.escape_ascii());
                let is_answered = fast.starts_with("HTTP/1.");
                assert!(is_answered, "{name}: {fast:?} to {}", sent.escape_ascii());
            }
        }
    }

    /// As [`Twins::compare`], one after the other and whole. All of them take the fast lane, or
    /// none.
    async fn compare_each(&self, requests: &[Request], are_fast: bool) {
        let before = self.fast_pushes().await.0;
        for request in requests {
            let whole = vec![&request.bytes[..]];
            self.compare_answers(&[(request.name.clone(), whole)]).await;
        }
        let fast = self.fast_pushes().await.0 - before;
        let expected = if are_fast { requests.len() as f64 } else { 0.0 };
        assert_eq!(fast, expected);
    }
}

/// What a node answers to these requests, each on a connection of its own that its sender then
/// shuts down. All connections get their first piece before any gets its second.
async fn answers(address: SocketAddr, requests: &[Vec<&[u8]>]) -> Vec<String> {
    let mut marker = Raw::open(address).await;
    let mut sockets = Vec::new();
    for _ in requests {
        let socket = TcpStream::connect(address).await.expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        sockets.push(socket);
    }
    let most = requests.iter().map(Vec::len).max().unwrap_or_default();
    for step in 0..most {
        if step > 0 {
            until_read(&mut marker).await;
        }
        for (socket, pieces) in sockets.iter_mut().zip(requests) {
            if let Some(piece) = pieces.get(step) {
                // The node may have answered and closed already.
                let _ = socket.write_all(piece).await;
            }
        }
    }
    let mut answers = Vec::new();
    for socket in sockets {
        let socket = socket.into_std().expect("a socket");
        let _ = socket.shutdown(Shutdown::Write);
        let mut socket = TcpStream::from_std(socket).expect("a socket");
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        // A reset is an end too.
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("an end");
        answers.push(without_dates(&String::from_utf8_lossy(&answer)));
    }
    answers
}

/// Gives the node time to read what has come: it answers others meanwhile.
async fn until_read(marker: &mut Raw) {
    for _ in 0..3 {
        let answer = marker.ask("GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(answer.await.status, 404);
    }
}

fn without_dates(answer: &str) -> String {
    let lines = answer.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

#[tokio::test]
async fn usual_pushes_take_it_and_are_answered_as_by_the_other() {
    let twins = Twins::start(&[]).await;
    twins.compare_each(&usual(), true).await;
}

#[tokio::test]
async fn whatever_is_unusual_or_wrong_is_answered_by_the_other() {
    let twins = Twins::start(&[]).await;
    twins.compare_each(&requests::unusual(), false).await;
    twins.compare_each(&refused(), false).await;
}

#[tokio::test]
async fn only_a_valid_key_takes_it() {
    let twins = Twins::start(&[("PUSH_API_KEYS", KEY)]).await;
    twins.compare_each(&with_key(true), true).await;
    twins.compare_each(&with_key(false), false).await;
    twins.compare_each(&usual()[..3], false).await;
}

#[tokio::test]
async fn a_cut_anywhere_makes_no_difference() {
    let twins = Twins::start(&[]).await;
    for (request, are_fast) in requests::to_cut() {
        let bytes = &request.bytes;
        let cuts: Vec<_> = (1..bytes.len())
            .map(|at| {
                let pieces = vec![&bytes[..at], &bytes[at..]];
                (format!("{}, cut at {at}", request.name), pieces)
            })
            .collect();
        let fast = twins.compare(&cuts).await;
        let expected = if are_fast { cuts.len() as f64 } else { 0.0 };
        assert_eq!(fast, expected, "{}", request.name);
    }
    let request = &usual()[0];
    let pieces: Vec<&[u8]> = request.bytes.chunks(5).collect();
    let fast = twins.compare(&[("in pieces".to_owned(), pieces)]).await;
    assert_eq!(fast, 1.0);
}

#[tokio::test]
async fn requests_sent_together_are_answered_in_order() {
    let twins = Twins::start(&[]).await;
    let (mut usual, refused) = (usual(), refused());
    // Which of two connections is first does not matter here.
    usual.retain(|request| !request.name.contains("once"));
    let pair = |one: &Request, other: &Request| {
        let name = format!("{}, then {}", one.name, other.name);
        (name, [&one.bytes[..], &other.bytes[..]].concat())
    };
    let first = &usual[0];
    let mut pairs: Vec<_> = usual.iter().map(|other| pair(first, other)).collect();
    let fast = pairs.len() * 2;
    // The first one of each is answered before what it does not know comes.
    let others: Vec<Request> = refused.into_iter().chain(requests::unusual()).collect();
    pairs.extend(others.iter().map(|other| pair(first, other)));
    let fast = fast + others.len();
    pairs.extend(others.iter().map(|other| pair(other, first)));
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, bytes)| (name.clone(), vec![&bytes[..]]))
        .collect();
    assert_eq!(twins.compare(&pairs).await, fast as f64);

    // Across the end of the first: a cut in the second one.
    let (_, two) = pair(first, &usual[1]);
    let cuts: Vec<_> = (1..two.len())
        .map(|at| (format!("two, cut at {at}"), vec![&two[..at], &two[at..]]))
        .collect();
    assert_eq!(twins.compare(&cuts).await, cuts.len() as f64 * 2.0);
}

/// What a socket is taken over with was read before the HTTP library saw it.
#[tokio::test]
async fn a_client_may_send_with_its_handshake() {
    let twins = Twins::start(&[]).await;
    for node in [&twins.fast, &twins.slow] {
        let mut raw = Raw::open(node.client_address()).await;
        let handshake = format!(
            "GET /ws?user=44 HTTP/1.1\r\nHost: x\r\n{}\r\n",
            crate::raw::HANDSHAKE
        );
        let ping = crate::raw::frame(crate::raw::FIN | crate::raw::PING, b"early");
        raw.send(&[handshake.as_bytes(), &ping].concat()).await;
        assert_eq!(raw.answer().await.status, 101);
        let pong = raw.frame().await;
        assert_eq!(pong.opcode(), crate::raw::PONG, "{pong:?}");
        assert_eq!(pong.payload, b"early");
    }
}

/// The time for a body begins with the end of its head, in both.
#[tokio::test]
async fn a_body_that_stops_is_given_up_at_the_same_time() {
    let twins = Twins::start(&[]).await;
    let body_stops = async |node: &Node| {
        let mut raw = Raw::open(node.client_address()).await;
        let push = &usual()[0].bytes;
        let answer = raw.ask(std::str::from_utf8(push).expect("text")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let begun = Instant::now();
        raw.send(&push[..push.len() - 1]).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 408, "{answer:?}");
        raw.end().await;
        begun.elapsed()
    };
    let (fast, slow) = tokio::join!(body_stops(&twins.fast), body_stops(&twins.slow));
    // A machine may be slow, but a second deadline after the first would be 10 s more.
    assert!(fast < slow + Duration::from_secs(7), "{fast:?}, {slow:?}");
    assert!(fast > Duration::from_secs(9), "{fast:?}");
}

/// The end of a node waits for a push whose head it has read, also for a second one.
#[tokio::test]
async fn a_leaving_node_waits_for_the_body_of_a_push() {
    let drain = ("PUSH_DRAIN_SECONDS", "1");
    let mut nodes = [
        node(&[drain]),
        node(&[drain, ("PUSH_TRUSTED_PROXIES", "127.0.0.1")]),
    ];
    let push = usual()[0].bytes.clone();
    let (begin, end) = push.split_at(push.len() - 1);
    // Without clients, which it would wait for too.
    for node in &mut nodes {
        let mut raw = Raw::open(node.client_address()).await;
        let answer = raw.ask(std::str::from_utf8(&push).expect("text")).await;
        assert_eq!(answer.header("connection"), None, "{answer:?}");
        let mut marker = Raw::open(node.client_address()).await;
        raw.send(begin).await;
        until_read(&mut marker).await;
        node.signal("TERM");
        let address = node.client_address();
        eventually(async || match TcpStream::connect(address).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it still listens"),
        })
        .await;
        // Else it would be gone after a twentieth of a second.
        assert!(raw.is_silent_for(Duration::from_millis(700)).await);
        raw.send(end).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert_eq!(answer.header("keep-alive"), None, "{answer:?}");
        raw.end().await;
        assert!(node.wait_exit().success());
    }
}

/// One push alone takes a shorter way than the same in a batch of one.
#[tokio::test]
async fn a_push_alone_comes_out_as_in_a_batch_of_one() {
    let node = node(&[]);
    let _client = Client::v1(&node.ws_url("42")).await;
    let _other = Client::plain(&node.ws_url("42")).await;
    for (alone, batch) in [
        (json!({"to": {"user": "42"}}), "routed"),
        (json!({"to": {"user": "42"}, "wait": "written"}), "written"),
        (json!({"to": {"user": "none"}}), "offline"),
        (
            json!({"to": {"user": "none"}, "wait": "written"}),
            "offline",
        ),
        (
            json!({"to": {"user": "42"}, "except": {"users": ["42"]}}),
            "offline",
        ),
        (json!({"to": {"user": "42"}, "id": "again"}), "duplicate"),
    ] {
        let mut body = alone;
        body["data"] = json!(1);
        if body["id"] == "again" {
            push(&node, body.clone()).await;
        }
        let one = push(&node, body.clone()).await;
        let many = push(&node, json!([body])).await;
        assert_eq!(one, many[0], "{body}");
        assert_eq!(summary(&one).0, batch, "{body}");
    }
}
