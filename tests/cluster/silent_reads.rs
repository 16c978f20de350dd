//! What nodes look up in a Redis Cluster of which one master is silent: rows, sessions and bans of
//! the others are found all the same.

use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::common::passes::url;
use crate::common::{Client, Node, eventually, node};
use crate::crowd::Crowd;
use crate::passes::digest;
use crate::raw::{Resp, Socket};
use crate::redis_groups::{Frozen, RedisCluster};

/// Its clients need not answer pings.
fn node_at(url: &str, name: &str) -> Node {
    node(&[
        ("PUSH_REDIS_URL", url),
        ("PUSH_NODE_NAME", name),
        ("PUSH_PING_SECONDS", "3600"),
    ])
}

/// The server that has the channel and the indexes of a node, and another.
fn home_and_other(cluster: &RedisCluster, node: &Node) -> (usize, usize) {
    let (_, home) = cluster.owner(0, &format!("pn:n:{{{}}}", node.id));
    (home, cluster.other(home))
}

async fn until_written(node: &Node) {
    eventually(async || match node.metric("registry_waiting").await {
        0.0 => Ok(()),
        rows => Err(format!("{rows} rows wait to be written")),
    })
    .await;
}

/// Names that begin so and whose keys this server has.
fn names_at(cluster: &RedisCluster, prefix: &str, server: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("{prefix}{number}"));
    let is_there = |name: &String| cluster.owner(0, &format!("{{{name}}}")).1 == server;
    names.filter(is_there).take(NAMES).collect()
}

const NAMES: usize = 8;

/// Each portion of a round has rows that cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn lost_rows_are_put_back_while_another_master_is_silent() {
    let cluster = RedisCluster::patient();
    let node = node_at(&cluster.url(), "a");
    let (home, silent) = home_and_other(&cluster, &node);
    let users = names_at(&cluster, "user", home);
    let _crowd = Crowd::of(&node, "crowd", 300).await;
    let mut clients = Vec::new();
    for user in &users {
        clients.push(Client::v1(&node.ws_url(user)).await);
    }
    until_written(&node).await;
    let frozen = Frozen::new(&cluster.servers[silent]);
    let key = |user: &str| format!("pn:user:{{{user}}}");
    for user in &users {
        assert_eq!(cluster.servers[home].cli(&["DEL", &key(user)]), "1");
    }
    for user in &users {
        let fields = || cluster.servers[home].cli(&["HLEN", &key(user)]);
        eventually(async || match fields() {
            one if one == "1" => Ok(()),
            other => Err(format!("{user}: {other}")),
        })
        .await;
    }
    drop(frozen);
    // What went at the silent server is found once it answers.
    let lost = names_at(&cluster, "crowd", silent);
    assert_eq!(cluster.servers[silent].cli(&["DEL", &key(&lost[0])]), "1");
    eventually(
        async || match cluster.servers[silent].cli(&["HLEN", &key(&lost[0])]) {
            one if one == "1" => Ok(()),
            other => Err(other),
        },
    )
    .await;
}

/// Looked up in several batches.
const SESSIONS: usize = 2_000;
/// Less than four batches take at a server that is waited for in vain, for two seconds each.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_of_a_silent_master_hold_up_none_of_another() {
    let cluster = RedisCluster::patient();
    let (at, auth) = (cluster.url(), ("PUSH_AUTH", "session"));
    let node = node(&[
        ("PUSH_REDIS_URL", &*at),
        auth,
        ("PUSH_PING_SECONDS", "3600"),
    ]);
    let (home, silent) = home_and_other(&cluster, &node);
    let key = |token: &str| format!("pn:session:{}", digest(token));
    let tokens: Vec<String> = (0..SESSIONS).map(|one| format!("token-{one}")).collect();
    let set = |token: &String| {
        ["SET", &key(token), token, "EX", "300"]
            .map(str::to_owned)
            .to_vec()
    };
    let sets: Vec<Vec<String>> = tokens.iter().map(set).collect();
    for server in &cluster.servers {
        // Each takes those of its own slots.
        Resp::connect(server.port()).await.pipeline(&sets).await;
    }
    let mut at_home = tokens
        .iter()
        .filter(|token| cluster.owner(home, &key(token)).1 == home);
    let ends = at_home.next().expect("one of them");
    let query = |token: &String| format!("token={token}");
    let address = node.client_address();
    let others = tokens.iter().filter(|token| *token != ends).map(query);
    let others = others.map(async |query| Socket::connect(address, &query, false).await);
    let _others: Vec<Socket> = futures::stream::iter(others).buffered(100).collect().await;
    let mut client = Client::v1(&url(&node, ends)).await;
    until_written(&node).await;
    assert_eq!(cluster.servers[home].cli(&["DEL", &key(ends)]), "1");
    let frozen = Frozen::new(&cluster.servers[silent]);
    let began = Instant::now();
    // It may have missed a word, and looks at all sessions.
    cluster.servers[home].cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(client.close_frame().await.0, 4004);
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
    drop(frozen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_that_cannot_be_read_holds_up_no_later_one() {
    let cluster = RedisCluster::patient();
    let node = node_at(&cluster.url(), "a");
    let (home, silent) = home_and_other(&cluster, &node);
    let users = names_at(&cluster, "user", home);
    let unread = names_at(&cluster, "user", silent);
    let mut stays = Client::v1(&node.ws_url(&unread[0])).await;
    let mut clients = Vec::new();
    for user in &users[..2] {
        clients.push(Client::v1(&node.ws_url(user)).await);
    }
    until_written(&node).await;
    let frozen = Frozen::new(&cluster.servers[silent]);
    for (user, client) in users.iter().zip(&mut clients) {
        // As if the word had been said while the node was deaf.
        let ban = format!("pn:ban:{{{user}}}");
        cluster.servers[home].cli(&["SET", &ban, "", "EX", "300"]);
        cluster.servers[home].cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(client.close_frame().await.0, 4006, "{user}");
    }
    stays.send(r#"{"type":"ping"}"#).await;
    while stays.json().await["type"] != "pong" {}
    drop(frozen);
}
