//! A Redis Cluster of which one master is silent, before another one takes its place.

use serde_json::json;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_master_holds_up_only_the_rows_of_its_own_slots() {
    let cluster = RedisCluster::start(0);
    for server in &cluster.servers {
        let slow = ["CONFIG", "SET", "cluster-node-timeout", "60000"];
        assert_eq!(server.cli(&slow), "OK");
    }
    let url = cluster.url();
    let start = move || (node_at(&url, "a"), node_at(&url, "b"));
    let (a, b) = tokio::task::spawn_blocking(start).await.expect("two nodes");
    // Neither has its channel and indexes there.
    let used = [&a, &b].map(|node| cluster.owner(0, &format!("pn:users:{{{}}}", node.id)).1);
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
