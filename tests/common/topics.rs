//! What holds of topics on every backplane. Each takes the node that is pushed to and those that
//! clients connect to; with one node by itself they are the same.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Client, Node, eventually, http, openapi, post};

pub async fn push(node: &Node, topic: &str, data: impl Into<Value>) -> Value {
    let body = json!({"to": {"topic": topic}, "data": data.into()});
    push_as(node, body).await
}

pub async fn push_as(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// What is asked of the node, and its answer; messages that come first are a fault.
pub async fn ask(client: &mut Client, request: Value) -> Value {
    client.send(&request.to_string()).await;
    let reply = client.json().await;
    assert_eq!(reply["ref"], request["ref"], "{request} {reply}");
    reply
}

pub async fn subscribe(client: &mut Client, topic: &str) {
    let reply = ask(
        client,
        json!({"type": "subscribe", "topic": topic, "ref": 1}),
    )
    .await;
    let expected = json!({"type": "reply", "ref": 1, "topic": topic, "status": "subscribed"});
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(reply[field], *value, "{reply}");
    }
}

pub async fn unsubscribe(client: &mut Client, topic: &str) {
    let reply = ask(
        client,
        json!({"type": "unsubscribe", "topic": topic, "ref": "bye"}),
    )
    .await;
    let expected = json!({"type": "reply", "ref": "bye", "topic": topic, "status": "unsubscribed"});
    assert_eq!(reply, expected);
}

/// The next thing a `pushnode.v1` client hears is this message of a topic.
pub async fn hears(client: &mut Client, topic: &str, data: impl Into<Value>) {
    let frame = client.json().await;
    let seen = (&frame["type"], &frame["topic"], &frame["data"]);
    assert_eq!(
        seen,
        (&json!("message"), &json!(topic), &data.into()),
        "{frame}"
    );
}

/// A request that has no body, such as a PUT; answers status and body, which must be as
/// `openapi.json` says.
pub async fn call(node: &Node, method: &str, path: &str) -> (u16, Value) {
    let method: Method = method.parse().expect("a method");
    let request = http().request(method.clone(), node.url(path));
    let response = request.send().await.expect("an answer");
    let answer = openapi::read(method, path, response).await;
    (answer.status, answer.json())
}

/// Waits until so many connections are in the topic, as this node knows.
pub async fn counts(node: &Node, topic: &str, expected: u32) {
    eventually(async || {
        let (status, answer) = call(node, "GET", &format!("/v1/topics/{topic}")).await;
        match answer["connections"] == expected && status == 200 {
            true => Ok(()),
            false => Err(answer),
        }
    })
    .await;
}

fn with_topics(node: &Node, user: &str, topics: &str) -> String {
    format!("{}&topics={topics}", node.ws_url(user))
}

pub async fn a_push_reaches_who_is_subscribed(sender: &Node, first: &Node, second: &Node) {
    let mut here = Client::v1(&first.ws_url("1")).await;
    let mut there = Client::v1(&second.ws_url("2")).await;
    let mut nobody = Client::v1(&second.ws_url("3")).await;
    let answer = push(sender, "news", 0).await;
    assert_eq!(answer["status"], "offline", "{answer}");
    subscribe(&mut here, "news").await;
    subscribe(&mut there, "news").await;
    subscribe(&mut nobody, "other").await;
    // Once more changes nothing.
    subscribe(&mut here, "news").await;
    let answer = push(sender, "news", 1).await;
    assert_eq!(
        (&answer["status"], &answer["connections"]),
        (&json!("routed"), &json!(2)),
        "{answer}"
    );
    hears(&mut here, "news", 1).await;
    hears(&mut there, "news", 1).await;
    counts(sender, "news", 2).await;

    unsubscribe(&mut there, "news").await;
    push(sender, "news", 2).await;
    hears(&mut here, "news", 2).await;
    push(sender, "other", "marker").await;
    hears(&mut nobody, "other", "marker").await;
    counts(sender, "news", 1).await;
    drop(here);
    counts(sender, "news", 0).await;
    let answer = push(sender, "news", 3).await;
    assert_eq!(answer["status"], "offline", "{answer}");
    // What would have come before it did not.
    post(
        &sender.push_url,
        &json!({"to": {"user": "2"}, "data": "end"}),
    )
    .await;
    there.hears_next("end").await;
}

