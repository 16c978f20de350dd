//! The rows in Redis: there before the client knows it is connected, gone when it is, and
//! nobody else's business.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, http, node_on, post, send_signal};
use crate::crowd::Crowd;
use crate::raw::{Event, Resp, Socket};

fn row(user: &str) -> String {
    format!("pn:user:{{{user}}}")
}

async fn fields(client: &mut Resp, user: &str) -> Vec<String> {
    client.call(&["HKEYS", &row(user)]).await.texts()
}

async fn get(node: &Node, path: &str) -> Value {
    let response = http().get(node.url(path)).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

fn connections(answer: &Value) -> &[Value] {
    answer["connections"].as_array().expect("connections")
}

#[tokio::test]
async fn the_row_is_written_before_the_client_is_let_in() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Resp::connect(redis.port()).await;
    for i in 0..200 {
        let user = format!("u{i}");
        let _socket =
            Socket::connect(node.client_address(), &format!("user={user}"), i % 2 == 0).await;
        let found = fields(&mut client, &user).await;
        assert_eq!(found.len(), 1, "{user} was let in without a row");
    }
    let v1 = Client::v1(&node.ws_url("v1")).await;
    assert_eq!(fields(&mut client, "v1").await, [v1.connection()]);
}

#[tokio::test]
async fn a_row_tells_of_the_connection_and_ends_by_itself() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Resp::connect(redis.port()).await;
    let phone = Client::v1(&format!("{}&device=phone", node.ws_url("42"))).await;
    let value = client
        .call(&["HGET", &row("42"), &phone.connection()])
        .await;
    let about: Value = serde_json::from_str(value.text()).expect("JSON");
    assert_eq!(about["device"], "phone", "{about}");
    assert_eq!(about["transport"], "ws", "{about}");
    assert!(
        about["at"]
            .as_u64()
            .is_some_and(|at| at > 1_700_000_000_000),
        "{about}"
    );
    let seconds = client.call(&["TTL", &row("42")]).await.number();
    assert!((1..=24 * 3600).contains(&seconds), "TTL {seconds}");

    drop(phone);
    eventually(
        async || match client.call(&["EXISTS", &row("42")]).await.number() {
            0 => Ok(()),
            _ => Err("the row is still there"),
        },
    )
    .await;
}

#[tokio::test]
async fn a_node_is_known_by_its_lease_and_in_the_set_until_it_leaves() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let mut b = node_on(&redis, "b.eu-1");
    let mut client = Resp::connect(redis.port()).await;
    let mut names = client.call(&["SMEMBERS", "pn:nodes"]).await.texts();
    names.sort_unstable();
    assert_eq!(names, ["a", "b.eu-1"]);
    let milliseconds = client.call(&["PTTL", "pn:node:b.eu-1"]).await.number();
    assert!((1..=10_000).contains(&milliseconds), "PTTL {milliseconds}");
    let lease = client.call(&["GET", "pn:node:b.eu-1"]).await;
    let lease: Value = serde_json::from_str(lease.text()).expect("JSON");
    assert_eq!(lease["node"], b.id, "{lease}");
    assert_eq!(
        (&lease["name"], &lease["state"]),
        (&json!("b.eu-1"), &json!("up")),
        "{lease}"
    );
    assert!(
        lease["version"].is_string() && lease["started"].is_u64(),
        "{lease}"
    );

    // The other one sees it at its next beat, with its clients.
    let _crowd = Crowd::of(&b, "u", 7).await;
    eventually(async || {
        let answer = get(&a, "/v1/nodes").await;
        let nodes = answer["nodes"].as_array().expect("nodes");
        let seen = nodes.iter().find(|node| node["node"] == b.id);
        seen.filter(|node| node["connections"] == 7)
            .map(|_| ())
            .ok_or(answer.clone())
    })
    .await;

    b.signal("TERM");
    assert!(b.wait_exit().success());
    assert_eq!(client.call(&["EXISTS", "pn:node:b.eu-1"]).await.number(), 0);
    assert_eq!(client.call(&["SMEMBERS", "pn:nodes"]).await.texts(), ["a"]);
    assert_eq!(
        client.call(&["EXISTS", &row("u0")]).await.number(),
        0,
        "a row of a node that left"
    );
}

#[tokio::test]
async fn every_node_shows_a_users_connections_on_all_nodes() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let url = |node: &Node, device: &str| format!("{}&device={device}", node.ws_url("42"));
    let mut clients = vec![
        Client::v1(&url(&a, "phone")).await,
        Client::v1(&url(&b, "tablet")).await,
        Client::v1(&url(&a, "desk")).await,
    ];
    for node in [&a, &b] {
        let answer = get(node, "/v1/users/42").await;
        assert_eq!(answer["online"], true, "{answer}");
        let seen = |name| {
            connections(&answer)
                .iter()
                .map(|c| c[name].to_string())
                .collect::<BTreeSet<_>>()
        };
        let devices = ["\"phone\"", "\"tablet\"", "\"desk\""].map(str::to_owned);
        assert_eq!(seen("device"), BTreeSet::from(devices), "{answer}");
        assert_eq!(seen("node").len(), 2, "{answer}");
        assert_eq!(connections(&answer).len(), 3, "{answer}");
    }
    // And a push reaches all three.
    let push = json!({"to": {"user": "42"}, "data": "all of you", "wait": "written"});
    let (_, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (&answer["connections"], &answer["nodes"]),
        (&json!(3), &json!(2)),
        "{answer}"
    );
    for client in &mut clients {
        assert_eq!(client.json().await["data"], "all of you");
    }
    let answer = get(&a, "/v1/users/nobody").await;
    assert_eq!(
        (&answer["online"], connections(&answer).len()),
        (&json!(false), 0)
    );
}

