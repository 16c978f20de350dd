//! Calls: a sender asks a client on any node and gets its answer, or is told why not.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, node_on, post, send_signal, two_nodes};
use crate::publishers::inbox;
use crate::raw::{Answer, Resp};

async fn call(node: &Node, body: Value) -> (u16, Value) {
    post(&node.url("/v1/call"), &body).await
}

/// Has a call made by a task, so that its client can answer meanwhile.
fn calling(node: &Node, body: Value) -> tokio::task::JoinHandle<(u16, Value)> {
    let url = node.url("/v1/call");
    tokio::spawn(async move { post(&url, &body).await })
}

/// The next object, which must be a call; answers its `ref`.
async fn next_call(client: &mut Client) -> (String, Value) {
    let mut call = client.json().await;
    assert_eq!(call["type"], "call", "{call}");
    let reference = call["ref"].as_str().expect("a ref").to_owned();
    (reference, call["data"].take())
}

async fn answer(client: &mut Client, reference: &str, data: Value) {
    let object = json!({"type": "answer", "ref": reference, "data": data});
    client.send(&object.to_string()).await;
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_client_on_any_node_is_asked_and_its_answer_comes_back() {
    let (_redis, a, b) = two_nodes();
    let mut client = Client::v1(&a.ws_url("42")).await;
    for sender in [&a, &b] {
        for to in [json!({"user": "42"}), json!({"fd": client.connection()})] {
            let body = json!({"to": to, "id": "c1", "data": {"ask": "where\nare you?"}});
            let called = calling(sender, body);
            let asked = client.json().await;
            assert_eq!(asked["id"], "c1");
            assert_eq!(asked["data"], json!({"ask": "where\nare you?"}));
            let reference = asked["ref"].as_str().expect("a ref");
            answer(&mut client, reference, json!([1.5, "here", null])).await;
            let (status, said) = called.await.expect("an answer");
            let fd = client.ready.as_ref().expect("v1")["fd"].clone();
            let expected = json!({"id": "c1", "node": a.id, "status": "answered", "fd": fd, "user": "42", "data": [1.5, "here", null]});
            assert_eq!((status, said), (200, expected), "sent by {}", sender.id);
        }
    }
    // Null is an answer too, and "cannot" is one of another kind.
    let called = calling(&b, json!({"to": {"user": "42"}, "data": 1}));
    let (reference, _) = next_call(&mut client).await;
    answer(&mut client, &reference, Value::Null).await;
    let (status, said) = called.await.expect("an answer");
    assert_eq!(
        (status, &said["status"], said.get("data")),
        (200, &json!("answered"), Some(&Value::Null)),
        "{said}"
    );
    let called = calling(&b, json!({"to": {"user": "42"}, "data": 1}));
    let (reference, _) = next_call(&mut client).await;
    let object = json!({"type": "answer", "ref": reference, "error": "no camera"});
    client.send(&object.to_string()).await;
    let (status, said) = called.await.expect("an answer");
    assert_eq!(
        (status, &said["status"], &said["error"]),
        (200, &json!("failed"), &json!("no camera"))
    );
    assert_eq!(b.labelled("calls_total", "status=\"answered\"").await, 3.0);
    assert_eq!(b.labelled("calls_total", "status=\"failed\"").await, 1.0);
}

#[tokio::test]
async fn of_several_connections_the_first_answer_counts() {
    let (_redis, a, b) = two_nodes();
    let mut phone = Client::v1(&a.ws_url("42")).await;
    let mut desk = Client::v1(&b.ws_url("42")).await;
    let _plain = Client::plain(&b.ws_url("42")).await;
    let called = calling(&a, json!({"to": {"user": "42"}, "data": 1}));
    let (to_phone, _) = next_call(&mut phone).await;
    let (to_desk, _) = next_call(&mut desk).await;
    answer(&mut desk, &to_desk, json!("desk")).await;
    let (_, said) = called.await.expect("an answer");
    assert_eq!(
        (&said["data"], &said["node"]),
        (&json!("desk"), &json!(b.id))
    );
    // The slower one is not told off, and is asked again next time.
    answer(&mut phone, &to_phone, json!("phone")).await;
    let called = calling(&b, json!({"to": {"fd": phone.connection()}, "data": 2}));
    let (reference, data) = next_call(&mut phone).await;
    assert_eq!(data, 2);
    answer(&mut phone, &reference, json!("phone")).await;
    assert_eq!(called.await.expect("an answer").1["data"], "phone");
}

/// A ref is of no use to anybody but the connection that got it.
#[tokio::test]
async fn nobody_answers_for_another() {
    let (_redis, a, b) = two_nodes();
    let mut asked = Client::v1(&a.ws_url("42")).await;
    let mut same_user = Client::v1(&a.ws_url("42")).await;
    let mut stranger = Client::v1(&a.ws_url("mallory")).await;
    let called = calling(&b, json!({"to": {"fd": asked.connection()}, "data": 1}));
    let (reference, _) = next_call(&mut asked).await;
    assert_eq!(reference.len(), 32, "128 bits: {reference}");
    for client in [&mut same_user, &mut stranger] {
        answer(client, &reference, json!("forged")).await;
        // Once the pong is here, the answer has been looked at.
        client.send(r#"{"type":"ping"}"#).await;
        assert_eq!(client.json().await["type"], "pong");
    }
    answer(&mut asked, &reference, json!("true")).await;
    assert_eq!(called.await.expect("an answer").1["data"], "true");
}

#[tokio::test]
async fn a_sender_is_told_why_there_is_no_answer() {
    let (_redis, a, b) = two_nodes();
    let mut client = Client::v1(&a.ws_url("42")).await;
    let _plain = Client::plain(&a.ws_url("plain")).await;
    let fd = client.connection();
    for sender in [&a, &b] {
        let (status, said) = call(sender, json!({"to": {"user": "nobody"}, "data": 1})).await;
        assert_eq!((status, code(&said)), (404, "offline"), "{said}");
        let gone = format!("{}/4711", a.id);
        let (status, said) = call(sender, json!({"to": {"fd": gone}, "data": 1})).await;
        assert_eq!((status, code(&said)), (404, "offline"), "{said}");
        // The right connection, but not of this user.
        let (status, said) = call(sender, json!({"to": {"fd": fd, "user": "43"}, "data": 1})).await;
        assert_eq!((status, code(&said)), (404, "offline"), "{said}");
        let (status, said) = call(sender, json!({"to": {"user": "plain"}, "data": 1})).await;
        assert_eq!((status, code(&said)), (409, "plain"), "{said}");
        let (status, said) = call(
            sender,
            json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 50}),
        )
        .await;
        assert_eq!((status, code(&said)), (504, "timeout"), "{said}");
        next_call(&mut client).await;
    }
    let called = calling(
        &b,
        json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 30_000}),
    );
    next_call(&mut client).await;
    drop(client);
    let (status, said) = called.await.expect("an answer");
    assert_eq!(
        (status, code(&said)),
        (502, "gone"),
        "long before the deadline: {said}"
    );
    for (body, word) in [
        (json!({"to": {"users": ["42"]}, "data": 1}), "to.user"),
        (json!({"to": {"all": true}, "data": 1}), "to.user"),
        (json!({"to": {"user": "42"}}), "data"),
        (
            json!({"to": {"user": "42"}, "data": 1, "keep": true}),
            "keep",
        ),
        (
            json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 30_001}),
            "timeout_ms",
        ),
    ] {
        let (status, said) = call(&a, body).await;
        let message = said["error"]["message"].as_str().expect("words");
        assert!(status == 400 && message.contains(word), "{status} {said}");
    }
}

