//! Clients that take less than is pushed to them: what the policies do, and that nobody else
//! notices.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::presence::{joins, member, news, watch};
use crate::common::{Client, Node, PATIENCE, eventually, node};
use crate::raw::{CLOSE, FIN, Raw, TEXT, frame};
use crate::sender::{push, summary};

/// More than the kernel's buffers for one socket hold, in pushes of this size.
const SIZE: usize = 60_000;
const MOST: u64 = 400;
/// Small pushes for several users, the slow one among them.
const OTHERS: u64 = 20;

/// A node whose queues are small, and a client on it that does not read.
async fn node_and_slow_client(headers: &str) -> (Node, Raw) {
    let node = node(&[
        ("PUSH_QUEUE_BYTES", "150000"),
        ("PUSH_WRITE_SECONDS", "60"),
        // It answers none while it does not read.
        ("PUSH_PING_SECONDS", "3600"),
    ]);
    let mut slow = Raw::open_narrow(node.client_address()).await;
    slow.upgrade("slow", headers).await;
    (node, slow)
}

fn numbered(n: u64, policy: &str) -> Value {
    let data = json!({"n": n, "padding": "x".repeat(SIZE)});
    json!({"to": {"user": "slow"}, "data": data, "policy": policy})
}

/// The count of one reason in a metric.
async fn count(node: &Node, metric: &str, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"");
    node.labelled(metric, &label).await as u64
}

/// Pushes until the kernel takes no more and the node's queue is full; answers how many.
async fn fill(node: &Node, policy: &str, drops: &str) -> u64 {
    for n in 0..MOST {
        push(node, numbered(n, policy)).await;
        // An answer says that the node has it, not yet what the connection made of it.
        eventually(async || {
            let delivered = node.metric("deliveries_total").await as u64;
            let dropped = count(node, "drops_total", "slow").await;
            if delivered + dropped > n {
                Ok(())
            } else {
                Err((n, delivered, dropped))
            }
        })
        .await;
        if count(node, "drops_total", drops).await > 0 {
            return n + 1;
        }
    }
    panic!("{MOST} messages of {SIZE} bytes, and nothing was dropped");
}

/// That another client of the node gets its messages at once.
async fn others_are_served(node: &Node) {
    let mut other = Client::plain(&node.ws_url("other")).await;
    for n in 0..OTHERS {
        let to = json!({"users": ["slow", "other"]});
        push(node, json!({"to": to, "policy": "drop", "data": n})).await;
        assert_eq!(other.json().await, n);
    }
    let wait = json!({"to": {"user": "other"}, "data": "last", "wait": "written"});
    let answer = push(node, wait).await;
    assert_eq!(summary(&answer), ("written", 1, 1), "{answer}");
}

#[tokio::test]
async fn by_default_a_slow_client_is_closed_and_told_why() {
    let (node, mut slow) = node_and_slow_client("Sec-WebSocket-Protocol: pushnode.v1\r\n").await;
    let mut other = Client::plain(&node.ws_url("other")).await;
    let pushed = fill(&node, "close", "slow").await;
    assert_eq!(count(&node, "closes_total", "slow").await, 1);
    assert_eq!(node.metric("connections").await, 1.0);
    let answer = push(&node, json!({"to": {"user": "slow"}, "data": 1})).await;
    assert_eq!(
        answer["status"], "offline",
        "nobody finds it any more: {answer}"
    );
    push(&node, json!({"to": {"user": "other"}, "data": 1})).await;
    assert_eq!(other.json().await, 1);

    // It wakes up: what is in the kernel arrives unbroken, then the reason.
    assert_eq!(slow.frame().await.json()["type"], "ready");
    let mut next = 0;
    let bye = loop {
        let message = slow.frame().await.json();
        if message["type"] != "message" {
            break message;
        }
        assert_eq!(message["data"]["n"], next);
        next += 1;
    };
    assert!(next < pushed, "not all of {pushed} can have come");
    assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(4002)));
    assert!(bye["retry_ms"].is_u64(), "may come back: {bye}");
    let (code, reason) = slow.close_frame().await;
    assert_eq!((code, reason.as_str()), (4002, "slow consumer"));
    slow.send(&frame(FIN | CLOSE, &4002_u16.to_be_bytes()))
        .await;
    slow.end().await;
    // Every push is accounted for: written in full, or dropped for this reason.
    let dropped = count(&node, "drops_total", "slow").await;
    assert_eq!(next + dropped, pushed);
}