/// The old socket may die long after the new one came, and its end must not take the new row.
#[tokio::test]
async fn a_user_who_moved_stays_reachable_while_the_old_socket_dies() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    for round in 0..20 {
        let user = format!("u{round}");
        let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let old = Socket::connect(from.client_address(), &format!("user={user}"), false).await;
        let mut new = Socket::connect(to.client_address(), &format!("user={user}"), false).await;
        drop(old);
        // Whatever the registry is doing right now, each of these must arrive.
        for number in 0..5 {
            let data = format!("{user} {number}");
            let push = json!({"to": {"user": user}, "data": data});
            let (status, answer) = post(&from.push_url, &push).await;
            assert_eq!(
                (status, &answer["status"]),
                (200, &json!("routed")),
                "{answer}"
            );
            assert_eq!(new.event().await, Event::Text(format!("\"{data}\"")));
        }
        let mut client = Resp::connect(redis.port()).await;
        eventually(async || match &fields(&mut client, &user).await[..] {
            [only] if only.starts_with(&to.id) => Ok(()),
            other => Err(other.to_vec()),
        })
        .await;
    }
}

#[tokio::test]
async fn after_much_coming_and_going_the_row_is_exactly_who_is_there() {
    const ROUNDS: usize = 600;
    const MOST: usize = 100;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let redis = Redis::start();
    let nodes = [node_on(&redis, "a"), node_on(&redis, "b")];
    let mut client = Resp::connect(redis.port()).await;
    let mut here: Vec<(String, Client)> = Vec::new();
    for _ in 0..ROUNDS {
        if here.len() < MOST && random.u8(..) < 150 {
            let node = &nodes[random.usize(..2)];
            let new = Client::v1(&node.ws_url("42")).await;
            here.push((new.connection(), new));
        } else if !here.is_empty() {
            let (_, mut gone) = here.swap_remove(random.usize(..here.len()));
            if random.bool() {
                // With a goodbye; else the socket just dies.
                gone.socket.close(None).await.expect("the close is sent");
            }
        }
    }
    let expected: BTreeSet<String> = here.iter().map(|(name, _)| name.clone()).collect();
    eventually(async || {
        let found: BTreeSet<String> = fields(&mut client, "42").await.into_iter().collect();
        if found == expected {
            return Ok(());
        }
        let ghosts: Vec<_> = found.difference(&expected).cloned().collect();
        let lost: Vec<_> = expected.difference(&found).cloned().collect();
        Err(format!(
            "seed {seed}: in the row but gone: {ghosts:?}; here but not in the row: {lost:?}"
        ))
    })
    .await;
    let push = json!({"to": {"user": "42"}, "data": 1, "wait": "written"});
    let (_, answer) = post(&nodes[0].push_url, &push).await;
    assert_eq!(answer["connections"], expected.len(), "{answer}");
}

/// All users with a row, and how many fields it has.
async fn all_rows(client: &mut Resp) -> Vec<(String, usize)> {
    let keys = client.call(&["KEYS", "pn:user:*"]).await.texts();
    let commands: Vec<_> = keys.iter().map(|key| vec!["HLEN", key]).collect();
    let lengths = client.pipeline(&commands).await;
    let lengths = lengths.iter().map(|length| length.number() as usize);
    let mut rows: Vec<_> = keys.iter().cloned().zip(lengths).collect();
    rows.sort_unstable();
    rows
}

/// Redis answers nothing for a while: some writes fail, some are done without an answer. So many
/// users change that it takes more transactions than are under way at once.
#[tokio::test]
async fn what_changed_while_redis_hung_is_written_once_it_answers() {
    const LEAVING: usize = 4_000;
    const COMING: usize = 100;
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = Resp::connect(redis.port()).await;
    let old = Crowd::of(&node, "old", LEAVING).await;
    assert_eq!(all_rows(&mut client).await.len(), LEAVING);

    send_signal(redis.pid(), "STOP");
    drop(old);
    let new = Crowd::of(&node, "new", COMING).await;
    let failed_writes = async |more_than: f64| {
        eventually(async || match node.metric("registry_errors_total").await {
            errors if errors > more_than => Ok(errors),
            errors => Err(format!("{errors} writes have failed")),
        })
        .await
    };
    // The first may have been a small one, under way when all this began.
    let first = failed_writes(0.0).await;
    failed_writes(first).await;
    send_signal(redis.pid(), "CONT");

    let mut expected: Vec<_> = new
        .members
        .iter()
        .map(|member| (row(&member.user), 1))
        .collect();
    expected.sort_unstable();
    eventually(async || {
        let rows = all_rows(&mut client).await;
        if rows == expected {
            return Ok(());
        }
        let (old, new): (Vec<_>, Vec<_>) = rows.iter().partition(|(key, _)| key.contains("{old"));
        let (ghosts, here) = (old.len(), new.len());
        Err(format!(
            "{ghosts} rows of users who left, {here} of {COMING} users who are here"
        ))
    })
    .await;
}

/// The time a client waits for a registry that does not answer.
#[tokio::test]
async fn a_client_is_let_in_after_a_second_when_redis_hangs() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    send_signal(redis.pid(), "STOP");
    let start = std::time::Instant::now();
    let mut client = Client::v1(&node.ws_url("42")).await;
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_millis(900),
        "let in after {waited:?} without a row"
    );
    assert_eq!(client.json().await["type"], "degraded");
    send_signal(redis.pid(), "CONT");
    println!("let in after {waited:.1?}");
}
