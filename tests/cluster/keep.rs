//! Kept messages over several nodes and a real Redis.

use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::keep::{
    a_client_goes_on_where_it_was, an_id_is_kept_once, connect, hears, keep,
    nothing_is_lost_or_repeated_under_way, offline_is_stored, ready, resume,
    what_was_thrown_out_is_not_claimed,
};
use crate::common::transports::{TRANSPORTS, Transport};
use crate::common::{
    Client, Node, PATIENCE, Redis, eventually, node_on, node_with, post, two_nodes,
};

/// A kept message that a connection gets from the inbox or log when it has room again.
const LATER: &str = "reason=\"later\"";

#[tokio::test]
async fn a_client_goes_on_where_it_was_at_another_node() {
    let (_redis, a, b) = two_nodes();
    for by in TRANSPORTS {
        a_client_goes_on_where_it_was(by, &b, &a, &b).await;
    }
    offline_is_stored(&a, &b).await;
    an_id_is_kept_once(&a, &b, &a).await;
}

#[tokio::test]
async fn a_client_that_moves_about_misses_nothing() {
    let (_redis, a, b) = two_nodes();
    nothing_is_lost_or_repeated_under_way(Transport::Ws, [&a, &b], [&a, &b]).await;
}

#[tokio::test]
async fn a_client_that_moves_about_by_last_event_id_misses_nothing() {
    let (_redis, a, b) = two_nodes();
    nothing_is_lost_or_repeated_under_way(Transport::Sse, [&a, &b], [&a, &b]).await;
}

#[tokio::test]
async fn what_redis_threw_out_is_not_claimed() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &[("PUSH_KEEP_MESSAGES", "10")]);
    what_was_thrown_out_is_not_claimed(&node, &node).await;
}

#[tokio::test]
async fn what_redis_forgot_is_not_claimed() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    keep(&node, "42", 1).await;
    let token = hears(&mut client, 1..=1).await;
    redis.cli(&["FLUSHALL"]);
    // As many as before and more: only the numbers tell that it is another inbox.
    for number in 2..=9 {
        eventually(async || {
            let body = json!({"to": {"user": "42"}, "keep": true, "data": number});
            match post(&node.push_url, &body).await {
                (200, _) => Ok(()),
                refused => Err(refused),
            }
        })
        .await;
    }
    let mut back = connect(&node, "42", Some(&token)).await;
    assert_eq!(*ready(&back, "recovered"), false);
    hears(&mut back, 2..=9).await;
}

/// What was kept first was lost with all the rest, before its line came. Then the first one of the
/// new inbox does not pass for the first one at all.
#[tokio::test]
async fn a_first_message_that_redis_forgot_is_told_of_before_another_first_one() {
    let (redis, a, b) = two_nodes();
    let mut client = connect(&a, "42", None).await;
    // As if its line got lost: no node is known.
    redis.cli(&["DEL", "pn:user:{42}"]);
    let body = json!({"to": {"user": "42"}, "keep": true, "data": 1});
    assert_eq!(post(&b.push_url, &body).await.1["status"], "stored");
    redis.cli(&["FLUSHALL"]);
    eventually(
        async || match a.labelled("losses_total", "sign=\"forgotten\"").await {
            0.0 => Err("not noticed"),
            _ => Ok(()),
        },
    )
    .await;
    keep(&a, "42", 2).await;
    let mut is_told = false;
    loop {
        let frame = client.json().await;
        is_told |= frame["type"] == "resync";
        if frame["type"] == "message" {
            assert_eq!(frame["data"], 2);
            break;
        }
    }
    assert!(
        is_told,
        "it could come back and seem to have missed nothing"
    );
}

/// The bound in bytes is looked after with every 16th message.
#[tokio::test]
async fn an_inbox_is_bounded_in_bytes_and_age() {
    let redis = Redis::start();
    let settings = [("PUSH_KEEP_BYTES", "65536"), ("PUSH_KEEP_SECONDS", "100")];
    let node = node_with(&redis, "a", &settings);
    for _ in 0..64 {
        keep(&node, "42", "x".repeat(4096)).await;
    }
    is_bounded(&redis, "pn:inbox:{42}", "pn:pos:{42}").await;
}