#[tokio::test]
async fn a_client_that_answers_badly_hears_what_is_wrong() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let mut client = Client::v1(&a.ws_url("42")).await;
    for (object, word) in [
        (json!({"type": "answer", "data": 1}), "ref"),
        (json!({"type": "answer", "ref": 7, "data": 1}), "ref"),
        (json!({"type": "answer", "ref": "x"}), "data or error"),
        (
            json!({"type": "answer", "ref": "x", "data": 1, "error": "e"}),
            "data or error",
        ),
        (json!({"type": "answer", "ref": "x", "error": {}}), "text"),
    ] {
        client.send(&object.to_string()).await;
        let error = client.json().await;
        assert_eq!(error["code"], "bad_message", "{object}: {error}");
        assert!(
            error["message"].as_str().expect("words").contains(word),
            "{object}: {error}"
        );
    }
}

#[tokio::test]
async fn one_client_is_asked_so_many_things_at_once_and_no_more() {
    let (_redis, a, b) = two_nodes();
    let mut client = Client::v1(&a.ws_url("42")).await;
    let body = json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 30_000});
    let waiting: Vec<_> = (0..32).map(|_| calling(&b, body.clone())).collect();
    let mut references = Vec::new();
    for _ in 0..32 {
        references.push(next_call(&mut client).await.0);
    }
    let (status, said) = call(&b, body).await;
    assert_eq!((status, code(&said)), (503, "busy"), "{said}");
    for reference in references {
        answer(&mut client, &reference, json!(reference)).await;
    }
    for called in waiting {
        let (status, said) = called.await.expect("an answer");
        assert_eq!(status, 200, "{said}");
    }
}

