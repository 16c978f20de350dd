//! Redis forgets, goes away, comes late, cuts us off: clients keep their sockets, nothing is
//! said that is not so, and all is back by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::transports::{Transport, connect};
use crate::common::{
    Client, Node, PATIENCE, Redis, eventually, http, node, node_on, post, send_signal, start_node,
};
use crate::crowd::Crowd;
use crate::ledger::Ledger;
use crate::raw::{Api, Event, Resp, Wire};

/// Connected while Redis forgets them.
const MANY: usize = 5_000;
/// No test fails because a machine is slow; what was measured is printed.
const GENEROUS: Duration = PATIENCE;

fn quiet_node(redis: &Redis, name: &str) -> Node {
    let url = redis.url();
    node(&[
        ("PUSH_REDIS_URL", &url),
        ("PUSH_NODE_NAME", name),
        ("PUSH_LOG", "info"),
    ])
}

/// Whether the node is ready, and if not, why.
async fn readiness(node: &Node) -> Result<(), String> {
    let answer = http()
        .get(node.admin_url("/readyz"))
        .send()
        .await
        .expect("an answer");
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.expect("JSON");
    match status {
        200 => Ok(()),
        503 => Err(body["reason"].as_str().expect("a reason").to_owned()),
        other => panic!("/readyz answered {other} {body}"),
    }
}

async fn until_not_ready(node: &Node) -> String {
    eventually(async || match readiness(node).await {
        Ok(()) => Err("still ready"),
        Err(reason) => Ok(reason),
    })
    .await
}

async fn until_ready(node: &Node) {
    eventually(async || readiness(node).await).await;
}

