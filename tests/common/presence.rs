//! What holds of presence on every backplane. Each takes the node that is asked and those that
//! clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::topics::{call, unsubscribe};
use super::transports::{Transport, connect};
use super::{Client, Node, eventually, post, refused_handshake};

pub async fn presence(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.url("/v1/presence"), &body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A client that comes with this topic.
pub async fn member(node: &Node, user: &str, topic: &str) -> Client {
    Client::v1(&format!("{}&topics={topic}", node.ws_url(user))).await
}

pub async fn many_users_are_asked_after_at_once(asked: &Node, first: &Node, second: &Node) {
    let url = |node: &Node, user: &str, device: &str| {
        format!("{}&device={device}&topics=news", node.ws_url(user))
    };
    let mut clients = vec![
        Client::v1(&url(first, "twice", "phone")).await,
        Client::v1(&url(second, "twice", "phone")).await,
        Client::v1(&url(first, "once", "tablet")).await,
        Client::v1(&first.ws_url("unnamed")).await,
        Client::v1(&first.ws_url("unnamed")).await,
    ];
    let mut users: Vec<String> = (0..996).map(|i| format!("nobody{i}")).collect();
    users.extend(["twice", "once", "unnamed", "twice"].map(str::to_owned));
    let answer = presence(asked, json!({"users": users})).await;
    let shown = answer["users"].as_array().expect("users");
    let names: Vec<&str> = shown
        .iter()
        .map(|one| one["user"].as_str().unwrap())
        .collect();
    assert_eq!(names, users, "in the order of the question");
    let nobody = json!({"user": "nobody7", "online": false, "connections": 0, "devices": 0, "since": null, "nodes": []});
    assert_eq!(shown[7], nobody);
    let mut nodes = vec![first.id.clone(), second.id.clone()];
    nodes.sort();
    nodes.dedup();
    for (one, connections, devices, nodes) in [
        (&shown[996], 2, 1, &nodes),
        (&shown[997], 1, 1, &vec![first.id.clone()]),
        (&shown[998], 2, 2, &vec![first.id.clone()]),
        (&shown[999], 2, 1, &nodes),
    ] {
        assert_eq!(
            (&one["online"], &one["connections"], &one["devices"]),
            (&json!(true), &json!(connections), &json!(devices)),
            "{one}"
        );
        assert_eq!(one["nodes"], json!(nodes), "{one}");
        let (_, alone) = call(
            asked,
            "GET",
            &format!("/v1/users/{}", one["user"].as_str().unwrap()),
        )
        .await;
        assert_eq!(
            (&alone["since"], &alone["devices"]),
            (&one["since"], &one["devices"])
        );
        let oldest = alone["connections"].as_array().expect("rows").iter();
        let oldest = oldest.map(|row| row["at"].as_u64().unwrap()).min();
        assert_eq!(one["since"], json!(oldest));
    }
    let answer = presence(asked, json!({"topics": ["news", "none"]})).await;
    assert_eq!(
        answer["topics"][0]["connections"],
        json!(clients.len() - 2),
        "{answer}"
    );
    let none = json!({"topic": "none", "connections": 0, "nodes": []});
    assert_eq!(answer["topics"][1], none);

    clients.remove(0);
    eventually(async || {
        let answer = presence(asked, json!({"users": ["twice"]})).await;
        match answer["users"][0]["connections"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
}

pub async fn members_are_listed_by_user(asked: &Node, first: &Node, second: &Node) {
    let _clients = [
        member(first, "b", "news").await,
        member(first, "a", "news").await,
        member(second, "a", "news").await,
        member(second, "c", "news").await,
        member(second, "d", "other").await,
    ];
    let (status, answer) = call(asked, "GET", "/v1/topics/news?members=true").await;
    assert_eq!(status, 200, "{answer}");
    let both: Vec<&str> = match first.id == second.id {
        true => vec![&first.id],
        false => vec![&first.id, &second.id],
    };
    let one = |user, connections, nodes: &[&str]| json!({"user": user, "connections": connections, "nodes": nodes});
    let expected = [
        one("a", 2, &both),
        one("b", 1, &[&first.id]),
        one("c", 1, &[&second.id]),
    ];
    assert_eq!(answer["members"], json!(expected), "{answer}");
    assert_eq!(
        (&answer["truncated"], &answer["missing"]),
        (&json!(false), &json!([]))
    );
}

pub async fn a_bad_question_after_presence_is_refused(node: &Node) {
    let url = node.url("/v1/presence");
    let many: Vec<_> = (0..=1000).map(|i| format!("u{i}")).collect();
    for (body, words) in [
        (json!({"users": []}), "users must not be empty"),
        (json!({"users": many}), "1001 users; 1000 at most"),
        (json!({"topics": many}), "1001 topics; 100 at most"),
        (json!({"user": "a"}), "unknown field"),
        (json!({"users": ["a\u{1}b"]}), "user id must be"),
        (json!({}), "one of users and topics is needed"),
    ] {
        let (status, answer) = post(&url, &body).await;
        assert_eq!(status, 400, "{answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{message}");
    }
    let (status, answer) = call(node, "GET", "/v1/presence").await;
    assert_eq!(status, 405, "{answer}");
}

/// Has a client watch a topic; answers who is there.
pub async fn watch(client: &mut Client, topic: &str) -> Value {
    let request = json!({"type": "subscribe", "topic": topic, "presence": true, "ref": "watch"});
    client.send(&request.to_string()).await;
    let reply = client.json().await;
    assert_eq!(
        (&reply["ref"], &reply["status"]),
        (&json!("watch"), &json!("subscribed")),
        "{reply}"
    );
    let mut frame = news(client).await;
    assert_eq!(frame["topic"], topic, "{frame}");
    frame["members"].take()
}

/// The next object about presence. Others may come in between: what is lost is told of, too.
pub async fn news(client: &mut Client) -> Value {
    loop {
        let frame = client.json().await;
        match frame["type"].as_str() {
            Some("presence") => return frame,
            Some("resync" | "degraded") => {}
            _ => panic!("neither presence nor a loss: {frame}"),
        }
    }
}

pub fn joins(user: &str) -> Value {
    json!({"type": "presence", "topic": "room", "join": [user]})
}

pub fn leaves(user: &str) -> Value {
    json!({"type": "presence", "topic": "room", "leave": [user]})
}

/// That somebody joins and leaves is the next that a watcher hears.
async fn comes_and_goes(watcher: &mut Client, node: &Node) {
    let marker = member(node, "marker", "room").await;
    assert_eq!(news(watcher).await, joins("marker"));
    drop(marker);
    assert_eq!(news(watcher).await, leaves("marker"));
}

/// Settings of a node on which nobody who is gone is waited for for long.
pub const SHORT_GRACE: (&str, &str) = ("PUSH_PRESENCE_GRACE_SECONDS", "1");

pub async fn who_watches_hears_who_comes_and_goes(first: &Node, second: &Node) {
    let _ann = member(second, "ann", "room").await;
    let mut watcher = Client::v1(&first.ws_url("me")).await;
    assert_eq!(watch(&mut watcher, "room").await, json!(["ann", "me"]));
    let mut quiet = member(first, "quiet", "room").await;
    assert_eq!(news(&mut watcher).await, joins("quiet"));

    // Two devices of one user, on one node or two, and a third that only looks in.
    let bob = member(first, "bob", "room").await;
    assert_eq!(news(&mut watcher).await, joins("bob"));
    let other = member(second, "bob", "room").await;
    drop(member(second, "bob", "room").await);
    let _seen = member(second, "seen", "room").await;
    assert_eq!(news(&mut watcher).await, joins("seen"));
    drop(bob);
    let carl = member(second, "carl", "room").await;
    assert_eq!(
        news(&mut watcher).await,
        joins("carl"),
        "bob is still there"
    );
    drop(carl);
    assert_eq!(news(&mut watcher).await, leaves("carl"));
    drop(other);
    assert_eq!(news(&mut watcher).await, leaves("bob"));

    // Asked again, it is all told again.
    let all = json!(["ann", "me", "quiet", "seen"]);
    assert_eq!(watch(&mut watcher, "room").await, all);
    // Another topic is another matter, and who has not asked hears nothing.
    assert_eq!(watch(&mut watcher, "elsewhere").await, json!(["me"]));
    let _bob = member(second, "bob", "room").await;
    assert_eq!(news(&mut watcher).await, joins("bob"));
    unsubscribe(&mut watcher, "room").await;
    let _last = member(first, "last", "room").await;
    let _last = member(second, "last", "elsewhere").await;
    let last = json!({"type": "presence", "topic": "elsewhere", "join": ["last"]});
    assert_eq!(news(&mut watcher).await, last);
    quiet.send(r#"{"type":"ping"}"#).await;
    assert_eq!(quiet.json().await, json!({"type": "pong"}));
}

/// Who comes back within the grace, to whatever node, was never gone.
pub async fn a_quick_return_makes_no_noise(first: &Node, second: &Node) {
    let mut watcher = Client::v1(&first.ws_url("me")).await;
    let mut bob = member(first, "bob", "room").await;
    assert_eq!(watch(&mut watcher, "room").await, json!(["bob", "me"]));
    // A node that has just started is slow to say that somebody has left; this one no longer is.
    comes_and_goes(&mut watcher, second).await;
    for node in [second, first, second] {
        drop(bob);
        // So that it is known here to be gone before it comes back.
        eventually(async || {
            let answer = call(first, "GET", "/v1/topics/room?members=true").await.1;
            let members = answer["members"].as_array().expect("a list").len();
            (members == 1).then_some(()).ok_or(answer)
        })
        .await;
        bob = member(node, "bob", "room").await;
    }
    // What is told of this one stands behind all that could have been told of bob.
    comes_and_goes(&mut watcher, second).await;
    drop(bob);
    assert_eq!(news(&mut watcher).await, leaves("bob"));
}

pub async fn every_transport_that_hears_objects_hears_presence(node: &Node, other: &Node) {
    let list = json!({"type": "presence", "topic": "room", "members": ["me"]});
    for transport in [Transport::Sse, Transport::Tcp] {
        let wish = match transport {
            Transport::Sse => "me&topics=room&presence=true",
            _ => "me",
        };
        let mut client = connect(transport, node, wish, None).await;
        if transport == Transport::Tcp {
            let request = json!({"type": "subscribe", "topic": "room", "presence": true});
            client.send(&request).await;
            assert_eq!(client.json().await["status"], "subscribed");
        }
        assert_eq!(client.json().await, list, "{transport:?}");
        let ann = member(other, "ann", "room").await;
        assert_eq!(client.json().await, joins("ann"), "{transport:?}");
        drop(ann);
        assert_eq!(client.json().await, leaves("ann"), "{transport:?}");
    }
}

/// More than a list may name are all told of by name when they come.
pub async fn a_long_list_is_cut_and_says_so(first: &Node, second: &Node) {
    let come = async |i: usize| {
        let node = if i.is_multiple_of(2) { first } else { second };
        let url = format!("{}&topics=room", node.ws_url(&format!("{i:04}")));
        Client::plain(&url).await
    };
    let _clients = futures::future::join_all((0..1001).map(come)).await;
    let mut watcher = Client::v1(&first.ws_url("zoe")).await;
    let request = json!({"type": "subscribe", "topic": "room", "presence": true});
    watcher.send(&request.to_string()).await;
    assert_eq!(watcher.json().await["status"], "subscribed");
    let list = news(&mut watcher).await;
    assert_eq!(list["more"], true);
    assert_eq!(list["members"].as_array().expect("a list").len(), 1000);
    let _late = member(second, "late", "room").await;
    assert_eq!(news(&mut watcher).await, joins("late"));
}

pub async fn a_bad_wish_for_presence_is_refused(node: &Node) {
    let mut client = Client::v1(&node.ws_url("me")).await;
    client
        .send(r#"{"type":"subscribe","topic":"room","presence":"yes","ref":7}"#)
        .await;
    let words = "presence must be true or false";
    let expected = json!({"type": "error", "ref": 7, "code": "bad_message", "message": words});
    assert_eq!(client.json().await, expected);
    let url = format!("{}&topics=room&presence=yes", node.ws_url("me"));
    let (status, answer) = refused_handshake(&url).await;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains(words), "{answer}");
}
