//! The ledger: on each node every message is accounted for, by its metrics alone.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;

use crate::common::books::{self, Values, sum};
use crate::common::transports::{TRANSPORTS, connect, connect_narrow};
use crate::common::{Client, Node, Redis, eventually, http, node_on, node_with, post, post_text};

/// More than the kernel's buffers for one socket hold, in pushes of this size.
const SIZE: usize = 60_000;
const MOST: usize = 400;

/// The node's metrics as soon as its ledger is balanced and `fits` holds.
async fn balanced(node: &Node, fits: impl Fn(&Values) -> bool) -> Values {
    eventually(async || {
        let values = books::parse(&node.metrics().await);
        let gaps = books::gaps(&values);
        if gaps.is_empty() && fits(&values) {
            Ok(values)
        } else {
            Err((gaps, values))
        }
    })
    .await
}

async fn push(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

/// A client that takes little and reads nothing.
async fn narrow(node: &Node, user: &str) -> WebSocketStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let stream = socket.connect(node.client_address()).await;
    let handshake = tokio_tungstenite::client_async(node.ws_url(user), stream.expect("connected"));
    handshake.await.expect("a handshake").0
}

/// Pushes to a user until something is dropped; answers how many that took.
async fn fill(from: &Node, node: &Node, user: &str, policy: &str, reason: &str) -> usize {
    let reason = format!("reason=\"{reason}\"");
    let before = node.labelled("drops_total", &reason).await;
    for n in 1..=MOST {
        let data = "x".repeat(SIZE);
        push(
            from,
            json!({"to": {"user": user}, "policy": policy, "data": data}),
        )
        .await;
        if node.labelled("drops_total", &reason).await > before {
            return n;
        }
    }
    panic!("{MOST} messages of {SIZE} bytes, and nothing was dropped");
}

