//! What nodes believe of each other: who is cut off and back loses nothing, who is dead is found
//! once and not by every push, and who vanishes without a word is dead as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::common::{Client, Node, Redis, eventually, http, node, node_on, node_with, post};
use crate::crowd::Crowd;
use crate::raw::{Answer, Resp};

const USERS: usize = 60;
/// A sender that waits for a dead node waits for its own deadline, which is ten times this.
const AT_ONCE: Duration = Duration::from_secs(1);
const DEADLINE_MS: u64 = 10_000;

/// The way of one node to Redis; it can be cut.
struct Way {
    port: u16,
    is_cut: watch::Sender<bool>,
}

impl Way {
    async fn to(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (is_cut, cut) = watch::channel(false);
        let redis = redis.port();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    let relay = async {
                        let far = TcpStream::connect(("127.0.0.1", redis)).await;
                        let mut far = far.expect("Redis");
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    };
                    tokio::select! {
                        () = relay => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { port, is_cut }
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

/// Pushes to all users in turn, many each second, until it is stopped.
fn pushes(node: &Node, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<usize>> {
    let senders = (0..3).map(|sender| {
        let (url, stop) = (node.push_url.clone(), stop.clone());
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let user = format!("u{}", (3 * sent + sender) % USERS);
                post(
                    &url,
                    &json!({"to": {"user": user}, "data": sent, "timeout_ms": 500}),
                )
                .await;
                sent += 1;
            }
            sent
        })
    });
    senders.collect()
}

async fn lost(redis: &mut Resp) -> usize {
    let Answer::List(events) = redis.call(&["XRANGE", "pn:events", "-", "+"]).await else {
        return 0;
    };
    let is_loss = |event: &&Answer| format!("{event:?}").contains("node-lost");
    events.iter().filter(is_loss).count()
}

pub(crate) async fn until_lost(redis: &mut Resp, times: usize) {
    eventually(async || match lost(redis).await {
        losses if losses >= times => Ok(()),
        losses => Err(losses),
    })
    .await;
}

pub(crate) async fn status(node: &Node, user: &str) -> (u16, Value) {
    let push = json!({"to": {"user": user}, "data": 1, "timeout_ms": DEADLINE_MS});
    post(&node.push_url, &push).await
}

/// More rounds with `ROUNDS=20`. On several threads, because starting a node blocks one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_and_is_back_loses_no_row_under_pushes() {
    let rounds = std::env::var("ROUNDS").map_or(2, |rounds| rounds.parse().expect("a number"));
    let redis = Redis::start();
    let way = Way::to(&redis).await;
    let url = format!("redis://127.0.0.1:{}", way.port);
    let a = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let b = node_on(&redis, "b");
    let mut client = Resp::connect(redis.port()).await;
    let _crowd = Crowd::of(&a, "u", USERS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let senders = pushes(&b, &stop);
    for round in 1..=rounds {
        way.cut(true);
        until_lost(&mut client, round).await;
        way.cut(false);
        let back = Instant::now();
        eventually(async || {
            let rows = client.call(&["KEYS", "pn:user:*"]).await.texts().len();
            match rows {
                USERS => Ok(()),
                rows => Err(rows),
            }
        })
        .await;
        println!("round {round}: rows back after {:.1?}", back.elapsed());
        a.wait_ready();
        let mut lost = 0;
        for i in 0..USERS {
            let (_, answer) = status(&b, &format!("u{i}")).await;
            lost += usize::from(answer["status"] != "routed");
        }
        println!("round {round}: {lost} rows lost");
        assert_eq!(lost, 0, "of {USERS} rows");
        let rows = client.call(&["KEYS", "pn:user:*"]).await.texts().len();
        assert_eq!(rows, USERS);
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    for sender in senders {
        sent += sender.await.expect("a sender");
    }
    println!("{sent} pushes meanwhile");
}

#[tokio::test]
async fn a_dead_node_is_found_by_one_push_and_the_others_are_answered_at_once() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _there = Crowd::of(&b, "u", 20).await;
    let mut here = Client::v1(&a.ws_url("u0")).await;
    let dead = b.id.clone();
    b.kill();
    redis.until_nobody_listens(&dead).await;
    // The first one waits for the node, and is told by its own deadline or by the death.
    let first = tokio::spawn({
        let url = a.push_url.clone();
        async move { post(&url, &json!({"to": {"user": "u1"}, "data": 1})).await }
    });
    eventually(async || match status(&a, "u2").await {
        (503, answer) if answer["reason"].to_string().contains("may be dead") => Ok(()),
        other => Err(other),
    })
    .await;
    let mut slow = 0;
    let (mut told, mut times) = (Vec::new(), Vec::new());
    for i in 0.. {
        let began = Instant::now();
        let (code, answer) = status(&a, &format!("u{}", 1 + i % 19)).await;
        slow += usize::from(began.elapsed() > AT_ONCE);
        times.push(began.elapsed());
        let status = answer["status"].as_str().expect("a status").to_owned();
        told.push((code, status));
        if told.last() == Some(&(200, "offline".to_owned())) {
            break;
        }
        if i == 0 {
            // To the rest it is delivered, and what is kept is kept, without waiting.
            let began = Instant::now();
            let push = json!({"to": {"user": "u0"}, "data": "here", "timeout_ms": DEADLINE_MS});
            let (code, answer) = post(&a.push_url, &push).await;
            assert_eq!(
                (code, &answer["status"]),
                (200, &json!("routed")),
                "{answer}"
            );
            assert!(answer["reason"].is_string(), "{answer}");
            assert_eq!(here.json().await["data"], "here");
            let push =
                json!({"to": {"user": "u3"}, "data": 1, "keep": true, "timeout_ms": DEADLINE_MS});
            let (_, answer) = post(&a.push_url, &push).await;
            assert_eq!(answer["status"], "stored", "{answer}");
            assert!(began.elapsed() < 2 * AT_ONCE, "{:?}", began.elapsed());
            let call = json!({"to": {"user": "u4"}, "data": 1, "timeout_ms": DEADLINE_MS});
            let began = Instant::now();
            let called = http().post(a.url("/v1/call")).json(&call).send().await;
            assert_eq!(called.expect("an answer").status(), 503);
            assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    times.sort_unstable();
    let at = |hundredths: usize| times[(times.len() * hundredths / 100).min(times.len() - 1)];
    println!(
        "{} pushes until it was dead: p50 {:.1?}, p99 {:.1?}; {slow} slow ones",
        told.len(),
        at(50),
        at(99)
    );
    assert_eq!(slow, 0, "{told:?}");
    let is_told = |(code, status): &(u16, String)| (*code, &**status) == (503, "unrouted");
    assert!(told[..told.len() - 1].iter().all(is_told), "{told:?}");
    first.await.expect("an answer");
}

#[tokio::test]
async fn a_batch_asks_once_after_a_dead_node_however_many_pushes_go_there() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _there = Crowd::of(&b, "u", 100).await;
    let dead = b.id.clone();
    b.kill();
    redis.until_nobody_listens(&dead).await;
    let first = json!({"to": {"user": "u0"}, "data": 1, "timeout_ms": 200});
    assert_eq!(post(&a.push_url, &first).await.0, 503);
    let push = |i| json!({"to": {"user": format!("u{i}")}, "data": i, "timeout_ms": DEADLINE_MS});
    let batch: Vec<Value> = (0..100).map(push).collect();
    let before = leases_read(&redis);
    let (_, answers) = post(&a.push_url, &json!(batch)).await;
    let read = leases_read(&redis) - before;
    println!("{read} leases read for 100 pushes and by all else meanwhile");
    let answers = answers.as_array().expect("answers");
    let is_told = |answer: &&Value| answer["reason"].to_string().contains("may be dead");
    assert_eq!(answers.iter().filter(is_told).count(), 100, "{answers:?}");
    assert!(read < 50, "{read}");
}

/// How many GETs Redis has answered: of leases, as long as nothing else is read so.
fn leases_read(redis: &Redis) -> u64 {
    let told = redis.cli(&["INFO", "commandstats"]);
    let mut lines = told.lines();
    let line = lines.find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    let count = line.and_then(|line| line.split(',').next());
    count.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn while_no_lease_can_be_read_only_the_first_push_waits_for_a_node() {
    let redis = Redis::start();
    let all = ["ACL", "SETUSER", "a", "on", ">pw", "~*", "&*", "+@all"];
    assert_eq!(redis.cli(&all), "OK");
    let url = redis.url().replace("redis://", "redis://a:pw@");
    let a = node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    let b = node_on(&redis, "b");
    let _there = Crowd::of(&b, "u", 3).await;
    assert_eq!(status(&a, "u1").await.1["status"], "routed");
    let rows = ["ACL", "SETUSER", "a", "resetkeys", "~pn:user:*"];
    assert_eq!(redis.cli(&rows), "OK");
    let dead = b.id.clone();
    b.kill();
    redis.until_nobody_listens(&dead).await;
    let url = a.push_url.clone();
    let first = json!({"to": {"user": "u0"}, "data": 1, "timeout_ms": DEADLINE_MS});
    let first = tokio::spawn(async move { post(&url, &first).await });
    tokio::time::sleep(AT_ONCE / 2).await;
    for user in ["u1", "u2", "u1"] {
        let began = Instant::now();
        let (code, answer) = status(&a, user).await;
        assert_eq!((code, &answer["status"]), (503, &json!("unrouted")));
        assert!(began.elapsed() < AT_ONCE, "{answer}: {:?}", began.elapsed());
    }
    first.abort();
}

/// Redis sees the same as when the host of a node loses its network: the connection stands.
#[tokio::test]
async fn a_host_that_vanished_is_dead_although_redis_counts_it() {
    let redis = Redis::start();
    let limits = [
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ];
    let (a, b) = (
        node_with(&redis, "a", &limits),
        node_with(&redis, "b", &limits),
    );
    let mut client = Resp::connect(redis.port()).await;
    let crowd = Crowd::of(&a, "u", 20).await;
    a.signal("STOP");
    let vanished = Instant::now();
    until_lost(&mut client, 1).await;
    println!("dead {:.1?} after it vanished", vanished.elapsed());
    redis.assert_still_counts(&a.id);
    let (code, answer) = status(&b, "u7").await;
    assert_eq!(
        (code, &answer["status"]),
        (200, &json!("offline")),
        "{answer}"
    );
    let connection = format!("{}/1", a.id);
    let push = json!({"to": {"fd": connection}, "data": 1, "timeout_ms": DEADLINE_MS});
    let (_, answer) = post(&b.push_url, &push).await;
    assert_eq!(answer["status"], "offline", "{answer}");
    // Its seats are free.
    let mut moved = Client::v1(&b.ws_url("u7")).await;
    let (_, answer) = status(&b, "u7").await;
    assert_eq!(answer["status"], "routed", "{answer}");
    assert_eq!(moved.json().await["data"], 1);

    // It was only cut off, and is back with those who stayed.
    a.signal("CONT");
    eventually(async || match status(&b, "u8").await {
        (200, answer) if answer["status"] == "routed" => Ok(()),
        other => Err(other),
    })
    .await;
    drop(crowd);
}

/// What a clock of Redis that goes back leaves behind.
#[tokio::test]
async fn a_lease_that_outlasts_its_length_keeps_no_dead_node_alive() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _there = Crowd::of(&b, "u", 3).await;
    b.kill();
    let died = Instant::now();
    assert_eq!(redis.cli(&["PEXPIRE", "pn:node:b", "7209000"]), "1");
    eventually(async || match status(&a, "u1").await {
        (200, answer) if answer["status"] == "offline" => Ok(()),
        other => Err(other),
    })
    .await;
    println!("dead {:.1?} after its death", died.elapsed());
    assert_eq!(redis.cli(&["EXISTS", "pn:node:b"]), "1");
    let nodes = http().get(a.url("/v1/nodes")).send().await;
    let nodes: Value = nodes.expect("an answer").json().await.expect("JSON");
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(1), "{nodes}");
}
