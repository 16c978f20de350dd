//! Topics over several nodes and a real Redis.

use serde_json::{Value, json};

use crate::common::topics::{
    a_push_can_leave_out_some_and_name_many, a_push_reaches_who_is_subscribed,
    a_sender_subscribes_others, ask, counts, hears, push, subscribe,
    topics_come_with_the_connection, unsubscribe, what_is_not_allowed_is_refused,
};
use crate::common::{
    Client, Node, Redis, eventually, node_on, node_with, post, send_signal, two_nodes,
};
use crate::crowd::Crowd;
use crate::raw::{Answer, Resp};

const ROW: &str = "pn:topic:{news}";

/// A topic's row as `node count` pairs.
async fn row(redis: &mut Resp, key: &str) -> Vec<(String, String)> {
    let fields = redis.call(&["HGETALL", key]).await.texts();
    let pairs = fields.chunks(2);
    let mut pairs: Vec<_> = pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// Waits until the row of `news` says this.
async fn row_is(redis: &mut Resp, expected: &[(&Node, u32)]) {
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(node, count)| (node.id.clone(), count.to_string()))
        .collect();
    expected.sort_unstable();
    eventually(async || match row(redis, ROW).await {
        seen if seen == expected => Ok(()),
        seen => Err(seen),
    })
    .await;
}

#[tokio::test]
async fn a_push_reaches_who_is_subscribed_at_any_node() {
    let (_redis, a, b) = two_nodes();
    a_push_reaches_who_is_subscribed(&a, &a, &b).await;
    a_push_reaches_who_is_subscribed(&b, &a, &a).await;
}

#[tokio::test]
async fn topics_come_with_a_connection_to_another_node() {
    let (_redis, a, b) = two_nodes();
    topics_come_with_the_connection(&a, &b).await;
}

#[tokio::test]
async fn a_sender_subscribes_others_at_any_node() {
    let (_redis, a, b) = two_nodes();
    a_sender_subscribes_others(&a, &a, &b).await;
    a_sender_subscribes_others(&a, &b, &b).await;
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_redis() {
    let redis = Redis::start();
    let settings = [
        ("PUSH_TOPICS", "chat.*,user.{user}"),
        ("PUSH_MAX_TOPICS", "2"),
    ];
    what_is_not_allowed_is_refused(&node_with(&redis, "a", &settings)).await;
}

#[tokio::test]
async fn a_push_can_leave_out_some_and_name_many_at_any_node() {
    let (_redis, a, b) = two_nodes();
    a_push_can_leave_out_some_and_name_many(&b, &a, &b).await;
}

/// The reply comes behind the row; the row counts, ends by itself, and is gone with the last.
#[tokio::test]
async fn the_row_is_written_before_the_client_is_told() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut resp = Resp::connect(redis.port()).await;
    let mut client = Client::v1(&node.ws_url("1")).await;
    for i in 0..100 {
        subscribe(&mut client, &format!("t{i}")).await;
        let key = format!("pn:topic:{{t{i}}}");
        assert_eq!(
            row(&mut resp, &key).await,
            [(node.id.clone(), "1".to_owned())]
        );
    }
    drop(client);
    let url = format!("{}&topics=news", node.ws_url("2"));
    let (first, second) = (Client::v1(&url).await, Client::v1(&url).await);
    assert_eq!(
        row(&mut resp, ROW).await,
        [(node.id.clone(), "2".to_owned())]
    );
    let seconds = resp.call(&["TTL", ROW]).await.number();
    assert!((1..=24 * 3600).contains(&seconds), "TTL {seconds}");
    let index = format!("pn:topics:{{{}}}", node.id);
    eventually(
        async || match &resp.call(&["SMEMBERS", &index]).await.texts()[..] {
            [only] if only == "news" => Ok(()),
            seen => Err(seen.to_vec()),
        },
    )
    .await;
    drop(first);
    row_is(&mut resp, &[(&node, 1)]).await;
    drop(second);
    row_is(&mut resp, &[]).await;
    eventually(
        async || match resp.call(&["EXISTS", &index]).await.number() {
            0 => Ok(()),
            _ => Err("the index is still there"),
        },
    )
    .await;
}

