//! A Redis Cluster of which one master is silent, before another one takes its place.

use serde_json::{Value, json};

use crate::common::{Client, Node, eventually, node, post};
use crate::redis_groups::{Frozen, RedisCluster};

fn node_at(url: &str, name: &str) -> Node {
    node(&[("PUSH_REDIS_URL", url), ("PUSH_NODE_NAME", name)])
}

/// So many names whose rows have this server.
fn names_at(cluster: &RedisCluster, kind: &str, is_chosen: impl Fn(usize) -> bool) -> Vec<String> {
    let names = (0..).map(|number| format!("{kind}{number}"));
    let has = |name: &String| is_chosen(cluster.owner(0, &format!("pn:{kind}:{{{name}}}")).1);
    names.filter(has).take(NAMES).collect()
}

const NAMES: usize = 8;
/// So many, half a second each, cover the time until a node finds its subscription silent.
const PUSHES: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_master_holds_up_only_the_rows_of_its_own_slots() {
    let cluster = RedisCluster::patient();
    let (a, b) = (started(&cluster, "a").await, started(&cluster, "b").await);
    // Neither has its channel and indexes there.
    let used = [&a, &b].map(|node| server_of(&cluster, node));
    let silent = (0..3).find(|server| !used.contains(server)).expect("one");
    let topics = names_at(&cluster, "topic", |server| server == silent);
    let users = names_at(&cluster, "user", |server| server != silent);
    let mut busy = Client::v1(&b.ws_url(&users[0])).await;
    let frozen = Frozen::new(&cluster.servers[silent]);
    let mut clients = Vec::new();
    for (user, topic) in users.iter().zip(&topics).skip(1) {
        let subscribe = json!({"type": "subscribe", "topic": topic});
        busy.send(&subscribe.to_string()).await;
        eventually(async || match b.metric("registry_waiting").await {
            0.0 => Err("no row is on its way to the silent server"),
            _ => Ok(()),
        })
        .await;
        let mut client = Client::v1(&b.ws_url(user)).await;
        let (_, answer) = post(&a.push_url, &json!({"to": {"user": user}, "data": 1})).await;
        assert_eq!(answer["status"], "routed", "{user}: {answer}");
        // The lease of its node may be on the silent server, and the node be degraded.
        while client.json().await["data"] != 1 {}
        clients.push(client);
    }
    drop(frozen);
    // What was put back meanwhile is written.
    let row = |topic: &str| {
        let key = format!("pn:topic:{{{topic}}}");
        cluster.servers[silent].cli(&["HGET", &key, &b.id])
    };
    for topic in topics.iter().skip(1) {
        eventually(async || match &*row(topic) {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        })
        .await;
    }
}

async fn started(cluster: &RedisCluster, name: &str) -> Node {
    let (url, name) = (cluster.url(), name.to_owned());
    let start = move || node_at(&url, &name);
    tokio::task::spawn_blocking(start).await.expect("a node")
}

/// The server that has the node's channel and indexes.
fn server_of(cluster: &RedisCluster, node: &Node) -> usize {
    cluster.owner(0, &format!("pn:users:{{{}}}", node.id)).1
}

