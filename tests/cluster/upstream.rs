//! What clients send to services: into the right stream, once, in order, with the truth about it;
//! shared among a service's workers; and the reply back to the connection that asked.

use std::process::{Child, Command};
use std::time::Instant;

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::common::{Client, Node, PATIENCE, Redis, eventually, node_with, post, send_signal};
use crate::documents::block;
use crate::publishers::tool;
use crate::raw::{Answer, Resp};
use crate::redis_groups::RedisCluster;

const ROUTES: (&str, &str) = ("PUSH_UPSTREAM_ROUTES", "chat.*=chat,order.new=orders");

fn gateway(redis: &Redis, name: &str, settings: &[(&str, &str)]) -> Node {
    let mut all = vec![ROUTES];
    all.extend(settings);
    node_with(redis, name, &all)
}

/// Sends and answers what the client hears of it.
async fn sent(client: &mut Client, route: &str, reference: Value, data: Value) -> Value {
    let object = json!({"type": "send", "route": route, "ref": reference, "data": data});
    client.send(&object.to_string()).await;
    let heard = client.json().await;
    assert_eq!(heard["ref"], reference, "{heard}");
    heard
}

/// The entries of a stream: fields and values.
async fn entries(redis: &mut Resp, stream: &str) -> Vec<Vec<(String, String)>> {
    let Answer::List(entries) = redis.call(&["XRANGE", stream, "-", "+"]).await else {
        panic!("no list");
    };
    let fields = |entry: Answer| {
        let Answer::List(entry) = entry else {
            panic!("no entry");
        };
        let words = entry[1].texts();
        let pairs = words
            .chunks(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()));
        pairs.collect()
    };
    entries.into_iter().map(fields).collect()
}

fn field<'a>(entry: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = entry.iter().find(|(field, _)| field == name);
    found.map(|(_, value)| value.as_str())
}

