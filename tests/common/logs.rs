//! What holds of topics' logs on every backplane: kept pushes to topics. Each takes the node that
//! is pushed to and those that clients connect to; with one node by itself they are the same.

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::topics::{ask, push_as};
use super::{Client, Node};

pub async fn keep(node: &Node, topic: &str, data: impl Into<Value>) -> Value {
    let body = json!({"to": {"topic": topic}, "keep": true, "data": data.into()});
    push_as(node, body).await
}

/// Subscribes from here on, or from where the token says; answers the reply.
pub async fn follow(client: &mut Client, topic: &str, since: Option<&str>) -> Value {
    let mut request = json!({"type": "subscribe", "topic": topic, "ref": 1});
    if let Some(since) = since {
        request["since"] = since.into();
    }
    let reply = ask(client, request).await;
    assert_eq!(reply["status"], "subscribed", "{reply}");
    assert!(reply["resume"].is_string(), "{reply}");
    reply
}

/// A client that follows the topic, and the reply to its subscription.
pub async fn follower(node: &Node, topic: &str, since: Option<&str>) -> (Client, Value) {
    let mut client = Client::v1(&node.ws_url("follower")).await;
    let reply = follow(&mut client, topic, since).await;
    (client, reply)
}

/// The next things it hears are these kept messages of the topic; answers the last token.
pub async fn hears(
    client: &mut Client,
    topic: &str,
    expected: impl IntoIterator<Item = i32>,
) -> String {
    let mut last = String::new();
    for number in expected {
        let frame = client.json().await;
        let seen = (&frame["type"], &frame["topic"], &frame["data"]);
        let expected = (&json!("message"), &json!(topic), &json!(number));
        assert_eq!(seen, expected, "{frame}");
        last = frame["resume"].as_str().expect("a token").to_owned();
    }
    last
}

pub async fn a_client_goes_on_where_it_was(sender: &Node, first: &Node, second: &Node) {
    let (mut client, reply) = follower(first, "news", None).await;
    assert_eq!(reply["recovered"], Value::Null, "it was not here");
    for number in 1..=3 {
        let answer = keep(sender, "news", number).await;
        assert_eq!(answer["status"], "routed", "{answer}");
        assert!(answer["seq_id"].is_string(), "{answer}");
    }
    let token = hears(&mut client, "news", 1..=2).await;
    drop(client);
    super::topics::counts(sender, "news", 0).await;
    for number in 4..=40 {
        let answer = keep(sender, "news", number).await;
        assert_eq!(answer["status"], "stored", "{answer}");
    }
    // More than one page.
    let (mut client, reply) = follower(second, "news", Some(&token)).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    hears(&mut client, "news", 3..=40).await;
    keep(sender, "news", 41).await;
    let token = hears(&mut client, "news", 41..=41).await;

    // A position of another topic fits nowhere, and all that is there comes for 0.
    let reply = follow(&mut client, "other", Some(&token)).await;
    assert_eq!(reply["recovered"], false, "{reply}");
    let reply = follow(&mut client, "news", Some("0")).await;
    assert_eq!(
        reply["recovered"], true,
        "nothing was ever thrown out: {reply}"
    );
    hears(&mut client, "news", 1..=41).await;
    // Once more from a place, on the same connection.
    let reply = follow(&mut client, "news", Some(&token)).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    keep(sender, "news", 42).await;
    hears(&mut client, "news", 42..=42).await;
    // And once more without one changes nothing.
    super::topics::subscribe(&mut client, "news").await;
    keep(sender, "news", 43).await;
    hears(&mut client, "news", 43..=43).await;
}

/// Several topics in one push, an id that comes again, and clients that only listen.
pub async fn a_kept_push_to_many_topics(sender: &Node, node: &Node) {
    let url = |user: &str| format!("{}&topics=a,b", node.ws_url(user));
    let mut v1 = Client::v1(&url("1")).await;
    let mut plain = Client::plain(&url("2")).await;
    let body = json!({"to": {"topics": ["a", "b"]}, "keep": true, "id": "x", "data": 1});
    let answer = push_as(sender, body.clone()).await;
    for (target, topic) in answer["targets"]
        .as_array()
        .expect("targets")
        .iter()
        .zip(["a", "b"])
    {
        assert_eq!(
            (&target["topic"], &target["status"]),
            (&json!(topic), &json!("routed"))
        );
        assert!(target["seq_id"].is_string(), "{answer}");
        hears(&mut v1, topic, 1..=1).await;
        assert_eq!(plain.text().await, "1");
    }
    let answer = push_as(sender, body).await;
    assert_eq!(answer["status"], "duplicate", "{answer}");
    keep(sender, "a", 2).await;
    let token = hears(&mut v1, "a", 2..=2).await;
    assert_eq!(plain.text().await, "2");
    let (mut client, _) = follower(node, "a", Some("0")).await;
    assert_eq!(hears(&mut client, "a", 1..=2).await, token);
    // Behind the end of a subscription nothing comes, kept or not.
    super::topics::unsubscribe(&mut v1, "a").await;
    keep(sender, "a", 3).await;
    keep(sender, "b", 4).await;
    hears(&mut v1, "b", 4..=4).await;
    hears(&mut client, "a", 3..=3).await;
}

/// Who is told that it is subscribed hears whatever is kept from then on, at once or not.
pub async fn a_newcomer_misses_nothing(sender: &Node, node: &Node) {
    const ROUNDS: i32 = 200;
    let rounds = (0..ROUNDS).map(|round| async move {
        let topic = format!("t{round}");
        let url = format!("{}&topics={topic}", node.ws_url(&format!("u{round}")));
        let mut client = Client::v1(&url).await;
        keep(sender, &topic, 1).await;
        hears(&mut client, &topic, 1..=1).await;
    });
    futures::stream::iter(rounds)
        .buffer_unordered(20)
        .collect::<()>()
        .await;
}
