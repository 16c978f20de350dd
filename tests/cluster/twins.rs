//! What two masters made of one inbox: each gave the next number to another message.

use serde_json::json;

use crate::common::keep::{connect, hears, keep, ready};
use crate::common::{Redis, node_on, post};

/// As after a fail-over: the message that the client had last is not there, but another one.
#[tokio::test]
async fn a_position_whose_number_another_message_has_is_not_recovered() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    keep(&node, "42", 1).await;
    keep(&node, "42", 2).await;
    client.json().await;
    let last = client.json().await;
    assert_eq!(last["data"], 2, "{last}");
    let token = last["resume"].as_str().expect("a token").to_owned();
    drop(client);
    redis.cli(&["DEL", "pn:inbox:{42}"]);
    // By the clock of a master that is behind.
    for (entry, data) in [("1-1", "1"), ("1-2", "3")] {
        redis.cli(&["XADD", "pn:inbox:{42}", entry, "data", data]);
    }
    let client = connect(&node, "42", Some(&token)).await;
    assert_eq!(ready(&client, "recovered"), &json!(false));
}

/// As when an old master is asked that came back empty, and then the one that has all.
#[tokio::test]
async fn an_inbox_that_was_not_there_for_a_moment_is_not_given_again() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    let body = json!({"to": {"user": "42"}, "keep": true, "id": "m1", "data": 1});
    post(&node.push_url, &body).await;
    keep(&node, "42", 2).await;
    hears(&mut client, 1..=2).await;
    let (there, aside) = (["pn:inbox:{42}", "pn:pos:{42}"], ["inbox", "pos"]);
    for (from, to) in [(there, aside), (aside, there)] {
        for (from, to) in from.into_iter().zip(to) {
            assert_eq!(redis.cli(&["RENAME", from, to]), "OK");
        }
        // A repeat has the node look into the inbox.
        let (_, answer) = post(&node.push_url, &body).await;
        assert_eq!(answer["status"], "duplicate", "{answer}");
        let told = client.json().await;
        assert_eq!(told["type"], "resync", "{told}");
    }
    keep(&node, "42", 3).await;
    hears(&mut client, 3..=3).await;
}

/// As when Redis lost everything, and a sender that had not reached all connections yet goes on.
#[tokio::test]
async fn a_late_line_of_an_inbox_that_was_lost_gives_no_message_again() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let channel = format!("pn:n:{{{}}}", node.id);
    for kept in 1..=2 {
        let user = kept.to_string();
        let to = json!({"user": user});
        let mut client = connect(&node, &user, None).await;
        let body = json!({"to": to, "keep": true, "id": "m1", "data": 1});
        post(&node.push_url, &body).await;
        let first = hears(&mut client, 1..=1).await;
        for number in 2..=kept {
            keep(&node, &user, number).await;
        }
        hears(&mut client, 2..=kept).await;
        for key in ["inbox", "pos"] {
            let key = format!("pn:{key}:{{{user}}}");
            assert_eq!(redis.cli(&["DEL", &key]), "1");
        }
        // A repeat has the node look into the inbox.
        let (_, answer) = post(&node.push_url, &body).await;
        assert_eq!(answer["status"], "duplicate", "{answer}");
        let told = client.json().await;
        assert_eq!(told["type"], "resync", "{told}");

        let late = json!({"to": to, "keep": true, "seq_id": first, "data": 1});
        let repeat = json!({"to": to, "keep": true, "seq_id": first, "data": 1, "id": "m1"});
        let next = json!({"to": to, "data": "next"});
        for line in [late, repeat, next] {
            assert_eq!(redis.cli(&["PUBLISH", &channel, &line.to_string()]), "1");
        }
        let heard = client.json().await;
        assert_eq!(heard["data"], "next", "{heard}");
        keep(&node, &user, 3).await;
        hears(&mut client, 3..=3).await;
    }
}
