//! All queues together are bounded (`PUSH_MEMORY_BYTES`): clients that take nothing go, as many as
//! are in the way, and one that reads stays.

use serde_json::{Value, json};

use crate::common::{Client, Node, books, eventually, node};
use crate::raw::{CLOSE, FIN, Raw};
use crate::sender::{push, summary};

/// What the queues of the nodes here may hold.
const BOUND: f64 = 1_000_000.0;
const SIZE: usize = 30_000;
/// More than the kernel's buffers for one socket hold and the bound, in pushes of this size.
const MOST: u64 = 800;

/// A node whose clients are closed by the bound alone.
fn bounded(threads: &str) -> Node {
    node(&[
        ("PUSH_MEMORY_BYTES", "1000000"),
        ("PUSH_QUEUE_BYTES", "100000000"),
        ("PUSH_WRITE_SECONDS", "3600"),
        ("PUSH_PING_SECONDS", "3600"),
        ("PUSH_THREADS", threads),
    ])
}

/// A client that does not read.
async fn stalled(node: &Node, user: &str) -> Raw {
    let mut client = Raw::open_narrow(node.client_address()).await;
    client.upgrade(user, "").await;
    client
}

fn numbered(to: &Value, n: u64) -> Value {
    json!({"to": to, "data": {"n": n, "padding": "x".repeat(SIZE)}})
}

/// Bytes that the queues hold.
async fn held(node: &Node) -> f64 {
    node.labelled("queue_length", "queue=\"clients\"").await
}

async fn closed_as_slow(node: &Node) -> f64 {
    node.labelled("closes_total", "reason=\"slow\"").await
}

/// Pushes to a user until the queues hold so much, or a client was let go.
async fn fill(node: &Node, user: &str, bytes: f64) {
    for n in 0..MOST {
        push(node, numbered(&json!({"user": user}), n)).await;
        if held(node).await >= bytes || node.metric("shed_total").await > 0.0 {
            return;
        }
    }
    panic!("{MOST} pushes of {SIZE} bytes, and not {bytes} held");
}

/// Reads what a client was sent; answers the numbers of the pushes, and the code at the end.
async fn wake(client: &mut Raw) -> (Vec<u64>, u16) {
    let mut seen = Vec::new();
    loop {
        let frame = client.frame().await;
        if frame.first == FIN | CLOSE {
            let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            return (seen, code);
        }
        seen.push(frame.json()["n"].as_u64().expect("a number"));
    }
}

#[tokio::test]
async fn a_client_that_reads_stays_beside_stalled_ones_on_the_same_broadcast() {
    let node = bounded("2");
    let mut reader = Client::plain(&node.ws_url("reader")).await;
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(stalled(&node, &format!("stalled{n}")).await);
    }
    let mut pushed = 0;
    while node.metric("connections").await > 1.0 {
        assert!(pushed < MOST, "the bound of {BOUND} bytes closes no client");
        push(&node, numbered(&json!({"all": true}), pushed)).await;
        assert_eq!(reader.json().await["n"], pushed, "the reader gets all");
        pushed += 1;
        assert!(held(&node).await < 2.0 * BOUND);
    }
    assert_eq!(node.metric("shed_total").await, 8.0);
    assert_eq!(closed_as_slow(&node).await, 8.0);
    let words = "all queues together held more than PUSH_MEMORY_BYTES";
    node.until_logged(words).await;
    assert_eq!(node.log().matches(words).count(), 1, "said once");
    let answer = push(&node, json!({"to": {"user": "reader"}, "data": 1})).await;
    assert_eq!(summary(&answer), ("routed", 1, 1), "{answer}");
    // One that wakes up gets what was on its way, and why it is to go.
    let (seen, code) = wake(&mut others[0]).await;
    assert_eq!(code, 4002);
    assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
    assert!((seen.len() as u64) < pushed);
    eventually(
        async || match books::gaps(&books::parse(&node.metrics().await)) {
            gaps if gaps.is_empty() => Ok(()),
            gaps => Err(gaps),
        },
    )
    .await;
}

/// The head of a push with a body of this size, and as much of it.
fn upload(size: usize, sent: usize) -> Vec<u8> {
    let head = format!(
        "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {size}\r\n\r\n"
    );
    [head.as_bytes(), &vec![b' '; sent]].concat()
}

#[tokio::test]
async fn bodies_that_senders_upload_count_and_one_that_does_not_fit_is_refused() {
    let node = bounded("1");
    let memory = async || node.labelled("queue_length", "queue=\"memory\"").await;
    let mut senders = Vec::new();
    for n in 1..=2 {
        let mut sender = Raw::open(node.client_address()).await;
        sender.send(&upload(500_000, 1_000)).await;
        eventually(async || match memory().await {
            bytes if bytes >= 500_000.0 * f64::from(n) => Ok(()),
            bytes => Err(bytes),
        })
        .await;
        senders.push(sender);
    }
    let mut late = Raw::open(node.client_address()).await;
    late.send(&upload(500_000, 10)).await;
    let answer = late.answer().await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    assert_eq!(node.metric("bodies_refused_total").await, 1.0);
    // In chunks nothing is declared: it is refused once it does not fit.
    let mut chunked = Raw::open(node.client_address()).await;
    let head = b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n80000\r\n";
    chunked
        .send(&[&head[..], &vec![b' '; 0x80000]].concat())
        .await;
    let answer = chunked.answer().await;
    assert_eq!(answer.status, 503, "{answer:?}");
    // Small ones pass, and what was claimed is given back.
    let answer = push(&node, json!({"to": {"user": "nobody"}, "data": 1})).await;
    assert_eq!(summary(&answer), ("offline", 0, 0), "{answer}");
    drop(senders);
    eventually(async || match memory().await {
        0.0 => Ok(()),
        bytes => Err(bytes),
    })
    .await;
}

#[tokio::test]
async fn a_message_for_many_counts_once() {
    let node = bounded("1");
    let mut others = Vec::new();
    for n in 0..30 {
        others.push(stalled(&node, &format!("stalled{n}")).await);
    }
    // All of them have stalled, and wait for the same: alone each would hold it.
    let waiting = async || node.metric("waiting_bytes").await;
    for n in 0..MOST {
        push(&node, numbered(&json!({"all": true}), n)).await;
        if waiting().await > 3.0 * BOUND && node.metric("blocked_connections").await == 30.0 {
            break;
        }
    }
    assert!(waiting().await > 3.0 * BOUND);
    assert!(held(&node).await < BOUND, "{}", held(&node).await);
    assert_eq!(node.metric("shed_total").await, 0.0);
    assert_eq!(node.metric("connections").await, 30.0);
    drop(others);
    eventually(async || match held(&node).await {
        0.0 => Ok(()),
        bytes => Err(bytes),
    })
    .await;
}

#[tokio::test]
async fn no_more_clients_go_than_are_in_the_way() {
    let node = bounded("1");
    let _large = stalled(&node, "large").await;
    let _small = stalled(&node, "small").await;
    fill(&node, "large", 0.6 * BOUND).await;
    fill(&node, "small", 0.9 * BOUND).await;
    // The kernel may yet take some of it, so this goes on until one is let go.
    fill(&node, "large", 2.0 * BOUND).await;
    assert_eq!(node.metric("shed_total").await, 1.0);
    let there = push(
        &node,
        json!({"to": {"users": ["large", "small"]}, "data": 1}),
    )
    .await;
    assert_eq!(there["connections"], 1, "{there}");
    assert_eq!(closed_as_slow(&node).await, 1.0);
}
