//! Pushes sent ahead: in the same write as the look-up, to the node where the user was last. The
//! row decides all the same: who is fresh elsewhere gets the next push, and gets it once.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, node_on, post, two_nodes};
use crate::raw::Resp;

fn row(user: &str) -> String {
    format!("pn:user:{{{user}}}")
}

async fn push(node: &Node, body: Value) -> Value {
    let (status, answer) = post(&node.push_url, &body).await;
    assert!(matches!(status, 200 | 503), "{body}: {answer}");
    answer
}

/// Without an id: no node would drop a repeat.
async fn push_to(node: &Node, user: &str, data: &str) -> Value {
    push(node, json!({"to": {"user": user}, "data": data})).await
}

fn routed(connections: u32, nodes: u32) -> Value {
    json!({"id": null, "status": "routed", "connections": connections, "nodes": nodes})
}

fn brief(answer: &Value) -> Value {
    json!({
        "id": answer["id"], "status": answer["status"],
        "connections": answer["connections"], "nodes": answer["nodes"],
    })
}

/// How many pushes went ahead, and how many of them where the user was no more.
async fn ahead(node: &Node) -> (f64, f64) {
    let ahead = node.metric("sent_ahead_total").await;
    (ahead, node.metric("sent_astray_total").await)
}

/// Waits until the row names just these connections.
async fn until_row_is(redis: &Redis, user: &str, mut connections: Vec<String>) {
    let mut client = Resp::connect(redis.port()).await;
    connections.sort();
    eventually(async || {
        let mut fields = client.call(&["HKEYS", &row(user)]).await.texts();
        fields.sort();
        match fields == connections {
            true => Ok(()),
            false => Err(fields),
        }
    })
    .await;
}

/// The next message has this data.
async fn expect(client: &mut Client, data: &str) {
    let message = client.json().await;
    assert_eq!(message["data"], data, "{message}");
}

#[tokio::test]
async fn a_push_to_a_user_whose_node_is_known_leaves_with_its_look_up() {
    let (_redis, a, b) = two_nodes();
    let mut client = Client::v1(&a.ws_url("42")).await;
    for n in 0..5 {
        let answer = push_to(&b, "42", &n.to_string()).await;
        assert_eq!(brief(&answer), routed(1, 1), "{answer}");
        expect(&mut client, &n.to_string()).await;
        assert_eq!(ahead(&b).await, (f64::from(n), 0.0), "after {n}");
    }
    // What it does not go for: receipts, batches, and users who are only here.
    for wait in ["written", "acked"] {
        let body = json!({"to": {"user": "42"}, "id": wait, "wait": wait, "data": wait});
        let ask = tokio::spawn({
            let url = b.push_url.clone();
            async move { post(&url, &body).await.1 }
        });
        expect(&mut client, wait).await;
        client
            .send(&json!({"type": "ack", "id": wait}).to_string())
            .await;
        assert_eq!(ask.await.expect("an answer")["status"], wait);
    }
    let two = |data| json!({"to": {"user": "42"}, "data": data});
    push(&b, json!([two("x"), two("y")])).await;
    for data in ["x", "y"] {
        expect(&mut client, data).await;
    }
    push_to(&a, "42", "here").await;
    expect(&mut client, "here").await;
    assert_eq!(ahead(&b).await, (4.0, 0.0));
    assert_eq!(ahead(&a).await, (0.0, 0.0));
}

#[tokio::test]
async fn a_fresh_connection_on_another_node_gets_the_very_next_push_and_each_gets_it_once() {
    let redis = Redis::start();
    let [a, b, c] = ["a", "b", "c"].map(|name| node_on(&redis, name));
    for round in 0..5 {
        let user = format!("u{round}");
        let mut first = Client::v1(&a.ws_url(&user)).await;
        push_to(&c, &user, "1").await;
        let mut second = Client::v1(&b.ws_url(&user)).await;
        let answer = push_to(&c, &user, "2").await;
        assert_eq!(brief(&answer), routed(2, 2), "{answer}");
        for data in ["1", "2"] {
            expect(&mut first, data).await;
        }
        expect(&mut second, "2").await;
        // The first node is left: what went there was in vain, and the other is remembered.
        let there = second.connection();
        drop(first);
        until_row_is(&redis, &user, vec![there]).await;
        for (data, astray) in [("3", 1.0), ("4", 1.0)] {
            let answer = push_to(&c, &user, data).await;
            assert_eq!(brief(&answer), routed(1, 1), "{answer}");
            expect(&mut second, data).await;
            assert_eq!(ahead(&c).await.1, f64::from(round) + astray);
        }
    }
    assert_eq!(ahead(&c).await.0, 15.0);
}

#[tokio::test]
async fn who_moves_all_the_time_gets_each_push_once() {
    let redis = Redis::start();
    let [a, b, c] = ["a", "b", "c"].map(|name| node_on(&redis, name));
    let mut client = Client::v1(&a.ws_url("42")).await;
    for n in 0..60 {
        let node = [&b, &a][n % 2];
        let mut next = Client::v1(&node.ws_url("42")).await;
        // Gone while the next push is on its way, or just before.
        drop(client);
        let words = [format!("{n} a"), format!("{n} b")];
        for data in &words {
            let answer = push_to(&c, "42", data).await;
            assert_eq!(answer["status"], "routed", "{answer}");
        }
        for data in &words {
            expect(&mut next, data).await;
        }
        client = next;
    }
    let (sent, astray) = ahead(&c).await;
    assert!(sent > 100.0 && astray > 0.0, "{sent}, {astray}");
}

