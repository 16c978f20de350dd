//! Kept pushes to topics over several nodes and a real Redis.

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use serde_json::json;

use crate::common::logs::{
    a_client_goes_on_where_it_was, a_kept_push_to_many_topics, a_newcomer_misses_nothing, follower,
    hears, keep,
};
use crate::common::topics::{ask, push_as, unsubscribe};
use crate::common::{Client, Redis, eventually, node, node_on, node_with, two_nodes};
use crate::keep::{OF_SLOW_CLIENTS, gets_what_did_not_fit, is_bounded};

#[tokio::test]
async fn a_client_goes_on_in_a_log_at_another_node() {
    let (_redis, a, b) = two_nodes();
    a_client_goes_on_where_it_was(&a, &b, &a).await;
}

#[tokio::test]
async fn a_newcomer_misses_nothing_at_another_node() {
    let (_redis, a, b) = two_nodes();
    a_newcomer_misses_nothing(&a, &b).await;
}

#[tokio::test]
async fn a_kept_push_to_many_topics_at_another_node() {
    let (_redis, a, b) = two_nodes();
    a_kept_push_to_many_topics(&a, &b).await;
}

/// Whatever is lost on the way is read from the log, at the latest when the node notices.
#[tokio::test]
async fn what_was_lost_on_the_way_is_read_from_the_log() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let (mut client, _) = follower(&node, "news", None).await;
    keep(&node, "news", 1).await;
    hears(&mut client, "news", 1..=1).await;
    // Somebody keeps a message and dies before the push.
    let stored = |number: i32| {
        redis.cli(&["INCR", "pn:logpos:{news}"]);
        redis.cli(&["XADD", "pn:log:{news}", "*", "data", &number.to_string()]);
    };
    stored(2);
    // The next push shows the gap.
    keep(&node, "news", 3).await;
    hears(&mut client, "news", 2..=3).await;
    // A word on the channel is enough.
    stored(4);
    let channel = format!("pn:n:{{{}}}", node.id);
    redis.cli(&[
        "PUBLISH",
        &channel,
        r#"{"to":{"topic":"news"},"keep":true}"#,
    ]);
    hears(&mut client, "news", 4..=4).await;
    // So is a sign that something was lost.
    stored(5);
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    loop {
        let frame = client.json().await;
        if frame["data"] == 5 {
            break;
        }
        assert_eq!(frame["type"], "resync", "{frame}");
    }
    // What was thrown out is not claimed.
    redis.cli(&["DEL", "pn:log:{news}", "pn:logpos:{news}"]);
    keep(&node, "news", 6).await;
    let resync = client.json().await;
    assert_eq!(resync, json!({"type": "resync", "topic": "news"}));
    hears(&mut client, "news", 6..=6).await;
    assert_eq!(node.metric("catch_up_gaps_total").await, 1.0);
}

/// Redis forgets an id sooner than nodes do. Who follows the log passes the second one by; a page
/// would bring it.
#[tokio::test]
async fn an_id_kept_twice_in_a_log_is_heard_once_and_nobody_waits_for_it() {
    let (redis, a, b) = two_nodes();
    let (mut client, _) = follower(&a, "news", None).await;
    let body = json!({"to": {"topic": "news"}, "keep": true, "id": "x", "data": 1});
    push_as(&a, body.clone()).await;
    hears(&mut client, "news", 1..=1).await;
    for (sender, next) in [(&a, 2), (&b, 3)] {
        assert_eq!(redis.cli(&["DEL", "pn:logkept:{news}:x"]).trim(), "1");
        let answer = push_as(sender, body.clone()).await;
        assert!(answer["seq_id"].is_string(), "{answer}");
        keep(sender, "news", next).await;
        hears(&mut client, "news", [next]).await;
    }
    assert_eq!(redis.cli(&["XLEN", "pn:log:{news}"]).trim(), "5");
}

/// Hundreds of members that must look at the same moment share a few reads.
#[tokio::test]
async fn many_members_share_a_read() {
    const MEMBERS: usize = 300;
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let url = format!("{}&topics=news", node.ws_url("1"));
    // A few at a time: a client that waits a second for its row is let in as `degraded`.
    let members = stream::iter(0..MEMBERS).map(|_| Client::v1(&url));
    let mut members: Vec<Client> = members.buffered(8).collect().await;
    // All of them are where the log is.
    keep(&node, "news", 1).await;
    join_all(members.iter_mut().map(|one| hears(one, "news", 1..=1))).await;
    let before = node.metric("catch_ups_total").await;
    redis.cli(&["INCR", "pn:logpos:{news}"]);
    redis.cli(&["XADD", "pn:log:{news}", "*", "data", "2"]);
    redis.cli(&["PUBLISH", "pn:g", r#"{"to":{"topic":"news"},"keep":true}"#]);
    join_all(members.iter_mut().map(|one| hears(one, "news", 2..=2))).await;
    let reads = node.metric("catch_ups_total").await - before;
    assert!(
        (1.0..=30.0).contains(&reads),
        "{reads} reads for {MEMBERS} members"
    );
}

/// Who does not read is not thrown out for kept messages: it reads them when it can.
#[tokio::test]
async fn a_slow_member_gets_kept_messages_later() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &OF_SLOW_CLIENTS);
    let (mut client, _) = follower(&node, "news", None).await;
    gets_what_did_not_fit(&node, &mut client, json!({"topic": "news"})).await;
    keep(&node, "news", 1).await;
    hears(&mut client, "news", 1..=1).await;
}

