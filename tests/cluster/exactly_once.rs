//! Fifty thousand pushes across nodes: each arrives once, at the right user, in order.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Node, Redis, eventually, node, send_signal};
use crate::crowd::Crowd;
use crate::ledger::{Entry, Ledger};
use crate::raw::{Api, Resp};

const USERS: usize = 1_000;
const PUSHES: usize = 50_000;
const PUBLISHERS: usize = 64;
const END: &str = "\"the end\"";

/// Two nodes that log little: there is much to do.
fn two_nodes(redis: &Redis) -> (Node, Node) {
    let quiet_node = |name| {
        node(&[
            ("PUSH_REDIS_URL", &redis.url()),
            ("PUSH_NODE_NAME", name),
            ("PUSH_LOG", "info"),
        ])
    };
    (quiet_node("a"), quiet_node("b"))
}

fn user_names() -> Vec<String> {
    (0..USERS).map(|i| format!("u{i}")).collect()
}

/// Sends a part of the plan, one push after the other, over one connection.
async fn push_part(node: std::net::SocketAddr, part: &[Entry]) {
    let mut api = Api::connect(node).await;
    for Entry { user, data } in part {
        let body = format!(r#"{{"to":{{"user":"{user}"}},"data":{data},"timeout_ms":30000}}"#);
        let (status, answer) = api.push("application/json", &body).await;
        let routed = status == 200 && answer.contains(r#""status":"routed""#);
        assert!(routed, "{body} was answered {status} {answer}");
    }
}

/// Behind all that has been published: whoever hears it has nothing more to come.
async fn push_end(node: &Node) {
    let mut api = Api::connect(node.client_address()).await;
    let body = format!(r#"{{"to":{{"all":true}},"data":{END}}}"#);
    let (status, answer) = api.push("application/json", &body).await;
    assert_eq!(status, 200, "{answer}");
}

async fn assert_no_loss_noticed(nodes: [&Node; 2]) {
    for node in nodes {
        let losses = node.losses().await;
        assert_eq!(losses, 0.0, "signs of loss on {}: {}", node.id, node.log());
    }
}

#[tokio::test]
async fn through_the_other_nodes_api() {
    let redis = Redis::start();
    let (a, b) = two_nodes(&redis);
    let mut crowd = Crowd::of(&a, "u", USERS).await;
    let ledger = Ledger::new(&user_names(), PUSHES, PUBLISHERS);
    let start = Instant::now();
    let publish = async {
        let parts = ledger.plan.iter();
        let parts = parts.map(|part| push_part(b.client_address(), part));
        futures::future::join_all(parts).await;
        push_end(&b).await;
    };
    let (heard, ()) = tokio::join!(crowd.all_hear_until(END), publish);
    println!(
        "{PUSHES} pushes by HTTP through the other node: {:.1?}",
        start.elapsed()
    );
    ledger.audit(&crowd.members, &heard).assert_flawless();
    assert_no_loss_noticed([&a, &b]).await;
}

/// Users on both nodes, every tenth with three devices on two nodes.
async fn mixed_crowd(a: &Node, b: &Node) -> Crowd {
    let (a, b) = (a.client_address(), b.client_address());
    let mut crowd = Crowd::new();
    let places = |i: usize| match (i % 10, i % 2) {
        (0, _) => vec![a, b, a],
        (_, 0) => vec![a],
        _ => vec![b],
    };
    let users = (0..USERS).flat_map(|i| places(i).into_iter().map(move |at| (at, format!("u{i}"))));
    crowd.join(users).await;
    assert_eq!(crowd.members.len(), USERS + USERS / 10 * 2);
    crowd
}

#[tokio::test]
async fn to_users_on_both_nodes_and_with_three_devices() {
    let redis = Redis::start();
    let (a, b) = two_nodes(&redis);
    let mut crowd = mixed_crowd(&a, &b).await;
    let ledger = Ledger::new(&user_names(), PUSHES / 2, PUBLISHERS);
    let start = Instant::now();
    let publish = async {
        let parts = ledger.plan.iter().enumerate();
        let parts = parts.map(|(i, part)| {
            let node = if i % 2 == 0 { &a } else { &b };
            push_part(node.client_address(), part)
        });
        futures::future::join_all(parts).await;
        push_end(&b).await;
    };
    let (heard, ()) = tokio::join!(crowd.all_hear_until(END), publish);
    println!(
        "{} pushes to users on both nodes: {:.1?}",
        PUSHES / 2,
        start.elapsed()
    );
    ledger.audit(&crowd.members, &heard).assert_flawless();
    assert_no_loss_noticed([&a, &b]).await;
}

/// Looks up and publishes like any program with a Redis client: turn by turn to the user on
/// each node, and to each connection by its name.
async fn publish_part(redis: &Redis, part: &[Entry]) {
    let mut client = Resp::connect(redis.port()).await;
    for entries in part.chunks(32) {
        let lookups: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| vec!["HKEYS".to_owned(), format!("pn:user:{{{}}}", entry.user)])
            .collect();
        let rows = client.pipeline(&lookups).await;
        let mut publishes = Vec::new();
        for (i, (Entry { user, data }, row)) in entries.iter().zip(rows).enumerate() {
            let fields = row.texts();
            assert!(!fields.is_empty(), "{user} has no row");
            let mut publish = |node: &str, to: String| {
                let line = format!(r#"{{"to":{to},"data":{data}}}"#);
                publishes.push(vec!["PUBLISH".to_owned(), format!("pn:n:{{{node}}}"), line]);
            };
            let node_of = |field: &str| field.split('/').next().expect("a node").to_owned();
            if i % 2 == 0 {
                let mut nodes: Vec<String> = fields.iter().map(|field| node_of(field)).collect();
                nodes.sort_unstable();
                nodes.dedup();
                for node in nodes {
                    publish(&node, format!(r#"{{"user":"{user}"}}"#));
                }
            } else {
                for field in &fields {
                    publish(
                        &node_of(field),
                        format!(r#"{{"fd":"{field}","user":"{user}"}}"#),
                    );
                }
            }
        }
        for receivers in client.pipeline(&publishes).await {
            assert_eq!(receivers.number(), 1, "one node listens on its channel");
        }
    }
}

#[tokio::test]
async fn through_publish_by_any_redis_client() {
    let redis = Redis::start();
    let (a, b) = two_nodes(&redis);
    let mut crowd = mixed_crowd(&a, &b).await;
    let ledger = Ledger::new(&user_names(), PUSHES, 4);
    let start = Instant::now();
    let publish = async {
        let parts = ledger.plan.iter().map(|part| publish_part(&redis, part));
        futures::future::join_all(parts).await;
        let line = format!(r#"{{"to":{{"all":true}},"data":{END}}}"#);
        Resp::connect(redis.port())
            .await
            .call(&["PUBLISH", "pn:g", &line])
            .await;
    };
    let (heard, ()) = tokio::join!(crowd.all_hear_until(END), publish);
    println!("{PUSHES} pushes by PUBLISH: {:.1?}", start.elapsed());
    ledger.audit(&crowd.members, &heard).assert_flawless();
    assert_no_loss_noticed([&a, &b]).await;
}

async fn freeze(redis: &Redis, time: Duration) {
    send_signal(redis.pid(), "STOP");
    tokio::time::sleep(time).await;
    send_signal(redis.pid(), "CONT");
}

/// Publishers in full swing while something happens to Redis. Whatever was answered `routed`
/// arrives once and in order; what was refused arrives once or not at all.
async fn answers_stay_true_during(fault: impl AsyncFnOnce(&Redis)) {
    const PUSHES: usize = 8_000;
    const PUBLISHERS: usize = 16;
    let redis = Redis::start();
    let (a, b) = two_nodes(&redis);
    let users: Vec<String> = (0..200).map(|i| format!("u{i}")).collect();
    let mut crowd = Crowd::of(&a, "u", users.len()).await;
    // To connections by their names: then every push is a PUBLISH and no look-up.
    let mut client = Resp::connect(redis.port()).await;
    let mut connections = HashMap::new();
    for user in &users {
        let row = client
            .call(&["HKEYS", &format!("pn:user:{{{user}}}")])
            .await;
        connections.insert(user.as_str(), row.texts().remove(0));
    }
    let ledger = Ledger::new(&users, PUSHES, PUBLISHERS);
    let sent = AtomicUsize::new(0);
    let part = async |part: &[Entry]| {
        let mut api = Api::connect(b.client_address()).await;
        let mut refused = Vec::new();
        for Entry { user, data } in part {
            let fd = &connections[user.as_str()];
            let body = format!(r#"{{"to":{{"fd":"{fd}","user":"{user}"}},"data":{data}}}"#);
            match api.push("application/json", &body).await {
                (200, answer) if answer.contains(r#""status":"routed""#) => {}
                (503, answer) if answer.contains(r#""status":"unrouted""#) => {
                    refused.push(data.clone());
                }
                other => panic!("{body} was answered {other:?}"),
            }
            sent.fetch_add(1, Ordering::Relaxed);
        }
        refused
    };
    let fault = async {
        eventually(async || match sent.load(Ordering::Relaxed) {
            some if some > PUSHES / 4 => Ok(()),
            few => Err(few),
        })
        .await;
        fault(&redis).await;
    };
    let publish = async {
        let parts = ledger.plan.iter().map(|plan| part(plan));
        let (refused, ()) = tokio::join!(futures::future::join_all(parts), fault);
        push_end(&b).await;
        refused.into_iter().flatten().collect::<HashSet<String>>()
    };
    let (heard, refused) = tokio::join!(crowd.all_hear_until(END), publish);
    let again = b.metric("publish_retries_total").await;
    println!(
        "{} of {PUSHES} pushes were refused; published again: {again}",
        refused.len()
    );
    ledger
        .audit_but(&crowd.members, &heard, &refused)
        .assert_flawless();
}

#[tokio::test]
async fn while_redis_is_frozen_for_less_than_a_command_may_take() {
    answers_stay_true_during(async |redis| freeze(redis, Duration::from_secs(1)).await).await;
}

/// Payloads under way get no answer and are published again, although Redis will handle both.
#[tokio::test]
async fn while_redis_is_frozen_for_longer_than_a_push_may_take() {
    answers_stay_true_during(async |redis| freeze(redis, Duration::from_secs(5)).await).await;
}

/// Each cut leaves payloads of which nobody knows whether Redis took them.
#[tokio::test]
async fn while_the_connections_for_commands_are_cut_again_and_again() {
    answers_stay_true_during(async |redis| {
        for _ in 0..10 {
            redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}
