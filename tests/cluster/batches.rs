//! Batches: what goes to one user stays in order, also while the user's node subscribes again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Client, Redis, node, node_on, post};

/// A way to Redis on which, once it is told to, the next payload of messages to node `b` goes to a
/// channel that has no subscriber. Redis answers 0, as while `b` subscribes again.
struct Detour {
    address: SocketAddr,
    is_due: Arc<AtomicBool>,
}

impl Detour {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let detour = Self {
            address: listener.local_addr().expect("an address"),
            is_due: Arc::default(),
        };
        let is_due = detour.is_due.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(pass(socket, port, is_due.clone()));
            }
        });
        detour
    }
}

async fn pass(socket: TcpStream, port: u16, is_due: Arc<AtomicBool>) {
    let redis = TcpStream::connect(("127.0.0.1", port)).await;
    let redis = redis.expect("Redis");
    let ((mut from_node, mut to_node), (mut from_redis, mut to_redis)) =
        (socket.into_split(), redis.into_split());
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_redis, &mut to_node).await;
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_node.read(&mut buffer).await {
        let said = &mut buffer[..count];
        if let Some(at) = channel_of_messages(said)
            && is_due.swap(false, Ordering::SeqCst)
        {
            said[at] = b'x';
        }
        if to_redis.write_all(said).await.is_err() {
            return;
        }
    }
}

/// Where the channel of node `b` stands in the first PUBLISH there that has messages.
fn channel_of_messages(said: &[u8]) -> Option<usize> {
    let find = |word: &[u8], from: usize| {
        let places = said[from..].windows(word.len());
        Some(from + places.into_iter().position(|place| place == word)?)
    };
    let mut from = 0;
    while let Some(at) = find(b"\r\npn:n:{b.", from) {
        from = at + 2;
        let end = find(b"PUBLISH", from).unwrap_or(said.len());
        if find(b"\"data\":", from).is_some_and(|data| data < end) {
            return Some(from);
        }
    }
    None
}

fn number(text: &str) -> i32 {
    let data: Value = serde_json::from_str(text).expect("JSON");
    data[0].as_i64().expect("a number") as i32
}

#[tokio::test(flavor = "multi_thread")]
async fn no_push_of_a_batch_overtakes_one_that_found_no_subscriber() {
    let redis = Redis::start();
    let detour = Detour::to(redis.port()).await;
    let url = format!("redis://{}", detour.address);
    let a = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let b = node_on(&redis, "b");
    let mut client = Client::plain(&b.ws_url("42")).await;
    let mut other = Client::plain(&b.ws_url("43")).await;
    for round in 0..10 {
        let numbers = round * 8..round * 8 + 8;
        let to = |n: i32| match n % 4 {
            1 => json!({"users": ["43", "42"]}),
            _ => json!({"user": "42"}),
        };
        // More than one payload would take of single lines, and more than goes in one round.
        let padding = "x".repeat(if round % 2 == 0 { 8_000 } else { 50_000 });
        let batch = numbers
            .clone()
            .map(|n| json!({"to": to(n), "data": [n, padding]}));
        let batch: Vec<Value> = batch.collect();
        detour.is_due.store(true, Ordering::SeqCst);
        let (status, answers) = post(&a.push_url, &json!(batch)).await;
        assert_eq!(status, 200, "{answers}");
        for answer in answers.as_array().expect("a list") {
            assert_eq!(answer["status"], "routed", "{answers}");
        }
        assert!(!detour.is_due.load(Ordering::SeqCst), "none went astray");
        for n in numbers {
            assert_eq!(number(&client.text().await), n);
            if n % 4 == 1 {
                assert_eq!(number(&other.text().await), n);
            }
        }
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_holds_up_no_other_of_its_batch() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    for key in ["pn:user:{42}", "pn:topic:{bad}"] {
        assert_eq!(redis.cli(&["SET", key, "no row"]), "OK");
    }
    let mut client = Client::v1(&format!("{}&topics=news", b.ws_url("43"))).await;
    let to = |recipient: Value| json!({"to": recipient, "data": 1, "timeout_ms": 300});
    let batch = [
        to(json!({"user": "42"})),
        to(json!({"user": "43"})),
        to(json!({"topic": "bad"})),
        to(json!({"topic": "news"})),
    ];
    let (status, answers) = post(&a.push_url, &json!(batch)).await;
    assert_eq!(status, 200, "{answers}");
    let said = [0, 1, 2, 3].map(|at| answers[at]["status"].as_str().expect("a status"));
    assert_eq!(
        said,
        ["unrouted", "routed", "unrouted", "routed"],
        "{answers}"
    );
    assert_eq!(client.json().await["data"], 1);
    assert_eq!(client.json().await["data"], 1);
}
