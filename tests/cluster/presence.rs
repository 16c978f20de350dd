//! Who is there, over several nodes and a real Redis: what senders ask, and what clients that ask
//! for it hear of others who come and go.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::presence::{
    SHORT_GRACE, a_long_list_is_cut_and_says_so, a_quick_return_makes_no_noise,
    every_transport_that_hears_objects_hears_presence, joins, leaves,
    many_users_are_asked_after_at_once, member, members_are_listed_by_user, news, presence, watch,
    who_watches_hears_who_comes_and_goes,
};
use crate::common::topics::{call, counts};
use crate::common::{Client, Node, Redis, eventually, node_on, node_with, post};

#[tokio::test]
async fn many_users_are_asked_after_at_once_at_any_node() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    many_users_are_asked_after_at_once(&c, &a, &b).await;
}

#[tokio::test]
async fn members_are_listed_by_user_at_any_node() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    members_are_listed_by_user(&c, &a, &b).await;
    members_are_listed_by_user(&a, &a, &b).await;
}

/// A frozen node is named, and the others answer all the same; a dead one is not counted.
#[tokio::test]
async fn a_node_that_does_not_answer_is_named_among_the_members() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _here = member(&a, "1", "news").await;
    let there = member(&b, "2", "news").await;
    b.signal("STOP");
    let (_, answer) = call(&a, "GET", "/v1/topics/news?members=true").await;
    b.signal("CONT");
    assert_eq!(answer["missing"], json!([b.id]), "{answer}");
    assert_eq!(answer["members"].as_array().expect("a list").len(), 1);
    drop(there);
    let ghost = Client::v1(&b.ws_url("ghost")).await;
    b.kill();
    drop(ghost);
    let shown = presence(&a, json!({"users": ["1", "ghost"]})).await;
    assert_eq!(shown["users"][0]["online"], true, "{shown}");
    eventually(async || {
        let shown = presence(&a, json!({"users": ["1", "ghost"]})).await;
        match shown["users"][1]["online"] == false {
            true => Ok(()),
            false => Err(shown),
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_is_called_offline_while_redis_is_away() {
    let mut redis = Redis::start();
    let a = node_on(&redis, "a");
    redis.kill();
    eventually(async || {
        let (status, answer) = post(&a.url("/v1/presence"), &json!({"users": ["1"]})).await;
        match status {
            503 => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
}

#[tokio::test]
async fn who_watches_hears_who_comes_and_goes_on_any_node() {
    let redis = Redis::start();
    let a = node_with(&redis, "a", &[SHORT_GRACE]);
    let b = node_with(&redis, "b", &[SHORT_GRACE]);
    who_watches_hears_who_comes_and_goes(&a, &b).await;
}

#[tokio::test]
async fn a_quick_return_to_another_node_makes_no_noise() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    a_quick_return_makes_no_noise(&a, &b).await;
}

#[tokio::test]
async fn every_transport_hears_presence_of_other_nodes() {
    let redis = Redis::start();
    let lines = ("PUSH_TCP_LISTEN", "127.0.0.1:0");
    let a = node_with(&redis, "a", &[SHORT_GRACE, lines]);
    let b = node_with(&redis, "b", &[SHORT_GRACE]);
    every_transport_that_hears_objects_hears_presence(&a, &b).await;
}

#[tokio::test]
async fn a_long_list_of_two_nodes_is_cut() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    a_long_list_is_cut_and_says_so(&a, &b).await;
}

/// What stands in Redis: a mark while somebody watches, and a number all the time.
#[tokio::test]
async fn the_row_says_who_watches() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let value = || {
        redis
            .cli(&["HGET", "pn:topic:{room}", &a.id])
            .trim()
            .to_owned()
    };
    let mut watcher = Client::v1(&a.ws_url("me")).await;
    let _member = member(&a, "ann", "room").await;
    assert_eq!(value(), "1");
    watch(&mut watcher, "room").await;
    assert_eq!(value(), "2,watch");
    counts(&a, "room", 2).await;
    drop(watcher);
    eventually(async || match value().as_str() {
        "1" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
}

/// A watcher, and members that a test wants there, on three nodes.
async fn watched_room(redis: &Redis) -> ([Node; 3], Client, Vec<Client>) {
    let nodes = ["a", "b", "c"].map(|name| node_with(redis, name, &[SHORT_GRACE]));
    let mut members = Vec::new();
    for (node, user) in [(&nodes[1], "both"), (&nodes[2], "both"), (&nodes[1], "bob")] {
        members.push(member(node, user, "room").await);
    }
    let mut watcher = Client::v1(&nodes[0].ws_url("me")).await;
    let list = watch(&mut watcher, "room").await;
    assert_eq!(list, json!(["bob", "both", "me"]));
    (nodes, watcher, members)
}

#[tokio::test]
async fn the_members_of_a_killed_node_leave() {
    let redis = Redis::start();
    let ([_a, b, c], mut watcher, _members) = watched_room(&redis).await;
    b.kill();
    // Meanwhile the others are told of.
    let dora = member(&c, "dora", "room").await;
    assert_eq!(news(&mut watcher).await, joins("dora"));
    assert_eq!(news(&mut watcher).await, leaves("bob"), "and not both");
    drop(dora);
    assert_eq!(news(&mut watcher).await, leaves("dora"));
}

/// A payload whose answer was lost is sent again, and may come after later ones.
#[tokio::test]
async fn what_a_node_says_late_does_not_undo_what_it_said_after_that() {
    let redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_with(&redis, name, &[SHORT_GRACE]));
    let _bob = member(&b, "bob", "room").await;
    let mut watcher = Client::v1(&a.ws_url("me")).await;
    assert_eq!(watch(&mut watcher, "room").await, json!(["bob", "me"]));
    let say = |seq: u64, gone: &str| {
        let header = json!({"v": 1, "from": b.id, "seq": seq});
        let line = json!({"cmd": "presence", "topic": "room", "node": b.id, "gone": [gone]});
        let channel = format!("pn:n:{{{}}}", a.id);
        let heard = redis.cli(&["PUBLISH", &channel, &format!("{header}\n{line}")]);
        assert_eq!(heard, "1");
    };
    // A gap before it: b is asked who is there, and says so under its own, lower number.
    say(1_000, "stranger");
    eventually(async || match a.metric("payloads_late_total").await {
        0.0 => Err("no list yet"),
        _ => Ok(()),
    })
    .await;
    say(999, "bob");
    let ann = member(&b, "ann", "room").await;
    assert_eq!(news(&mut watcher).await, joins("ann"));
    drop(ann);
    assert_eq!(news(&mut watcher).await, leaves("ann"), "and not bob");
}

/// A node that stands still is not dead, and its members are still there when it comes back.
#[tokio::test]
async fn nobody_leaves_because_redis_forgets_or_goes_away() {
    let mut redis = Redis::start();
    let ([a, b, c], mut watcher, _members) = watched_room(&redis).await;
    redis.cli(&["FLUSHALL"]);
    for node in [&a, &b, &c] {
        eventually(async || {
            let row = redis.cli(&["HGET", "pn:topic:{room}", &node.id]);
            (!row.trim().is_empty()).then_some(()).ok_or(row)
        })
        .await;
    }
    let emma = member(&c, "emma", "room").await;
    assert_eq!(news(&mut watcher).await, joins("emma"));

    redis.restart();
    for node in [&a, &b, &c] {
        node.wait_ready();
    }
    // What is told of these stands behind all that could have been told before.
    let finn = member(&b, "finn", "room").await;
    assert_eq!(news(&mut watcher).await, joins("finn"));
    drop(finn);
    assert_eq!(news(&mut watcher).await, leaves("finn"));
    drop(emma);
    assert_eq!(news(&mut watcher).await, leaves("emma"));
}

/// Who moved while the watching node was cut off was never gone; who went then has left.
#[tokio::test]
async fn what_happened_while_redis_was_away_is_told_afterwards() {
    let mut redis = Redis::start();
    let ([a, b, c], mut watcher, mut members) = watched_room(&redis).await;
    members.push(member(&a, "eve", "room").await);
    assert_eq!(news(&mut watcher).await, joins("eve"));
    redis.kill();
    for node in [&a, &b, &c] {
        eventually(async || {
            let ready = reqwest::get(node.admin_url("/readyz")).await;
            let status = ready.expect("an answer").status().as_u16();
            (status == 503).then_some(()).ok_or(status)
        })
        .await;
    }
    // Bob and eve move, and nobody can tell us that they are there; both goes.
    members.clear();
    let _bob = member(&c, "bob", "room").await;
    let _eve = member(&b, "eve", "room").await;
    redis.restart();
    let change = news(&mut watcher).await;
    assert_eq!(change, leaves("both"), "and neither bob nor eve");
    let list = watch(&mut watcher, "room").await;
    assert_eq!(list, json!(["bob", "eve", "me"]));
}

/// A watcher that comes back to another node has the list at once, and hears on.
#[tokio::test]
async fn a_watcher_goes_on_at_another_node() {
    let redis = Redis::start();
    let ([_a, b, c], watcher, members) = watched_room(&redis).await;
    drop(watcher);
    let mut watcher = Client::v1(&c.ws_url("me")).await;
    let list = watch(&mut watcher, "room").await;
    assert_eq!(list, json!(["bob", "both", "me"]));
    // A node that had nobody there finds the mark.
    let _ann = member(&b, "ann", "room").await;
    assert_eq!(news(&mut watcher).await, joins("ann"));
    drop(members);
    let mut left = Vec::new();
    while left.len() < 2 {
        let change = news(&mut watcher).await;
        left.extend(change["leave"].as_array().expect("a leave").clone());
    }
    left.sort_by_key(|user| user.to_string());
    assert_eq!(left, ["bob", "both"]);
}

/// A node that stood still hears what it missed, and tells nothing that was never true.
#[tokio::test]
async fn a_frozen_watching_node_tells_what_it_missed() {
    let redis = Redis::start();
    let ([a, b, c], mut watcher, mut members) = watched_room(&redis).await;
    a.signal("STOP");
    // Bob moves, both goes, ann comes.
    members.clear();
    let _bob = member(&c, "bob", "room").await;
    let _ann = member(&b, "ann", "room").await;
    counts(&b, "room", 3).await;
    a.signal("CONT");
    assert_eq!(news(&mut watcher).await, joins("ann"));
    assert_eq!(news(&mut watcher).await, leaves("both"));
}

/// A client that watches a topic whose row cannot be written: it hears of who is at its own node.
async fn watches_in_vain(node: &Node, topic: &str) -> Client {
    let mut watcher = Client::v1(&node.ws_url("patient")).await;
    let request = json!({"type": "subscribe", "topic": topic, "presence": true});
    watcher.send(&request.to_string()).await;
    while watcher.json().await["type"] != "presence" {}
    watcher
}

#[tokio::test]
async fn a_topic_whose_row_is_refused_holds_up_no_other() {
    let redis = Redis::start();
    let [a, b] = ["a", "b"].map(|name| node_with(&redis, name, &[SHORT_GRACE]));
    assert_eq!(redis.cli(&["SET", "pn:topic:{bad}", "no row"]), "OK");
    let _bob = member(&b, "bob", "busy").await;
    let _here = watches_in_vain(&a, "bad").await;
    let _there = watches_in_vain(&b, "bad").await;
    let began = Instant::now();
    let mut watcher = Client::v1(&a.ws_url("me")).await;
    assert_eq!(watch(&mut watcher, "busy").await, json!(["bob", "me"]));
    // The first member at its node: that finds the mark in the row.
    assert_eq!(watch(&mut watcher, "room").await, json!(["me"]));
    let _ann = member(&b, "ann", "room").await;
    assert_eq!(news(&mut watcher).await, joins("ann"));
    let taken = began.elapsed();
    assert!(taken < Duration::from_secs(2), "{taken:?}");
}