/// Clients that subscribe and go all the time, on both nodes, while messages are kept.
#[tokio::test]
async fn a_client_that_moves_about_misses_nothing_of_a_log() {
    const MESSAGES: i32 = 200;
    let redis = Redis::start();
    let nodes = [node_on(&redis, "a"), node_on(&redis, "b")];
    let (client, reply) = follower(&nodes[0], "news", None).await;
    let mut token = reply["resume"].as_str().expect("a token").to_owned();
    drop(client);
    let sending = async {
        for number in 1..=MESSAGES {
            keep(&nodes[number as usize % 2], "news", number).await;
        }
    };
    let reading = async {
        let mut next = 1;
        for round in 0.. {
            let (mut client, reply) = follower(&nodes[round % 2], "news", Some(&token)).await;
            assert_eq!(reply["recovered"], true, "{reply}");
            let end = (next + fastrand::i32(1..10)).min(MESSAGES + 1);
            if end > next {
                token = hears(&mut client, "news", next..end).await;
            }
            next = end;
            if next > MESSAGES {
                return;
            }
        }
    };
    tokio::join!(sending, reading);
}

#[tokio::test]
async fn a_log_is_bounded_and_ends_by_itself() {
    let redis = Redis::start();
    let settings = [("PUSH_KEEP_BYTES", "65536"), ("PUSH_KEEP_SECONDS", "100")];
    let node = node_with(&redis, "a", &settings);
    for _ in 0..64 {
        keep(&node, "news", "x".repeat(4096)).await;
    }
    is_bounded(&redis, "pn:log:{news}", "pn:logpos:{news}").await;
}

/// The line of a message that a page brought long ago, while the subscription's first page waits.
#[tokio::test]
async fn who_comes_back_to_a_topic_hears_no_late_line_of_what_it_has_had() {
    let redis = Redis::start();
    let all = ["ACL", "SETUSER", "a", "on", ">pw", "~*", "&*", "+@all"];
    assert_eq!(redis.cli(&all), "OK");
    let url = redis.url().replace("redis://", "redis://a:pw@");
    let a = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let b = node_on(&redis, "b");
    let (mut client, _) = follower(&a, "news", None).await;
    for number in 1..=4 {
        keep(&b, "news", number).await;
    }
    let second = hears(&mut client, "news", 1..=2).await;
    hears(&mut client, "news", 3..=4).await;
    let to = json!({"topic": "news"});
    let late = json!({"to": to, "keep": true, "seq_id": second, "data": 2}).to_string();
    let channel = format!("pn:n:{{{}}}", a.id);

    let mut next = 5;
    for leaves in [true, false] {
        if leaves {
            unsubscribe(&mut client, "news").await;
        }
        let logs_denied = ["ACL", "SETUSER", "a", "resetkeys", "~pn:[^l]*"];
        assert_eq!(redis.cli(&logs_denied), "OK");
        let request = json!({"type": "subscribe", "topic": "news", "since": "new", "ref": next});
        let reply = ask(&mut client, request).await;
        assert_eq!(reply["degraded"], true, "the log cannot be read: {reply}");
        let passed = a.metric("left_to_inbox_total").await;
        assert_eq!(redis.cli(&["PUBLISH", &channel, &late]), "1");
        eventually(
            async || match a.metric("left_to_inbox_total").await - passed {
                1.0 => Ok(()),
                count => Err(count),
            },
        )
        .await;
        // One that it has not had is its first. That is known only from its line, so that something
        // before it may be missing.
        keep(&b, "news", next).await;
        assert_eq!(redis.cli(&["ACL", "SETUSER", "a", "~*"]), "OK");
        loop {
            let frame = client.json().await;
            if frame["data"] == next {
                break;
            }
            assert_eq!(frame["type"], "resync", "{frame}");
        }
        keep(&b, "news", next + 1).await;
        hears(&mut client, "news", next + 1..=next + 1).await;
        next += 2;
    }
}
