//! `PUSH_KEEP_REPLICAS`: a sender is told whether replicas have its kept message.

use serde_json::{Value, json};

use crate::common::keep::connect;
use crate::common::{Node, Redis, eventually, node, node_with, post, refused_node};
use crate::redis_groups::{Frozen, RedisCluster, Trio};

fn replica_of(redis: &Redis) -> Redis {
    let port = redis.port().to_string();
    let replica = Redis::start_with(&[
        "--replicaof",
        "127.0.0.1",
        &port,
        "--repl-diskless-load",
        "swapdb",
    ]);
    redis.cli(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
    replica
}

async fn keep(node: &Node, user: &str, id: Option<&str>, timeout_ms: u64) -> Value {
    let mut body = json!({"to": {"user": user}, "keep": true, "data": 1,
        "timeout_ms": timeout_ms});
    if let Some(id) = id {
        body["id"] = id.into();
    }
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn until_replicated(node: &Node) {
    eventually(async || {
        let answer = keep(node, "early", None, 1_000).await;
        match answer.get("replicated") {
            None => Ok(()),
            Some(_) => Err(answer),
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_without_its_replica_is_stored_and_said_to_be_alone() {
    let redis = Redis::start();
    let replica = replica_of(&redis);
    let node = node_with(&redis, "a", &[("PUSH_KEEP_REPLICAS", "1")]);
    until_replicated(&node).await;
    for id in [None, Some("m1")] {
        let answer = keep(&node, "42", id, 30_000).await;
        assert_eq!(answer["status"], "stored", "{answer}");
        assert_eq!(answer.get("replicated"), None, "{answer}");
    }
    let counted = node.metric("kept_unreplicated_total").await;

    let frozen = Frozen::new(&replica);
    let several = json!({"to": {"users": ["1", "2"]}, "keep": true, "data": 1,
        "timeout_ms": 500});
    let (_, answer) = post(&node.push_url, &several).await;
    assert_eq!(answer["replicated"], false, "{answer}");
    assert_eq!(answer["targets"][1]["replicated"], false, "{answer}");
    let answer = keep(&node, "42", Some("m2"), 500).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    assert_eq!(answer["replicated"], false, "{answer}");
    let now = node.metric("kept_unreplicated_total").await;
    assert_eq!(now - counted, 3.0);

    // The same again, until the replica has it: that is what the sender wants to know.
    drop(frozen);
    eventually(async || {
        let answer = keep(&node, "42", Some("m2"), 1_000).await;
        match (answer["status"].as_str(), answer.get("replicated")) {
            (Some("duplicate"), None) => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]), "3");
}

#[tokio::test]
async fn clients_do_not_wait_for_replicas() {
    let redis = Redis::start();
    let replica = replica_of(&redis);
    let node = node_with(&redis, "a", &[("PUSH_KEEP_REPLICAS", "1")]);
    until_replicated(&node).await;
    let mut client = connect(&node, "42", None).await;
    let frozen = Frozen::new(&replica);
    let (answer, ()) = tokio::join!(keep(&node, "42", None, 30_000), async {
        assert_eq!(client.json().await["data"], 1);
        drop(frozen);
    });
    assert_eq!(answer["status"], "routed", "{answer}");
    assert_eq!(answer.get("replicated"), None, "{answer}");
}

/// Pushes do not all wait to their deadline one after the other.
#[tokio::test]
async fn senders_go_on_while_replicas_are_missing() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &[("PUSH_KEEP_REPLICAS", "1")]);
    let first = keep(&node, "42", None, 500).await;
    assert_eq!(first["replicated"], false, "{first}");
    // One waits to its deadline; the others do not have to.
    let patient = keep(&node, "42", None, 30_000);
    tokio::pin!(patient);
    // It waits before the others come: who comes first is who waits.
    let waits = eventually(async || {
        let clients = redis.cli(&["INFO", "clients"]);
        match clients.contains("blocked_clients:1") {
            true => Ok(()),
            false => Err(clients),
        }
    });
    tokio::select! {
        answer = &mut patient => panic!("nothing was replicated: {answer}"),
        () = waits => {}
    }
    for number in 0..100 {
        let id = format!("m{number}");
        tokio::select! {
            biased;
            answer = &mut patient => panic!("nothing was replicated: {answer}"),
            answer = keep(&node, "7", Some(&id), 30_000) => {
                assert_eq!(answer["replicated"], false, "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn replicas_are_asked_behind_sentinels_and_in_a_cluster() {
    let trio = Trio::start();
    let cluster = RedisCluster::start(1);
    for url in [trio.url(), cluster.url()] {
        let settings = [("PUSH_REDIS_URL", &*url), ("PUSH_KEEP_REPLICAS", "1")];
        let node = node(&settings);
        until_replicated(&node).await;
        for id in [None, Some("m1"), Some("m1")] {
            let answer = keep(&node, "42", id, 30_000).await;
            assert_eq!(answer.get("replicated"), None, "{answer}");
        }
    }
}

#[test]
fn replicas_need_redis() {
    let (_, words) = refused_node(&[("PUSH_KEEP_REPLICAS", "1")]);
    assert!(
        words.contains("PUSH_KEEP_REPLICAS") && words.contains("needs PUSH_REDIS_URL"),
        "{words}"
    );
}
