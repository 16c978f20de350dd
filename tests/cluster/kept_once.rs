//! A kept push with an id is stored once, however late Redis carries out what a node has sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::common::keep::{connect, hears, keep};
use crate::common::{Redis, eventually, node, node_on, post, post_text};
use crate::raw::Wire;

/// A way to Redis that holds the first write of a message back until it is told to go on. The
/// node may have closed the connection by then: Redis gets it all the same.
struct Gate {
    address: SocketAddr,
    holds: Arc<AtomicBool>,
    open: Arc<Semaphore>,
    /// Gets a permit when Redis has answered what was held back.
    answered: Arc<Semaphore>,
}

impl Gate {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gate = Self {
            address: listener.local_addr().expect("an address"),
            holds: Arc::default(),
            open: Arc::new(Semaphore::new(0)),
            answered: Arc::new(Semaphore::new(0)),
        };
        let (holds, open, answered) =
            (gate.holds.clone(), gate.open.clone(), gate.answered.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (holds, open, answered) = (holds.clone(), open.clone(), answered.clone());
                tokio::spawn(pass(socket, port, holds, open, answered));
            }
        });
        gate
    }

    fn is_holding(&self) -> bool {
        !self.holds.load(Ordering::SeqCst)
    }
}

async fn pass(
    socket: TcpStream,
    port: u16,
    holds: Arc<AtomicBool>,
    open: Arc<Semaphore>,
    answered: Arc<Semaphore>,
) {
    let redis = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("Redis");
    let ((mut from_node, mut to_node), (mut from_redis, mut to_redis)) =
        (socket.into_split(), redis.into_split());
    let was_held = Arc::new(AtomicBool::new(false));
    let held = was_held.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_redis.read(&mut buffer).await {
            if held.load(Ordering::SeqCst) {
                answered.add_permits(1);
            }
            let _ = to_node.write_all(&buffer[..count]).await;
        }
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from_node.read(&mut buffer).await {
        let is_write = buffer[..count].windows(4).any(|part| part == b"XADD");
        if is_write && holds.swap(false, Ordering::SeqCst) {
            open.acquire().await.expect("not closed").forget();
            was_held.store(true, Ordering::SeqCst);
        }
        if to_redis.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // Until Redis has answered: dropping this half would end the connection.
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_write_of_one_node_does_not_repeat_that_of_another() {
    let redis = Redis::start();
    let gate = Gate::to(redis.port()).await;
    let url = format!("redis://{}", gate.address);
    let slow = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let other = node_on(&redis, "b");
    let mut client = connect(&other, "42", None).await;
    gate.holds.store(true, Ordering::SeqCst);

    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1,
        "timeout_ms": 1500});
    let (status, answer) = post(&slow.push_url, &body).await;
    assert_eq!(status, 503, "{answer}");
    assert!(gate.is_holding(), "nothing was held back");
    // The sender does what it should. Nothing keeps it waiting.
    let (_, answer) = post(&other.push_url, &body).await;
    assert_eq!(answer["status"], "routed", "{answer}");

    gate.open.add_permits(1);
    gate.answered.acquire().await.expect("an answer").forget();
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]), "1");
    keep(&slow, "42", 2).await;
    hears(&mut client, 1..=2).await;
    let (_, answer) = post(&slow.push_url, &body).await;
    assert_eq!(answer["status"], "duplicate", "{answer}");
}

/// The claim of a node of 0.1.0 is respected: it may be about to write.
#[tokio::test]
async fn a_claim_of_an_older_node_is_waited_for() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mark = "pn:kept:{42}:m1";
    assert_eq!(redis.cli(&["SET", mark, "0123", "PX", "1000"]), "OK");
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1,
        "timeout_ms": 30_000});
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("stored")),
        "{answer}"
    );
    assert_eq!(redis.cli(&["GET", mark]), "kept");
}

/// A message that Redis refused is not one that it has: no retry of it is a repeat.
#[tokio::test]
async fn what_redis_refused_is_kept_once_redis_takes_it() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let of_user = ("pn:inbox:{42}", json!({"user": "42"}));
    let of_topic = ("pn:log:{chat.1}", json!({"topic": "chat.1"}));
    for (key, to) in [of_user, of_topic] {
        let body = json!({"to": to, "keep": true, "id": "m1", "data": 1, "timeout_ms": 30_000});
        redis.cli(&["SET", key, "x"]);
        for _ in 0..2 {
            let (status, answer) = post(&node.push_url, &body).await;
            assert_eq!(status, 503, "{key}: {answer}");
            assert_eq!(answer["status"], "unrouted", "{key}: {answer}");
        }
        assert_eq!(redis.cli(&["DEL", key]), "1");
        for status in ["stored", "duplicate"] {
            let (_, answer) = post(&node.push_url, &body).await;
            assert_eq!(answer["status"], status, "{key}: {answer}");
        }
        assert_eq!(redis.cli(&["XLEN", key]), "1");
    }
}

/// Nor is one that it refuses after its sender was told that the time is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_would_refuse_late_leaves_no_mark() {
    let redis = Redis::start();
    let gate = Gate::to(redis.port()).await;
    let url = format!("redis://{}", gate.address);
    let node = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let inbox = "pn:inbox:{42}";
    redis.cli(&["SET", inbox, "x"]);
    gate.holds.store(true, Ordering::SeqCst);
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1,
        "timeout_ms": 1000});
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 503, "{answer}");
    if gate.is_holding() {
        gate.open.add_permits(1);
        gate.answered.acquire().await.expect("an answer").forget();
    }
    assert_eq!(redis.cli(&["DEL", inbox]), "1");
    gate.holds.store(false, Ordering::SeqCst);
    for status in ["stored", "duplicate"] {
        let (_, answer) = post(&node.push_url, &body).await;
        assert_eq!(answer["status"], status, "{answer}");
    }
}