/// Five thousand users on a node, and a fault that makes Redis forget them.
async fn forgotten_users_are_routed_again(fault: impl FnOnce(&mut Redis)) {
    let mut redis = Redis::start();
    let (a, b) = (quiet_node(&redis, "a"), quiet_node(&redis, "b"));
    let mut crowd = Crowd::of(&a, "u", MANY).await;
    assert_eq!(crowd.heard_by_now(), []);

    fault(&mut redis);
    let start = Instant::now();
    let mut client = Resp::connect(redis.port()).await;
    eventually(async || {
        let known = client.call(&["KEYS", "pn:user:*"]).await.texts().len();
        if known == MANY {
            Ok(())
        } else {
            Err(format!("{known} rows of {MANY}"))
        }
    })
    .await;
    let rows = start.elapsed();
    // All of them from the other node, each answered `routed`.
    let users: Vec<String> = (0..MANY).map(|i| format!("u{i}")).collect();
    let ledger = Ledger::new(&users, MANY, 1);
    let lines: Vec<String> = ledger.plan[0]
        .iter()
        .map(|entry| {
            format!(
                r#"{{"to":{{"user":"{}"}},"data":{},"timeout_ms":30000}}"#,
                entry.user, entry.data
            )
        })
        .collect();
    let mut api = Api::connect(b.client_address()).await;
    let (_, answers) = api.push("application/x-ndjson", &lines.join("\n")).await;
    let routed = answers
        .lines()
        .filter(|line| line.contains(r#""status":"routed""#))
        .count();
    let other = answers
        .lines()
        .find(|line| !line.contains(r#""status":"routed""#));
    assert_eq!(routed, MANY, "of {MANY} pushes; another answer: {other:?}");
    let everybody = json!({"to": {"all": true}, "data": "end"});
    assert_eq!(post(&b.push_url, &everybody).await.0, 200);
    // Panics if anybody hears a close frame or the end of the stream.
    let heard = crowd.all_hear_until("\"end\"").await;
    let delivered = start.elapsed();
    println!("{MANY} users: rows back after {rows:.1?}, all reached after {delivered:.1?}");
    ledger.audit(&crowd.members, &heard).assert_flawless();
    assert!(
        delivered < GENEROUS,
        "routed again only after {delivered:?}"
    );
    let closed = a.metric("closes_total").await;
    assert_eq!(closed, 0.0, "connections closed");
}

#[tokio::test]
async fn users_are_routed_again_after_redis_was_restarted_empty() {
    forgotten_users_are_routed_again(Redis::restart).await;
}

#[tokio::test]
async fn users_are_routed_again_after_a_flushall() {
    let flush = |redis: &mut Redis| assert_eq!(redis.cli(&["FLUSHALL"]), "OK");
    forgotten_users_are_routed_again(flush).await;
}

#[tokio::test]
async fn a_cut_subscription_is_renewed_counted_and_told_to_v1_clients() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut v1 = Crowd::new();
    v1.join_as(
        (0..100).map(|i| (a.client_address(), format!("v1-{i}"))),
        true,
    )
    .await;
    let mut plain = Crowd::of(&a, "plain", 10).await;
    for _ in 0..100 {
        let (_, event) = v1.next().await;
        assert!(
            matches!(&event, Event::Text(text) if text.contains("ready")),
            "{event:?}"
        );
    }
    assert_eq!(a.losses().await, 0.0);

    assert_eq!(redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]), "2");
    let start = Instant::now();
    eventually(async || {
        let push = json!({"to": {"user": "plain0"}, "data": "back", "timeout_ms": 1000});
        let (status, answer) = post(&b.push_url, &push).await;
        if status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    println!("a push is taken again after {:.1?}", start.elapsed());
    assert_eq!(plain.next().await, (0, Event::Text("\"back\"".to_owned())));
    eventually(async || match a.losses().await {
        0.0 => Err("no loss counted"),
        _ => Ok(()),
    })
    .await;
    v1.all_hear_until(r#"{"type":"resync"}"#).await;
    let told = start.elapsed();
    println!("every v1 client told to resync after {told:.1?}");
    assert!(told < GENEROUS, "told only after {told:?}");
    // Plain clients cannot be told: they hear nothing.
    let push = json!({"to": {"all": true}, "data": "end"});
    assert_eq!(post(&b.push_url, &push).await.0, 200);
    assert_eq!(plain.all_hear_until("\"end\"").await, []);
}

#[tokio::test]
async fn a_node_starts_without_redis_serves_its_own_and_is_ready_once_redis_comes() {
    let mut redis = Redis::start();
    redis.kill();
    let node = start_node(&[("PUSH_REDIS_URL", &redis.url()), ("PUSH_NODE_NAME", "a")]);
    let reason = readiness(&node).await.expect_err("ready without Redis");
    assert!(!reason.is_empty());

    let start = Instant::now();
    let mut v1 = Client::v1(&node.ws_url("42")).await;
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_millis(900),
        "let in after {waited:?}, nothing written"
    );
    assert!(waited < GENEROUS, "let in only after {waited:?}");
    let next = v1.json().await;
    assert_eq!(next["type"], "degraded", "{next}");

    let push = json!({"to": {"user": "42"}, "data": "local", "timeout_ms": 500});
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("routed")),
        "{answer}"
    );
    assert_eq!(v1.json().await["data"], "local");
    let push = json!({"to": {"user": "unknown"}, "data": 1, "timeout_ms": 500});
    let (status, answer) = post(&node.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (503, &json!("unrouted")),
        "{answer}"
    );

    redis.restart();
    let start = Instant::now();
    until_ready(&node).await;
    println!("ready {:.1?} after Redis came", start.elapsed());
    eventually(async || match redis.cli(&["HKEYS", "pn:user:{42}"]) {
        field if field == v1.connection() => Ok(()),
        other => Err(other),
    })
    .await;
}

/// A push that may take 1 s is answered by then, whatever a command to Redis may take.
const ANSWERED: Duration = Duration::from_millis(2_500);

/// As `fault` makes Redis answer nothing, until `repair`.
async fn sockets_and_local_pushes_outlive(fault: impl Fn(&mut Redis), repair: impl Fn(&mut Redis)) {
    let mut redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut here = connect(Transport::Tcp, &a, "here", None).await;
    let mut there = connect(Transport::Sse, &b, "there", None).await;
    fault(&mut redis);

    let push =
        |user: &str, data: &str| json!({"to": {"user": user}, "data": data, "timeout_ms": 1000});
    for round in 0..2 {
        let sent = Instant::now();
        let body = push("here", "local");
        let answer = tokio::spawn({
            let url = a.push_url.clone();
            async move { post(&url, &body).await }
        });
        assert_eq!(here.json().await["data"], "local", "round {round}");
        let arrived = sent.elapsed();
        let (status, answer) = answer.await.expect("an answer");
        assert_eq!(
            (status, &answer["status"]),
            (200, &json!("routed")),
            "{answer}"
        );
        println!(
            "local push delivered after {arrived:.1?}, answered after {:.1?}",
            sent.elapsed()
        );

        // A machine that is slow for once is no fault: one of some must be in time.
        let mut took = Vec::new();
        while took.len() < 5 && took.last().is_none_or(|took| *took >= ANSWERED) {
            let sent = Instant::now();
            let (status, answer) = post(&a.push_url, &push("there", "lost")).await;
            took.push(sent.elapsed());
            assert_eq!(
                (status, &answer["status"]),
                (503, &json!("unrouted")),
                "{answer}"
            );
        }
        println!("remote push refused after {took:.2?}");
        assert!(
            took.iter().any(|took| *took < ANSWERED),
            "asked to answer in 1 s, answered after {took:?}"
        );
        if round == 0 {
            assert!(!until_not_ready(&a).await.is_empty(), "with a reason");
        }
    }
    // Long enough for the clients to hear of it.
    assert_eq!(here.json().await["type"], "degraded");
    assert_eq!(there.json().await["type"], "degraded");

    repair(&mut redis);
    let start = Instant::now();
    until_ready(&a).await;
    until_ready(&b).await;
    eventually(async || {
        let (status, answer) = post(&a.push_url, &push("there", "back")).await;
        if (status, &answer["status"]) == (200, &json!("routed")) {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    println!("routed again {:.1?} after Redis was back", start.elapsed());
    loop {
        let next = there.json().await;
        if next["type"] == "message" {
            // What was refused must not come now.
            assert_eq!(next["data"], "back", "{next}");
            break;
        }
        assert_eq!(next["type"], "resync", "{next}");
    }
    for node in [&a, &b] {
        assert_eq!(node.metric("closes_total").await, 0.0, "connections closed");
    }
}

#[tokio::test]
async fn sockets_and_local_pushes_outlive_a_dead_redis() {
    sockets_and_local_pushes_outlive(Redis::kill, Redis::restart).await;
}

#[tokio::test]
async fn sockets_and_local_pushes_outlive_a_frozen_redis() {
    let stop = |redis: &mut Redis| send_signal(redis.pid(), "STOP");
    let cont = |redis: &mut Redis| send_signal(redis.pid(), "CONT");
    sockets_and_local_pushes_outlive(stop, cont).await;
}

/// The connections to Redis go silent without an end. `pushes` senders keep asking meanwhile.
async fn silent_connections_are_replaced(pushes: usize) {
    let redis = Redis::start();
    let wire = Wire::to(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", wire.port);
    let started = tokio::task::spawn_blocking(move || {
        node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")])
    });
    let a = started.await.expect("a node");
    let b = node_on(&redis, "b");
    let mut here = Client::v1(&a.ws_url("here")).await;
    let load: Vec<_> = (0..pushes)
        .map(|_| {
            let address = a.client_address();
            tokio::spawn(async move {
                let mut api = Api::connect(address).await;
                let body = r#"{"to":{"user":"nobody"},"data":1,"timeout_ms":100}"#;
                loop {
                    api.push("application/json", body).await;
                }
            })
        })
        .collect();

    wire.silence();
    let start = Instant::now();
    eventually(async || {
        let push = json!({"to": {"user": "nobody"}, "data": 1, "timeout_ms": 1000});
        match post(&a.push_url, &push).await {
            (200, _) => Ok(()),
            (_, answer) => Err(answer),
        }
    })
    .await;
    println!(
        "{pushes} senders: looked up again after {:.1?}",
        start.elapsed()
    );
    eventually(async || {
        let push =
            json!({"to": {"user": "here"}, "data": "heard", "wait": "written", "timeout_ms": 1000});
        match post(&b.push_url, &push).await {
            (200, answer) if answer["status"] == "written" => Ok(()),
            (_, answer) => Err(answer),
        }
    })
    .await;
    println!(
        "{pushes} senders: subscribed again after {:.1?}",
        start.elapsed()
    );
    let mut types = Vec::new();
    while !types.contains(&json!("resync")) || !types.contains(&json!("message")) {
        types.push(here.json().await["type"].clone());
    }
    load.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The connections of the pushes are up and find nothing wrong.
#[tokio::test]
async fn a_silent_connection_of_the_lease_alone_is_replaced() {
    let redis = Redis::start();
    let wire = Wire::to(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", wire.port);
    let started = tokio::task::spawn_blocking(move || {
        node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")])
    });
    let a = started.await.expect("a node");
    let _here = Client::v1(&a.ws_url("here")).await;
    wire.silence_those_with("pn:node:");
    // No lease, so that one is there only if it is written again.
    redis.cli(&["DEL", "pn:node:a"]);
    eventually(async || {
        let lease = redis.cli(&["EXISTS", "pn:node:a"]);
        (lease.trim() == "1").then_some(()).ok_or(lease)
    })
    .await;
    let push = json!({"to": {"user": "here"}, "data": 1, "keep": true});
    eventually(async || match post(&a.push_url, &push).await {
        (200, _) => Ok(()),
        (_, answer) => Err(answer),
    })
    .await;
}

#[tokio::test]
async fn silent_connections_of_an_idle_node_are_replaced() {
    silent_connections_are_replaced(0).await;
}

#[tokio::test]
async fn silent_connections_of_a_busy_node_are_replaced() {
    silent_connections_are_replaced(8).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_once_and_not_shown() {
    let redis = Redis::start_with(&["--requirepass", "correct-horse"]);
    let url = format!("redis://:battery-staple@127.0.0.1:{}", redis.port());
    let node = start_node(&[("PUSH_REDIS_URL", &url), ("PUSH_LOG", "info")]);
    let said = |log: &str| {
        log.lines()
            .filter(|line| line.to_lowercase().contains("redis"))
            .count()
    };
    eventually(async || match said(&node.log()) {
        0 => Err("nothing in the log"),
        _ => Ok(()),
    })
    .await;
    // A few attempts later.
    let refused = |info: String| -> usize {
        let field = info
            .lines()
            .find_map(|line| line.strip_prefix("errorstat_WRONGPASS:count="));
        field.map_or(0, |count| count.trim().parse().expect("a number"))
    };
    eventually(
        async || match refused(redis.cli(&["-a", "correct-horse", "INFO", "errorstats"])) {
            count if count > 4 => Ok(()),
            count => Err(format!("Redis has refused {count} attempts")),
        },
    )
    .await;
    assert!(
        readiness(&node).await.is_err(),
        "ready with a wrong password"
    );
    let log = node.log();
    assert!(
        !log.contains("battery-staple"),
        "the password is in the log:\n{log}"
    );
    assert_eq!(said(&log), 1, "said once:\n{log}");
    assert!(
        log.contains("WRONGPASS") || log.to_lowercase().contains("password"),
        "{log}"
    );
}

/// No new row, no lease: but who is there stays there, and gets what is sent.
#[tokio::test]
async fn a_full_redis_costs_nobody_who_is_connected() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut here = Client::v1(&a.ws_url("here")).await;
    let full = ["CONFIG", "SET", "maxmemory", "1"];
    assert_eq!(redis.cli(&full), "OK");
    let start = Instant::now();
    let mut new = Client::v1(&a.ws_url("new")).await;
    println!("let in after {:.1?}", start.elapsed());
    assert_eq!(new.json().await["type"], "degraded");
    let reason = until_not_ready(&a).await;
    println!("not ready after {:.1?}: {reason}", start.elapsed());
    assert_eq!(reason, "Redis is out of memory");
    eventually(
        async || match redis.cli(&["EXISTS", "pn:node:a", "pn:node:b"]) {
            none if none == "0" => Ok(()),
            some => Err(some),
        },
    )
    .await;
    println!("leases gone after {:.1?}", start.elapsed());
    let push = |user: &str, data: &str| json!({"to": {"user": user}, "data": data, "wait": "written", "timeout_ms": 5000});
    let (_, answer) = post(&b.push_url, &push("here", "still")).await;
    assert_eq!(answer["status"], "written", "{answer}");
    // Nobody but its own node knows of this one.
    let (_, answer) = post(&a.push_url, &push("new", "local")).await;
    assert_eq!(answer["status"], "written", "{answer}");
    let (status, answer) = post(&b.push_url, &push("new", "lost")).await;
    assert_eq!(
        (status, &answer["status"]),
        (503, &json!("unrouted")),
        "{answer}"
    );
    let shown = http().get(b.url("/v1/users/here")).send().await;
    let shown: Value = shown.expect("an answer").json().await.expect("JSON");
    assert_eq!(shown["online"], true, "{shown}");

    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    let start = Instant::now();
    until_ready(&a).await;
    until_ready(&b).await;
    eventually(
        async || match post(&b.push_url, &push("new", "back")).await.1 {
            answer if answer["status"] == "written" => Ok(()),
            answer => Err(answer),
        },
    )
    .await;
    println!("all known {:.1?} after there was room", start.elapsed());
    for (client, expected) in [
        (&mut here, vec!["still"]),
        (&mut new, vec!["local", "back"]),
    ] {
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            let next = client.json().await;
            if next["type"] == "message" {
                heard.push(next["data"].as_str().expect("text").to_owned());
            } else {
                // Cut off, and told to fetch what may have passed it by when that was over.
                let kinds = ["degraded", "resync"];
                assert!(
                    kinds.contains(&next["type"].as_str().expect("a type")),
                    "{next}"
                );
            }
        }
        assert_eq!(heard, expected);
    }
    assert_eq!(
        redis.cli(&["EXISTS", "pn:events"]),
        "0",
        "one was taken for dead"
    );
}
