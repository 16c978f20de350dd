//! Answers that say what is proven, by the deadline: bans while a node stands still, and batches
//! that take longer than their time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Redis, eventually, http, node_on, post};

#[tokio::test]
async fn a_ban_counts_only_connections_that_are_proven_to_be_closed() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut near = Client::v1(&a.ws_url("42")).await;
    let mut far = Client::v1(&b.ws_url("42")).await;
    b.signal("STOP");
    let banned = http().put(a.url("/v1/users/42/ban"));
    let banned = banned.json(&json!({"seconds": 900})).send().await;
    let banned: Value = banned.expect("an answer").json().await.expect("JSON");
    b.signal("CONT");
    assert_eq!(near.close_frame().await.0, 4006);
    assert_eq!(banned["connections"], 1, "{banned}");
    assert_eq!(banned["nodes"], 1, "{banned}");
    assert_eq!(banned["missing"], json!([b.id]), "{banned}");
    assert_eq!(far.close_frame().await.0, 4006);

    let banned = http().put(a.url("/v1/users/42/ban"));
    let banned = banned.json(&json!({"seconds": 900})).send().await;
    let banned: Value = banned.expect("an answer").json().await.expect("JSON");
    assert_eq!(banned["connections"], 0, "{banned}");
    assert_eq!(banned["missing"], Value::Null, "{banned}");
}

/// Inboxes that hold a message.
fn stored(redis: &Redis) -> usize {
    redis.cli(&["KEYS", "pn:inbox:*"]).lines().count()
}

#[tokio::test]
async fn a_batch_that_takes_too_long_is_answered_in_time_and_truly() {
    const PUSHES: usize = 100;
    const USERS: usize = 1000;
    const TIMEOUT: Duration = Duration::from_secs(1);
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut first = Client::v1(&b.ws_url("0")).await;
    let users = |push: usize| -> Vec<String> {
        let numbers = push * USERS..(push + 1) * USERS;
        numbers.map(|number| number.to_string()).collect()
    };
    let batch: Vec<Value> = (0..PUSHES)
        .map(|push| {
            json!({"to": {"users": users(push)}, "data": 1, "keep": true,
                "timeout_ms": TIMEOUT.as_millis() as u64})
        })
        .collect();
    let start = Instant::now();
    let (status, answers) = post(&a.push_url, &json!(batch)).await;
    println!("answered after {:.1?}", start.elapsed());
    assert_eq!(status, 200);
    let answers = answers.as_array().expect("a batch");
    let targets = answers.iter().flat_map(|answer| {
        let targets = answer["targets"].as_array().expect("targets");
        targets.iter()
    });
    let mut counts = [0; 2];
    let mut last_kept = 0;
    for (index, target) in targets.enumerate() {
        match target["status"].as_str() {
            Some("stored" | "routed") => (counts[0], last_kept) = (counts[0] + 1, index),
            Some("unrouted") => counts[1] += 1,
            other => panic!("{other:?}: {target}"),
        }
    }
    let [kept, unrouted] = counts;
    println!("{kept} stored, {unrouted} not");
    assert_eq!(kept + unrouted, PUSHES * USERS);
    assert!(kept > 0);
    // Too large for its second on any machine: about 100,000 transactions.
    assert!(unrouted > 0);
    // The time ended for the last ones; so many are under way at once.
    assert!(last_kept < kept + 64, "{last_kept} is kept");
    assert_eq!(first.json().await["data"], 1);
    // Those under way at the deadline may be stored; no others are.
    let at_most = kept + 64;
    eventually(async || match stored(&redis) {
        stored if (kept..=at_most).contains(&stored) => Ok(()),
        stored => Err(stored),
    })
    .await;
}
