//! What holds of clients that begin with the last messages of a topic, on every backplane. Each
//! takes the node that is pushed to and those that clients connect to; with one node by itself
//! they are the same.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::logs::{hears, keep};
use super::topics::{ask, push_as};
use super::transports::{AnyClient, TRANSPORTS, Transport, connect_as};
use super::{Client, Node, PATIENCE, post};

const LAST: i32 = 50;

async fn subscribe_last(client: &mut Client, topic: &str, last: i32) -> Value {
    let reply = ask(
        client,
        json!({"type": "subscribe", "topic": topic, "last": last, "ref": 1}),
    );
    let reply = reply.await;
    assert_eq!(reply["status"], "subscribed", "{reply}");
    reply
}

/// In order, and then live, whether it asks in its request or with its connection.
pub async fn an_entrant_gets_the_last_and_then_live(sender: &Node, node: &Node) {
    for number in 1..=60 {
        keep(sender, "chat.1", number).await;
    }
    let mut client = Client::v1(&node.ws_url("1")).await;
    let reply = subscribe_last(&mut client, "chat.1", LAST).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    hears(&mut client, "chat.1", 11..=60).await;
    // One that says where it was gets what came after that.
    let token = reply["resume"].as_str().expect("a position");
    let both = json!({"type": "subscribe", "topic": "chat.1", "since": token, "last": 1, "ref": 3});
    let reply = ask(&mut client, both).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    hears(&mut client, "chat.1", 11..=60).await;
    // Again, as another topic of the same request.
    let all = json!([{"topic": "chat.1", "last": 2}, "chat.2"]);
    let reply = ask(
        &mut client,
        json!({"type": "subscribe", "topics": all, "ref": 2}),
    )
    .await;
    assert_eq!(reply["topics"][0]["recovered"], true, "{reply}");
    assert_eq!(reply["topics"][1]["recovered"], Value::Null, "{reply}");
    hears(&mut client, "chat.1", 59..=60).await;

    let mut entrants = Vec::new();
    for transport in TRANSPORTS {
        let who = [("user", "2"), ("topics", "chat.1"), ("last", "50")];
        let mut entrant = connect_as(transport, node, &who).await;
        assert_eq!(entrant.ready["recovered"], true, "{}", entrant.ready);
        for number in 11..=60 {
            entrant.hears(number).await;
        }
        entrants.push(entrant);
    }
    let url = format!("{}&topics=chat.1&last=3", node.ws_url("3"));
    let mut plain = Client::plain(&url).await;
    for number in 58..=60 {
        assert_eq!(plain.text().await, number.to_string());
    }
    keep(sender, "chat.1", 61).await;
    hears(&mut client, "chat.1", 61..=61).await;
    for entrant in &mut entrants {
        entrant.hears(61).await;
    }
    assert_eq!(plain.text().await, "61");
    let body = json!({"to": {"topic": "chat.1"}, "data": "live"});
    push_as(sender, body).await;
    assert_eq!(client.json().await["data"], "live");
    assert_eq!(plain.text().await, "\"live\"");
}

/// `recovered` says whether these are the last of all that were ever kept.
pub async fn the_last_are_proven_where_they_can_be(sender: &Node, node: &Node) {
    let url = |n: u32| node.ws_url(&n.to_string());
    let mut client = Client::v1(&url(1)).await;
    // Where nothing is, nothing proves that there was nothing.
    let reply = subscribe_last(&mut client, "chat.1", LAST).await;
    assert_eq!(reply["recovered"], false, "{reply}");
    for number in 1..=3 {
        keep(sender, "chat.1", number).await;
    }
    hears(&mut client, "chat.1", 1..=3).await;
    for last in [2, 3, LAST] {
        let mut client = Client::v1(&url(2)).await;
        let reply = subscribe_last(&mut client, "chat.1", last).await;
        assert_eq!(reply["recovered"], true, "all are there: {reply}");
        hears(&mut client, "chat.1", 4 - last.min(3)..=3).await;
    }
}

/// As many as are kept were thrown out: those that are left are the last, but not all.
pub async fn what_was_thrown_out_is_not_among_the_last(node: &Node, kept: i32, left: i32) {
    for number in 1..=kept {
        keep(node, "chat.1", number).await;
    }
    for (last, proven) in [(left, true), (left + 1, false)] {
        let mut client = Client::v1(&node.ws_url("1")).await;
        let reply = subscribe_last(&mut client, "chat.1", last).await;
        assert_eq!(reply["recovered"], proven, "{last}: {reply}");
        hears(&mut client, "chat.1", kept - left + 1..=kept).await;
    }
}

/// `left` are in the log, of which those before the last `whole` had one in between.
pub async fn the_last_of_a_log_with_a_hole(node: &Node, left: [i32; 4], whole: usize) {
    for last in 1..=left.len() {
        let mut client = Client::v1(&node.ws_url("1")).await;
        let reply = subscribe_last(&mut client, "chat.1", last as i32).await;
        assert_eq!(reply["recovered"], last <= whole, "{last}: {reply}");
        for number in &left[left.len() - last..] {
            hears(&mut client, "chat.1", *number..=*number).await;
        }
    }
}

