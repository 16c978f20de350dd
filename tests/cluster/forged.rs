//! What a publisher says in the name of a node. With `PUSH_CLUSTER_SECRET` it is not believed;
//! without, it ends no node, silences none and takes no memory.

use pushnode::protocol::ClusterKeys;
use serde_json::json;

use crate::common::presence::{joins, member, news, watch};
use crate::common::{Client, Node, Redis, eventually, http, node_on, node_with, post};
use crate::raw::Resp;

const SECRET: &str = "a secret of this cluster of 32 bytes";
const OTHER: &str = "another secret of as many bytes ...";

fn signing(redis: &Redis, name: &str, secrets: &str) -> Node {
    node_with(redis, name, &[("PUSH_CLUSTER_SECRET", secrets)])
}

fn own(node: &Node) -> String {
    format!("pn:n:{{{}}}", node.id)
}

async fn refused(node: &Node, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    node.labelled("lines_refused_total", &label).await
}

async fn until_refused(node: &Node, reason: &str, count: f64) {
    eventually(async || match refused(node, reason).await {
        seen if seen == count => Ok(()),
        seen => Err(format!("{seen} refused as {reason}")),
    })
    .await;
}

/// That both know that all sign.
async fn until_strict(redis: &Redis, nodes: &[&Node]) {
    for node in nodes {
        eventually(async || {
            let before = refused(node, "unsigned").await;
            redis.cli(&[
                "PUBLISH",
                &own(node),
                r#"{"cmd":"receipt","ref":"x","node":"z.1","status":"written"}"#,
            ]);
            eventually(async || {
                let heard = node.metric("receipts_unclaimed_total").await;
                match refused(node, "unsigned").await - before {
                    0.0 if heard == 0.0 => Err("not taken yet"),
                    more => Ok(more),
                }
            })
            .await;
            match refused(node, "unsigned").await > before {
                true => Ok(()),
                false => Err("unsigned lines are believed"),
            }
        })
        .await;
    }
}

async fn is_ready(node: &Node) -> bool {
    let answer = http().get(node.admin_url("/readyz")).send().await;
    answer.expect("an answer").status() == 200
}

/// Waits until so many more probes were received.
async fn after_probes(node: &Node, count: f64) {
    let before = node.metric("bus_lag_seconds_count").await;
    eventually(async || match node.metric("bus_lag_seconds_count").await {
        seen if seen >= before + count => Ok(()),
        seen => Err(format!("{seen} probes, {before} before")),
    })
    .await;
}