/// Wakes the client up; answers what it gets until a marker: `n` of each, and how many there
/// were with those of [`others_are_served`].
async fn wake(node: &Node, slow: &mut Raw, sure: u64) -> (Vec<Value>, u64) {
    let mut seen = Vec::new();
    let mut count = 0;
    loop {
        if count == sure {
            // These have left the queue: there is room for a small one.
            let marker = json!({"to": {"user": "slow"}, "data": {"n": "marker"}});
            push(node, marker).await;
        }
        let message = slow.frame().await.json();
        count += 1;
        match &message["n"] {
            Value::Null => {}
            n if n == "marker" => return (seen, count),
            n => seen.push(n.clone()),
        }
    }
}

#[tokio::test]
async fn drop_leaves_out_what_does_not_fit_and_keeps_the_client() {
    let (node, mut slow) = node_and_slow_client("").await;
    let filled = fill(&node, "drop", "slow").await;
    for n in filled..filled + 20 {
        push(&node, numbered(n, "drop")).await;
    }
    others_are_served(&node).await;
    assert_eq!(count(&node, "closes_total", "slow").await, 0);

    // From the first on without a gap as far as there was room; all others are accounted for.
    let (seen, frames) = wake(&node, &mut slow, filled - 1).await;
    let first: Vec<Value> = (0..filled - 1).map(Value::from).collect();
    assert_eq!(seen[..first.len()], first);
    let dropped = count(&node, "drops_total", "slow").await;
    assert_eq!(frames + dropped, filled + 20 + OTHERS + 1);
}

#[tokio::test]
async fn latest_keeps_the_newest_of_each_key() {
    let (node, mut slow) = node_and_slow_client("").await;
    let filled = fill(&node, "latest:price", "replaced").await;
    let weather =
        json!({"to": {"user": "slow"}, "data": {"n": "rain"}, "policy": "latest:weather"});
    push(&node, weather).await;
    let last = filled + 20;
    for n in filled..=last {
        push(&node, numbered(n, "latest:price")).await;
    }
    others_are_served(&node).await;
    assert_eq!(count(&node, "closes_total", "slow").await, 0);

    // What was under way arrives, and of what waited, the newest of each key.
    let (mut seen, frames) = wake(&node, &mut slow, filled - 1).await;
    let prices = seen.len() - 1;
    seen.retain(|n| n != "rain");
    assert_eq!(seen.len(), prices, "the other key is not touched: {seen:?}");
    let seen: Vec<u64> = seen.iter().filter_map(Value::as_u64).collect();
    assert!(seen.is_sorted(), "never back to an older one: {seen:?}");
    assert_eq!(seen.last(), Some(&last), "the newest: {seen:?}");
    let replaced = count(&node, "drops_total", "replaced").await;
    assert!(replaced > 0);
    assert_eq!(frames + replaced, last + 1 + OTHERS + 2, "{seen:?}");
}