/// What a push to a topic costs: nothing at all on nodes where nobody is subscribed.
#[tokio::test]
async fn only_nodes_with_members_hear_of_a_push() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    let mut member = Client::v1(&format!("{}&topics=news", b.ws_url("1"))).await;
    let mut other = Client::v1(&format!("{}&topics=other", c.ws_url("2"))).await;
    for number in 0..20 {
        push(&a, "news", number).await;
        hears(&mut member, "news", number).await;
    }
    push(&a, "other", "marker").await;
    hears(&mut other, "other", "marker").await;
    assert_eq!(b.metric("envelopes_total").await, 20.0);
    assert_eq!(c.metric("envelopes_total").await, 1.0);
    let mut resp = Resp::connect(redis.port()).await;
    let channels = resp.call(&["PUBSUB", "CHANNELS", "*"]).await.texts();
    assert_eq!(
        channels.len(),
        4,
        "a channel for each node, and one for all: {channels:?}"
    );
}

#[tokio::test]
async fn a_killed_nodes_members_are_swept_and_not_counted() {
    let (redis, a, b) = two_nodes();
    let mut resp = Resp::connect(redis.port()).await;
    let mut here = Client::v1(&format!("{}&topics=news", a.ws_url("1"))).await;
    let _there = Client::v1(&format!("{}&topics=news,gone", b.ws_url("2"))).await;
    counts(&a, "news", 2).await;
    let (index, id) = (format!("pn:topics:{{{}}}", b.id), b.id.clone());
    b.kill();
    counts(&a, "news", 1).await;
    // Nobody waits for the dead.
    let answer = push(&a, "news", 1).await;
    assert_eq!(answer["status"], "routed", "{answer}");
    hears(&mut here, "news", 1).await;
    row_is(&mut resp, &[(&a, 1)]).await;
    eventually(async || {
        let left = resp.call(&["EXISTS", "pn:topic:{gone}", &index]).await;
        match left {
            Answer::Number(0) => Ok(()),
            left => Err((id.clone(), left)),
        }
    })
    .await;
}

#[tokio::test]
async fn rows_come_back_when_redis_forgets() {
    let (redis, a, b) = two_nodes();
    let mut resp = Resp::connect(redis.port()).await;
    let mut member = Client::v1(&format!("{}&topics=news", b.ws_url("1"))).await;
    redis.cli(&["FLUSHALL"]);
    let body = json!({"to": {"topic": "news"}, "data": 1, "timeout_ms": 30_000});
    let (status, answer) = post(&a.push_url, &body).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("routed")),
        "{answer}"
    );
    loop {
        let frame = member.json().await;
        if frame["type"] == "message" {
            assert_eq!(frame["data"], 1);
            break;
        }
        assert_eq!(frame["type"], "resync", "{frame}");
    }
    row_is(&mut resp, &[(&b, 1)]).await;
}

/// As for a connect: the client is not kept waiting for ever, and hears when it may have missed
/// something.
#[tokio::test]
async fn a_subscription_while_redis_hangs_is_degraded_until_its_row_is_there() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Client::v1(&node.ws_url("1")).await;
    send_signal(redis.pid(), "STOP");
    let request = json!({"type": "subscribe", "topic": "news", "ref": 1});
    let reply = ask(&mut client, request).await;
    assert_eq!(
        (&reply["status"], &reply["degraded"]),
        (&json!("subscribed"), &json!(true)),
        "{reply}"
    );
    // What is sent here gets through.
    push(&node, "news", 1).await;
    hears_but_for(&mut client, "degraded", 1).await;
    send_signal(redis.pid(), "CONT");
    loop {
        let frame = client.json().await;
        match frame["type"].as_str() {
            Some("resync") => break,
            Some("degraded") => {}
            _ => panic!("{frame}"),
        }
    }
    let mut resp = Resp::connect(redis.port()).await;
    row_is(&mut resp, &[(&node, 1)]).await;
}