pub async fn what_may_not_be_asked_for_is_refused(node: &Node) {
    let mut client = Client::v1(&node.ws_url("1")).await;
    for last in [json!(0), json!(101), json!("50"), json!(-1), json!(1.5)] {
        let request = json!({"type": "subscribe", "topic": "a", "last": last, "ref": 1});
        let refused = ask(&mut client, request).await;
        let words = "last must be a number from 1 to 100";
        assert_eq!(refused["code"], "bad_message", "{refused}");
        assert_eq!(refused["message"], words, "{refused}");
    }
    let list = json!({"type": "subscribe", "topics": [{"topic": "a", "last": 0}], "ref": 1});
    let answer = ask(&mut client, list).await;
    assert_eq!(answer["topics"][0]["status"], "refused", "{answer}");
    for transport in TRANSPORTS {
        let who = [("user", "1"), ("topics", "a"), ("last", "101")];
        let code = super::transports::refused_as(transport, node, &who).await;
        assert_eq!(code, "bad_request", "{transport:?}");
    }
    // As a template of a URL leaves it.
    let url = format!("{}&topics=a&last=", node.ws_url("1"));
    Client::v1(&url).await;
}

/// The numbers of a push under load that are certainly kept, and that may be.
#[derive(Default)]
struct Pushed {
    sent: AtomicI32,
    kept: AtomicI32,
    is_over: AtomicBool,
}

/// Pushes this batch as a sender does that must not lose anything: what a busy Redis did not confirm
/// in time is sent again under the same ids, in order. Answers how often that was.
async fn push_until_kept(node: &Node, mut batch: &[Value]) -> usize {
    let began = Instant::now();
    for again in 0.. {
        let (status, answers) = post(&node.push_url, &json!(batch)).await;
        assert_eq!(status, 200, "{answers}");
        let answers = answers.as_array().expect("answers");
        let is_kept = |answer: &Value| {
            // A repeat was kept before, though its answer came too late.
            answer["seq_id"].is_string() || (again > 0 && answer["status"] == "duplicate")
        };
        let kept = answers.iter().take_while(|answer| is_kept(answer)).count();
        // Nothing overtakes what comes again.
        for answer in &answers[kept..] {
            assert_eq!(answer["status"], "unrouted", "{answer}");
        }
        batch = &batch[kept..];
        if batch.is_empty() {
            return again;
        }
        assert!(began.elapsed() < PATIENCE, "{answers:?}");
    }
    unreachable!("it ends by itself");
}

/// Pushes numbers, so many a second, until it is told to stop.
async fn push_numbers(node: &Node, rate: u32, pushed: &Pushed) {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut next, mut repeats) = (1, 0);
    while !pushed.is_over.load(Ordering::SeqCst) {
        ticks.tick().await;
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as i32;
        let due = due.min(next + 99);
        if due < next {
            continue;
        }
        let push = |n: i32| {
            let id = n.to_string();
            json!({"to": {"topic": "chat.1"}, "keep": true, "id": id, "data": n})
        };
        let batch: Vec<Value> = (next..=due).map(push).collect();
        pushed.sent.store(due, Ordering::SeqCst);
        repeats += push_until_kept(node, &batch).await;
        pushed.kept.store(due, Ordering::SeqCst);
        next = due + 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{} pushes in {seconds:.1} s, {repeats} repeats", next - 1);
}

/// The next object, but for word that the node is cut off from Redis: what it says afterwards must
/// be as right as without.
async fn heard(client: &mut AnyClient) -> Value {
    loop {
        let object = client.json().await;
        if object["type"] != "degraded" {
            return object;
        }
    }
}

/// Joins; as a client does, again if the node says that Redis did not answer it in time. Answers
/// also what was certainly kept when it asked.
async fn join(
    transport: Transport,
    by_request: bool,
    node: &Node,
    pushed: &Pushed,
) -> (AnyClient, i32) {
    let who = [("user", "1"), ("topics", "chat.1"), ("last", "50")];
    let began = Instant::now();
    loop {
        let before = pushed.kept.load(Ordering::SeqCst);
        let mut client: AnyClient;
        let answer;
        if by_request {
            client = connect_as(transport, node, &who[..1]).await;
            let request = json!({"type": "subscribe", "topic": "chat.1", "last": LAST, "ref": 1});
            client.send(&request).await;
            answer = heard(&mut client).await;
        } else {
            client = connect_as(transport, node, &who).await;
            answer = client.ready.clone();
        }
        if answer["recovered"] == true {
            return (client, before);
        }
        let is_cut_off = answer["recovered"] == false && answer["degraded"] == true;
        assert!(is_cut_off && began.elapsed() < PATIENCE, "{answer}");
    }
}

/// Joins, and checks that it gets exactly the last 50 of the moment and then each one once.
async fn join_and_check(transport: Transport, by_request: bool, node: &Node, pushed: &Pushed) {
    let (mut client, before) = join(transport, by_request, node, pushed).await;
    let first = heard(&mut client).await["data"].as_i64().expect("a number") as i32;
    let after = pushed.sent.load(Ordering::SeqCst);
    let newest = first + LAST - 1;
    assert!(
        (before..=after).contains(&newest),
        "{before} {newest} {after}"
    );
    for number in first + 1..newest + 100 {
        let object = heard(&mut client).await;
        let seen = (&object["type"], &object["data"]);
        assert_eq!(seen, (&json!("message"), &json!(number)), "{object}");
    }
}

/// 200 joins by all transports while 500 pushes come a second.
pub async fn entrants_under_load_get_each_once(sender: &Node, nodes: [&Node; 2]) {
    const JOINS: usize = 200;
    let pushed = Pushed::default();
    let pushing = push_numbers(sender, 500, &pushed);
    let joining = async {
        while pushed.kept.load(Ordering::SeqCst) < LAST {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let ways = [
            (Transport::Ws, true),
            (Transport::Ws, false),
            (Transport::Tcp, true),
            (Transport::Sse, false),
        ];
        let joins = (0..JOINS).map(|n| {
            let (transport, by_request) = ways[n % ways.len()];
            join_and_check(transport, by_request, nodes[n / ways.len() % 2], &pushed)
        });
        futures::stream::iter(joins)
            .buffer_unordered(10)
            .collect::<()>()
            .await;
        pushed.is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(pushing, joining);
}