#[tokio::test]
async fn without_redis_those_here_are_asked_and_of_the_rest_nobody_can_tell() {
    let mut redis = Redis::start();
    let a = node_on(&redis, "a");
    let mut client = Client::v1(&a.ws_url("42")).await;
    redis.kill();
    let called = calling(&a, json!({"to": {"user": "42"}, "data": 1}));
    let mut asked = client.json().await;
    while asked["type"] != "call" {
        asked = client.json().await;
    }
    answer(
        &mut client,
        asked["ref"].as_str().expect("a ref"),
        json!("here"),
    )
    .await;
    assert_eq!(called.await.expect("an answer").1["data"], "here");
    let (status, said) = call(
        &a,
        json!({"to": {"user": "43"}, "data": 1, "timeout_ms": 300}),
    )
    .await;
    assert_eq!((status, code(&said)), (503, "unrouted"), "{said}");
}

#[tokio::test]
async fn a_node_that_dies_is_not_waited_for() {
    let (_redis, a, b) = two_nodes();
    let _there = Client::v1(&b.ws_url("42")).await;
    send_signal(b.pid(), "KILL");
    eventually(async || {
        // Ten times what a call takes to find out that the node which took it has died.
        let body = json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 15_000});
        match call(&a, body).await {
            // The row stands until somebody finds out: unrouted until then, offline after.
            (404, _) => Ok(()),
            (status, said) => {
                assert_eq!((status, code(&said)), (503, "unrouted"), "{said}");
                Err(said)
            }
        }
    })
    .await;
}

/// Redis has handed the question to a node, which dies before it has read it.
#[tokio::test]
async fn a_call_ends_early_when_the_node_that_took_it_dies() {
    let (_redis, a, b) = two_nodes();
    let mut there = Client::v1(&b.ws_url("42")).await;
    let taken = async || a.labelled("line_outcomes_total", "status=\"taken\"").await;
    let before = taken().await;
    b.signal("STOP");
    let called = calling(
        &a,
        json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 30_000}),
    );
    eventually(async || match taken().await {
        count if count > before => Ok(()),
        count => Err(count),
    })
    .await;
    let died = Instant::now();
    b.kill();
    let (status, said) = called.await.expect("an answer");
    let took = died.elapsed();
    assert_eq!((status, code(&said)), (503, "unrouted"), "{said}");
    assert!(took < Duration::from_secs(15), "answered after {took:?}");
    println!("answered {took:.1?} after the death");
    // The connection of its client ends without a call.
    while let Some(Ok(message)) = there.socket.next().await {
        assert!(!message.is_text(), "{message:?}");
    }
}

/// A node that is only slow to answer is waited for.
#[tokio::test]
async fn a_node_that_stands_still_is_waited_for() {
    let (_redis, a, b) = two_nodes();
    let mut there = Client::v1(&b.ws_url("42")).await;
    b.signal("STOP");
    let body = json!({"to": {"user": "42"}, "data": 1, "timeout_ms": 30_000});
    let called = calling(&a, body);
    // Longer than it takes to find out that a node is dead.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!called.is_finished());
    b.signal("CONT");
    let (reference, _) = next_call(&mut there).await;
    answer(&mut there, &reference, json!("late")).await;
    let (status, said) = called.await.expect("an answer");
    assert_eq!((status, &said["data"]), (200, &json!("late")), "{said}");
}

/// A call is a question to the node that has the user, so a service needs nothing but Redis.
#[tokio::test]
async fn a_service_calls_with_nothing_but_redis() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let mut client = Client::v1(&a.ws_url("42")).await;
    let mut answers = inbox(&redis, "billing.1").await;
    let mut publisher = Resp::connect(redis.port()).await;
    let args = json!({"to": {"user": "42"}, "data": "pay?", "timeout_ms": 20_000});
    let line = json!({"cmd": "ask", "what": "call", "reply": {"node": "billing.1", "ref": "r"}, "args": args});
    let channel = format!("pn:n:{{{}}}", a.id);
    publisher
        .call(&["PUBLISH", &channel, &line.to_string()])
        .await;
    let (reference, data) = next_call(&mut client).await;
    assert_eq!(data, "pay?");
    answer(&mut client, &reference, json!("yes")).await;
    let Answer::List(message) = answers.next().await else {
        panic!("not a message");
    };
    let line = message[2].text().lines().nth(1).expect("a line").to_owned();
    let said: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&said["cmd"], &said["ref"]),
        (&json!("answer"), &json!("r"))
    );
    assert_eq!(
        (&said["body"]["status"], &said["body"]["data"]),
        (&json!("answered"), &json!("yes"))
    );
}
