//! A node that is told to leave: its rows say so first, its clients are sent away, and nothing
//! that was answered as taken is lost without a word.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::{Client, Node, PATIENCE, Redis, eventually, http, node, node_on, post};
use crate::crowd::Crowd;
use crate::raw::{Answer, Api, Event, Resp};

/// A node that takes this long to send its clients away.
fn node_that_drains(redis: &Redis, name: &str, seconds: &str) -> Node {
    node(&[
        ("PUSH_REDIS_URL", &redis.url()),
        ("PUSH_NODE_NAME", name),
        ("PUSH_DRAIN_SECONDS", seconds),
        ("PUSH_LOG", "info"),
    ])
}

/// What each row says of its only connection.
async fn abouts(client: &mut Resp) -> Vec<Value> {
    let keys = client.call(&["KEYS", "pn:user:*"]).await.texts();
    let commands: Vec<_> = keys.iter().map(|key| vec!["HVALS", key]).collect();
    let rows = client.pipeline(&commands).await;
    let abouts = rows.iter().flat_map(Answer::texts);
    abouts
        .map(|about| serde_json::from_str(&about).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn rows_say_that_their_node_is_leaving_before_anybody_is_sent_away() {
    const USERS: usize = 400;
    let redis = Redis::start();
    let (mut a, b) = (node_that_drains(&redis, "a", "10"), node_on(&redis, "b"));
    let mut client = Resp::connect(redis.port()).await;
    let mut crowd = Crowd::of(&a, "u", USERS).await;
    let before = abouts(&mut client).await;
    assert_eq!(before.len(), USERS);
    assert!(before.iter().all(|about| about.get("leaving").is_none()));

    a.signal("TERM");
    let (first, event) = crowd.next().await;
    assert_eq!(event, Event::Close(1012));
    let rows = abouts(&mut client).await;
    let leaving = rows.iter().filter(|about| about["leaving"] == true).count();
    println!("at the first close {} rows are there", rows.len());
    assert!(rows.len() > USERS / 2, "only {} rows", rows.len());
    assert_eq!(leaving, rows.len(), "rows that say so");
    let last = format!("/v1/users/u{}", USERS - 1 - first);
    let shown = http().get(b.url(&last)).send().await.expect("an answer");
    let shown: Value = shown.json().await.expect("JSON");
    assert_eq!(shown["connections"][0]["leaving"], true, "{shown}");

    assert!(a.wait_exit().success(), "{}", a.log());
    assert_eq!(abouts(&mut client).await.len(), 0);
    let index = format!("pn:users:{{{}}}", a.id);
    assert_eq!(client.call(&["EXISTS", &index]).await.number(), 0);
    // So there is nothing to sweep, and nobody is told of a lost node.
    let boots = client.call(&["SMEMBERS", "pn:boots"]).await.texts();
    assert_eq!(boots, [&*b.id]);
    assert_eq!(client.call(&["EXISTS", "pn:events"]).await.number(), 0);
}

/// Whoever publishes until nobody listens any more has a receipt for each that was taken.
#[tokio::test]
async fn a_leaving_node_answers_for_all_that_it_has_heard() {
    let redis = Redis::start();
    let (mut a, _b) = (node_that_drains(&redis, "a", "0"), node_on(&redis, "b"));
    let mut client = Client::v1(&a.ws_url("42")).await;
    let mut receipts = Resp::connect(redis.port()).await;
    receipts.call(&["SUBSCRIBE", "pn:n:{billing.1}"]).await;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let counting = tokio::spawn(async move {
        // By reference; payloads of a node have a header line.
        let mut statuses: HashMap<String, usize> = HashMap::new();
        let mut answered = BTreeSet::new();
        loop {
            let heard = receipts.next().await.texts();
            if heard[2] == "that was all" {
                return (answered, statuses);
            }
            for line in heard[2].lines() {
                let line: Value = serde_json::from_str(line).expect("JSON");
                if let Some(reference) = line["ref"].as_str() {
                    answered.insert(reference.parse::<usize>().expect("a number"));
                    counted.fetch_add(1, Ordering::Relaxed);
                    let status = line["status"].as_str().expect("a status");
                    *statuses.entry(status.to_owned()).or_default() += 1;
                }
            }
        }
    });
    let reading = tokio::spawn(async move {
        let mut messages = 0;
        while let Some(Ok(message)) = client.socket.next().await {
            let is_push = |text: &str| text.contains(r#""type":"message""#);
            messages += usize::from(matches!(&message, Message::Text(text) if is_push(text)));
        }
        messages
    });
    let mut publisher = Resp::connect(redis.port()).await;
    let channel = format!("pn:n:{{{}}}", a.id);
    let (mut sent, mut taken) = (0, BTreeSet::new());
    while sent == taken.len() {
        if sent == 10_000 {
            a.signal("TERM");
        }
        // Always some on their way, and no more than the node can hold.
        eventually(async || match sent - count.load(Ordering::Relaxed) {
            few if few < 500 => Ok(()),
            many => Err(format!("{many} without a receipt")),
        })
        .await;
        let publishes: Vec<_> = (sent..sent + 200)
            .map(|number| {
                let reply =
                    format!(r#"{{"node":"billing.1","ref":"{number}","timeout_ms":30000}}"#);
                let line = format!(r#"{{"to":{{"user":"42"}},"data":{number},"reply":{reply}}}"#);
                vec!["PUBLISH".to_owned(), channel.clone(), line]
            })
            .collect();
        for receivers in publisher.pipeline(&publishes).await {
            if receivers.number() == 1 {
                taken.insert(sent);
            }
            sent += 1;
        }
    }
    assert!(a.wait_exit().success(), "{}", a.log());
    assert!(!a.log().contains("left before"), "{}", a.log());
    publisher
        .call(&["PUBLISH", "pn:n:{billing.1}", "that was all"])
        .await;
    let (answered, statuses) = counting.await.expect("receipts");
    let messages: usize = reading.await.expect("a count");
    println!(
        "{} of {sent} were taken: {statuses:?}; {messages} came",
        taken.len()
    );
    let missing: Vec<_> = taken.difference(&answered).collect();
    assert_eq!(missing, [&0; 0], "no receipt for these");
    assert_eq!(statuses["written"], messages);
    assert!(taken.len() > 10_000);
}

const USERS: usize = 150;
const PUBLISHERS: usize = 8;
/// A client that hears of a loss within this time of a push has not lost it silently.
const NOTICE: Duration = Duration::from_secs(3);

/// What all clients together have heard, and when.
#[derive(Default)]
struct Heard {
    /// By id: whom it came to, once for each time.
    messages: HashMap<String, Vec<usize>>,
    /// Closes and resyncs.
    notices: Vec<(usize, Instant)>,
}

/// What one push was answered.
struct Sent {
    id: String,
    user: usize,
    at: Instant,
    status: String,
    answered: Instant,
}

struct World {
    addresses: Mutex<Vec<SocketAddr>>,
    heard: Mutex<Heard>,
    stop: AtomicBool,
    /// Clients that heard the last broadcast.
    ended: AtomicUsize,
}

/// A client that comes back at once, to whatever node takes it.
async fn client(world: Arc<World>, number: usize) {
    let mut turn = number;
    loop {
        turn += 1;
        let address = {
            let addresses = world.addresses.lock().expect("no poison");
            addresses[turn % addresses.len()]
        };
        let url = format!("ws://{address}/ws?user=u{number}");
        let mut request = url.into_client_request().expect("a URL");
        let protocol = "pushnode.v1".parse().expect("a header");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let Ok((mut socket, _)) = tokio_tungstenite::connect_async(request).await else {
            // It is leaving; another one is not.
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        while let Some(Ok(message)) = socket.next().await {
            let now = Instant::now();
            let Message::Text(text) = message else {
                continue;
            };
            let object: Value = serde_json::from_str(&text).expect("JSON");
            let mut heard = world.heard.lock().expect("no poison");
            match object["type"].as_str().expect("a type") {
                "message" if object["data"] == "end" => {
                    world.ended.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                "message" => {
                    let id = object["id"].as_str().expect("an id").to_owned();
                    heard.messages.entry(id).or_default().push(number);
                }
                "resync" | "bye" => heard.notices.push((number, now)),
                _ => {}
            }
        }
        world
            .heard
            .lock()
            .expect("no poison")
            .notices
            .push((number, Instant::now()));
        let _ = socket.close(None).await;
    }
}

async fn publisher(world: Arc<World>, address: SocketAddr, publisher: usize) -> Vec<Sent> {
    let wait = if publisher.is_multiple_of(2) {
        "routed"
    } else {
        "written"
    };
    let mut api = Api::connect(address).await;
    let mut sent = Vec::new();
    while !world.stop.load(Ordering::Relaxed) {
        let user = fastrand::usize(..USERS);
        let id = format!("{publisher}-{}", sent.len());
        let body = format!(r#"{{"to":{{"user":"u{user}"}},"id":"{id}","data":1,"wait":"{wait}"}}"#);
        let at = Instant::now();
        let (_, answer) = api.push("application/json", &body).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        sent.push(Sent {
            id,
            user,
            at,
            status: answer["status"].as_str().expect("a status").to_owned(),
            answered: Instant::now(),
        });
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_silently_while_all_nodes_are_replaced_under_load() {
    let redis = Redis::start();
    let survivor = node_on(&redis, "s");
    let names = ["a", "b", "c"];
    let mut nodes: Vec<Node> = names
        .iter()
        .map(|name| node_that_drains(&redis, name, "2"))
        .collect();
    let world = Arc::new(World {
        addresses: Mutex::new(nodes.iter().map(Node::client_address).collect()),
        heard: Mutex::default(),
        stop: AtomicBool::new(false),
        ended: AtomicUsize::new(0),
    });
    let clients: Vec<_> = (0..USERS)
        .map(|number| tokio::spawn(client(world.clone(), number)))
        .collect();
    let mut redis_client = Resp::connect(redis.port()).await;
    eventually(async || {
        match redis_client
            .call(&["KEYS", "pn:user:*"])
            .await
            .texts()
            .len()
        {
            USERS => Ok(()),
            some => Err(some),
        }
    })
    .await;
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| tokio::spawn(publisher(world.clone(), survivor.client_address(), number)))
        .collect();

    for (place, name) in names.iter().enumerate() {
        nodes[place].signal("TERM");
        let start = Instant::now();
        assert!(nodes[place].wait_exit().success(), "{}", nodes[place].log());
        println!("{name} left after {:.1?}", start.elapsed());
        nodes[place] = node_that_drains(&redis, name, "2");
        world.addresses.lock().expect("no poison")[place] = nodes[place].client_address();
    }
    world.stop.store(true, Ordering::Relaxed);
    let sent: Vec<Sent> = futures::future::join_all(publishers)
        .await
        .into_iter()
        .flat_map(|sent| sent.expect("a publisher that runs to its end"))
        .collect();
    // Everybody is back; then what comes last comes behind everything else.
    let start = Instant::now();
    while world.ended.load(Ordering::Relaxed) < USERS {
        assert!(start.elapsed() < PATIENCE, "clients that do not come back");
        let push = json!({"to": {"all": true}, "data": "end"});
        assert_eq!(post(&survivor.push_url, &push).await.0, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    futures::future::join_all(clients).await;
    assert_nothing_lost_silently(&sent, &world.heard.lock().expect("no poison"));
    assert!(!survivor.log().contains("a node is dead"), "one was swept");
}

fn assert_nothing_lost_silently(sent: &[Sent], heard: &Heard) {
    let mut statuses: HashMap<&str, usize> = HashMap::new();
    let (mut told, mut twice, mut farthest) = (0, 0, Duration::ZERO);
    let mut lost = Vec::new();
    for push in sent {
        *statuses.entry(&push.status).or_default() += 1;
        let places = heard
            .messages
            .get(&push.id)
            .map_or(&[][..], |places| places);
        assert!(
            places.iter().all(|user| *user == push.user),
            "{} for {} came to {places:?}",
            push.id,
            push.user
        );
        twice += usize::from(places.len() > 1);
        let accepted = matches!(&*push.status, "routed" | "written");
        if !places.is_empty() || !accepted {
            continue;
        }
        // How long before or after the push its client had a notice.
        let notices = heard.notices.iter().filter(|(user, _)| *user == push.user);
        let before = |at: Instant| push.at.saturating_duration_since(at);
        let after = |at: Instant| at.saturating_duration_since(push.answered);
        match notices.map(|(_, at)| before(*at).max(after(*at))).min() {
            Some(distance) if distance < NOTICE => {
                told += 1;
                farthest = farthest.max(distance);
            }
            _ => lost.push(&push.id),
        }
    }
    println!(
        "{} pushes: {statuses:?}; of those taken, {told} did not come and their clients had a \
         notice within {farthest:.1?}, {} were lost silently; {twice} came to two connections of a user",
        sent.len(),
        lost.len()
    );
    assert_eq!(lost, [&""; 0]);
}