#[tokio::test]
async fn every_message_is_accounted_for_on_each_node() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let small = [
        ("PUSH_QUEUE_BYTES", "150000"),
        ("PUSH_WRITE_SECONDS", "3600"),
    ];
    let b = node_with(&redis, "b", &small);
    let mut one = Client::v1(&b.ws_url("one")).await;
    let _two = Client::plain(&b.ws_url("two")).await;
    let mut also_one = Client::plain(&a.ws_url("one")).await;

    // To a user on both nodes, to one who is nowhere, twice with one id, to several, to one
    // connection, to everybody but some, in a batch with a bad item.
    let to_one = |id: &str| json!({"to": {"user": "one"}, "id": id, "data": id});
    push(&a, to_one("1")).await;
    push(&b, to_one("1")).await;
    let to_two = json!({"to": {"user": "two"}, "id": "1", "data": 1});
    push(&b, to_two.clone()).await;
    assert_eq!(push(&b, to_two).await["status"], "duplicate");
    push(&a, json!({"to": {"user": "nobody"}, "data": 1})).await;
    push(&b, json!({"to": {"users": ["one", "nobody"]}, "data": 1})).await;
    push(
        &a,
        json!({"to": {"fd": one.connection()}, "data": 1, "wait": "written"}),
    )
    .await;
    push(
        &a,
        json!({"to": {"all": true}, "data": 1, "except": {"users": ["two"]}, "wait": "written"}),
    )
    .await;
    push(
        &a,
        json!({"to": {"user": "one"}, "data": 1, "except": {"users": ["one"]}}),
    )
    .await;
    let batch = format!("{}\n{}\n", to_one("2"), json!({"to": {}, "data": 1}));
    post_text(&a.push_url, "application/x-ndjson", batch).await;
    for user in ["one", "nobody"] {
        push(&a, json!({"to": {"user": user}, "keep": true, "data": 1})).await;
    }
    redis.cli(&["PUBLISH", "pn:g", r#"{"to":{"user":"one"},"data":"last"}"#]);
    while one.json().await["data"] != "last" {}
    while also_one.json().await != "last" {}
    let nothing_waits = |values: &Values| sum(values, "waiting_messages") == 0.0;
    let values = balanced(&a, nothing_waits).await;
    let outcomes = |values: &Values, status: &str| {
        sum(
            values,
            &format!("share_outcomes_total{{status=\"{status}\"}}"),
        )
    };
    assert_eq!(sum(&values, "shares_total"), 8.0, "{values:?}");
    assert_eq!(outcomes(&values, "offline"), 1.0, "{values:?}");
    assert_eq!(outcomes(&values, "stored"), 1.0, "{values:?}");
    assert_eq!(outcomes(&values, "written"), 2.0, "{values:?}");
    assert_eq!(outcomes(&values, "routed"), 4.0, "{values:?}");
    assert_eq!(
        sum(&values, "requests_refused_total{reason=\"bad_item\"}"),
        1.0
    );
    let values = balanced(&b, nothing_waits).await;
    assert_eq!(sum(&values, "shares_total"), 5.0, "{values:?}");
    assert_eq!(outcomes(&values, "duplicate"), 1.0, "{values:?}");
    assert_eq!(sum(&values, "arrivals_left_out_total"), 1.0, "{values:?}");

    // A client that takes nothing: its queue fills, then each policy has its turn.
    let slow = narrow(&b, "slow").await;
    fill(&a, &b, "slow", "drop", "slow").await;
    let waiting = |values: &Values| sum(values, "waiting_messages") > 0.0;
    balanced(&b, waiting).await;
    push(
        &a,
        json!({"to": {"all": true}, "policy": "drop", "data": "x".repeat(SIZE)}),
    )
    .await;
    let values = balanced(&b, waiting).await;
    assert!(sum(&values, "queue_length{queue=\"client\"}") > 0.0);
    assert_eq!(sum(&values, "blocked_connections"), 1.0);
    // It is sent away with what waits for it; and another one goes by itself.
    let gone = narrow(&b, "gone").await;
    fill(&a, &b, "gone", "latest:x", "replaced").await;
    balanced(&b, waiting).await;
    http().delete(b.url("/v1/users/slow")).send().await.unwrap();
    balanced(&b, waiting).await;
    drop((slow, gone));
    let values = balanced(&b, nothing_waits).await;
    for reason in ["slow", "replaced", "gone"] {
        let drops = sum(&values, &format!("drops_total{{reason=\"{reason}\"}}"));
        assert!(drops > 0.0, "{reason}: {values:?}");
    }
    // Closed as slow, with all that its queue held.
    let slow = narrow(&b, "slow").await;
    fill(&a, &b, "slow", "close", "slow").await;
    drop(slow);
    balanced(&b, nothing_waits).await;
    balanced(&a, nothing_waits).await;
}

#[tokio::test]
async fn a_push_whose_sender_hangs_up_is_carried_out_and_accounted_for() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _deaf = Client::v1(&b.ws_url("1")).await;
    let body = json!({"to": {"users": ["1", "2"]}, "id": "1", "data": 1, "wait": "acked", "timeout_ms": 3000});
    let asked = http()
        .post(&a.push_url)
        .json(&body)
        .timeout(Duration::from_secs(20));
    let asked = tokio::spawn(asked.send());
    let under_way = |values: &Values| sum(values, "shares_under_way") == 2.0;
    balanced(&a, under_way).await;
    asked.abort();
    let values = balanced(&a, |values| !under_way(values)).await;
    for status in ["written", "offline"] {
        let outcome = format!("share_outcomes_total{{status=\"{status}\"}}");
        assert_eq!(sum(&values, &outcome), 1.0, "{values:?}");
    }
}

