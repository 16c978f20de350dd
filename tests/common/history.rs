//! What holds of looking back and of erasing, on every backplane. Each takes the node that is
//! pushed to and one that clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::logs::{follower, hears, keep};
use super::topics::{ask, call, push_as};
use super::transports::{Transport, connect_as};
use super::{Client, Node, keep as inboxes};

/// The numbers in an answer, and whether there are more.
fn numbers(answer: &Value) -> (Vec<i64>, bool) {
    let messages = answer["messages"].as_array().expect("messages").iter();
    let numbers = messages.map(|message| message["data"].as_i64().expect("a number"));
    let more = answer["more"].as_bool().expect("whether there are more");
    (numbers.collect(), more)
}

async fn read(node: &Node, path: &str) -> Value {
    let (status, answer) = call(node, "GET", path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Erases; answers how many messages those were.
async fn erase(node: &Node, path: &str) -> u64 {
    let (status, answer) = call(node, "DELETE", path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer["erased"].as_u64().expect("a number")
}

/// The path of the one message with this number.
async fn path_of(node: &Node, path: &str, number: i64) -> String {
    let answer = read(node, &format!("{path}?last=100")).await;
    let mut messages = answer["messages"].as_array().expect("messages").iter();
    let found = messages.find(|message| message["data"] == number);
    let entry = found.expect("it is there")["entry"].as_str();
    format!("{path}/{}", entry.expect("an entry"))
}

/// A sender pages through a topic and an inbox, in either direction.
pub async fn senders_look_back(sender: &Node, node: &Node) {
    for (to, path) in [
        (json!({"topic": "chat.1"}), "/v1/topics/chat.1/messages"),
        (json!({"user": "42"}), "/v1/users/42/messages"),
    ] {
        assert_eq!(numbers(&read(node, path).await), (vec![], false));
        for n in 1..=5 {
            let id = format!("m{n}");
            let body = json!({"to": to, "keep": true, "id": id, "event": "e", "data": n});
            push_as(sender, body).await;
        }
        let all = read(node, path).await;
        assert_eq!(numbers(&all), (vec![1, 2, 3, 4, 5], false));
        for (name, value) in to.as_object().expect("an object") {
            assert_eq!(&all[name], value, "{all}");
        }
        let third = &all["messages"][2];
        assert_eq!((&third["id"], &third["event"]), (&json!("m3"), &json!("e")));
        let third = third["entry"].as_str().expect("an entry");
        for (query, expected, more) in [
            ("last=2".to_owned(), vec![4, 5], true),
            ("limit=5".to_owned(), vec![1, 2, 3, 4, 5], false),
            (format!("before={third}"), vec![1, 2], false),
            (format!("before={third}&limit=1"), vec![2], true),
            (format!("after={third}"), vec![4, 5], false),
            (format!("after={third}&limit=1"), vec![4], true),
            // As clients know it.
            (format!("after=7.{third}"), vec![4, 5], false),
            ("before=0-0".to_owned(), vec![], false),
            ("after=0-0".to_owned(), vec![1, 2, 3, 4, 5], false),
        ] {
            let answer = read(node, &format!("{path}?{query}")).await;
            assert_eq!(numbers(&answer), (expected, more), "{query}");
        }
    }
}

/// A member pages backwards to the beginning, over WebSocket and TCP.
pub async fn members_look_back(sender: &Node, node: &Node) {
    for n in 1..=120 {
        keep(sender, "chat.1", n).await;
    }
    for transport in [Transport::Ws, Transport::Tcp] {
        let who = [("user", "1"), ("topics", "chat.1"), ("last", "20")];
        let mut client = connect_as(transport, node, &who).await;
        let mut oldest = Value::Null;
        for n in 101..=120 {
            let message = client.json().await;
            assert_eq!(message["data"], n, "{message}");
            if n == 101 {
                oldest = message["resume"].clone();
            }
        }
        let mut limit = json!(30);
        for (expected, more) in [
            (71..=100, true),
            (41..=70, true),
            (11..=40, true),
            (1..=10, false),
        ] {
            let request = json!({"type": "history", "topic": "chat.1", "before": oldest,
                "limit": limit, "ref": 7});
            client.send(&request).await;
            let reply = client.json().await;
            let said = (
                &reply["type"],
                &reply["ref"],
                &reply["status"],
                &reply["topic"],
            );
            let as_expected = (
                &json!("reply"),
                &json!(7),
                &json!("history"),
                &json!("chat.1"),
            );
            assert_eq!(said, as_expected, "{reply}");
            assert_eq!(numbers(&reply), (expected.collect(), more), "{reply}");
            oldest = reply["messages"][0]["entry"].clone();
            limit = json!(30);
        }
        // From the newest on, and 50 unless it says how many.
        client
            .send(&json!({"type": "history", "topic": "chat.1", "ref": 8}))
            .await;
        let reply = client.json().await;
        assert_eq!(numbers(&reply), ((71..=120).collect(), true));
    }
}

/// One that is in no topic reads none, and what makes no sense is named.
pub async fn only_members_look_back(node: &Node) {
    keep(node, "chat.1", 1).await;
    let mut client = Client::v1(&node.ws_url("1")).await;
    let request = json!({"type": "history", "topic": "chat.1", "ref": 1});
    let refused = ask(&mut client, request.clone()).await;
    assert_eq!(
        (&refused["type"], &refused["code"]),
        (&json!("error"), &json!("not_subscribed"))
    );
    // In its order: asked for right after the subscription, and before the end of it.
    for request in [
        json!({"type": "subscribe", "topic": "chat.1", "ref": 2}),
        request.clone(),
        json!({"type": "unsubscribe", "topic": "chat.1", "ref": 3}),
        request.clone(),
        request.clone(),
    ] {
        client.send(&request.to_string()).await;
    }
    let mut heard = Vec::new();
    for _ in 0..5 {
        let reply = client.json().await;
        heard.push(
            reply["status"]
                .as_str()
                .or(reply["code"].as_str())
                .expect("one")
                .to_owned(),
        );
    }
    let expected = [
        "subscribed",
        "history",
        "unsubscribed",
        "not_subscribed",
        "not_subscribed",
    ];
    assert_eq!(heard, expected);
    for (field, value, words) in [
        ("limit", json!(0), "limit must be a number from 1 to 100"),
        ("limit", json!("5"), "limit must be a number from 1 to 100"),
        (
            "before",
            json!("x"),
            "before must be the entry or the resume of a kept message",
        ),
        ("before", json!(7), "before must be a text"),
        ("topic", json!(null), "a topic is needed"),
    ] {
        let mut bad = request.clone();
        bad[field] = value;
        let refused = ask(&mut client, bad).await;
        assert_eq!(refused["code"], "bad_message", "{refused}");
        assert_eq!(refused["message"], words, "{refused}");
    }
}

/// One message goes; who has had it has missed nothing, and who has not is told so.
pub async fn one_message_is_erased(sender: &Node, node: &Node) {
    const PATH: &str = "/v1/topics/chat.1/messages";
    let (mut live, _) = follower(node, "chat.1", None).await;
    let mut tokens = Vec::new();
    for n in 1..=100 {
        keep(sender, "chat.1", n).await;
        tokens.push(hears(&mut live, "chat.1", n..=n).await);
    }
    let sixtieth = path_of(sender, PATH, 60).await;
    assert_eq!(erase(sender, &sixtieth).await, 1);
    assert_eq!(erase(sender, &sixtieth).await, 0, "it is gone");
    let left: Vec<i64> = (1..=100).filter(|n| *n != 60).collect();
    assert_eq!(
        numbers(&read(node, &format!("{PATH}?last=100")).await),
        (left, false)
    );

    // A live one is not disturbed.
    keep(sender, "chat.1", 101).await;
    hears(&mut live, "chat.1", 101..=101).await;
    for (had, proven) in [
        (40, false),
        (59, false),
        (60, true),
        (61, true),
        (100, true),
    ] {
        let token = &tokens[had - 1];
        let (mut client, reply) = follower(node, "chat.1", Some(token)).await;
        assert_eq!(reply["recovered"], proven, "{had}: {reply}");
        for n in (had as i32 + 1..=101).filter(|n| *n != 60) {
            // What its reply has told is not told again.
            let next = client.json().await;
            assert_eq!(
                (&next["type"], &next["data"]),
                (&json!("message"), &json!(n)),
                "{next}"
            );
        }
    }
    let (_, reply) = follower(node, "chat.1", Some("0")).await;
    assert_eq!(reply["recovered"], false, "{reply}");
    for (last, proven) in [(41, true), (42, false)] {
        let mut client = Client::v1(&node.ws_url("2")).await;
        let request = json!({"type": "subscribe", "topic": "chat.1", "last": last, "ref": 1});
        let reply = ask(&mut client, request).await;
        assert_eq!(reply["recovered"], proven, "{last}: {reply}");
    }
    // The newest is erased, and then there is another.
    let newest = path_of(sender, PATH, 101).await;
    assert_eq!(erase(sender, &newest).await, 1);
    keep(sender, "chat.1", 102).await;
    hears(&mut live, "chat.1", 102..=102).await;
}

/// The id of an erased message is a repeat for a minute: a late retry does not bring it back.
pub async fn an_erased_message_does_not_come_back(sender: &Node, node: &Node) {
    for (to, path) in [
        (json!({"topic": "chat.1"}), "/v1/topics/chat.1/messages"),
        (json!({"user": "42"}), "/v1/users/42/messages"),
    ] {
        for (n, only_it) in [(1, true), (2, false)] {
            let body = json!({"to": to, "keep": true, "id": format!("m{n}"), "data": n});
            push_as(sender, body.clone()).await;
            let path_of_it = path_of(node, path, n).await;
            let erased = if only_it { &path_of_it } else { path };
            assert_eq!(erase(node, erased).await, 1);
            let again = push_as(sender, body).await;
            assert_eq!(again["status"], "duplicate", "{again}");
            assert_eq!(numbers(&read(node, path).await), (vec![], false));
        }
    }
}

/// All go: nothing is left to be read, and what comes later is not taken for what was there.
pub async fn all_messages_are_erased(sender: &Node, node: &Node) {
    const PATH: &str = "/v1/topics/chat.1/messages";
    let (mut live, _) = follower(node, "chat.1", None).await;
    let mut tokens = Vec::new();
    for n in 1..=3 {
        keep(sender, "chat.1", n).await;
        tokens.push(hears(&mut live, "chat.1", n..=n).await);
    }
    assert_eq!(erase(sender, PATH).await, 3);
    assert_eq!(erase(sender, PATH).await, 0);
    assert_eq!(erase(sender, "/v1/topics/never.kept/messages").await, 0);
    assert_eq!(numbers(&read(node, PATH).await), (vec![], false));
    for (had, proven) in [(2, false), (3, true)] {
        let (_, reply) = follower(node, "chat.1", Some(&tokens[had - 1])).await;
        assert_eq!(reply["recovered"], proven, "{had}: {reply}");
    }
    keep(sender, "chat.1", 4).await;
    hears(&mut live, "chat.1", 4..=4).await;
    let (mut client, reply) = follower(node, "chat.1", Some(&tokens[2])).await;
    assert_eq!(
        reply["recovered"], true,
        "it had all that was erased: {reply}"
    );
    hears(&mut client, "chat.1", 4..=4).await;
    let (mut client, reply) = follower(node, "chat.1", Some(&tokens[1])).await;
    assert_eq!(reply["recovered"], false, "{reply}");
    hears(&mut client, "chat.1", 4..=4).await;
    let mut client = Client::v1(&node.ws_url("2")).await;
    let request = json!({"type": "subscribe", "topic": "chat.1", "last": 50, "ref": 1});
    let reply = ask(&mut client, request).await;
    assert_eq!(reply["recovered"], false, "{reply}");
    hears(&mut client, "chat.1", 4..=4).await;

    // A user's inbox.
    inboxes::keep(sender, "42", 1).await;
    let path = path_of(sender, "/v1/users/42/messages", 1).await;
    assert_eq!(erase(sender, &path).await, 1);
    inboxes::keep(sender, "42", 2).await;
    assert_eq!(erase(sender, "/v1/users/42/messages").await, 1);
    assert_eq!(
        numbers(&read(node, "/v1/users/42/messages").await),
        (vec![], false)
    );
}