/// Another program makes a key of another type after the node has looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_set_by_a_refused_write_is_removed() {
    let redis = Redis::start();
    let gate = Gate::to(redis.port()).await;
    let url = format!("redis://{}", gate.address);
    let node = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let (inbox, mark) = ("pn:inbox:{42}", "pn:kept:{42}:m1");
    gate.holds.store(true, Ordering::SeqCst);
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1,
        "timeout_ms": 30_000});
    let (url, sent) = (node.push_url.clone(), body.clone());
    let pushed = tokio::spawn(async move { post(&url, &sent).await });
    eventually(async || match gate.is_holding() {
        true => Ok(()),
        false => Err("not sent"),
    })
    .await;
    redis.cli(&["SET", inbox, "x"]);
    gate.open.add_permits(1);
    let (status, answer) = pushed.await.expect("an answer");
    assert_eq!(status, 503, "{answer}");
    assert_eq!(redis.cli(&["EXISTS", mark]), "0");
    assert_eq!(redis.cli(&["DEL", inbox]), "1");
    let (_, answer) = post(&node.push_url, &body).await;
    assert_eq!(answer["status"], "stored", "{answer}");
}

/// A message that is in the inbox is not added again, even if it could not be counted.
#[tokio::test]
async fn what_redis_has_but_could_not_count_is_not_kept_again() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    assert_eq!(redis.cli(&["RPUSH", "pn:pos:{42}", "x"]), "1");
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1});
    for _ in 0..3 {
        post(&node.push_url, &body).await;
    }
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]), "1");
}

/// Connections that watch are few, and not left over.
#[tokio::test]
async fn many_ids_at_once_take_few_connections() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let before = connections(&redis);
    let batches = (0..4).map(async |batch| {
        let pushes = (0..250).map(|number| {
            let to = json!({"user": format!("u{}", number % 100)});
            let id = format!("m{batch}-{number}");
            let push = json!({"to": to, "keep": true, "id": id, "data": number,
                "timeout_ms": 30_000});
            format!("{push}\n")
        });
        let body: String = pushes.collect();
        let (status, answers) = post_text(&node.push_url, "application/x-ndjson", body).await;
        assert_eq!(status, 200, "{answers}");
        assert!(!answers.contains("unrouted"), "{answers}");
    });
    futures::future::join_all(batches).await;
    assert_eq!(node.metric("kept_total").await, 1000.0);
    let more = connections(&redis) - before;
    assert!(more <= 64, "{more}");
}

/// Nor is one that went silent with all others of the node.
#[tokio::test(flavor = "multi_thread")]
async fn no_kept_push_waits_on_a_connection_that_went_silent_before() {
    let redis = Redis::start();
    let wire = Wire::to(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", wire.port);
    let node = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let push = async |id: &str, timeout_ms: u64| {
        let body = json!({"to": {"user": "42"}, "keep": true, "id": id, "data": 1,
            "timeout_ms": timeout_ms});
        post(&node.push_url, &body).await
    };
    let (status, answer) = push("before", 30_000).await;
    assert_eq!(status, 200, "{answer}");
    let turns = node.metric("redis_turns_total").await;
    wire.silence();
    eventually(async || match node.metric("redis_turns_total").await {
        now if now > turns => Ok(()),
        now => Err(now),
    })
    .await;
    let (status, answer) = push("after", 1_500).await;
    assert_eq!(status, 200, "{answer}");
}

/// The sender's node cannot look up where the user is, and no other node knows of any loss.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_there_hears_of_a_kept_push_although_its_node_was_cut_off() {
    let redis = Redis::start();
    let wire = Wire::to(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", wire.port);
    let sender = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let other = node_on(&redis, "b");
    let mut client = connect(&other, "42", None).await;
    wire.silence();
    // It is kept over a new connection; the one for look-ups is silent, and not yet found so.
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1,
        "timeout_ms": 500});
    let (_, answer) = post(&sender.push_url, &body).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    hears(&mut client, 1..=1).await;
}

fn connections(redis: &Redis) -> usize {
    redis.cli(&["CLIENT", "LIST"]).lines().count()
}

/// A connection of the pool that broke while it was idle is not lent.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_redis_no_kept_push_waits_on_a_connection_to_the_old_one() {
    let mut redis = Redis::start();
    let node = node_on(&redis, "a");
    let push = async |id: String, timeout_ms: u64| {
        let body = json!({"to": {"user": id}, "keep": true, "id": id, "data": 1,
            "timeout_ms": timeout_ms});
        let (status, answer) = post(&node.push_url, &body).await;
        (status == 200).then_some(()).ok_or(answer)
    };
    let many = (0..64).map(|n| push(format!("before-{n}"), 30_000));
    for kept in futures::future::join_all(many).await {
        kept.expect("kept");
    }
    let connects = node.metric("redis_connects_total").await;
    redis.restart();
    eventually(async || {
        let (now, up) = (
            node.metric("redis_connects_total").await,
            node.metric("redis_up").await,
        );
        (now > connects && up == 1.0).then_some(()).ok_or((now, up))
    })
    .await;
    // A busy machine may delay one of them; each connection to the old Redis would delay another.
    let mut refused = Vec::new();
    while refused.len() < 3 {
        match push(format!("after-{}", refused.len()), 1_500).await {
            Ok(()) => return,
            Err(answer) => refused.push(answer),
        }
    }
    panic!("{refused:?}");
}