#[tokio::test]
async fn a_row_that_is_missing_for_a_while_does_not_make_a_push_come_twice() {
    let (redis, a, b) = two_nodes();
    let mut client = Client::v1(&a.ws_url("42")).await;
    push_to(&b, "42", "before").await;
    expect(&mut client, "before").await;
    // Redis forgets all: the row is not believed to be empty, and read until it is back.
    for n in 0..3 {
        redis.cli(&["FLUSHALL"]);
        let answer = push_to(&b, "42", &format!("during {n}")).await;
        assert_eq!(brief(&answer), routed(1, 1), "{answer}");
        until_row_is(&redis, "42", vec![client.connection()]).await;
    }
    // One row is deleted: who sends is told what it says, as long as nothing is known to be lost.
    push_to(&b, "42", "after").await;
    redis.cli(&["DEL", &row("42")]);
    push_to(&b, "42", "deleted").await;
    push_to(&b, "42", "not remembered").await;
    until_row_is(&redis, "42", vec![client.connection()]).await;
    push_to(&b, "42", "last").await;
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "last") {
        let message = client.json().await;
        if message["type"] == "message" {
            got.push(message["data"].as_str().expect("a text").to_owned());
        }
    }
    let mut once = got.clone();
    once.dedup();
    assert_eq!(got, once);
    for n in 0..3 {
        assert!(got.contains(&format!("during {n}")), "{got:?}");
    }
}

#[tokio::test]
async fn who_comes_back_from_a_dead_node_gets_a_push_once_or_its_sender_is_told() {
    let redis = Redis::start();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| node_on(&redis, name));
    // Remembered on `a`, and moved to nodes that die before the next push.
    let users = [("42", Some("m"), b), ("43", None, c)];
    let mut doomed = Vec::new();
    for (user, _, node) in &users {
        let mut client = Client::v1(&a.ws_url(user)).await;
        push_to(&d, user, "at first").await;
        expect(&mut client, "at first").await;
        drop(client);
        until_row_is(&redis, user, Vec::new()).await;
        doomed.push(Client::v1(&node.ws_url(user)).await);
    }
    for (user, id, node) in users {
        node.kill();
        let before = ahead(&d).await.1;
        let mut body = json!({"to": {"user": user}, "data": "now", "timeout_ms": 3000});
        if let Some(id) = id {
            body["id"] = json!(id);
        }
        let url = d.push_url.clone();
        let answer = tokio::spawn(async move { post(&url, &body).await.1 });
        eventually(async || match ahead(&d).await.1 {
            astray if astray > before => Ok(()),
            astray => Err(astray),
        })
        .await;
        let mut client = Client::v1(&a.ws_url(user)).await;
        let answer = answer.await.expect("an answer");
        push_to(&d, user, "a marker").await;
        let mut got = Vec::new();
        while got.last().is_none_or(|last| last != "a marker") {
            got.push(client.json().await["data"].clone());
        }
        match id {
            // Its node would drop a repeat of the id: so it is sent there again.
            Some(_) => assert_eq!(
                (got.len(), &answer["connections"]),
                (2, &json!(1)),
                "{answer}"
            ),
            // It might come twice. So it does not, and the answer does not claim that it came.
            None => {
                assert_eq!(
                    (got.len(), &answer["status"]),
                    (1, &json!("unrouted")),
                    "{answer}"
                );
                assert!(answer["reason"].is_string(), "{answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_push_alone_is_answered_as_in_a_batch() {
    let redis = Redis::start();
    let [a, b, c] = ["a", "b", "c"].map(|name| node_on(&redis, name));
    let seats = [("here", &a), ("there", &b), ("both", &a), ("both", &b)];
    let more = [("two", &b), ("two", &c), ("twice", &c), ("twice", &c)];
    let mut clients = Vec::new();
    for (user, node) in seats.into_iter().chain(more) {
        clients.push(Client::v1(&node.ws_url(user)).await);
    }
    let users = ["offline", "here", "there", "both", "two", "twice"];
    let variants = [
        ("plain", json!({})),
        ("named", json!({"id": "named"})),
        ("named", json!({"id": "named"})),
        ("written", json!({"wait": "written"})),
    ];
    for user in users {
        for (what, fields) in &variants {
            // One after the other, so that each has an id of its own, and its repeat.
            let [alone, first] = [false, true].map(|in_batch| {
                let mut push = json!({"to": {"user": user}, "data": what});
                for (field, value) in fields.as_object().expect("fields") {
                    push[field] = match field == "id" {
                        true => json!(format!("{user}-{what}-{in_batch}")),
                        false => value.clone(),
                    };
                }
                push
            });
            let mut alone = push(&a, alone).await;
            let batch = push(&a, json!([first])).await;
            let mut first = batch[0].clone();
            for answer in [&mut alone, &mut first] {
                answer["id"] = Value::Null;
            }
            assert_eq!(alone, first, "{what} to {user}");
        }
    }
}
