//! A node dies without a word and starts again under its name: nothing meant for its old
//! clients may reach the new ones, and nobody is told that the dead are there.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Redis, eventually, http, node_on, post, start_node};
use crate::crowd::Crowd;
use crate::raw::{Answer, Api, Event, Resp};

const USERS: usize = 300;

/// Publishes to the old clients by every way there is, until told to stop.
struct Senders {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Senders {
    /// `fields`: the old connections; `channels`: what raw publishers send on.
    fn start(
        redis: &Redis,
        api: std::net::SocketAddr,
        fields: &[String],
        channels: &[String],
    ) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = Vec::new();
        for channel in channels {
            let (stop, sent, port) = (stop.clone(), sent.clone(), redis.port());
            let (fields, channel) = (fields.to_vec(), channel.clone());
            tasks.push(tokio::spawn(async move {
                let mut client = Resp::connect(port).await;
                while !stop.load(Ordering::Relaxed) {
                    let publishes: Vec<Vec<String>> = fields
                        .iter()
                        .map(|field| {
                            let line =
                                format!(r#"{{"to":{{"fd":"{field}"}},"data":"for {field}"}}"#);
                            vec!["PUBLISH".to_owned(), channel.clone(), line]
                        })
                        .collect();
                    client.pipeline(&publishes).await;
                    sent.fetch_add(publishes.len(), Ordering::Relaxed);
                }
            }));
        }
        for _ in 0..4 {
            let (stop, sent, fields) = (stop.clone(), sent.clone(), fields.to_vec());
            tasks.push(tokio::spawn(async move {
                let mut api = Api::connect(api).await;
                while !stop.load(Ordering::Relaxed) {
                    let field = &fields[fastrand::usize(..fields.len())];
                    let body = format!(
                        r#"{{"to":{{"fd":"{field}"}},"data":"for {field}","timeout_ms":200}}"#
                    );
                    api.push("application/json", &body).await;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, sent, tasks }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a sender that runs to its end");
        }
        self.sent.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_for_the_clients_of_a_dead_node_reaches_those_of_its_successor() {
    let redis = Redis::start();
    let b = node_on(&redis, "b");
    let mut old_node = node_on(&redis, "a");
    let mut client = Resp::connect(redis.port()).await;
    // New users sit at the same numbers as the old ones did.
    let mut unsafe_guess = HashSet::new();
    for round in 0..3 {
        let old = Crowd::of(&old_node, &format!("old{round}-"), USERS).await;
        let rows: Vec<Vec<String>> = old
            .members
            .iter()
            .map(|member| vec!["HKEYS".to_owned(), format!("pn:user:{{{}}}", member.user)])
            .collect();
        let fields: Vec<String> = client
            .pipeline(&rows)
            .await
            .iter()
            .flat_map(Answer::texts)
            .collect();
        assert_eq!(fields.len(), USERS);
        let old_channel = format!("pn:n:{{{}}}", old_node.id);
        let channels = [old_channel, "pn:g".to_owned()];
        let senders = Senders::start(&redis, b.client_address(), &fields, &channels);

        old_node.kill();
        drop(old);
        let new_node = node_on(&redis, "a");
        let mut new = Crowd::of(&new_node, &format!("new{round}-"), USERS).await;
        // Also straight to the successor, as a confused publisher would.
        let channels = [format!("pn:n:{{{}}}", new_node.id)];
        let confused = Senders::start(&redis, b.client_address(), &fields, &channels);
        eventually(async || match confused.sent.load(Ordering::Relaxed) {
            sent if sent > 10 * USERS => Ok(()),
            sent => Err(sent),
        })
        .await;
        let sent = senders.stop().await + confused.stop().await;

        // Pushed again and again: on a busy machine a node may open another subscription, and what
        // goes to everybody in that moment is lost (clients are told to `resync`).
        let everybody = json!({"to": {"all": true}, "data": "end"});
        let end = async {
            loop {
                assert_eq!(post(&b.push_url, &everybody).await.0, 200);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        };
        let heard = tokio::select! {
            heard = new.all_hear_until("\"end\"") => heard,
            never = end => never,
        };
        assert_eq!(heard, [], "of {sent} messages for others");
        println!("round {round}: {sent} messages for dead connections, none delivered");

        let rows: Vec<Vec<String>> = new
            .members
            .iter()
            .map(|member| vec!["HKEYS".to_owned(), format!("pn:user:{{{}}}", member.user)])
            .collect();
        let fields = client.pipeline(&rows).await;
        for field in fields.iter().flat_map(Answer::texts) {
            assert!(
                unsafe_guess.insert(field.clone()),
                "{field} was given out twice"
            );
        }
        old_node = new_node;
    }
}

#[tokio::test]
async fn the_name_of_a_dead_node_is_free_at_once() {
    let redis = Redis::start();
    let b = node_on(&redis, "b");
    let old = node_on(&redis, "a");
    let old_id = old.id.clone();
    let ghost = Client::v1(&old.ws_url("42")).await;
    old.kill();
    drop(ghost);
    let start = Instant::now();
    redis.until_nobody_listens(&old_id).await;
    let new = node_on(&redis, "a");
    println!(
        "ready under the name of the dead node after {:.1?}",
        start.elapsed()
    );
    assert_ne!(new.id, old_id);
    let mut client = Client::plain(&new.ws_url("42")).await;
    // The dead boot is known to be dead by its successor: the push neither waits nor fails.
    let push = json!({"to": {"user": "42"}, "data": "hello"});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(1)),
        "{answer}"
    );
    assert_eq!(client.text().await, "\"hello\"");
    let push = json!({"to": {"fd": format!("{old_id}/1")}, "data": "to the dead"});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("offline")),
        "{answer}"
    );
}

#[tokio::test]
async fn a_second_node_of_the_same_name_ends_with_a_clear_message() {
    let redis = Redis::start();
    let first = node_on(&redis, "a");
    let mut client = Client::plain(&first.ws_url("42")).await;
    let mut second = start_node(&[("PUSH_REDIS_URL", &redis.url()), ("PUSH_NODE_NAME", "a")]);
    let status = second.wait_exit();
    assert_eq!(status.code(), Some(69), "{}", second.log());
    let log = second.log();
    let words = format!("the name \"a\" is taken by the live node {}", first.id);
    assert!(log.contains(&words), "{log}");
    assert!(
        log.contains("PUSH_NODE_NAME"),
        "what to do is not said: {log}"
    );
    // And the first does not suffer.
    first.wait_ready();
    let push = json!({"to": {"user": "42"}, "data": 1});
    assert_eq!(post(&first.push_url, &push).await.0, 200);
    assert_eq!(client.text().await, "1");
    let lease = redis.cli(&["GET", "pn:node:a"]);
    assert!(lease.contains(&first.id), "{lease}");
}

#[tokio::test]
async fn a_dead_nodes_users_are_unrouted_while_its_lease_stands_and_then_offline() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let client = Client::v1(&a.ws_url("42")).await;
    let dead = a.id.clone();
    a.kill();
    drop(client);
    let died = Instant::now();
    redis.until_nobody_listens(&dead).await;

    let push = json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 500});
    let start = Instant::now();
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (503, &json!("unrouted")),
        "{answer}"
    );
    assert!(
        start.elapsed().as_secs() < 5,
        "answered after {:?}",
        start.elapsed()
    );
    assert_eq!(answer["error"]["code"], "unrouted", "{answer}");

    // Only asking, so that no push cleans up.
    eventually(async || {
        let answer = http()
            .get(b.url("/v1/users/42"))
            .send()
            .await
            .expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        match answer["online"].as_bool() {
            Some(false) => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
    println!("not shown as online any more after {:.1?}", died.elapsed());

    eventually(async || {
        let (status, answer) = post(&b.push_url, &push).await;
        match (status, answer["status"].as_str()) {
            (200, Some("offline")) => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
    println!("a push says offline after {:.1?}", died.elapsed());
    // By a sender, or by the sweep.
    eventually(async || match redis.cli(&["HKEYS", "pn:user:{42}"]) {
        gone if gone.is_empty() => Ok(()),
        row => Err(row),
    })
    .await;
    let nodes = http()
        .get(b.url("/v1/nodes"))
        .send()
        .await
        .expect("an answer");
    let nodes = nodes.text().await.expect("text");
    assert!(!nodes.contains(&dead), "{nodes}");
}

/// A user with a device on the dead node and one on a live node: the live one gets it.
#[tokio::test]
async fn the_other_devices_of_a_dead_nodes_user_get_their_messages() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _dead = Client::v1(&a.ws_url("42")).await;
    let mut crowd = Crowd::of(&b, "4", 3).await;
    let dead = a.id.clone();
    a.kill();
    redis.until_nobody_listens(&dead).await;
    let push = json!({"to": {"user": "42"}, "data": "once", "timeout_ms": 500});
    let (_, answer) = post(&b.push_url, &push).await;
    assert_eq!(answer["connections"], 1, "{answer}");
    assert_eq!(crowd.next().await, (2, Event::Text("\"once\"".to_owned())));
    let everybody = json!({"to": {"all": true}, "data": "end"});
    assert_eq!(post(&b.push_url, &everybody).await.0, 200);
    assert_eq!(crowd.all_hear_until("\"end\"").await, [], "it came again");
}

/// A lease as 0.1.0 writes it, which does not count its beats.
const OLDER: &str = r#"{"node":"old.1","name":"old","boot":"1","state":"up","connections":0,
    "started":0,"version":"0.1.0","url":"","weight":1}"#;

#[tokio::test]
async fn a_node_of_an_older_version_is_told_of_with_what_it_lacks() {
    let redis = Redis::start();
    redis.cli(&["SADD", "pn:nodes", "old"]);
    redis.cli(&["SET", "pn:node:old", OLDER]);
    let node = node_on(&redis, "a");
    assert!(
        node.log().contains("a node is of an older version"),
        "{}",
        node.log()
    );
    redis.cli(&["DEL", "pn:node:old"]);
    eventually(async || match node.log() {
        log if log.contains("no node is of an older version any more") => Ok(()),
        log => Err(log),
    })
    .await;
}
