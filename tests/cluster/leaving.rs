//! How long a node takes to end without Redis, and how soon others hear of a new one.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Client, Node, Redis, eventually, http, node_on, node_with, send_signal};

const DRAIN: (&str, &str) = ("PUSH_DRAIN_SECONDS", "3");
/// It is 4 s, and was 7 to 10. In between: room for a slow machine.
const LIMIT: Duration = Duration::from_secs(6);

async fn ends_in_time(mut node: Node, mut client: Client) {
    // A client that says goodbye as well: the node would wait for one that does not.
    tokio::spawn(async move {
        client.close_frame().await;
        client.end().await;
    });
    eventually(async || {
        let answer = http().get(node.admin_url("/readyz")).send().await;
        match answer.expect("an answer").status().as_u16() {
            503 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let start = Instant::now();
    node.signal("INT");
    assert!(node.wait_exit().success());
    let took = start.elapsed();
    println!("ended after {took:?}");
    assert!(took < LIMIT, "it took {took:?}:\n{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_in_time_although_redis_is_gone() {
    let mut redis = Redis::start();
    let node = node_with(&redis, "a", &[DRAIN]);
    let client = Client::plain(&node.ws_url("42")).await;
    redis.kill();
    ends_in_time(node, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_in_time_although_redis_is_frozen() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &[DRAIN]);
    let client = Client::plain(&node.ws_url("42")).await;
    send_signal(redis.pid(), "STOP");
    ends_in_time(node, client).await;
    send_signal(redis.pid(), "CONT");
}

async fn lists(node: &Node, name: &str) -> Result<(), Value> {
    let answer = http().get(node.url("/v1/nodes")).send().await;
    let body: Value = answer.expect("an answer").json().await.expect("JSON");
    let nodes = body["nodes"].as_array().expect("nodes");
    match nodes.iter().any(|node| node["name"] == name) {
        true => Ok(()),
        false => Err(body),
    }
}

#[tokio::test]
async fn a_new_node_is_listed_at_once_and_not_with_the_next_beat() {
    let redis = Redis::start();
    let first = node_on(&redis, "first");
    let mut waited = Duration::ZERO;
    let mut nodes = Vec::new();
    for number in 0..6 {
        let name = format!("n{number}");
        nodes.push(node_on(&redis, &name));
        let start = Instant::now();
        eventually(async || lists(&first, &name).await).await;
        waited += start.elapsed();
    }
    println!("{waited:?} for six nodes");
    // With the beat, every 3 s, it is 9 s on average.
    assert!(waited < Duration::from_secs(4), "{waited:?}");
}
