//! Losses that are hard to tell of: a sender's last message, which no other follows; and those
//! that come faster than all clients can be told.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::transports::{TRANSPORTS, connect};
use crate::common::{Node, PATIENCE, Redis, eventually, node, node_on, post};
use crate::crowd::Crowd;
use crate::raw::{Event, Wire};

/// No test fails because a machine is slow; what was measured is printed.
const GENEROUS: Duration = PATIENCE;

async fn losses(node: &Node) -> f64 {
    node.labelled("losses_total", "sign=\"sequence\"").await
}

/// `to`: whom the pushes are for.
async fn a_lost_last_message_is_told_of(to: Value) {
    let redis = Redis::start();
    let wire = Wire::to(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", wire.port);
    let started = tokio::task::spawn_blocking(move || {
        node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")])
    });
    let a = started.await.expect("a node");
    let b = node_on(&redis, "b");
    let mut clients = Vec::new();
    for by in TRANSPORTS {
        clients.push(connect(by, &a, "42", None).await);
    }
    let mut all_hear = async |data: &str| {
        for client in &mut clients {
            let object = client.json().await;
            let heard = &object[if data == "resync" { "type" } else { "data" }];
            assert_eq!(heard, data, "{object}");
        }
    };
    let push = async |data: &str| {
        let push = json!({"to": to, "data": data});
        let (status, answer) = post(&b.push_url, &push).await;
        assert_eq!(
            (status, &answer["status"]),
            (200, &json!("routed")),
            "{answer}"
        );
    };
    push("first").await;
    all_hear("first").await;

    wire.lose("unlucky");
    push("unlucky").await;
    let sent = Instant::now();
    eventually(async || match losses(&a).await {
        0.0 => Err("not noticed"),
        _ => Ok(()),
    })
    .await;
    let noticed = sent.elapsed();
    all_hear("resync").await;
    println!(
        "the loss was noticed after {noticed:.2?}, the client told after {:.2?}",
        sent.elapsed()
    );
    assert!(noticed < GENEROUS, "noticed only after {noticed:?}");

    // What follows is not taken for a second loss, nor for a repeat.
    push("next").await;
    all_hear("next").await;
    assert_eq!(losses(&a).await, 1.0);
    push("lucky").await;
    all_hear("lucky").await;
    assert_eq!(losses(&a).await, 1.0);
    assert_eq!(a.metric("bad_envelopes_total").await, 0.0);
}

#[tokio::test]
async fn a_lost_last_message_to_a_user_is_told_of() {
    a_lost_last_message_is_told_of(json!({"user": "42"})).await;
}

#[tokio::test]
async fn a_lost_last_message_to_everybody_is_told_of() {
    a_lost_last_message_is_told_of(json!({"all": true})).await;
}

/// Clients are told over some seconds, and the next loss must not begin that anew.
#[tokio::test]
async fn all_clients_are_told_while_the_subscription_is_cut_again_and_again() {
    const USERS: usize = 200;
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let mut crowd = Crowd::new();
    let users = (0..USERS).map(|i| (a.client_address(), format!("u{i}")));
    crowd.join_as(users, true).await;
    let start = Instant::now();
    let cutting = async {
        loop {
            redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            tokio::time::sleep(Duration::from_millis(1_500)).await;
        }
    };
    let telling = async {
        let mut told = std::collections::BTreeSet::new();
        while told.len() < USERS {
            // A client that is never told: in time the others are, again and again.
            assert!(start.elapsed() < PATIENCE, "{} of {USERS} told", told.len());
            match crowd.next().await {
                (who, Event::Text(text)) if text.contains("resync") => _ = told.insert(who),
                (_, Event::Text(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = cutting => {}
    }
    println!(
        "all told after {:.1?}; losses counted: {}",
        start.elapsed(),
        a.metric("losses_total").await
    );
}