pub async fn topics_come_with_the_connection(sender: &Node, node: &Node) {
    let mut plain = Client::plain(&with_topics(node, "1", "a,b.c")).await;
    let mut v1 = Client::v1(&with_topics(node, "2", "b.c,a,a")).await;
    let ready = v1.ready.as_ref().expect("a v1 client");
    assert_eq!(ready["topics"], json!(["b.c", "a"]), "{ready}");
    let answer = push(sender, "b.c", json!({"x": 1})).await;
    assert_eq!(answer["connections"], 2, "{answer}");
    assert_eq!(plain.text().await, r#"{"x":1}"#);
    hears(&mut v1, "b.c", json!({"x": 1})).await;
    drop((plain, v1));
    counts(sender, "a", 0).await;
}

pub async fn a_sender_subscribes_others(sender: &Node, first: &Node, second: &Node) {
    let mut here = Client::v1(&first.ws_url("42")).await;
    let mut there = Client::v1(&second.ws_url("42")).await;
    let mut plain = Client::plain(&second.ws_url("42")).await;
    let nodes = 1 + u32::from(first.id != second.id);
    let (status, answer) = call(sender, "PUT", "/v1/topics/vip/users/42").await;
    let proven = json!({"id": null, "status": "written", "connections": 3, "nodes": nodes});
    assert_eq!((status, &answer), (200, &proven));
    for client in [&mut here, &mut there] {
        let told = client.json().await;
        assert_eq!(told, json!({"type": "subscribed", "topic": "vip"}));
    }
    push(sender, "vip", 1).await;
    hears(&mut here, "vip", 1).await;
    hears(&mut there, "vip", 1).await;
    assert_eq!(plain.text().await, "1");

    let one = format!("/v1/topics/vip/connections/{}", here.connection());
    let (status, answer) = call(sender, "DELETE", &one).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(1)),
        "{answer}"
    );
    let told = here.json().await;
    assert_eq!(told, json!({"type": "unsubscribed", "topic": "vip"}));
    let (status, _) = call(sender, "PUT", &one).await;
    assert_eq!(status, 200);
    assert_eq!(here.json().await["type"], "subscribed");

    let (status, answer) = call(sender, "DELETE", "/v1/topics/vip/users/42").await;
    assert_eq!((status, answer), (200, proven));
    counts(sender, "vip", 0).await;
    let (status, answer) = call(sender, "PUT", "/v1/topics/vip/users/nobody").await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("offline")),
        "{answer}"
    );
    let (node, _) = one.rsplit_once('/').expect("a path");
    let (status, answer) = call(sender, "PUT", &format!("{node}/999999")).await;
    assert_eq!(status, 404, "{answer}");
    for client in [&mut here, &mut there] {
        assert_eq!(client.json().await["type"], "unsubscribed");
    }
    push(sender, "vip", 2).await;
    post(
        &sender.push_url,
        &json!({"to": {"user": "42"}, "data": "end"}),
    )
    .await;
    for client in [&mut here, &mut there, &mut plain] {
        client.hears_next("end").await;
    }
}