async fn written(from: &Node, user: &str, data: i32) {
    let push = json!({"to": {"user": user}, "wait": "written", "data": data});
    let (status, answer) = post(&from.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("written")),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_not_signed_is_refused_and_counted() {
    let redis = Redis::start();
    let (a, b) = (signing(&redis, "a", SECRET), signing(&redis, "b", SECRET));
    let mut watcher = Client::v1(&a.ws_url("me")).await;
    let _member = member(&b, "ann", "room").await;
    assert_eq!(watch(&mut watcher, "room").await, json!(["ann", "me"]));
    written(&b, "me", 1).await;
    assert_eq!(watcher.json().await["data"], 1);

    let before = refused(&a, "unsigned").await;
    let node = &b.id;
    let reply = json!({"node": "ops.1", "ref": "1"});
    let lines = [
        json!({"cmd": "drain"}),
        json!({"cmd": "ask", "what": "drain", "reply": reply}),
        json!({"cmd": "ask", "what": "members", "args": {"topic": "room"}, "reply": reply}),
        json!({"cmd": "ask", "what": "trace", "args": {"user": "me"}, "reply": reply}),
        json!({"v": 1, "from": node, "seq": 1u64 << 40}),
        json!({"v": 1, "from": node, "seq": 1u64 << 40, "tail": true}),
        json!({"cmd": "receipt", "ref": "1", "node": node, "status": "written"}),
        json!({"cmd": "answer", "ref": "1", "node": node, "body": {}}),
        json!({"cmd": "watch", "topic": "room", "node": node, "end": true}),
        json!({"cmd": "presence", "topic": "room", "node": node, "here": ["ghost"]}),
        json!({"cmd": "presence", "topic": "room", "node": node, "gone": ["ann"]}),
    ];
    for line in &lines {
        redis.cli(&["PUBLISH", &own(&a), &line.to_string()]);
    }
    until_refused(&a, "unsigned", before + lines.len() as f64).await;
    // On the channel of all nodes, and by another secret.
    redis.cli(&["PUBLISH", "pn:g", r#"{"cmd":"drain"}"#]);
    until_refused(&b, "unsigned", 1.0).await;
    let forged = ClusterKeys::new([OTHER]).signed(&own(&a), "", r#"{"cmd":"drain"}"#);
    redis.cli(&["PUBLISH", &own(&a), &forged]);
    // What the other node was told cannot be repeated here, and not to all.
    let of_b = ClusterKeys::new([SECRET]).signed(&own(&b), "", r#"{"cmd":"drain"}"#);
    redis.cli(&["PUBLISH", &own(&a), &of_b]);
    redis.cli(&["PUBLISH", "pn:g", &of_b]);
    until_refused(&a, "signature", 3.0).await;
    let of_all = ClusterKeys::new([SECRET]).signed("pn:g", "", r#"{"cmd":"drain"}"#);
    redis.cli(&["PUBLISH", "pn:g", &of_all]);
    until_refused(&a, "place", 1.0).await;

    // Neither has lost anything, and nothing was believed.
    let _marker = member(&b, "marker", "room").await;
    assert_eq!(news(&mut watcher).await, joins("marker"));
    written(&b, "me", 2).await;
    assert_eq!(watcher.json().await["data"], 2);
    assert!(is_ready(&a).await && is_ready(&b).await);
    assert_eq!(a.losses().await + b.losses().await, 0.0);

    // Publishers go on as before, and who has the secret can have a node leave.
    let line = r#"{"to":{"user":"me"},"data":3}"#;
    redis.cli(&["PUBLISH", &own(&a), line]);
    assert_eq!(watcher.json().await["data"], 3);
    redis.cli(&["PUBLISH", &own(&b), &of_b]);
    let mut b = b;
    assert!(b.wait_exit().success());
}

#[tokio::test]
async fn a_cluster_gets_a_secret_and_another_one_node_by_node() {
    let redis = Redis::start();
    let steps = [
        "",
        SECRET,
        &format!("{SECRET},{OTHER}"),
        &format!("{OTHER},{SECRET}"),
        OTHER,
    ];
    let start = |step: usize, round: usize| {
        let secrets = steps[step];
        signing(&redis, &format!("n{round}"), secrets)
    };
    let (mut left, mut right) = (start(0, 0), start(0, 1));
    for step in 1..steps.len() {
        // The nodes of two steps work together, whichever of them is replaced.
        left.signal("TERM");
        assert!(left.wait_exit().success());
        left = start(step, 2 * step);
        work_together(&left, &right).await;
        right.signal("TERM");
        assert!(right.wait_exit().success());
        right = start(step, 2 * step + 1);
        work_together(&left, &right).await;
        until_strict(&redis, &[&left, &right]).await;
    }
}

async fn work_together(left: &Node, right: &Node) {
    for (from, to) in [(left, right), (right, left)] {
        let mut client = Client::v1(&to.ws_url("42")).await;
        written(from, "42", 1).await;
        assert_eq!(client.json().await["data"], 1);
        // A room that has not been watched before: the list of one that has may be a moment old.
        let room = &*format!("room.{}", fastrand::u64(..));
        let _member = member(from, "ann", room).await;
        assert_eq!(watch(&mut client, room).await, json!(["42", "ann"]));
        eventually(async || {
            let stats = http().get(from.url("/v1/stats")).send().await;
            let stats: serde_json::Value = stats.expect("an answer").json().await.expect("JSON");
            match stats["answers"].as_array().map(Vec::len) {
                Some(2) => Ok(()),
                _ => Err(stats),
            }
        })
        .await;
    }
    for node in [left, right] {
        assert_eq!(refused(node, "signature").await, 0.0);
        let lost = node.labelled("losses_total", "sign=\"sequence\"").await;
        assert_eq!(lost, 0.0);
    }
}

#[tokio::test]
async fn without_a_secret_a_forgery_neither_ends_nor_silences_a_node() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut client = Client::plain(&a.ws_url("42")).await;
    written(&b, "42", 0).await;
    assert_eq!(client.json().await, 0);

    redis.cli(&["PUBLISH", "pn:g", r#"{"cmd":"drain"}"#]);
    until_refused(&a, "place", 1.0).await;
    let probe = format!(r#"{{"cmd":"probe","n":{}}}"#, u64::MAX);
    redis.cli(&["PUBLISH", &own(&a), &probe]);
    until_refused(&a, "probe", 1.0).await;
    after_probes(&a, 8.0).await;
    assert!(is_ready(&a).await, "a probe made the node unready");

    for seq in [1_000_000, 1u64 << 50, u64::MAX] {
        let header = format!(r#"{{"v":1,"from":"{}","seq":{seq}}}"#, b.id);
        redis.cli(&["PUBLISH", &own(&a), &header]);
        let tail = header.replace('}', r#","tail":true}"#);
        redis.cli(&["PUBLISH", &own(&a), &tail]);
    }
    for number in 1..=40 {
        written(&b, "42", number).await;
        assert_eq!(client.json().await, number);
    }
    assert_eq!(a.metric("payloads_repeated_total").await, 0.0);
}

/// Memory of a process in KiB.
fn resident(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.pid());
    let status = std::fs::read_to_string(path).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// Publishes so many lines.
async fn flood(redis: &Redis, channel: &str, count: usize, line: impl Fn(usize) -> String) {
    let mut publisher = Resp::connect(redis.port()).await;
    let commands: Vec<Vec<String>> = (0..count)
        .map(|number| vec!["PUBLISH".to_owned(), channel.to_owned(), line(number)])
        .collect();
    for part in commands.chunks(500) {
        publisher.pipeline(part).await;
    }
}

const MANY: usize = 30_000;
/// What the flood may cost, in KiB: the tasks that owe a receipt, and what the allocator keeps of
/// them. An outbox for each name and a table of all watchers would be 900 MiB.
const LITTLE: u64 = 256 * 1024;

#[tokio::test]
async fn invented_names_take_no_memory() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &[("PUSH_LOG", "info")]);
    flood(&redis, &own(&node), 500, |_| {
        r#"{"to":{"user":"no"},"data":1}"#.to_owned()
    })
    .await;
    let before = resident(&node);
    // Each wants its receipt elsewhere.
    flood(&redis, &own(&node), MANY, |number| {
        format!(r#"{{"to":{{"user":"no"}},"data":1,"reply":{{"node":"n{number}.1","ref":"r"}}}}"#)
    })
    .await;
    eventually(async || match node.metric("receipts_owed").await {
        0.0 => Ok(()),
        owed => Err(format!("{owed} receipts owed")),
    })
    .await;
    // Watchers of invented topics, for longer than such a table may be.
    let long = "x".repeat(120);
    flood(&redis, &own(&node), 2 * MANY, |number| {
        format!(r#"{{"cmd":"watch","topic":"{number}.{long}","node":"n{number}.1"}}"#)
    })
    .await;
    until_refused_some(&node).await;
    flood(&redis, &own(&node), MANY, |number| {
        format!(r#"{{"v":1,"from":"n{number}.1","seq":7}}"#)
    })
    .await;
    // Not before: while the test floods, nobody answers this client's pings.
    let mut client = Client::plain(&node.ws_url("42")).await;
    redis.cli(&[
        "PUBLISH",
        &own(&node),
        r#"{"to":{"user":"42"},"data":"end"}"#,
    ]);
    assert_eq!(client.json().await, "end");
    let grown = resident(&node).saturating_sub(before);
    println!("{grown} KiB more");
    assert!(grown < LITTLE, "{grown} KiB more");
}

async fn until_refused_some(node: &Node) {
    eventually(async || match refused(node, "full").await {
        0.0 => Err("none refused"),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn a_receipt_goes_to_who_listens_although_it_is_no_node() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let _client = Client::plain(&node.ws_url("42")).await;
    let mut billing = Resp::connect(redis.port()).await;
    billing.call(&["SUBSCRIBE", "pn:n:{billing.1}"]).await;
    for reference in ["r1", "r2"] {
        let reply = json!({"node": "billing.1", "ref": reference});
        let line = json!({"to": {"user": "42"}, "data": 1, "reply": reply});
        redis.cli(&["PUBLISH", &own(&node), &line.to_string()]);
        let receipt = loop {
            let heard = billing.next().await.texts();
            let lines = heard[2].lines();
            let mut lines = lines.map(serde_json::from_str::<serde_json::Value>);
            let receipt = lines.find_map(|line| line.ok().filter(|line| line["v"].is_null()));
            if let Some(receipt) = receipt {
                break receipt;
            }
        };
        assert_eq!(receipt["ref"], reference, "{receipt}");
        assert_eq!(receipt["status"], "written", "{receipt}");
    }
}
