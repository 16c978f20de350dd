//! A node that stands still for longer than its lease, and then goes on: it acts on nothing that
//! has become untrue meanwhile, and is back by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Node, PATIENCE, Redis, eventually, http, node_on, post};
use crate::crowd::Crowd;
use crate::ledger::Ledger;
use crate::raw::{Api, Resp};

/// Longer than a lease and the beats that others wait beyond it.
const STILL: Duration = Duration::from_secs(20);
const USERS: usize = 200;
/// Of those, how many connect to another node meanwhile.
const MOVING: usize = 50;
/// No test fails because a machine is slow; what was measured is printed.
const GENEROUS: Duration = PATIENCE;
const END: &str = "\"end\"";

/// Ready, and not only because nobody has looked yet: subscribed anew, its lease put again.
async fn until_back(node: &Node, redis: &mut Resp) {
    eventually(async || {
        let answer = http().get(node.admin_url("/readyz")).send().await;
        let status = answer.expect("an answer").status().as_u16();
        let subscribed = node.metric("subscriptions_total").await;
        let lease = redis.call(&["EXISTS", "pn:node:a"]).await.number();
        match (status, lease) {
            (200, 1) if subscribed > 1.0 => Ok(()),
            _ => Err((status, lease, subscribed)),
        }
    })
    .await;
}

/// One push to each user, each answered `routed`.
async fn push_to_all(node: &Node, ledger: &Ledger) {
    let mut api = Api::connect(node.client_address()).await;
    for entry in ledger.plan.iter().flatten() {
        let body = format!(
            r#"{{"to":{{"user":"{}"}},"data":{}}}"#,
            entry.user, entry.data
        );
        let (status, answer) = api.push("application/json", &body).await;
        assert!(
            status == 200 && answer.contains(r#""status":"routed""#),
            "{body}: {status} {answer}"
        );
    }
}

async fn push_end(node: &Node) {
    let push = json!({"to": {"all": true}, "data": "end"});
    assert_eq!(post(&node.push_url, &push).await.0, 200);
}

#[tokio::test]
async fn a_node_that_stood_still_past_its_lease_is_back_with_all_that_was_sent() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut redis_client = Resp::connect(redis.port()).await;
    let mut staying = Crowd::of(&a, "stay", USERS - MOVING).await;
    let moving = Crowd::of(&a, "move", MOVING).await;
    let mut v1 = Client::v1(&a.ws_url("v1")).await;
    let names = |prefix: &str, count| -> Vec<String> {
        (0..count).map(|i| format!("{prefix}{i}")).collect()
    };

    a.signal("STOP");
    let stopped = Instant::now();
    drop(moving);
    let mut moved = Crowd::of(&b, "move", MOVING).await;
    // Redis keeps these for whoever does not read: they are late and not lost.
    let to_staying = Ledger::new(&names("stay", USERS - MOVING), USERS, 1);
    push_to_all(&b, &to_staying).await;
    let to_moved = Ledger::new(&names("move", MOVING), 2 * MOVING, 1);
    push_to_all(&b, &to_moved).await;
    tokio::time::sleep(STILL.saturating_sub(stopped.elapsed())).await;
    assert_eq!(
        redis_client.call(&["EXISTS", "pn:node:a"]).await.number(),
        0
    );
    // Its subscription stands, but its host could have vanished: without beats it is dead.
    eventually(
        async || match redis_client.call(&["XLEN", "pn:events"]).await.number() {
            0 => Err("not swept"),
            _ => Ok(()),
        },
    )
    .await;

    a.signal("CONT");
    let start = Instant::now();
    until_back(&a, &mut redis_client).await;
    let ready = start.elapsed();
    println!("ready {ready:.2?} after {STILL:.0?} of standing still");
    assert!(ready < GENEROUS, "ready only after {ready:?}");
    // Those who have moved have their new row only.
    for user in names("move", MOVING) {
        let key = format!("pn:user:{{{user}}}");
        eventually(
            async || match &redis_client.call(&["HKEYS", &key]).await.texts()[..] {
                [only] if only.starts_with(&b.id) => Ok(()),
                other => Err(other.to_vec()),
            },
        )
        .await;
    }
    let mut types = Vec::new();
    while types.last() != Some(&json!("resync")) {
        types.push(v1.json().await["type"].clone());
    }
    println!("v1 client told to resync after {:.1?}", start.elapsed());
    push_end(&b).await;
    let heard = staying.all_hear_until(END).await;
    to_staying.audit(&staying.members, &heard).assert_flawless();
    let heard = moved.all_hear_until(END).await;
    to_moved.audit(&moved.members, &heard).assert_flawless();
    for node in [&a, &b] {
        let closes = node.labelled("closes_total", "reason=\"gone\"").await;
        assert_eq!(node.metric("closes_total").await, closes, "others closed");
    }
    let again = Ledger::new(&names("stay", USERS - MOVING), USERS, 1);
    push_to_all(&b, &again).await;
    push_end(&b).await;
    let heard = staying.all_hear_until(END).await;
    again.audit(&staying.members, &heard).assert_flawless();
}

/// Its subscription is cut meanwhile, so that the others are right to take it for dead.
#[tokio::test]
async fn a_node_that_was_swept_while_it_stood_still_puts_its_rows_back() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut redis_client = Resp::connect(redis.port()).await;
    let mut crowd = Crowd::of(&a, "u", USERS).await;
    let mut v1 = Client::v1(&a.ws_url("v1")).await;

    a.signal("STOP");
    assert_eq!(redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]), "2");
    let start = Instant::now();
    eventually(
        async || match redis_client.call(&["XLEN", "pn:events"]).await.number() {
            0 => Err("not swept"),
            _ => Ok(()),
        },
    )
    .await;
    println!("swept {:.1?} after it stood still", start.elapsed());
    let rows = redis_client.call(&["KEYS", "pn:user:*"]).await.texts();
    assert_eq!(rows, [""; 0]);
    let push = json!({"to": {"user": "u0"}, "data": "too late", "timeout_ms": 500});
    let (status, answer) = post(&b.push_url, &push).await;
    let expected = (200, &json!("offline"));
    assert_eq!((status, &answer["status"]), expected, "{answer}");

    a.signal("CONT");
    let start = Instant::now();
    until_back(&a, &mut redis_client).await;
    println!("ready after {:.2?}", start.elapsed());
    eventually(async || {
        let rows = redis_client.call(&["KEYS", "pn:user:*"]).await.texts();
        let index = format!("pn:users:{{{}}}", a.id);
        let index = redis_client.call(&["SCARD", &index]).await.number();
        match (rows.len(), index) {
            (rows, index) if (rows, index as usize) == (USERS + 1, USERS + 1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    println!("rows back after {:.2?}", start.elapsed());
    let mut types: Vec<Value> = Vec::new();
    while types.last() != Some(&json!("resync")) {
        types.push(v1.json().await["type"].clone());
    }
    let users: Vec<String> = (0..USERS).map(|i| format!("u{i}")).collect();
    let ledger = Ledger::new(&users, USERS, 1);
    push_to_all(&b, &ledger).await;
    push_end(&b).await;
    let heard = crowd.all_hear_until(END).await;
    ledger.audit(&crowd.members, &heard).assert_flawless();
    // And it is taken for dead no more.
    let boots = redis_client.call(&["SMEMBERS", "pn:boots"]).await.texts();
    assert!(boots.contains(&a.id), "{boots:?}");
}