/// The nodes allow `chat.*` and `user.{user}`, and two topics at most.
pub async fn what_is_not_allowed_is_refused(node: &Node) {
    let mut client = Client::v1(&node.ws_url("42")).await;
    for (topic, code) in [
        ("news", "forbidden"),
        ("user.43", "forbidden"),
        ("a b", "bad_message"),
    ] {
        let request = json!({"type": "subscribe", "topic": topic, "ref": 7});
        let reply = ask(&mut client, request).await;
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!(code)),
            "{reply}"
        );
    }
    let reply = ask(&mut client, json!({"type": "subscribe", "ref": 8})).await;
    assert_eq!(reply["code"], "bad_message", "{reply}");
    subscribe(&mut client, "user.42").await;
    subscribe(&mut client, "chat.1").await;
    let reply = ask(
        &mut client,
        json!({"type": "subscribe", "topic": "chat.2", "ref": 9}),
    )
    .await;
    assert_eq!(reply["code"], "too_many_topics", "{reply}");
    subscribe(&mut client, "chat.1").await;
    unsubscribe(&mut client, "user.42").await;
    subscribe(&mut client, "chat.2").await;
    push(node, "chat.2", 1).await;
    hears(&mut client, "chat.2", 1).await;
    // A sender may do what the client may not.
    unsubscribe(&mut client, "chat.2").await;
    let (_, answer) = call(node, "PUT", "/v1/topics/news/users/42").await;
    assert_eq!(answer["status"], "written", "{answer}");
    assert_eq!(client.json().await["type"], "subscribed");
    push(node, "news", 2).await;
    hears(&mut client, "news", 2).await;
    // But the limit holds for all.
    let (_, answer) = call(node, "PUT", "/v1/topics/more/users/42").await;
    assert_eq!(answer["status"], "routed", "{answer}");
    counts(node, "more", 0).await;

    for (topics, status, code) in [
        ("news", 403, "forbidden"),
        ("chat.1,user.43", 403, "forbidden"),
        ("chat.1,chat%20x", 400, "bad_request"),
        ("chat.1,chat.2,chat.3", 400, "too_many_topics"),
    ] {
        let (seen, body) = super::refused_handshake(&with_topics(node, "42", topics)).await;
        assert_eq!(seen, status, "{topics}: {body}");
        assert!(body.contains(code), "{topics}: {body}");
    }
    counts(node, "chat.3", 0).await;
}

pub async fn a_push_can_leave_out_some_and_name_many(sender: &Node, first: &Node, second: &Node) {
    let mut here = Client::v1(&with_topics(first, "1", "a,b")).await;
    let mut there = Client::v1(&with_topics(second, "2", "b,c")).await;
    let except = json!({"users": ["2"], "fds": []});
    let body = json!({"to": {"topic": "b"}, "data": 1, "except": except, "wait": "written"});
    let answer = push_as(sender, body).await;
    assert_eq!(
        (&answer["status"], &answer["connections"]),
        (&json!("written"), &json!(1)),
        "{answer}"
    );
    hears(&mut here, "b", 1).await;
    let except = json!({"fds": [here.connection()]});
    push_as(
        sender,
        json!({"to": {"topic": "b"}, "data": 2, "except": except}),
    )
    .await;
    hears(&mut there, "b", 2).await;

    let to = json!({"topics": ["a", "c", "none", "a"]});
    let answer = push_as(sender, json!({"to": to, "data": 3, "wait": "written"})).await;
    let part = |topic: &str, status: &str, connections: u32| json!({"topic": topic, "status": status, "connections": connections});
    let nodes = 1 + u32::from(first.id != second.id);
    assert_eq!(
        (&answer["status"], &answer["connections"], &answer["nodes"]),
        (&json!("written"), &json!(2), &json!(nodes)),
        "{answer}"
    );
    let targets = json!([
        part("a", "written", 1),
        part("c", "written", 1),
        part("none", "offline", 0)
    ]);
    assert_eq!(answer["targets"], targets);
    hears(&mut here, "a", 3).await;
    hears(&mut there, "c", 3).await;

    // An id is known for each topic.
    let body = |to: Value| json!({"to": to, "id": "one", "data": 4});
    push_as(sender, body(json!({"topic": "a"}))).await;
    let answer = push_as(sender, body(json!({"topics": ["a", "b"]}))).await;
    // A node that was told before drops it; whoever sends learns of it only from its own.
    assert_eq!(answer["targets"][1]["status"], "routed", "{answer}");
    hears(&mut here, "a", 4).await;
    hears(&mut here, "b", 4).await;
    hears(&mut there, "b", 4).await;
    let acked = json!({"to": {"topic": "c"}, "id": "ack", "data": 5, "wait": "acked"});
    let (answer, ()) = tokio::join!(push_as(sender, acked), async {
        hears(&mut there, "c", 5).await;
        there.send(r#"{"type":"ack","id":"ack"}"#).await;
    });
    assert_eq!(answer["status"], "acked", "{answer}");
}
