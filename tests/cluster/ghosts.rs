//! What dead nodes leave behind in Redis is removed by those that live, told of once, and put
//! back by whoever was not dead after all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Node, PATIENCE, Redis, eventually, http, node_on, post, send_signal};
use crate::crowd::Crowd;
use crate::raw::{Answer, Resp};

/// On the node that dies.
const USERS: usize = 3_000;
/// Of those, how many connect elsewhere at once.
const MOVED: usize = 50;
/// No test fails because a machine is slow; what was measured is printed.
const GENEROUS: Duration = PATIENCE;

/// All events so far, oldest first.
async fn events(client: &mut Resp) -> Vec<Value> {
    let Answer::List(entries) = client.call(&["XRANGE", "pn:events", "-", "+"]).await else {
        panic!("no stream");
    };
    let event = |entry: &Answer| {
        let Answer::List(entry) = entry else {
            panic!("no entry: {entry:?}");
        };
        let fields = entry[1].texts();
        assert_eq!((fields.len(), &*fields[0]), (2, "event"), "{fields:?}");
        serde_json::from_str(&fields[1]).expect("JSON")
    };
    entries.iter().map(event).collect()
}

async fn members(client: &mut Resp, key: &str) -> BTreeSet<String> {
    let members = client.call(&["SMEMBERS", key]).await.texts();
    members.into_iter().collect()
}

async fn rows(client: &mut Resp) -> usize {
    client.call(&["KEYS", "pn:user:*"]).await.texts().len()
}

async fn is_online(node: &Node, user: &str) -> bool {
    let answer = http().get(node.url(&format!("/v1/users/{user}")));
    let answer = answer.send().await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    answer["online"].as_bool().expect("true or false")
}

#[tokio::test]
async fn a_dead_nodes_rows_are_swept_and_its_loss_is_told_once() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    let mut client = Resp::connect(redis.port()).await;
    let crowd = Crowd::of(&a, "u", USERS).await;
    let dead = a.id.clone();
    let index = format!("pn:users:{{{dead}}}");
    assert_eq!(members(&mut client, &index).await.len(), USERS);
    assert!(client.call(&["TTL", &index]).await.number() <= 24 * 3600);

    a.kill();
    let died = Instant::now();
    drop(crowd);
    // They have more time than the grace: they are back before anybody knows of the death.
    let moved = Crowd::of(&b, "u", MOVED).await;
    eventually(async || match rows(&mut client).await {
        MOVED => Ok(()),
        more => Err(format!("{more} rows")),
    })
    .await;
    let swept = died.elapsed();
    println!("{USERS} rows of a dead node: gone {swept:.1?} after its death");
    assert!(swept < GENEROUS, "swept only after {swept:?}");
    for node in [&b, &c] {
        assert!(!is_online(node, "u2999").await);
        assert!(is_online(node, "u0").await, "u0 has moved and is there");
    }
    let expected = BTreeSet::from([b.id.clone(), c.id.clone()]);
    eventually(async || match members(&mut client, "pn:boots").await {
        boots if boots == expected => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(client.call(&["EXISTS", &index]).await.number(), 0);

    eventually(async || match events(&mut client).await.len() {
        all if all > USERS - MOVED => Ok(()),
        some => Err(format!("{some} events")),
    })
    .await;
    println!("all events told {:.1?} after its death", died.elapsed());
    let events = events(&mut client).await;
    assert_eq!(events[0], json!({"type": "node-lost", "node": dead}));
    let mut left = BTreeSet::new();
    for event in &events[1..] {
        let user = event["user"].as_str().expect("a user").to_owned();
        let expected = json!({"type": "leave", "user": user, "node": dead, "reason": "node-lost"});
        assert_eq!(*event, expected);
        assert!(left.insert(user), "told twice: {event}");
    }
    let expected: BTreeSet<String> = (MOVED..USERS).map(|i| format!("u{i}")).collect();
    assert_eq!(left, expected);
    drop(moved);
}

/// Its successor proves at once that it is dead: nobody waits for a lease.
#[tokio::test]
async fn a_dead_nodes_user_is_offline_once_its_name_lives_again() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut client = Resp::connect(redis.port()).await;
    let ghost = Client::v1(&a.ws_url("42")).await;
    let dead = a.id.clone();
    a.kill();
    drop(ghost);
    let died = Instant::now();
    redis.until_nobody_listens(&dead).await;
    let new = node_on(&redis, "a");
    for node in [&b, &new] {
        assert!(!is_online(node, "42").await, "asked at {}", node.id);
    }
    println!("offline {:.1?} after its node's death", died.elapsed());
    eventually(async || match rows(&mut client).await {
        0 => Ok(()),
        rows => Err(rows),
    })
    .await;
    println!("swept {:.1?} after its node's death", died.elapsed());
}