async fn hears_but_for(client: &mut Client, kind: &str, data: i32) {
    loop {
        let frame = client.json().await;
        if frame["type"] == "message" {
            assert_eq!(frame["data"], data, "{frame}");
            return;
        }
        assert_eq!(frame["type"], kind, "{frame}");
    }
}

/// Two nodes, a thousand members: each gets each message once, in order, and nobody else does.
#[tokio::test]
async fn a_thousand_members_on_two_nodes_hear_it_once() {
    const MEMBERS: usize = 1_000;
    const MESSAGES: usize = 20;
    let (redis, a, b) = two_nodes();
    let mut crowd = Crowd::new();
    let addresses = [a.client_address(), b.client_address()];
    let users = (0..MEMBERS).map(|i| (addresses[i % 2], format!("m{i}&topics=all,t{}", i % 10)));
    crowd.join(users).await;
    let others = (0..10).map(|i| (addresses[i % 2], format!("x{i}&topics=end")));
    crowd.join(others).await;
    counts(&a, "all", MEMBERS as u32).await;
    let batch: Vec<Value> = (0..MESSAGES)
        .map(|number| json!({"to": {"topic": "all"}, "data": number, "wait": "written"}))
        .collect();
    let (_, answers) = post(&a.push_url, &json!(batch)).await;
    for answer in answers.as_array().expect("answers") {
        let seen = (&answer["status"], &answer["connections"], &answer["nodes"]);
        assert_eq!(seen, (&json!("written"), &json!(MEMBERS), &json!(2)));
    }
    push(&b, "end", "\"not for members\"").await;
    post(&b.push_url, &json!({"to": {"all": true}, "data": "end"})).await;
    let heard = crowd.all_hear_until(r#""end""#).await;
    let mut next = vec![0; MEMBERS + 10];
    for (who, text) in heard {
        if who < MEMBERS {
            assert_eq!(text, next[who].to_string(), "{}", crowd.members[who].user);
        } else {
            assert!(text.contains("not for members"), "{text}");
        }
        next[who] += 1;
    }
    assert!(next[..MEMBERS].iter().all(|count| *count == MESSAGES));
    assert!(next[MEMBERS..].iter().all(|count| *count == 1));
    drop(crowd);
    let mut resp = Resp::connect(redis.port()).await;
    eventually(
        async || match resp.call(&["KEYS", "pn:topic:*"]).await.texts() {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        },
    )
    .await;
}

/// However they come and go, the row is who is there.
#[tokio::test]
async fn after_much_coming_and_going_the_row_is_exactly_who_is_there() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let redis = Redis::start();
    let nodes = [node_on(&redis, "a"), node_on(&redis, "b")];
    let mut resp = Resp::connect(redis.port()).await;
    let mut clients: Vec<(usize, bool, Client)> = Vec::new();
    for round in 0..400 {
        if clients.len() < 10 || (clients.len() < 30 && random.bool()) {
            let node = random.usize(..2);
            let url = nodes[node].ws_url(&format!("u{round}"));
            clients.push((node, false, Client::v1(&url).await));
            continue;
        }
        let place = random.usize(..clients.len());
        if random.u8(..) < 50 {
            clients.swap_remove(place);
            continue;
        }
        let (_, is_member, client) = &mut clients[place];
        match *is_member {
            false => subscribe(client, "news").await,
            true => unsubscribe(client, "news").await,
        }
        *is_member = !*is_member;
    }
    let count = |node: usize| {
        let members = clients
            .iter()
            .filter(|(at, is_member, _)| *at == node && *is_member);
        members.count() as u32
    };
    let expected: Vec<_> = [0, 1]
        .into_iter()
        .map(|node| (&nodes[node], count(node)))
        .filter(|(_, count)| *count > 0)
        .collect();
    row_is(&mut resp, &expected).await;
}