#[tokio::test]
async fn what_goes_to_topics_and_over_any_transport_is_accounted_for() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let small = [
        ("PUSH_QUEUE_BYTES", "150000"),
        ("PUSH_WRITE_SECONDS", "3600"),
    ];
    let b = node_with(&redis, "b", &small);
    let mut clients = Vec::new();
    for by in TRANSPORTS {
        clients.push(connect(by, &b, "42", None).await);
    }
    let mut plain = Client::plain(&a.ws_url("41")).await;
    for user in ["41", "42"] {
        enroll(&a, "room", user).await;
    }

    // Through either node: plain, kept, kept twice under one id, to several topics, to nobody's
    // topic, to all but some; and past the nodes.
    let to_room = |data: &str| json!({"to": {"topic": "room"}, "data": data});
    let kept = |id: &str| json!({"to": {"topic": "room"}, "keep": true, "id": id, "data": id});
    for from in [&a, &b] {
        push(from, to_room("1")).await;
        push(
            from,
            json!({"to": {"topics": ["room", "empty"]}, "data": 2}),
        )
        .await;
        push(from, json!({"to": {"topic": "empty"}, "data": 3})).await;
        push(from, kept(&from.id)).await;
        push(from, kept(&from.id)).await;
        push(
            from,
            json!({"to": {"topic": "room"}, "data": 4, "except": {"users": ["42"]}}),
        )
        .await;
        push(from, json!({"to": {"user": "42"}, "keep": true, "data": 5})).await;
        let fd = clients[0].connection();
        let reply = json!({"to": {"fd": fd}, "ref": "1", "data": "a reply"});
        let (status, answer) = post(&from.url("/v1/reply"), &reply).await;
        assert_eq!(status, 200, "{answer}");
    }
    let past = r#"{"to":{"topics":["room","empty"]},"id":"past","data":6}"#;
    let nobody = r#"{"to":{"topics":["none","empty"]},"data":7}"#;
    let last = r#"{"to":{"topic":"room"},"data":"last"}"#;
    let channel = format!("pn:n:{{{}}}", b.id);
    for line in [past, past, nobody] {
        redis.cli(&["PUBLISH", &channel, line]);
    }
    redis.cli(&["PUBLISH", "pn:g", last]);
    for client in &mut clients {
        while client.json().await["data"] != "last" {}
    }
    while plain.json().await != "last" {}
    let nothing_waits = |values: &Values| sum(values, "waiting_messages") == 0.0;
    for node in [&a, &b] {
        let values = balanced(node, nothing_waits).await;
        // One for each topic, the reply included.
        assert_eq!(sum(&values, "shares_total"), 9.0, "{values:?}");
        assert!(sum(&values, "looks_total") > 0.0, "{values:?}");
    }
    let values = balanced(&b, nothing_waits).await;
    assert_eq!(sum(&values, "duplicates_total"), 1.0, "{values:?}");
    assert_eq!(sum(&values, "stale_total"), 1.0, "{values:?}");

    // Members that take nothing, by any transport: a topic's pushes are dropped, then they go.
    let mut slow = Vec::new();
    for by in TRANSPORTS {
        slow.push(connect_narrow(by, &b, "slow").await);
    }
    enroll(&b, "big", "slow").await;
    let data = "x".repeat(SIZE);
    let big = json!({"to": {"topic": "big"}, "policy": "drop", "data": data});
    let mut dropped = 0.0;
    for _ in 0..MOST {
        push(&a, big.clone()).await;
        dropped = b.labelled("drops_total", "reason=\"slow\"").await;
        if dropped >= 3.0 {
            break;
        }
    }
    assert!(dropped >= 3.0, "{dropped}");
    let waiting = |values: &Values| sum(values, "waiting_messages") > 0.0;
    balanced(&b, waiting).await;
    drop(slow);
    let values = balanced(&b, nothing_waits).await;
    let gone = sum(&values, "drops_total{reason=\"gone\"}");
    assert!(gone >= 3.0, "{values:?}");
}

async fn enroll(node: &Node, topic: &str, user: &str) {
    let url = node.url(&format!("/v1/topics/{topic}/users/{user}"));
    let answer = http().put(url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200, "{topic} {user}");
}