#[tokio::test]
async fn a_sweep_that_was_cut_short_is_taken_up() {
    let redis = Redis::start();
    let mut client = Resp::connect(redis.port()).await;
    // Two of three users are left to do when the sweeper dies. One has a device elsewhere.
    let half: [&[&str]; 6] = [
        &["SADD", "pn:boots", "dead.1"],
        &["SADD", "pn:users:{dead.1}", "done", "open", "both"],
        &["HSET", "pn:user:{open}", "dead.1/1", "{}", "dead.1/2", "{}"],
        &["HSET", "pn:user:{both}", "dead.1/3", "{}"],
        &["SET", "pn:sweep:{dead.1}", "other.1", "PX", "9000"],
        &["SADD", "pn:boots", "no node at all"],
    ];
    let locked = Instant::now();
    for command in half {
        client.call(command).await;
    }
    let b = node_on(&redis, "b");
    let both = Client::v1(&b.ws_url("both")).await;
    eventually(async || match events(&mut client).await.len() {
        0 => Err("not swept"),
        _ => Ok(()),
    })
    .await;
    let waited = locked.elapsed();
    println!("swept {waited:.1?} after it was locked for 9 s");
    assert!(waited > Duration::from_secs(8), "in spite of the lock");
    eventually(async || match events(&mut client).await.len() {
        3.. => Ok(()),
        few => Err(few),
    })
    .await;
    let expected = |user: &str| json!({"type": "leave", "user": user, "node": "dead.1", "reason": "node-lost"});
    let events = events(&mut client).await;
    assert_eq!(events[0], json!({"type": "node-lost", "node": "dead.1"}));
    assert_eq!(events[1..], [expected("done"), expected("open")]);
    assert_eq!(client.call(&["EXISTS", "pn:user:{open}"]).await.number(), 0);
    let fields = client.call(&["HKEYS", "pn:user:{both}"]).await.texts();
    assert_eq!(fields, [both.connection()]);
}

/// By somebody who took it for dead: its rows are removed, then its index, then its entry.
#[tokio::test]
async fn a_live_node_whose_rows_were_swept_puts_them_back() {
    const USERS: usize = 500;
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut client = Resp::connect(redis.port()).await;
    let mut crowd = Crowd::of(&a, "u", USERS).await;
    let index = format!("pn:users:{{{}}}", a.id);
    let lock = format!("pn:sweep:{{{}}}", a.id);
    let keys = client.call(&["KEYS", "pn:user:*"]).await.texts();
    let remove_rows: Vec<_> = keys.iter().map(|key| vec!["DEL", key]).collect();
    // A whole sweep; and one whose sweeper died before its last step.
    let whole = vec![vec!["DEL", &*index], vec!["SREM", "pn:boots", &*a.id]];
    let cut_short = vec![vec!["SET", &*lock, "dead.1", "PX", "30000"]];
    for (what, mut commands) in [("whole", whole), ("cut short", cut_short)] {
        commands.extend(remove_rows.clone());
        client.pipeline(&commands).await;
        let start = Instant::now();
        eventually(async || {
            let found = (
                rows(&mut client).await,
                members(&mut client, &index).await.len(),
                members(&mut client, "pn:boots").await.len(),
            );
            match found {
                (USERS, USERS, 2) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        println!("{what}: {USERS} rows back after {:.1?}", start.elapsed());
        for user in 0..USERS {
            let push = json!({"to": {"user": format!("u{user}")}, "data": what});
            let (_, answer) = post(&b.push_url, &push).await;
            assert_eq!(answer["status"], "routed", "{answer}");
        }
        crowd.all_hear_until(&format!("\"{what}\"")).await;
    }
}

/// All leases are gone when it goes on, and nobody is dead.
#[tokio::test]
async fn a_pause_of_redis_beyond_the_lease_kills_nobody() {
    let redis = Redis::start();
    let nodes = [node_on(&redis, "a"), node_on(&redis, "b")];
    let _crowd = Crowd::of(&nodes[0], "u", 100).await;
    send_signal(redis.pid(), "STOP");
    tokio::time::sleep(Duration::from_secs(12)).await;
    send_signal(redis.pid(), "CONT");
    let start = Instant::now();
    let mut client = Resp::connect(redis.port()).await;
    for node in &nodes {
        node.wait_ready();
    }
    println!("ready {:.1?} after Redis went on", start.elapsed());
    // This one is dead. When that has been found out, all the others have been looked at.
    client.call(&["SADD", "pn:boots", "dead.1"]).await;
    eventually(async || match events(&mut client).await.len() {
        0 => Err("not swept"),
        _ => Ok(()),
    })
    .await;
    let lost = json!({"type": "node-lost", "node": "dead.1"});
    assert_eq!(events(&mut client).await, [lost]);
    assert_eq!(rows(&mut client).await, 100);
}

#[tokio::test]
async fn the_index_names_who_is_there() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let mut client = Resp::connect(redis.port()).await;
    let staying = Crowd::of(&a, "s", 200).await;
    let twice = Crowd::of(&a, "s", 50).await;
    let going = Crowd::of(&a, "g", 200).await;
    drop((twice, going));
    let expected: BTreeSet<String> = staying.members.iter().map(|m| m.user.clone()).collect();
    let index = format!("pn:users:{{{}}}", a.id);
    eventually(async || match members(&mut client, &index).await {
        users if users == expected => Ok(()),
        users => Err(users.len()),
    })
    .await;
    drop(staying);
    eventually(async || match members(&mut client, &index).await.len() {
        0 => Ok(()),
        users => Err(users),
    })
    .await;
}
