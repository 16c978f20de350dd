//! Redis behind Sentinels and Redis Cluster: masters that die, freeze, come back, and slots that
//! move, with pushes under way all the time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Client, Node, PATIENCE, Redis, eventually, http, node, post, send_signal};
use crate::flow::{Flow, until_written};
use crate::raw::Resp;
use crate::redis_groups::{Frozen, RedisCluster, Trio, until};

/// No test fails because a machine is slow; what was measured is printed.
const GENEROUS: Duration = PATIENCE;

fn node_at(url: &str, name: &str) -> Node {
    node(&[
        ("PUSH_REDIS_URL", url),
        ("PUSH_NODE_NAME", name),
        ("PUSH_LOG", "info"),
    ])
}

async fn nodes_at(url: String) -> (Node, Node) {
    let start = move || (node_at(&url, "a"), node_at(&url, "b"));
    tokio::task::spawn_blocking(start).await.expect("two nodes")
}

/// A push by nothing but Redis, to the user's node and to all nodes.
async fn publish_raw(port: u16, spublish: bool, node: &Node, user: &str) {
    let line = json!({"to": {"user": user}, "data": "raw"}).to_string();
    let channel = format!("pn:n:{{{}}}", node.id);
    let command = if spublish { "SPUBLISH" } else { "PUBLISH" };
    eventually(async || {
        let mut redis = Resp::connect(port).await;
        let answer = redis.call(&[command, &channel, &line]).await;
        if format!("{answer:?}") == "Number(1)" {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

/// How long it takes until Sentinels name another master.
fn promotion(trio: &Trio, old: u16, fault: Instant) -> Duration {
    until("there is another master", || {
        ![0, old].contains(&trio.master())
    });
    fault.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_followed_to_its_successor() {
    let mut trio = Trio::start();
    let (a, b) = nodes_at(trio.url()).await;
    let mut flow = Flow::start(&b, &a, "u").await;

    let old = trio.master();
    trio.servers[0].kill();
    let fault = Instant::now();
    let promoted = tokio::task::block_in_place(|| promotion(&trio, old, fault));
    let back = flow.heard_after(fault + promoted).await;
    println!("killed: promoted after {promoted:.1?}, delivered {back:.1?} later");
    assert!(back < GENEROUS);
    let (sent, unproven) = flow.audit().await;
    println!("killed: of {sent} pushes {unproven} without proof");
    let mut client = Client::plain(&a.ws_url("raw")).await;
    publish_raw(trio.master(), false, &a, "raw").await;
    assert_eq!(client.json().await, "raw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_is_left_and_not_listened_to_when_it_thaws() {
    let trio = Trio::start();
    let (a, b) = nodes_at(trio.url()).await;
    let mut flow = Flow::start(&b, &a, "u").await;
    let mut client = Client::plain(&a.ws_url("raw")).await;

    let old = trio.master();
    let frozen = Frozen::new(&trio.servers[0]);
    let fault = Instant::now();
    let promoted = tokio::task::block_in_place(|| promotion(&trio, old, fault));
    let back = flow.heard_after(fault + promoted).await;
    println!("frozen: promoted after {promoted:.1?}, delivered {back:.1?} later");
    assert!(back < GENEROUS);
    let (sent, unproven) = flow.audit().await;
    println!("frozen: of {sent} pushes {unproven} without proof");

    // The old master still thinks that it is one, for some seconds.
    drop(frozen);
    let channel = format!("pn:n:{{{}}}", a.id);
    let stale = json!({"to": {"user": "raw"}, "data": "from the past"}).to_string();
    for channel in [channel.as_str(), "pn:g"] {
        assert_eq!(
            trio.servers[0].cli(&["PUBLISH", channel, &stale]),
            "0",
            "{channel}"
        );
    }
    publish_raw(trio.master(), false, &a, "raw").await;
    assert_eq!(client.json().await, "raw");
    // Later, as its replica, the old master passes on what the new one publishes: to nobody.
    until("the old master is a replica", || {
        trio.servers[0].cli(&["ROLE"]).starts_with("slave")
    });
    publish_raw(trio.master(), false, &a, "raw").await;
    assert_eq!(client.json().await, "raw");
    assert_eq!(trio.servers[0].cli(&["PUBLISH", &channel, &stale]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sentinels_all_goes_on_and_a_planned_change_is_followed_when_they_are_back() {
    let mut trio = Trio::start();
    let (a, b) = nodes_at(trio.url()).await;
    let mut flow = Flow::start(&b, &a, "u").await;
    trio.kill_sentinels();
    eventually(async || {
        let log = a.log();
        let said = log.matches("no Sentinel says who the master is").count();
        if said == 1 { Ok(()) } else { Err(log) }
    })
    .await;
    flow.heard_after(Instant::now()).await;
    assert_eq!(
        http()
            .get(a.admin_url("/readyz"))
            .send()
            .await
            .expect("an answer")
            .status(),
        200
    );

    trio.start_sentinels();
    eventually(async || {
        let log = a.log();
        let said = log.contains("a Sentinel says again who the master is");
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    // The old master answers READONLY from now on, on connections that stay up.
    let old = trio.master();
    tokio::task::block_in_place(|| trio.fail_over());
    let fault = Instant::now();
    let promoted = tokio::task::block_in_place(|| promotion(&trio, old, fault));
    let back = flow.heard_after(fault + promoted).await;
    println!("planned: promoted after {promoted:.1?}, delivered {back:.1?} later");
    let turned = format!("the master is 127.0.0.1:{}", trio.servers[1].port());
    for node in [&a, &b] {
        eventually(async || {
            let log = node.log();
            if log.contains(&turned) {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
    }
    println!(
        "planned: followed {:.1?} after the promotion",
        (fault + promoted).elapsed()
    );
    // What is new can only have been written to the new master.
    let mut late = Client::plain(&a.ws_url("late")).await;
    until_written(&b, "late", &json!("new")).await;
    assert_eq!(late.json().await, "new");
    assert!(trio.servers[1].cli(&["ROLE"]).starts_with("master"));
    let row = trio.servers[1].cli(&["HKEYS", "pn:user:{late}"]);
    assert!(row.starts_with(&a.id), "{row:?}");
    let (sent, unproven) = flow.audit().await;
    println!("planned: of {sent} pushes {unproven} without proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_new_master_never_got_are_doubted_and_written_again() {
    let mut trio = Trio::start();
    let (a, b) = nodes_at(trio.url()).await;
    let _old = Client::plain(&a.ws_url("known")).await;
    until_written(&b, "known", &json!(1)).await;
    // A crash before the newest row has got to the replica, as asynchronous replication allows.
    let mut new = Client::plain(&a.ws_url("new")).await;
    let key = "pn:user:{new}";
    let replica = &trio.servers[1];
    assert_eq!(
        replica.cli(&["CONFIG", "SET", "replica-read-only", "no"]),
        "OK"
    );
    until("the replica has the row", || {
        replica.cli(&["EXISTS", key]) == "1"
    });
    assert_eq!(replica.cli(&["DEL", key]), "1");
    trio.servers[0].kill();
    let fault = Instant::now();
    eventually(async || {
        let push =
            json!({"to": {"user": "new"}, "data": "found", "wait": "written", "timeout_ms": 300});
        let (_, answer) = post(&b.push_url, &push).await;
        assert_ne!(answer["status"], "offline", "that is not known: {answer}");
        if answer["status"] == "written" {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    println!(
        "lost rows: reached again {:.1?} after the crash",
        fault.elapsed()
    );
    assert_eq!(new.json().await, "found");
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_that_the_new_master_never_got_are_made_again() {
    let mut trio = Trio::start();
    let (a, b) = nodes_at(trio.url()).await;
    let client = Client::v1(&a.ws_url("gone")).await;
    let (key, field) = ("pn:user:{gone}", client.connection());
    let replica = &trio.servers[1];
    let on_replica = |words: &[&str]| replica.cli(words);
    until("the replica has the row", || {
        on_replica(&["EXISTS", key]) == "1"
    });
    drop(client);
    until("the replica has lost the row", || {
        on_replica(&["EXISTS", key]) == "0"
    });
    // A crash, or a thaw for a moment, before the removal has got to the replica.
    assert_eq!(
        on_replica(&["CONFIG", "SET", "replica-read-only", "no"]),
        "OK"
    );
    let about = r#"{"since":"2026-01-01T00:00:00Z"}"#;
    assert_eq!(on_replica(&["HSET", key, &field, about]), "1");
    trio.servers[0].kill();
    let fault = Instant::now();
    tokio::task::block_in_place(|| {
        until("the row is gone from the new master", || {
            let replica = &trio.servers[1];
            replica.cli(&["ROLE"]).starts_with("master") && replica.cli(&["EXISTS", key]) == "0"
        });
    });
    println!(
        "lost removals: made again {:.1?} after the crash",
        fault.elapsed()
    );
    eventually(async || {
        let push = json!({"to": {"user": "gone"}, "data": 1, "timeout_ms": 300});
        let (_, answer) = post(&b.push_url, &push).await;
        if answer["status"] == "offline" {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

/// Whatever happens to the server that has the node's channel and, by its own slot, the user.
async fn an_owner_fails(what: &str, fail: impl FnOnce(&mut Redis) -> Option<Frozen>) {
    let mut cluster = RedisCluster::start(1);
    let (a, b) = nodes_at(cluster.url()).await;
    let mut flow = Flow::start(&b, &a, "u").await;
    let mut client = Client::plain(&a.ws_url("raw")).await;
    let channel = format!("pn:n:{{{}}}", a.id);
    let (_, owner) = cluster.owner(0, &channel);
    let witness = cluster.other(owner);

    let frozen = fail(&mut cluster.servers[owner]);
    let fault = Instant::now();
    tokio::task::block_in_place(|| {
        until("the channel has another owner", || {
            cluster.owner(witness, &channel).1 != owner
        });
    });
    let promoted = fault.elapsed();
    let back = flow.heard_after(fault + promoted).await;
    println!("{what}: promoted after {promoted:.1?}, delivered {back:.1?} later");
    assert!(back < GENEROUS);
    let (sent, unproven) = flow.audit().await;
    println!("{what}: of {sent} pushes {unproven} without proof");

    let now = cluster.servers[cluster.owner(witness, &channel).1].port();
    publish_raw(now, true, &a, "raw").await;
    assert_eq!(client.json().await, "raw");
    let line = json!({"to": {"all": true}, "data": "everybody"}).to_string();
    cluster.servers[witness].cli(&["PUBLISH", "pn:g", &line]);
    assert_eq!(client.json().await, "everybody");
    drop(frozen);
    publish_raw(now, true, &a, "raw").await;
    assert_eq!(client.json().await, "raw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_of_a_channel_is_followed_to_its_successor() {
    let kill = |server: &mut Redis| {
        server.kill();
        None
    };
    an_owner_fails("owner killed", kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_of_a_channel_is_followed_to_its_successor() {
    an_owner_fails("owner frozen", |server| Some(Frozen::new(server))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_id_comes_once_while_a_replica_takes_over() {
    let cluster = RedisCluster::start(1);
    let (a, b) = nodes_at(cluster.url()).await;
    let mut client = Client::plain(&a.ws_url("42")).await;
    let channel = format!("pn:n:{{{}}}", a.id);
    let (_, owner) = cluster.owner(0, &channel);
    let replica = cluster.replica_of(owner);
    send_signal(a.pid(), "STOP");
    let before = b.metric("redis_turns_total").await;
    assert_eq!(cluster.servers[replica].cli(&["CLUSTER", "FAILOVER"]), "OK");
    eventually(async || match b.metric("redis_turns_total").await {
        turns if turns > before => Ok(()),
        turns => Err(turns),
    })
    .await;
    // As a node does that has not heard of the new owner: the old one, a replica now, takes the
    // subscription and hands on what is published at the new one, where no one is counted.
    let mut late = Resp::connect(cluster.servers[owner].port()).await;
    late.call(&["SSUBSCRIBE", &channel]).await;
    let once = json!({"to": {"user": "42"}, "data": "once", "timeout_ms": 30_000});
    let url = b.push_url.clone();
    let push = tokio::spawn(async move { post(&url, &once).await });
    let mut headers = Vec::new();
    while headers.len() < 3 {
        let payload = late.next().await.texts().pop().expect("a payload");
        if let Some((header, line)) = payload.split_once('\n') {
            assert!(line.contains("once"), "{line}");
            headers.push(header.to_owned());
        }
    }
    send_signal(a.pid(), "CONT");
    let (status, answer) = push.await.expect("an answer");
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("routed")),
        "{answer}"
    );
    assert_eq!(client.json().await, "once");
    headers.dedup();
    assert_eq!(
        headers.len(),
        1,
        "a node would take it for several: {headers:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_move_under_load() {
    let cluster = RedisCluster::start(0);
    let (a, b) = nodes_at(cluster.url()).await;
    let mut flow = Flow::start(&b, &a, "u").await;
    let channel = format!("pn:n:{{{}}}", a.id);
    let moved = [
        "pn:user:{u}",
        "pn:node:a",
        "pn:nodes",
        &channel,
        "pn:user:{late}",
    ];
    let mut late = None;
    for key in moved {
        let (slot, from) = cluster.owner(0, key);
        let to = cluster.other(from);
        let set = |server: usize, state: &str, id: usize| {
            let words = ["CLUSTER", "SETSLOT", &slot, state, &cluster.id(id)];
            assert_eq!(cluster.servers[server].cli(&words), "OK", "{words:?}");
        };
        let start = Instant::now();
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
        if key == "pn:user:{late}" {
            // Its row does not exist, so it must be made where the slot is going.
            late = Some(Client::plain(&a.ws_url("late")).await);
            until_written(&b, "late", &json!("on the way")).await;
            let row = cluster.servers[from].cli(&["HKEYS", key]);
            assert!(row.contains("ASK"), "{row}");
        }
        let keys = cluster.servers[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
        for key in keys.lines().filter(|key| !key.is_empty()) {
            let port = cluster.servers[to].port().to_string();
            let words = ["MIGRATE", "127.0.0.1", &port, key, "0", "2000"];
            assert_eq!(cluster.servers[from].cli(&words), "OK");
        }
        // Half done: the keys are there, and the slot is still here.
        flow.heard_after(Instant::now()).await;
        set(to, "NODE", to);
        set(from, "NODE", to);
        let third = 3 - from - to;
        set(third, "NODE", to);
        let back = flow.heard_after(Instant::now()).await;
        println!(
            "slot of {key}: delivered {back:.1?} after the move, {:.1?} in all",
            start.elapsed()
        );
        assert!(back < GENEROUS);
    }
    assert_eq!(late.expect("a client").json().await, "on the way");
    let (sent, unproven) = flow.audit().await;
    println!("slots: of {sent} pushes {unproven} without proof");
    for node in [&a, &b] {
        let status = http()
            .get(node.admin_url("/readyz"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(status.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_users_over_all_slots_and_a_broadcast() {
    let cluster = RedisCluster::start(0);
    let (a, mut b) = nodes_at(cluster.url()).await;
    // At different servers: only then the server that counts a broadcast does not see both.
    let owner = |node: &Node| cluster.owner(0, &format!("pn:n:{{{}}}", node.id)).1;
    let mut tries = 0;
    while owner(&a) == owner(&b) {
        tries += 1;
        drop(b);
        let (url, name) = (cluster.url(), format!("b{tries}"));
        let start = tokio::task::spawn_blocking(move || node_at(&url, &name));
        b = start.await.expect("a node");
    }
    let mut clients = Vec::new();
    for i in 0..60 {
        clients.push(Client::plain(&a.ws_url(&format!("u{i}"))).await);
    }
    let users: Vec<String> = (0..60).map(|i| format!("u{i}")).collect();
    let push = json!({"to": {"users": users}, "data": "each", "wait": "written"});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(60)),
        "{answer}"
    );
    // Dead ones count until their lease is over, which is 10 s.
    let (status, answer) = post(&b.push_url, &json!({"to": {"all": true}, "data": "all"})).await;
    let nodes = answer["nodes"].as_u64().expect("a number");
    assert!(
        status == 200 && (2..=2 + tries).contains(&nodes),
        "{answer}"
    );
    for client in &mut clients {
        assert_eq!(client.json().await, "each");
        assert_eq!(client.json().await, "all");
    }
    let row = http()
        .get(b.url("/v1/users/u7"))
        .send()
        .await
        .expect("an answer");
    let row: serde_json::Value = row.json().await.expect("JSON");
    assert_eq!(row["connections"][0]["node"], a.id, "{row}");
    drop(clients);
    eventually(async || {
        let count = |server: &Redis| server.cli(&["KEYS", "pn:user:*"]).lines().count();
        let left: Vec<String> = cluster
            .servers
            .iter()
            .filter(|server| count(server) > 0)
            .map(|server| server.cli(&["KEYS", "pn:user:*"]))
            .filter(|keys| !keys.is_empty())
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_no_push_to_a_user_overtakes_one_to_everybody() {
    const ROUNDS: u32 = 500;
    let cluster = RedisCluster::start(0);
    let (a, b) = nodes_at(cluster.url()).await;
    let mut far = Client::plain(&a.ws_url("far")).await;
    let mut near = Client::plain(&b.ws_url("near")).await;
    for round in 0..ROUNDS {
        let batch = json!([
            {"to": {"all": true}, "data": format!("all {round}")},
            {"to": {"users": ["far", "near"]}, "data": format!("each {round}")},
        ]);
        let (status, answers) = post(&b.push_url, &batch).await;
        assert_eq!(status, 200, "{answers}");
        assert_eq!(answers[0]["nodes"], 2, "{answers}");
    }
    for client in [&mut far, &mut near] {
        for round in 0..ROUNDS {
            assert_eq!(client.json().await, format!("all {round}"));
            assert_eq!(client.json().await, format!("each {round}"));
        }
    }
    // By Redis alone, as ever.
    cluster.servers[0].cli(&["PUBLISH", "pn:g", r#"{"to":{"all":true},"data":"raw"}"#]);
    assert_eq!(far.json().await, "raw");
    assert_eq!(near.json().await, "raw");
}
