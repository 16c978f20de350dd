//! Commands to nodes, with their answers collected: who answers, who is missing, and what a
//! command does on each node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::topics::call;
use crate::common::{Client, Node, Redis, eventually, node_on, post, send_signal};
use crate::publishers::inbox;
use crate::raw::{Answer, Resp};

async fn command(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.url("/v1/commands"), &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer
}

async fn stats(node: &Node, query: &str) -> Value {
    let (status, answer) = call(node, "GET", &format!("/v1/stats{query}")).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The nodes that answered, sorted.
fn answered(answer: &Value) -> Vec<&str> {
    let answers = answer["answers"].as_array().expect("answers");
    let mut nodes: Vec<&str> = answers
        .iter()
        .map(|answer| answer["node"].as_str().expect("a node"))
        .collect();
    nodes.sort_unstable();
    nodes
}

/// Waits until each of these nodes sees all of them.
async fn acquainted(nodes: &[&Node]) {
    for node in nodes {
        eventually(async || {
            let seen = stats(node, "").await;
            let all = nodes
                .iter()
                .all(|other| answered(&seen).contains(&&*other.id));
            if all { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

#[tokio::test]
async fn every_node_says_how_it_is_and_a_dead_one_is_named() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    let _clients = (
        Client::v1(&a.ws_url("1")).await,
        Client::v1(&a.ws_url("1")).await,
        Client::v1(&b.ws_url("2")).await,
    );
    acquainted(&[&a, &b, &c]).await;
    let all = stats(&b, "").await;
    assert_eq!(answered(&all), [&*a.id, &*b.id, &*c.id], "{all}");
    assert_eq!(all["missing"], json!([]));
    let of = |node: &Node| {
        let mut answers = all["answers"].as_array().expect("answers").iter();
        answers
            .find(|answer| answer["node"] == *node.id)
            .expect("its answer")
    };
    assert_eq!(
        (&of(&a)["connections"], &of(&a)["users"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(of(&b)["totals"]["connects"], 1, "{all}");
    assert_eq!(
        (&of(&c)["connections"], &of(&c)["ready"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(of(&c)["version"], pushnode::VERSION);
    let one = stats(&b, "?node=a&node=nobody").await;
    assert_eq!(answered(&one), [&*a.id]);
    assert_eq!(one["missing"], json!(["nobody"]));

    // Its lease outlives it by some seconds, and until then it counts as a node.
    let dead = c.id.clone();
    c.kill();
    redis.until_nobody_listens(&dead).await;
    let start = Instant::now();
    let rest = command(&a, json!({"cmd": "stats", "timeout_ms": 20_000})).await;
    assert_eq!(answered(&rest), [&*a.id, &*b.id]);
    assert_eq!(rest["missing"], json!([dead]));
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "Redis tells at once that nobody listens"
    );
}

#[tokio::test]
async fn a_node_that_hangs_is_missing_at_the_deadline() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    acquainted(&[&a, &b]).await;
    send_signal(b.pid(), "STOP");
    let answer = command(&a, json!({"cmd": "stats", "timeout_ms": 700})).await;
    send_signal(b.pid(), "CONT");
    assert_eq!(answered(&answer), [&*a.id]);
    assert_eq!(answer["missing"], json!([b.id]));
}

#[tokio::test]
async fn a_kick_ends_connections_on_every_node_and_counts_them() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    acquainted(&[&a, &b]).await;
    let mut here = Client::v1(&a.ws_url("42")).await;
    let mut there = Client::v1(&b.ws_url("42")).await;
    let mut other = Client::v1(&b.ws_url("43")).await;
    // Only where it is told to: nobody else may have it.
    let body = json!({"cmd": "kick", "fd": there.connection()});
    let answer = command(&a, body).await;
    assert_eq!(
        answer,
        json!({"answers": [{"node": b.id, "connections": 1}], "missing": []})
    );
    assert_eq!(there.close_frame().await.0, 4001);
    there.end().await;

    let answer = command(&b, json!({"cmd": "kick", "user": "42"})).await;
    assert_eq!(answered(&answer), [&*a.id, &*b.id]);
    let counts: u64 = answer["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| answer["connections"].as_u64().expect("a number"))
        .sum();
    assert_eq!(counts, 1, "{answer}");
    assert_eq!(here.close_frame().await.0, 4001);
    post(
        &a.push_url,
        &json!({"to": {"user": "43"}, "data": "still here"}),
    )
    .await;
    other.hears_next("still here").await;
}

#[tokio::test]
async fn a_drain_sends_away_the_nodes_that_are_named_and_no_other() {
    let redis = Redis::start();
    let (a, mut b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    acquainted(&[&a, &b]).await;
    let (status, refused) = post(&a.url("/v1/commands"), &json!({"cmd": "drain"})).await;
    assert_eq!(status, 400, "{refused}");
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("nodes"),
        "{refused}"
    );
    let answer = command(&a, json!({"cmd": "drain", "nodes": ["b"]})).await;
    assert_eq!(
        answer,
        json!({"answers": [{"node": b.id, "state": "draining"}], "missing": []})
    );
    let status = tokio::task::spawn_blocking(move || b.wait_exit())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(stats(&a, "?node=a").await["answers"][0]["state"], "up");
}

#[tokio::test]
async fn a_bad_command_is_refused_in_words() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    for (body, word) in [
        (json!({"cmd": "format-disk"}), "cmd must be"),
        (json!({"cmd": "stats", "user": "42"}), "only kick"),
        (json!({"cmd": "kick"}), "user or fd"),
        (json!({"cmd": "kick", "user": "4\u{1}2"}), "user"),
        (json!({"cmd": "stats", "nodes": []}), "nodes"),
        (json!({"cmd": "stats", "node": "a"}), "node"),
        (json!({"cmd": "stats", "timeout_ms": 0}), "timeout_ms"),
        (json!([]), "invalid"),
    ] {
        let (status, answer) = post(&node.url("/v1/commands"), &body).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(
            status == 400 && message.contains(word),
            "{body}: {status} {answer}"
        );
    }
}

/// Questions and answers are lines like any others: a service with a Redis client can ask too.
#[tokio::test]
async fn whoever_can_publish_can_ask() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut answers = inbox(&redis, "ops.1").await;
    let mut publisher = Resp::connect(redis.port()).await;
    let channel = format!("pn:n:{{{}}}", node.id);
    let mut next = async || loop {
        let Answer::List(message) = answers.next().await else {
            panic!("not a message");
        };
        let lines = message[2].text().lines();
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        if let Some(answer) = lines.find(|line| line["cmd"] == "answer") {
            return answer;
        }
    };
    for (what, reference) in [("stats", "s"), ("weather", "w")] {
        let line =
            json!({"cmd": "ask", "what": what, "reply": {"node": "ops.1", "ref": reference}});
        publisher
            .call(&["PUBLISH", &channel, &line.to_string()])
            .await;
        let answer = next().await;
        assert_eq!(
            (&answer["ref"], &answer["node"]),
            (&json!(reference), &json!(node.id))
        );
        match what {
            "stats" => assert_eq!(answer["body"]["state"], "up", "{answer}"),
            _ => assert_eq!(answer["body"]["error"]["code"], "bad_question", "{answer}"),
        }
    }
}
