//! What holds of kept messages that a client cannot take, on every backplane. Each takes the node
//! that is pushed to and the one that clients connect to.

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::transports::{AnyClient, Transport, connect_back};
use super::{Client, Node, eventually, logs, post};

/// More than some libraries read.
const LARGE: usize = 100_000;

fn large() -> String {
    "x".repeat(LARGE)
}

async fn keep(node: &Node, user: &str, id: &str, data: &str) {
    let push = json!({"to": {"user": user}, "keep": true, "id": id, "data": data});
    assert_eq!(post(&node.push_url, &push).await.0, 200);
}

fn resume_of(client: &AnyClient) -> String {
    client.ready["resume"]
        .as_str()
        .expect("a position")
        .to_owned()
}

/// Waits until no connection of the user is left.
async fn all_have_left(node: &Node, user: &str) {
    eventually(async || {
        let shown = super::http().get(node.url(&format!("/v1/users/{user}")));
        let shown: Value = shown
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        match shown["connections"].as_array() {
            Some(rows) if rows.is_empty() => Ok(()),
            _ => Err(shown),
        }
    })
    .await;
}

/// What a client hears instead of the large message, and then what is behind it.
async fn hears_what_is_behind(client: &mut AnyClient) -> Value {
    assert_eq!(client.ready["recovered"], false, "{}", client.ready);
    let resync = client.json().await;
    assert_eq!(resync["type"], "resync", "{resync}");
    assert_eq!(resync["id"], "large", "{resync}");
    assert_eq!(resync["bytes"], LARGE + 2, "{resync}");
    assert_eq!(
        resync["resume"], client.ready["resume"],
        "it stands behind it"
    );
    client.hears("behind").await;
    resync
}

/// A client of any transport that vanishes when it gets the message.
pub async fn who_vanishes_at_a_message_gets_what_is_behind_it(
    sender: &Node,
    node: &Node,
    by: Transport,
) {
    let user = format!("vanishes-{}", by.name());
    let who = [("user", &*user), ("device", "phone")];
    let first = connect_back(by, node, &who, None).await;
    let since = match by {
        Transport::Sse => first.last_id.clone().expect("an id"),
        _ => resume_of(&first),
    };
    drop(first);
    all_have_left(node, &user).await;
    keep(sender, &user, "large", &large()).await;
    keep(sender, &user, "behind", "behind").await;
    for _ in 0..3 {
        let client = connect_back(by, node, &who, Some(&since)).await;
        assert_eq!(client.ready["recovered"], true, "{}", client.ready);
        drop(client);
        all_have_left(node, &user).await;
    }
    let mut client = connect_back(by, node, &who, Some(&since)).await;
    let resync = hears_what_is_behind(&mut client).await;
    // It goes on from there, and another device gets all.
    let behind = match by {
        Transport::Sse => client.last_id.clone().expect("an id"),
        _ => resync["resume"].as_str().expect("a position").to_owned(),
    };
    let mut again = connect_back(by, node, &who, Some(&behind)).await;
    assert_eq!(again.ready["recovered"], true, "{}", again.ready);
    if by != Transport::Sse {
        again.hears("behind").await;
    }
    let other = [("user", &*user), ("device", "desk")];
    let mut other = connect_back(by, node, &other, Some(&since)).await;
    other.hears(large()).await;
    other.hears("behind").await;
}

/// A client that says with its close frame that it cannot take the message, of its inbox and of a
/// topic's log.
pub async fn what_a_client_complains_of_is_passed_over(sender: &Node, node: &Node) {
    let url = format!("{}&device=phone", node.ws_url("complains"));
    let mut first = Client::v1(&url).await;
    let ready = first.ready.take().expect("ready");
    let since = ready["resume"].as_str().expect("a position").to_owned();
    let reply = logs::follow(&mut first, "room", None).await;
    let topic_since = reply["resume"].as_str().expect("a position").to_owned();
    drop(first);
    all_have_left(node, "complains").await;
    keep(sender, "complains", "large", &large()).await;
    keep(sender, "complains", "behind", "behind").await;
    logs::keep(sender, "room", large()).await;
    logs::keep(sender, "room", "behind").await;
    let code = 1009;
    let complain = async |client: &mut Client| {
        let frame = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        let close = Message::Close(Some(frame));
        client.socket.send(close).await.expect("sent");
        all_have_left(node, "complains").await;
    };
    let back = format!("{url}&since={since}");
    for _ in 0..3 {
        let mut client = Client::v1(&back).await;
        assert_eq!(client.json().await["id"], "large");
        complain(&mut client).await;
    }
    let mut client = Client::v1(&back).await;
    let resync = client.json().await;
    assert_eq!(
        (&resync["type"], &resync["id"]),
        (&json!("resync"), &json!("large"))
    );
    let behind = client.json().await;
    assert_eq!(behind["data"], "behind");
    let here = behind["resume"].as_str().expect("a position").to_owned();
    drop(client);
    all_have_left(node, "complains").await;

    // The same at a log, by a client whose inbox is read.
    let back = format!("{url}&since={here}");
    for round in 0..4 {
        let mut client = Client::v1(&back).await;
        let reply = logs::follow(&mut client, "room", Some(&topic_since)).await;
        assert_eq!(reply["recovered"], round < 3, "{reply}");
        let next = client.json().await;
        if round < 3 {
            assert_eq!(next["data"], large(), "{round}");
            complain(&mut client).await;
            continue;
        }
        assert_eq!(next["type"], "resync", "{next}");
        assert_eq!(next["topic"], "room", "{next}");
        assert_eq!(next["resume"], reply["resume"], "{next}");
        assert_eq!(client.json().await["data"], "behind");
    }
    let shown = super::http().get(sender.url("/v1/users/complains/trace"));
    let shown: Value = shown
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let events = shown["events"].as_array().expect("events");
    let said = events.iter().filter(|one| one["code"] == code).count();
    assert_eq!(said, 6, "the code of each close: {shown}");
    let passed = events.iter().filter(|one| one["reason"] == "passed_over");
    assert_eq!(passed.count(), 2, "{shown}");
}

/// A client that takes the message and is cut off again and again before it has noted that.
pub async fn who_takes_a_message_gets_it_however_often_it_is_cut_off(
    sender: &Node,
    node: &Node,
    by: Transport,
) {
    let user = format!("takes-{}", by.name());
    let who = [("user", &*user)];
    let first = connect_back(by, node, &who, None).await;
    let since = resume_of(&first);
    drop(first);
    all_have_left(node, &user).await;
    keep(sender, &user, "large", &large()).await;
    for round in 0..8 {
        let mut client = connect_back(by, node, &who, Some(&since)).await;
        assert_eq!(client.ready["recovered"], true, "{round}");
        client.hears(large()).await;
        client.send(&json!({"type": "ping"})).await;
        assert_eq!(client.json().await["type"], "pong");
        drop(client);
        all_have_left(node, &user).await;
    }
}