/// A full queue and the three policies, as for a push to a user; nobody else is disturbed.
#[tokio::test]
async fn a_slow_member_meets_its_policy_and_the_others_get_all() {
    let redis = Redis::start();
    let settings = [("PUSH_QUEUE_BYTES", "4096"), ("PUSH_WRITE_SECONDS", "3600")];
    let (a, b) = (node_on(&redis, "a"), node_with(&redis, "b", &settings));
    let filler = "x".repeat(64 * 1024);
    for (policy, closes) in [("drop", false), ("latest:k", false), ("close", true)] {
        let mut fast = Client::v1(&format!("{}&topics=news", a.ws_url("fast"))).await;
        let mut slow = Client::v1(&format!("{}&topics=news", b.ws_url("slow"))).await;
        let before = b.metric("drops_total").await;
        let mut sent = 0;
        // Until the kernel's buffers are full, and then some.
        while b.metric("drops_total").await == before {
            let body = json!({"to": {"topic": "news"}, "data": [sent, filler], "policy": policy});
            post(&a.push_url, &body).await;
            assert_eq!(fast.json().await["data"][0], sent);
            sent += 1;
        }
        if closes {
            let (code, _) = slow.close_frame().await;
            assert_eq!(code, 4002);
            counts(&a, "news", 1).await;
            continue;
        }
        // It is still a member, and gets what comes once it reads again.
        counts(&a, "news", 2).await;
        let end = async || {
            let body = json!({"to": {"topic": "news"}, "data": ["end"], "policy": "drop",
                "except": {"users": ["fast"]}, "wait": "written"});
            match post(&a.push_url, &body).await.1 {
                answer if answer["status"] == "written" => Ok(()),
                answer => Err(answer),
            }
        };
        let read = async {
            let (mut last, mut got) = (None, 0);
            loop {
                let number = slow.json().await["data"][0].clone();
                if number == "end" {
                    return got;
                }
                assert!(number.as_i64() > last, "{number} behind {last:?}");
                (last, got) = (number.as_i64(), got + 1);
            }
        };
        let (got, ()) = tokio::join!(read, eventually(end));
        assert!(got < sent, "{policy}: nothing was left out");
    }
}

/// Nothing but Redis: nodes are subscribed to what a client is told to be.
#[tokio::test]
async fn a_subscription_by_redis_alone() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Client::v1(&node.ws_url("42")).await;
    let line = r#"{"cmd":"subscribe","topic":"news","to":{"user":"42"}}"#;
    redis.cli(&["PUBLISH", "pn:g", line]);
    assert_eq!(
        client.json().await,
        json!({"type": "subscribed", "topic": "news"})
    );
    counts(&node, "news", 1).await;
    redis.cli(&[
        "PUBLISH",
        "pn:g",
        r#"{"to":{"topics":["news","none"]},"data":1}"#,
    ]);
    hears(&mut client, "news", 1).await;
    let bad = [
        r#"{"cmd":"subscribe","topic":"news"}"#,
        r#"{"cmd":"unsubscribe","to":{"user":"42"}}"#,
        r#"{"cmd":"subscribe","topic":"news","to":{"all":true}}"#,
    ];
    for line in bad {
        redis.cli(&["PUBLISH", "pn:g", line]);
    }
    let line = r#"{"cmd":"unsubscribe","topic":"news","to":{"user":"42"}}"#;
    redis.cli(&["PUBLISH", "pn:g", line]);
    assert_eq!(
        client.json().await,
        json!({"type": "unsubscribed", "topic": "news"})
    );
    assert_eq!(node.metric("bad_envelopes_total").await, 3.0);
}