/// That a stream to which 64 messages of 4 KiB were added stays at 64 KiB, and lives for 100 s.
pub(crate) async fn is_bounded(redis: &Redis, stream: &str, position: &str) {
    eventually(async || {
        let length = redis.cli(&["XLEN", stream]);
        let length: usize = length.trim().parse().expect("a number");
        // 16 fit, and up to 16 may have come since it was looked after.
        match (8..=32).contains(&length) {
            true => Ok(()),
            false => Err(length),
        }
    })
    .await;
    for (key, most) in [(stream, 100), (position, 100 + 24 * 3600)] {
        let seconds: i64 = redis.cli(&["TTL", key]).trim().parse().expect("a number");
        assert!((most - 60..=most).contains(&seconds), "{key}: {seconds}");
    }
}

/// With these a message soon waits for a client that does not read, and it stays.
pub(crate) const OF_SLOW_CLIENTS: [(&str, &str); 3] = [
    ("PUSH_QUEUE_BYTES", "4096"),
    ("PUSH_WRITE_SECONDS", "3600"),
    ("PUSH_KEEP_BYTES", "1000000000"),
];

/// Keeps messages until the kernel's buffers are full and some have been left to the inbox or log.
/// The client, which reads only then, gets all in order.
pub(crate) async fn gets_what_did_not_fit(node: &Node, client: &mut Client, to: Value) {
    let filler = "x".repeat(64 * 1024);
    let mut sent = 0;
    while node.labelled("left_to_inbox_total", LATER).await < 4.0 {
        let body = json!({"to": to, "keep": true, "data": [sent, filler],
            "wait": "written", "timeout_ms": 500});
        post(&node.push_url, &body).await;
        sent += 1;
    }
    for number in 0..sent {
        let frame = client.json().await;
        assert_eq!(frame["data"][0], number, "{}", frame["type"]);
    }
}

/// Who does not read is not thrown out for kept messages: it reads them when it can.
#[tokio::test]
async fn a_slow_client_gets_kept_messages_later() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &OF_SLOW_CLIENTS);
    let mut client = connect(&node, "slow", None).await;
    gets_what_did_not_fit(&node, &mut client, json!({"user": "slow"})).await;
    keep(&node, "slow", 1).await;
    hears(&mut client, 1..=1).await;
    let reads = node.metric("catch_ups_total").await;
    assert!(reads > 0.0, "it was never behind");
}

/// What is lost on the way to a node is read again, at the latest when the node notices.
#[tokio::test]
async fn what_was_lost_on_the_way_is_read_from_the_inbox() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    keep(&node, "42", 1).await;
    hears(&mut client, 1..=1).await;
    // Somebody keeps a message and dies before the push.
    let stored = |number: i32| {
        redis.cli(&["INCR", "pn:pos:{42}"]);
        redis.cli(&["XADD", "pn:inbox:{42}", "*", "data", &number.to_string()]);
    };
    stored(2);
    // The next push shows the gap.
    keep(&node, "42", 3).await;
    hears(&mut client, 2..=3).await;
    // A word on the channel is enough.
    stored(4);
    let channel = format!("pn:n:{{{}}}", node.id);
    redis.cli(&["PUBLISH", &channel, r#"{"to":{"user":"42"},"keep":true}"#]);
    hears(&mut client, 4..=4).await;
    // So is a sign that something was lost.
    stored(5);
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let mut kinds = Vec::new();
    loop {
        let frame = client.json().await;
        if frame["data"] == 5 {
            break;
        }
        kinds.push(frame["type"].clone());
    }
    assert!(kinds.iter().all(|kind| kind == "resync"), "{kinds:?}");
}

/// Redis forgets an id sooner than nodes do. Who follows the inbox passes the second one by; a
/// page would bring it.
#[tokio::test]
async fn an_id_kept_twice_in_an_inbox_is_heard_once_and_nobody_waits_for_it() {
    let (redis, a, b) = two_nodes();
    let mut client = connect(&a, "42", None).await;
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "x", "data": 1});
    post(&a.push_url, &body).await;
    hears(&mut client, 1..=1).await;
    for (sender, next) in [(&a, 2), (&b, 3)] {
        assert_eq!(redis.cli(&["DEL", "pn:kept:{42}:x"]).trim(), "1");
        let (_, answer) = post(&sender.push_url, &body).await;
        assert!(answer["seq_id"].is_string(), "{answer}");
        keep(sender, "42", next).await;
        hears(&mut client, [next]).await;
    }
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]).trim(), "5");
}