/// The statuses of a push's targets, in the order of their names in it.
fn statuses(answer: &Value, users: &[&String]) -> Vec<Value> {
    let targets = answer["targets"].as_array().expect("targets");
    let status = |user: &&String| {
        let target = targets.iter().find(|target| target["user"] == **user);
        target.expect("one of each")["status"].clone()
    };
    users.iter().map(status).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_several_reaches_those_whose_rows_are_not_on_a_silent_master() {
    let cluster = RedisCluster::patient();
    let (a, b) = (started(&cluster, "a").await, started(&cluster, "b").await);
    let channel = server_of(&cluster, &b);
    let silent = (0..3).find(|&server| server != channel).expect("one");
    let heard = &names_at(&cluster, "user", |server| server == channel)[0];
    let hidden = &names_at(&cluster, "user", |server| server == silent)[0];
    let mut client = Client::v1(&b.ws_url(heard)).await;
    let mut later = Client::v1(&b.ws_url(hidden)).await;
    let to_both = |data: &str, timeout_ms: u32| {
        let to = json!({"users": [hidden, heard]});
        json!({"to": to, "data": data, "timeout_ms": timeout_ms})
    };
    let (_, answer) = post(&a.push_url, &to_both("before", 5_000)).await;
    assert_eq!(statuses(&answer, &[heard, hidden]), ["routed", "routed"]);
    for client in [&mut client, &mut later] {
        while client.json().await["data"] != "before" {}
    }
    let frozen = Frozen::new(&cluster.servers[silent]);
    // Shorter than the time after which the connection to the silent server is given up.
    let (_, answer) = post(&a.push_url, &to_both("short", 1_000)).await;
    assert_eq!(
        statuses(&answer, &[heard, hidden]),
        ["routed", "unrouted"],
        "{answer}"
    );
    // With more time the other waits, and gets its own once the server answers.
    let url = a.push_url.clone();
    let body = to_both("long", 20_000);
    let pushed = tokio::spawn(async move { post(&url, &body).await });
    while client.json().await["data"] != "long" {}
    assert!(!pushed.is_finished(), "nothing is known of the other");
    drop(frozen);
    let (_, answer) = pushed.await.expect("an answer");
    assert_eq!(
        statuses(&answer, &[heard, hidden]),
        ["routed", "routed"],
        "{answer}"
    );
    while later.json().await["data"] != "long" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_that_a_silent_master_cannot_settle_holds_up_only_missing_rows() {
    let cluster = RedisCluster::patient();
    let b = started(&cluster, "b").await;
    let channel = server_of(&cluster, &b);
    // The sender's lease would prove that no row was forgotten.
    let lease_at = |name: &String| cluster.owner(0, &format!("pn:node:{name}")).1;
    let mut names = (0..).map(|number| format!("a{number}"));
    let name = names
        .find(|name| lease_at(name) != channel)
        .expect("a name");
    let silent = lease_at(&name);
    let a = started(&cluster, &name).await;
    let users = names_at(&cluster, "user", |server| server == channel);
    let (heard, offline) = (&users[0], &users[1]);
    let mut client = Client::v1(&b.ws_url(heard)).await;
    let push = |data: &str| {
        let to = json!({"users": [offline, heard]});
        json!({"to": to, "data": data, "timeout_ms": 1_000})
    };
    let (_, answer) = post(&a.push_url, &push("before")).await;
    assert_eq!(
        statuses(&answer, &[heard, offline]),
        ["routed", "offline"],
        "{answer}"
    );
    let frozen = Frozen::new(&cluster.servers[silent]);
    let (_, answer) = post(&a.push_url, &push("silent")).await;
    assert_eq!(
        statuses(&answer, &[heard, offline]),
        ["routed", "unrouted"],
        "{answer}"
    );
    drop(frozen);
    for data in ["before", "silent"] {
        while client.json().await["data"] != data {}
    }
}

/// The master that has its channel, and the list of its rows. A row may not be written before its
/// user stands in that list.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_the_index_of_his_node_is_on_a_silent_master_is_not_offline() {
    let cluster = RedisCluster::patient();
    let at = |key: &str| cluster.owner(0, key).1;
    let table = ["pn:nodes", "pn:boots"].map(at);
    let silent = (0..3).find(|server| !table.contains(server)).expect("one");
    let user = &names_at(&cluster, "user", |server| server != silent)[0];
    let named = async |kind: &str, is_chosen: &dyn Fn(usize) -> bool| {
        let names = (0..).map(|number| format!("{kind}{number}"));
        for name in names.filter(|name| at(&format!("pn:node:{name}")) != silent) {
            let node = started(&cluster, &name).await;
            if is_chosen(server_of(&cluster, &node)) {
                return node;
            }
        }
        unreachable!("names do not end");
    };
    let a = named("a", &|server| server != silent).await;
    let b = named("b", &|server| server == silent).await;
    let push = async || {
        let body = json!({"to": {"user": user}, "data": 1, "timeout_ms": 500});
        post(&a.push_url, &body).await
    };
    // Those that were not chosen have left by now, or are found dead.
    eventually(async || match push().await {
        (200, answer) if answer["status"] == "offline" => Ok(()),
        other => Err(other),
    })
    .await;
    let frozen = Frozen::new(&cluster.servers[silent]);
    let mut client = Client::v1(&b.ws_url(user)).await;
    for _ in 0..PUSHES {
        let (code, answer) = push().await;
        assert_eq!(code, 503, "{answer}");
        let reason = "a node waits for Redis before it can write its rows";
        assert_eq!(answer["reason"], reason, "{answer}");
    }
    drop(frozen);
    eventually(async || match push().await {
        (200, answer) if answer["status"] == "routed" => Ok(()),
        other => Err(other),
    })
    .await;
    while client.json().await["data"] != 1 {}
}
