//! What clients are told of an outage of Redis: once, although it shows in several signs.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::common::{Client, PATIENCE, Redis, eventually, node_on, post};

/// Longer than signs of one outage come apart, and clients are told over.
const ALL_TOLD: Duration = Duration::from_secs(12);

/// How often a client is told within a while, from the first time on.
async fn told(client: &mut Client) -> usize {
    let mut count = 0;
    let mut end = Instant::now() + PATIENCE;
    while let Ok(object) = tokio::time::timeout_at(end, client.json()).await {
        match object["type"].as_str() {
            Some("resync") => {
                if count == 0 {
                    end = Instant::now() + ALL_TOLD;
                }
                count += 1;
            }
            Some("message" | "degraded") => {}
            _ => panic!("{object}"),
        }
    }
    count
}

async fn an_outage_is_told_of_once(outage: impl AsyncFnOnce(&mut Redis)) {
    let mut redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut clients = Vec::new();
    for (n, node) in [&a, &b, &a, &b].into_iter().enumerate() {
        clients.push(Client::v1(&node.ws_url(&format!("u{n}"))).await);
    }
    // Whoever waits for a page of its inbox finds the gap in it before the node tells of it.
    for node in [&a, &b] {
        eventually(async || match node.metric("inbox_asks").await {
            0.0 => Ok(()),
            asks => Err(asks),
        })
        .await;
    }
    outage(&mut redis).await;
    let pushing = async {
        // Nodes notice by the numbers of others, too.
        eventually(async || {
            let push = json!({"to": {"users": ["u0", "u1"]}, "data": 1, "timeout_ms": 500});
            match post(&a.push_url, &push).await {
                (200, _) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    };
    let counts = futures::future::join_all(clients.iter_mut().map(told));
    let (counts, ()) = tokio::join!(counts, pushing);
    for (node, counts) in [(&a, [counts[0], counts[2]]), (&b, [counts[1], counts[3]])] {
        // Only a node whose rows were not back in time tells of that again, and counts it.
        let forgotten = node.labelled("losses_total", r#"sign="forgotten""#).await;
        let most = 1 + (forgotten as usize).saturating_sub(1);
        let in_bounds = counts.iter().all(|count| (1..=most).contains(count));
        let metrics = node.metrics().await;
        let signs = metrics.lines().filter(|line| {
            [
                "pushnode_losses_total",
                "pushnode_resyncs_total",
                "pushnode_rows_restored_total",
            ]
            .iter()
            .any(|name| line.starts_with(name) && !line.ends_with(" 0"))
        });
        let signs = signs.collect::<Vec<_>>().join("\n");
        assert!(in_bounds, "{counts:?} of {most}\n{signs}\n{}", node.log());
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_told_of_once() {
    an_outage_is_told_of_once(async |redis| {
        redis.kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        redis.restart();
    })
    .await;
}

#[tokio::test]
async fn cut_connections_are_told_of_once() {
    an_outage_is_told_of_once(async |redis| {
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_forgets_all_is_told_of_once() {
    an_outage_is_told_of_once(async |redis| {
        redis.cli(&["FLUSHALL"]);
    })
    .await;
}