/// Inboxes are read several at a time.
#[tokio::test]
async fn a_broken_inbox_harms_nobody_who_comes_at_the_same_time() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    for n in 0..16 {
        redis.cli(&["SET", &format!("pn:inbox:{{broken{n}}}"), "no stream"]);
        keep(&node, &format!("whole{n}"), 1).await;
    }
    // More than once only where the machine is so slow that a client is let in unread.
    eventually(async || {
        let users = (0..16).flat_map(|n| [format!("broken{n}"), format!("whole{n}")]);
        let clients = users.map(async |user| {
            let client = connect(&node, &user, Some("0")).await;
            (user, client)
        });
        let mut unread = Vec::new();
        for (user, mut client) in futures::future::join_all(clients).await {
            let broken = user.starts_with("broken");
            assert!(!broken || ready(&client, "resume").is_null(), "{user}");
            if !broken && ready(&client, "resume").is_null() {
                unread.push(user);
            } else if !broken {
                hears(&mut client, 1..=1).await;
            }
        }
        if unread.is_empty() {
            Ok(())
        } else {
            Err(unread)
        }
    })
    .await;
}

#[tokio::test]
async fn without_redis_nothing_is_said_to_be_kept() {
    let mut redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    redis.kill();
    let body = json!({"to": {"user": "42"}, "keep": true, "data": 1, "timeout_ms": 300});
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(
        (status, &answer["status"]),
        (503, &json!("unrouted")),
        "{answer}"
    );
    // A client that comes now is let in, and not told that nothing is missing.
    let token = resume(&client);
    let mut late = connect(&node, "42", Some(&token)).await;
    assert_eq!(*ready(&late, "recovered"), false);
    redis.restart();
    eventually(async || {
        let body = json!({"to": {"user": "42"}, "keep": true, "data": 2});
        match post(&node.push_url, &body).await {
            (200, answer) if answer["status"] == "routed" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    for client in [&mut client, &mut late] {
        hears_sometime(client, "2").await;
    }
}

/// Reads on until this message, past what the node says of the outage.
async fn hears_sometime(client: &mut Client, data: &str) {
    let next = async {
        while let Some(Ok(frame)) = client.socket.next().await {
            if frame
                .to_text()
                .is_ok_and(|text| text.contains(&format!(r#""data":{data}}}"#)))
            {
                return;
            }
        }
        panic!("closed");
    };
    tokio::time::timeout(PATIENCE, next)
        .await
        .expect("the message in time");
}

/// What is kept while a client is let in, behind the look at its inbox and before its row is there.
#[tokio::test]
async fn what_is_kept_while_a_client_comes_is_not_missed() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    keep(&node, "42", 1).await;
    let token = hears(&mut client, 1..=1).await;
    drop(client);
    // No row until it is allowed again.
    redis.cli(&["ACL", "SETUSER", "default", "-hset"]);
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let url = format!("{}&since={token}", node.ws_url("42"));
    let comes = tokio::spawn(async move { Client::v1(&url).await });
    eventually(async || match redis.cli(&["INFO", "commandstats"]) {
        stats if stats.contains("cmdstat_xrevrange") => Ok(()),
        stats => Err(stats),
    })
    .await;
    // By somebody who finds no row, and so tells no node.
    redis.cli(&["INCR", "pn:pos:{42}"]);
    redis.cli(&["XADD", "pn:inbox:{42}", "*", "data", "2"]);
    redis.cli(&["ACL", "SETUSER", "default", "+hset"]);
    let mut back = comes.await.expect("let in");
    // On a slow machine the row is late: then it hears of that too.
    let message = loop {
        let frame = back.json().await;
        if frame["type"] == "message" {
            break frame;
        }
    };
    assert_eq!(message["data"], 2);
}
