//! What holds of the names of events on every backplane. Each takes the node that is pushed to and
//! the one that clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::transports::{AnyClient, TRANSPORTS, Transport, connect_as, connect_back};
use super::{Client, Node, post, post_text};

const NAME: &str = "order.paid";

/// The next object is a push of this data under this name.
async fn is_named(client: &mut AnyClient, data: u32) -> Value {
    let object = client.json().await;
    let seen = (&object["type"], &object["event"], &object["data"]);
    let expected = (&json!("message"), &json!(NAME), &json!(data));
    assert_eq!(seen, expected, "{object}");
    object
}

pub async fn a_name_reaches_every_transport(sender: &Node, node: &Node) {
    for (by, user) in TRANSPORTS.into_iter().zip(["1", "2", "3"]) {
        let who = [("user", user), ("topics", "news")];
        let mut client = connect_as(by, node, &who).await;
        let push = async |body: Value| {
            let (status, answer) = post(&sender.push_url, &body).await;
            assert_eq!(status, 200, "{answer}");
        };
        push(json!({"to": {"user": user}, "event": NAME, "data": 1})).await;
        is_named(&mut client, 1).await;
        push(json!({"to": {"topic": "news"}, "event": NAME, "data": 2})).await;
        let object = is_named(&mut client, 2).await;
        assert!(
            by == Transport::Sse || object["topic"] == "news",
            "{object}"
        );
        push(json!({"to": {"topics": ["news"]}, "keep": true, "event": NAME, "data": 3})).await;
        is_named(&mut client, 3).await;
        let lines = format!(r#"{{"to":{{"user":"{user}"}},"event":"{NAME}","data":4}}"#);
        post_text(&sender.push_url, "application/x-ndjson", lines).await;
        is_named(&mut client, 4).await;
        // Whoever was away reads it from the inbox.
        drop(client);
        push(json!({"to": {"user": user}, "keep": true, "event": NAME, "data": 5})).await;
        let who = [("user", user)];
        let mut back = connect_back(by, node, &who, Some("0")).await;
        is_named(&mut back, 5).await;
    }
    // And from a log.
    let mut client = Client::v1(&node.ws_url("4")).await;
    client
        .send(r#"{"type":"subscribe","topic":"news","since":"0"}"#)
        .await;
    assert_eq!(client.json().await["type"], "reply");
    let logged = client.json().await;
    assert_eq!(
        (&logged["event"], &logged["topic"]),
        (&json!(NAME), &json!("news")),
        "{logged}"
    );
    // A client that gets nothing but data gets nothing else.
    let mut plain = Client::plain(&node.ws_url("5")).await;
    post(
        &sender.push_url,
        &json!({"to": {"user": "5"}, "event": NAME, "data": 6}),
    )
    .await;
    assert_eq!(plain.text().await, "6");
}

/// Topics of one stream can be told apart.
pub async fn an_event_stream_can_have_whole_objects(sender: &Node, node: &Node) {
    let who = [("user", "9"), ("topics", "a,b"), ("envelope", "1")];
    let mut client = connect_as(Transport::Sse, node, &who).await;
    for (topic, keep) in [("a", false), ("b", false), ("a", true)] {
        let body = json!({"to": {"topic": topic}, "keep": keep, "id": format!("{topic}{keep}"),
            "event": NAME, "data": [1, 2]});
        post(&sender.push_url, &body).await;
        let event = client.json().await;
        assert_eq!(
            event["event"],
            Value::Null,
            "the name is in the object: {event}"
        );
        let object = &event["data"];
        assert_eq!(
            (&object["type"], &object["topic"]),
            (&json!("message"), &json!(topic))
        );
        assert_eq!(
            (&object["event"], &object["data"]),
            (&json!(NAME), &json!([1, 2]))
        );
        assert_eq!(object["id"], format!("{topic}{keep}"));
        assert_eq!(
            (object["resume"].is_string(), event["resume"].is_string()),
            (keep, keep)
        );
    }
}