#[tokio::test]
async fn what_a_client_sends_is_in_the_stream_of_its_service() {
    let redis = Redis::start();
    let node = gateway(&redis, "a", &[]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let from = client.connection();
    let accepted = json!({"type": "reply", "ref": "r1", "status": "accepted"});
    let data = json!({"text": "a\n\"b\"", "n": 1.5});
    assert_eq!(
        sent(&mut client, "chat.say", json!("r1"), data.clone()).await,
        accepted
    );
    assert_eq!(
        sent(&mut client, "order.new", json!(7), Value::Null).await["status"],
        "accepted"
    );
    client
        .send(r#"{"type":"send","route":"chat.leave","data":[1]}"#)
        .await;
    assert_eq!(
        client.json().await,
        json!({"type": "reply", "status": "accepted"})
    );

    let mut raw = Resp::connect(redis.port()).await;
    let chat = entries(&mut raw, "pn:upstream:chat").await;
    assert_eq!(chat.len(), 2, "{chat:?}");
    assert_eq!(field(&chat[0], "route"), Some("chat.say"));
    assert_eq!(field(&chat[0], "user"), Some("42"));
    assert_eq!(field(&chat[0], "from"), Some(&*from));
    assert_eq!(field(&chat[0], "ref"), Some("\"r1\""));
    let read: Value = serde_json::from_str(field(&chat[0], "data").expect("data")).expect("JSON");
    assert_eq!(read, data);
    assert_eq!(
        (field(&chat[1], "route"), field(&chat[1], "ref")),
        (Some("chat.leave"), None)
    );
    let orders = entries(&mut raw, "pn:upstream:orders").await;
    assert_eq!(
        (field(&orders[0], "ref"), field(&orders[0], "data")),
        (Some("7"), Some("null"))
    );

    for (object, code) in [
        (
            json!({"type": "send", "route": "weather", "ref": 1, "data": 1}),
            "no_route",
        ),
        (json!({"type": "send", "ref": 1, "data": 1}), "no_route"),
        (
            json!({"type": "send", "route": "chat.*", "ref": 1, "data": 1}),
            "bad_message",
        ),
        (
            json!({"type": "send", "route": "x".repeat(129), "ref": 1, "data": 1}),
            "bad_message",
        ),
        (
            json!({"type": "send", "route": "chat.say", "ref": 1}),
            "bad_message",
        ),
        (
            json!({"type": "send", "route": 7, "ref": 1, "data": 1}),
            "bad_message",
        ),
    ] {
        client.send(&object.to_string()).await;
        let heard = client.json().await;
        let seen = (&heard["type"], &heard["code"], &heard["ref"]);
        assert_eq!(
            seen,
            (&json!("error"), &json!(code), &json!(1)),
            "{object}: {heard}"
        );
    }
    assert_eq!(redis.cli(&["KEYS", "pn:upstream:*"]).lines().count(), 2);
    assert_eq!(
        node.labelled("upstream_total", "status=\"accepted\"").await,
        3.0
    );
    assert_eq!(
        node.labelled("upstream_total", "status=\"no_route\"").await,
        2.0
    );
}

#[tokio::test]
async fn a_clients_messages_keep_their_order() {
    let redis = Redis::start();
    let node = gateway(
        &redis,
        "a",
        &[("PUSH_SEND_RATE", "0"), ("PUSH_CLIENT_RATE", "0")],
    );
    let mut client = Client::v1(&node.ws_url("42")).await;
    for round in 0..5 {
        // As many as may wait, without waiting for a reply in between.
        for n in 0..32 {
            let object =
                json!({"type": "send", "route": "chat.say", "ref": n, "data": round * 32 + n});
            client
                .socket
                .feed(Message::text(object.to_string()))
                .await
                .expect("fed");
        }
        client.socket.flush().await.expect("sent");
        for n in 0..32 {
            let heard = client.json().await;
            assert_eq!(
                heard,
                json!({"type": "reply", "ref": n, "status": "accepted"})
            );
        }
    }
    let mut raw = Resp::connect(redis.port()).await;
    let chat = entries(&mut raw, "pn:upstream:chat").await;
    let order: Vec<u64> = chat
        .iter()
        .map(|entry| {
            field(entry, "data")
                .expect("data")
                .parse()
                .expect("a number")
        })
        .collect();
    assert_eq!(order, (0..160).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_service_replies_to_the_connection_that_asked_and_to_no_other() {
    let redis = Redis::start();
    let (a, b) = (gateway(&redis, "a", &[]), gateway(&redis, "b", &[]));
    let mut asker = Client::v1(&a.ws_url("42")).await;
    let mut other = Client::v1(&a.ws_url("42")).await;
    let from = asker.connection();
    sent(&mut asker, "chat.say", json!("r0"), json!(1)).await;
    let url = |node: &Node| node.url("/v1/reply");
    // By HTTP, through either node.
    for node in [&a, &b] {
        let body = json!({"to": {"fd": from, "user": "42"}, "ref": "r\"1", "data": {"ok": 1}, "wait": "written"});
        let (status, answer) = post(&url(node), &body).await;
        assert_eq!(
            (status, &answer["status"], &answer["connections"]),
            (200, &json!("written"), &json!(1)),
            "{answer}"
        );
        let expected =
            json!({"type": "reply", "ref": "r\"1", "status": "answered", "data": {"ok": 1}});
        assert_eq!(asker.json().await, expected);
    }
    let body = json!({"to": {"fd": from}, "ref": 7, "error": "sold out"});
    assert_eq!(post(&url(&b), &body).await.0, 200);
    let expected = json!({"type": "reply", "ref": 7, "status": "failed", "error": "sold out"});
    assert_eq!(asker.json().await, expected);
    // By Redis alone.
    let channel = format!("pn:n:{{{}}}", a.id);
    let line = json!({"cmd": "reply", "to": {"fd": from, "user": "42"}, "ref": null, "data": null});
    assert_eq!(redis.cli(&["PUBLISH", &channel, &line.to_string()]), "1");
    assert_eq!(
        asker.json().await,
        json!({"type": "reply", "status": "answered", "data": null})
    );

    // A name that is not this connection's reaches nobody.
    for to in [
        json!({"fd": from, "user": "43"}),
        json!({"fd": format!("{}/4711", a.id)}),
    ] {
        let body = json!({"to": to, "ref": 1, "data": 1, "wait": "written"});
        let (status, answer) = post(&url(&b), &body).await;
        assert_eq!(
            (status, &answer["status"]),
            (200, &json!("offline")),
            "{answer}"
        );
    }
    for (body, word) in [
        (json!({"to": {"user": "42"}, "data": 1}), "to.fd"),
        (json!({"to": {"fd": from}}), "data or error"),
        (
            json!({"to": {"fd": from}, "data": 1, "error": "e"}),
            "data or error",
        ),
        (json!({"to": {"fd": from}, "error": 1}), "text"),
        (json!({"to": {"fd": from}, "data": 1, "ref": {}}), "ref"),
        (json!({"to": {"fd": from}, "data": 1, "keep": true}), "keep"),
    ] {
        let (status, answer) = post(&url(&a), &body).await;
        let message = answer["error"]["message"].as_str().expect("words");
        assert!(status == 400 && message.contains(word), "{body}: {answer}");
    }
    post(&a.push_url, &json!({"to": {"user": "42"}, "data": "end"})).await;
    asker.hears_next("end").await;
    other.hears_next("end").await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_is_told_and_stays() {
    let redis = Redis::start();
    let node = gateway(&redis, "a", &[("PUSH_SEND_RATE", "3")]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    for n in 0..20 {
        let object = json!({"type": "send", "route": "chat.say", "ref": n, "data": n});
        client
            .socket
            .feed(Message::text(object.to_string()))
            .await
            .expect("fed");
    }
    client.socket.flush().await.expect("sent");
    let (mut accepted, mut limited) = (0, 0);
    for _ in 0..20 {
        let heard = client.json().await;
        match heard["type"].as_str() {
            Some("reply") => accepted += 1,
            _ => {
                assert_eq!(heard["code"], "rate_limited", "{heard}");
                assert_eq!(heard["retry_ms"], 1000, "{heard}");
                limited += 1;
            }
        }
    }
    assert!(
        accepted >= 3 && limited > 0,
        "{accepted} accepted, {limited} refused"
    );
    assert_eq!(
        redis.cli(&["XLEN", "pn:upstream:chat"]),
        accepted.to_string()
    );
    // The next second begins anew.
    eventually(async || {
        let heard = sent(&mut client, "chat.say", json!("again"), json!(1)).await;
        if heard["status"] == "accepted" {
            Ok(())
        } else {
            Err(heard)
        }
    })
    .await;
}

/// Reads and finishes so many entries as a worker would.
fn finish(redis: &Redis, count: usize) {
    let read = redis.cli(&[
        "XREADGROUP",
        "GROUP",
        "g",
        "w",
        "COUNT",
        &count.to_string(),
        "STREAMS",
        "pn:upstream:chat",
        ">",
    ]);
    let is_id = |word: &&str| {
        word.split_once('-').is_some_and(|(ms, n)| {
            ms.len() == 13 && ms.bytes().chain(n.bytes()).all(|b| b.is_ascii_digit())
        })
    };
    let ids: Vec<&str> = read.lines().map(str::trim).filter(is_id).collect();
    assert_eq!(ids.len(), count, "{read}");
    redis.cli(&[&["XACK", "pn:upstream:chat", "g"], &ids[..]].concat());
}

#[tokio::test]
async fn a_service_that_is_behind_makes_clients_wait_and_loses_nothing() {
    let redis = Redis::start();
    let node = gateway(
        &redis,
        "a",
        &[
            ("PUSH_UPSTREAM_BACKLOG", "5"),
            ("PUSH_SEND_RATE", "0"),
            ("PUSH_UPSTREAM_LENGTH", "1000"),
        ],
    );
    let mut client = Client::v1(&node.ws_url("42")).await;
    let mut fill = async || {
        let mut added = 0;
        loop {
            let heard = sent(&mut client, "chat.say", json!(added), json!(added)).await;
            if heard["type"] == "error" {
                assert_eq!(
                    (&heard["code"], &heard["retry_ms"]),
                    (&json!("busy"), &json!(1000))
                );
                return added;
            }
            added += 1;
        }
    };
    // Nobody reads yet: what is there waits.
    assert_eq!(fill().await, 5);
    assert_eq!(redis.cli(&["XLEN", "pn:upstream:chat"]), "5");
    // A group that has read nothing, and one that has read and not finished.
    assert_eq!(
        redis.cli(&["XGROUP", "CREATE", "pn:upstream:chat", "g", "0"]),
        "OK"
    );
    assert_eq!(fill().await, 0);
    let until_room = async |expected: usize| {
        let mut client = Client::v1(&node.ws_url("43")).await;
        eventually(async || {
            let heard = sent(&mut client, "chat.say", json!("x"), json!("x")).await;
            if heard["status"] == "accepted" {
                Ok(())
            } else {
                Err(heard)
            }
        })
        .await;
        // Not its length: what is finished is trimmed.
        let info = redis.cli(&["XINFO", "STREAM", "pn:upstream:chat"]);
        let mut lines = info.lines().map(str::trim);
        lines
            .find(|line| *line == "entries-added")
            .expect("a field");
        assert_eq!(lines.next(), Some(&*expected.to_string()));
    };
    finish(&redis, 2);
    until_room(6).await;
    // One that was not read is deleted: now Redis cannot tell the lag, and it has to be counted.
    finish(&redis, 4);
    until_room(7).await;
    until_room(8).await;
    until_room(9).await;
    let last = redis.cli(&["XREVRANGE", "pn:upstream:chat", "+", "-", "COUNT", "2"]);
    let middle = last
        .lines()
        .map(str::trim)
        .filter(|line| line.len() == 15)
        .nth(1)
        .expect("an id");
    assert_eq!(redis.cli(&["XDEL", "pn:upstream:chat", middle]), "1");
    // Two unread are left, whatever the length.
    until_room(10).await;
    until_room(11).await;
    until_room(12).await;
    assert_eq!(fill().await, 0, "five wait again");
}

#[tokio::test]
async fn a_client_is_told_the_truth_while_redis_is_away() {
    let mut redis = Redis::start();
    let node = gateway(&redis, "a", &[("PUSH_SEND_RATE", "0")]);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let mut n = 0;
    let mut try_once = async || {
        n += 1;
        let object = json!({"type": "send", "route": "chat.say", "ref": n, "data": n});
        client.send(&object.to_string()).await;
        loop {
            let heard = client.json().await;
            if heard["ref"] == n {
                let code = heard["code"].as_str().unwrap_or("accepted").to_owned();
                return (n, code);
            }
        }
    };
    assert_eq!(try_once().await.1, "accepted");
    // Frozen: what was sent may arrive when it thaws, and what is refused must not.
    send_signal(redis.pid(), "STOP");
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(try_once().await);
    }
    send_signal(redis.pid(), "CONT");
    eventually(async || match try_once().await {
        (_, code) if code == "accepted" => Ok(()),
        other => {
            told.push(other.clone());
            Err(other)
        }
    })
    .await;
    let mut raw = Resp::connect(redis.port()).await;
    let there: Vec<String> = entries(&mut raw, "pn:upstream:chat")
        .await
        .iter()
        .map(|entry| field(entry, "data").expect("data").to_owned())
        .collect();
    for (n, code) in &told {
        match code.as_str() {
            "unavailable" => assert!(
                !there.contains(&n.to_string()),
                "{n} was refused: {there:?}"
            ),
            "unknown" => {}
            other => panic!("{n}: {other}"),
        }
    }
    redis.kill();
    eventually(async || match try_once().await {
        (_, code) if code == "unavailable" => Ok(()),
        other => Err(other),
    })
    .await;
    redis.restart();
    eventually(async || match try_once().await {
        (_, code) if code == "accepted" => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_found_in_a_redis_cluster() {
    let cluster = RedisCluster::start(0);
    let url = cluster.url();
    let settings = [
        ("PUSH_REDIS_URL", &*url),
        ("PUSH_NODE_NAME", "a"),
        ("PUSH_UPSTREAM_ROUTES", "a=a,b=b,c=c,d=d"),
    ];
    let node = tokio::task::block_in_place(|| crate::common::node(&settings));
    let mut client = Client::v1(&node.ws_url("42")).await;
    for route in ["a", "b", "c", "d"] {
        let heard = sent(&mut client, route, json!(route), json!(1)).await;
        assert_eq!(heard["status"], "accepted", "{heard}");
        let (_, owner) = cluster.owner(0, &format!("pn:upstream:{route}"));
        let length = cluster.servers[owner].cli(&["XLEN", &format!("pn:upstream:{route}")]);
        assert_eq!(length, "1");
    }
}

/// The worker of docs/services.md, with the addresses of the test. Killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(redis: &Redis, name: &str) -> Self {
        let text = block("python worker")
            .text
            .replace("redis://127.0.0.1:6379", &redis.url())
            .replace("30_000", "1000");
        let child = Command::new(tool("venv/bin/python"))
            .args(["-c", &text, name])
            .spawn()
            .expect("python");
        Self(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service's reply of this echo. One that comes again is what a worker did that was so slow
/// that another took over.
async fn answered(client: &mut Client, echo: &Value) -> Value {
    loop {
        let heard = client.json().await;
        if heard["data"]["echo"] == *echo {
            assert_eq!(heard["status"], "answered", "{heard}");
            return heard;
        }
        assert_eq!(heard["status"], "answered", "not a repeat: {heard}");
    }
}

/// The service's reply, once the node's own is there too: they come in any order.
async fn replied(client: &mut Client, reference: &Value, echo: &Value) -> Value {
    let (mut accepted, mut reply) = (false, None);
    while !accepted || reply.is_none() {
        let heard = client.json().await;
        if heard["status"] == "accepted" {
            assert_eq!(heard["ref"], *reference, "{heard}");
            accepted = true;
        } else if heard["data"]["echo"] == *echo {
            assert_eq!(
                (&heard["ref"], &heard["status"]),
                (reference, &json!("answered"))
            );
            reply = Some(heard);
        } else {
            assert_eq!(heard["status"], "answered", "not a repeat: {heard}");
        }
    }
    reply.expect("read above")
}

#[tokio::test]
async fn workers_share_the_load_and_take_over_what_a_dead_one_had() {
    let redis = Redis::start();
    let settings = [("PUSH_SEND_RATE", "0"), ("PUSH_CLIENT_RATE", "0")];
    let (a, b) = (
        gateway(&redis, "a", &settings),
        gateway(&redis, "b", &settings),
    );
    let mut here = Client::v1(&a.ws_url("42")).await;
    let mut there = Client::v1(&b.ws_url("43")).await;
    // One worker takes three and dies over them.
    for n in 0..3 {
        let heard = sent(
            &mut here,
            "chat.say",
            json!(n),
            json!({"text": format!("early {n}")}),
        )
        .await;
        assert_eq!(heard["status"], "accepted");
    }
    redis.cli(&["XGROUP", "CREATE", "pn:upstream:chat", "chat", "0"]);
    let read = [
        "XREADGROUP",
        "GROUP",
        "chat",
        "dead",
        "COUNT",
        "3",
        "STREAMS",
        "pn:upstream:chat",
        ">",
    ];
    assert!(redis.cli(&read).contains("early 2"));

    let workers = [Worker::start(&redis, "w1"), Worker::start(&redis, "w2")];
    let mut replies = Vec::new();
    for n in 0..3 {
        let reply = answered(&mut here, &json!(format!("early {n}"))).await;
        assert_eq!(reply["ref"], n, "{reply}");
        replies.push(reply);
    }
    let by = |replies: &[Value], worker: &str| {
        let of = |reply: &&Value| reply["data"]["by"] == worker;
        replies.iter().filter(of).count()
    };
    // Until the second has started, which may take a while.
    let start = Instant::now();
    for n in 0.. {
        for client in [&mut here, &mut there] {
            let object = json!({"type": "send", "route": "chat.say", "ref": n, "data": {"text": n.to_string()}});
            client.send(&object.to_string()).await;
            replies.push(replied(client, &json!(n), &json!(n.to_string())).await);
        }
        if n > 20 && by(&replies, "w1") > 0 && by(&replies, "w2") > 0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "one worker does it all");
    }
    eventually(async || {
        let pending = redis.cli(&["XPENDING", "pn:upstream:chat", "chat"]);
        if pending.starts_with('0') {
            Ok(())
        } else {
            Err(pending)
        }
    })
    .await;
    drop(workers);
}
