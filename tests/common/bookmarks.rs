//! What holds of `resume=server` on every backplane. Takes the node that is pushed to and those
//! that clients connect to; with one node by itself they are the same.

use serde_json::{Value, json};

use super::keep::keep;
use super::transports::{AnyClient, TRANSPORTS, Transport, connect_as, connect_back, refused_as};
use super::{Node, eventually, post};

const REMEMBERED: (&str, &str) = ("resume", "server");

/// The next object is a kept message of this data; answers its token.
pub async fn next(client: &mut AnyClient, data: i32) -> String {
    let object = client.json().await;
    let seen = (&object["type"], &object["data"]);
    assert_eq!(seen, (&json!("message"), &json!(data)), "{object}");
    object["resume"].as_str().expect("a token").to_owned()
}

/// Acknowledges, and waits until the node has heard it: a socket that is dropped with something
/// unread in it is reset, and the node may never read what was sent.
pub async fn acknowledge(client: &mut AnyClient, what: &Value) {
    client.send(what).await;
    client.send(&json!({"type": "ping"})).await;
    while client.json().await["type"] != "pong" {}
}

/// Connects once the device is known to have read up to there.
async fn comes_back(by: Transport, node: &Node, who: &[(&str, &str)], read: &str) -> AnyClient {
    eventually(async || {
        let client = connect_as(by, node, who).await;
        match client.ready["resume"] == read {
            true => Ok(client),
            false => Err(client.ready.to_string()),
        }
    })
    .await
}

pub async fn a_device_goes_on_where_it_has_read(sender: &Node, first: &Node, second: &Node) {
    for (by, user) in [(Transport::Ws, "1"), (Transport::Tcp, "2")] {
        let who = [("user", user), ("device", "tab"), REMEMBERED];
        keep(sender, user, 0).await;
        // A first visit begins with what comes.
        let mut client = connect_as(by, first, &who).await;
        assert_eq!(client.ready["recovered"], Value::Null, "{}", client.ready);
        for number in 1..=2 {
            keep(sender, user, number).await;
        }
        let body = json!({"to": {"user": user}, "keep": true, "id": "m", "data": 3});
        post(&sender.push_url, &body).await;
        keep(sender, user, 4).await;
        let one = next(&mut client, 1).await;
        next(&mut client, 2).await;
        let three = next(&mut client, 3).await;
        next(&mut client, 4).await;
        acknowledge(&mut client, &json!({"type": "ack", "resume": one})).await;
        drop(client);
        // Nothing counts that it did not acknowledge.
        let mut client = comes_back(by, second, &who, &one).await;
        assert_eq!(client.ready["recovered"], true, "{}", client.ready);
        next(&mut client, 2).await;
        next(&mut client, 3).await;
        // By its id, with all before it.
        acknowledge(&mut client, &json!({"type": "ack", "id": "m"})).await;
        drop(client);
        keep(sender, user, 5).await;
        let mut client = comes_back(by, first, &who, &three).await;
        next(&mut client, 4).await;
        let five = next(&mut client, 5).await;
        // What it was not given it cannot acknowledge, nor take back what it has read.
        let ahead = five.replace('.', ".9");
        for resume in [&five, &ahead, &one] {
            acknowledge(&mut client, &json!({"type": "ack", "resume": resume})).await;
        }
        drop(client);
        drop(comes_back(by, second, &who, &five).await);
        // Another device has its own place: all that is there, if it wants to, the first time.
        let who = [
            ("user", user),
            ("device", "phone"),
            REMEMBERED,
            ("since", "0"),
        ];
        let mut phone = connect_as(by, first, &who).await;
        for number in 0..=4 {
            next(&mut phone, number).await;
        }
        assert_eq!(next(&mut phone, 5).await, five);
        acknowledge(&mut phone, &json!({"type": "ack", "resume": five})).await;
        drop(phone);
        keep(sender, user, 6).await;
        let mut phone = comes_back(by, second, &who, &five).await;
        next(&mut phone, 6).await;
    }
}

/// A reader that cannot speak has read what it was given when it closes in order.
pub async fn a_stream_goes_on_where_its_device_has_read(sender: &Node, a: &Node, b: &Node) {
    let who = [("user", "3"), ("device", "tab"), REMEMBERED];
    let mut client = connect_as(Transport::Sse, a, &who).await;
    keep(sender, "3", 1).await;
    keep(sender, "3", 2).await;
    let one = next(&mut client, 1).await;
    let two = next(&mut client, 2).await;
    drop(client);
    // Before the next push, which would break the closed socket if it came before its end. Looked
    // after by clients that acknowledge nothing: a stream has read what it was given.
    drop(comes_back(Transport::Ws, b, &who, &two).await);
    keep(sender, "3", 3).await;
    let mut client = connect_as(Transport::Sse, b, &who).await;
    assert_eq!(client.ready["resume"], two, "{}", client.ready);
    assert_eq!(client.ready["recovered"], true, "{}", client.ready);
    next(&mut client, 3).await;
    // The id of its last event counts before.
    let mut client = connect_back(Transport::Sse, a, &who, Some(&one)).await;
    next(&mut client, 2).await;
    next(&mut client, 3).await;
}

pub async fn what_cannot_be_remembered_is_refused(node: &Node) {
    for by in TRANSPORTS {
        let without = [("user", "1"), REMEMBERED];
        assert_eq!(
            refused_as(by, node, &without).await,
            "bad_request",
            "{by:?}"
        );
        let other = [("user", "1"), ("device", "tab"), ("resume", "client")];
        assert_eq!(refused_as(by, node, &other).await, "bad_request", "{by:?}");
    }
    // `new` is what happens without `since`; there is nothing to recover.
    for by in TRANSPORTS {
        let who = [("user", "4"), ("since", "new")];
        keep(node, "4", 1).await;
        let mut client = connect_as(by, node, &who).await;
        assert_eq!(client.ready["recovered"], Value::Null, "{by:?}");
        keep(node, "4", 2).await;
        next(&mut client, 2).await;
    }
}