/// Each comes alone, so it goes straight to the sockets until one of them is full.
#[tokio::test]
async fn broadcasts_reach_a_slow_client_whole_and_in_order_and_are_all_counted() {
    let (node, mut slow) = node_and_slow_client("").await;
    let mut other = Client::plain(&node.ws_url("other")).await;
    let to_all = |n: u64, padding: usize| {
        let data = json!({"n": n, "padding": "x".repeat(padding)});
        json!({"to": {"all": true}, "data": data, "policy": "drop"})
    };
    let mut pushed = 0;
    while count(&node, "drops_total", "slow").await == 0 {
        assert!(pushed < MOST, "nothing was dropped");
        push(&node, to_all(pushed, SIZE)).await;
        assert_eq!(other.json().await["n"], pushed);
        pushed += 1;
    }
    let mut dropped = 0;
    eventually(async || {
        let delivered = node.metric("deliveries_total").await as u64;
        dropped = count(&node, "drops_total", "slow").await;
        match delivered + dropped == 2 * pushed {
            true => Ok(()),
            false => Err((delivered, dropped, pushed)),
        }
    })
    .await;
    let mut seen = Vec::new();
    for _ in 0..pushed - dropped {
        seen.push(slow.frame().await.json()["n"].as_u64().expect("a number"));
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    push(&node, to_all(MOST, 1)).await;
    assert_eq!(slow.frame().await.json()["n"], MOST);
    eventually(async || {
        let delivered = node.metric("deliveries_total").await;
        match (delivered, node.metric("written_total").await) {
            (delivered, written) if delivered == written => Ok(()),
            both => Err(both),
        }
    })
    .await;
    let offered = node.metric("offered_total").await as u64;
    assert_eq!(offered, 2 * (pushed + 1));
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_too_long_is_closed_although_its_queue_has_room() {
    let node = node(&[
        ("PUSH_QUEUE_BYTES", "100000000"),
        ("PUSH_WRITE_SECONDS", "1"),
    ]);
    let mut slow = Raw::open_narrow(node.client_address()).await;
    slow.upgrade("slow", "").await;
    for n in 0..150 {
        push(&node, numbered(n, "close")).await;
    }
    eventually(async || match count(&node, "closes_total", "slow").await {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    // Sends a ping and still reads nothing: alive, and slow all the same. Then it is let go,
    // whether or not it reads.
    slow.try_send(&frame(FIN | 0x9, b"")).await;
    eventually(async || {
        let mut sockets = node.sockets().into_iter();
        match sockets.any(|inode| is_to(&inode, &slow)) {
            false => Ok(()),
            true => Err("its socket is still open"),
        }
    })
    .await;
}

/// Whether the socket with this inode is the node's end of this client's.
fn is_to(inode: &str, client: &Raw) -> bool {
    let client = client.socket.local_addr().expect("an address").port();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let port = format!(":{client:04X}");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(9) == Some(&inode) && fields[2].ends_with(&port)
    })
}

#[tokio::test]
async fn a_message_larger_than_the_queue_still_reaches_a_client_that_reads() {
    let node = node(&[("PUSH_QUEUE_BYTES", "4096")]);
    let mut client = Client::plain(&node.ws_url("slow")).await;
    for n in 0..5 {
        let answer = push(&node, numbered(n, "close")).await;
        assert_eq!(answer["status"], "routed");
        assert_eq!(client.json().await["n"], n);
    }
    // Several in one batch, too: a batch alone makes nobody slow.
    let lines: Vec<String> = (0..100)
        .map(|n| format!(r#"{{"to":{{"user":"slow"}},"data":{n}}}"#))
        .collect();
    let body = lines.join("\n");
    crate::common::post_text(&node.push_url, crate::sender::NDJSON, body).await;
    for n in 0..100 {
        assert_eq!(client.json().await, n);
    }
    tokio::time::timeout(PATIENCE, client.socket.close(None))
        .await
        .expect("closed in time")
        .expect("closed");
}

/// Who has no room for news of who comes and goes does not go on with a list that is not true.
#[tokio::test]
async fn a_slow_watcher_is_told_once_that_its_list_is_lost() {
    let (node, mut slow) = node_and_slow_client("Sec-WebSocket-Protocol: pushnode.v1\r\n").await;
    let ask = json!({"type": "subscribe", "topic": "room", "presence": true, "ref": 1});
    let ask = frame(FIN | TEXT, ask.to_string().as_bytes());
    slow.send(&ask).await;
    let list = json!({"type": "presence", "topic": "room", "members": ["slow"]});
    while slow.frame().await.json() != list {}
    fill(&node, "drop", "slow").await;
    let mut witness = Client::v1(&node.ws_url("witness")).await;
    watch(&mut witness, "room").await;
    // Names that together are more than a queue holds.
    let long = |i: u32| format!("{i:0>128}");
    let mut members = Vec::new();
    for i in 0..1_200 {
        members.push(member(&node, &long(i), "room").await);
    }
    // All of them are told before the slow one asks again.
    let mut unheard: BTreeSet<String> = (0..1_200).map(long).collect();
    while !unheard.is_empty() {
        let heard = news(&mut witness).await;
        for name in heard["join"].as_array().into_iter().flatten() {
            unheard.remove(name.as_str().expect("a name"));
        }
    }
    let lost = json!({"type": "presence", "topic": "room", "status": "lost"});
    // Its pings would go on for ever.
    let told = async { while slow.frame().await.json() != lost {} };
    let told = tokio::time::timeout(PATIENCE, told).await;
    told.expect("to hear that it is lost");
    // It has caught up and asks again: all of them, and then what is new.
    slow.send(&ask).await;
    let list = loop {
        let frame = slow.frame().await.json();
        assert_ne!(frame, lost, "only once");
        if frame["type"] == "presence" {
            break frame;
        }
    };
    assert_eq!(
        (list["members"].as_array().map(Vec::len), &list["more"]),
        (Some(1_000), &json!(true))
    );
    let _late = member(&node, "late", "room").await;
    assert_eq!(slow.frame().await.json(), joins("late"));
}
