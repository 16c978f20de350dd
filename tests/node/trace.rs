//! `GET /v1/users/{user}/trace`: why a user did not get it.

use serde_json::{Value, json};

use crate::common::{Client, Node, eventually, http, node};
use crate::raw::Raw;
use crate::sender::{call, push};

async fn trace(node: &Node, user: &str, id: &str) -> Value {
    let url = node.url(&format!("/v1/users/{user}/trace?id={id}"));
    let (status, _, body) = call("GET", &url).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// The answer as soon as its verdict is this.
async fn says(node: &Node, user: &str, id: &str, verdict: &str) -> Value {
    eventually(async || {
        let answer = trace(node, user, id).await;
        if answer["verdict"] == verdict {
            Ok(answer)
        } else {
            Err(answer)
        }
    })
    .await
}

/// What happened, word by word.
fn events(answer: &Value) -> Vec<&str> {
    let events = answer["events"].as_array().expect("events").iter();
    events
        .map(|event| event["what"].as_str().expect("a word"))
        .collect()
}

fn to(user: &str, id: &str) -> Value {
    json!({"to": {"user": user}, "id": id, "data": "a secret"})
}

#[tokio::test]
async fn what_is_delivered_is_not_remembered_but_who_came_is() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42&device=phone")).await;
    push(&node, to("42", "m1")).await;
    push(&node, json!({"to": {"all": true}, "id": "m2", "data": 1})).await;
    assert_eq!(client.json().await["id"], "m1");
    assert_eq!(client.json().await["id"], "m2");
    let answer = trace(&node, "42", "m1").await;
    assert_eq!(
        (&answer["user"], &answer["online"]),
        (&json!("42"), &json!(true))
    );
    assert_eq!(answer["connections"][0]["device"], "phone", "{answer}");
    assert_eq!(
        (&answer["nodes"], &answer["missing"]),
        (&json!([node.id]), &json!([]))
    );
    assert_eq!(events(&answer), ["connected"], "{answer}");
    let came = &answer["events"][0];
    assert_eq!(
        (&came["node"], &came["device"]),
        (&json!(node.id), &json!("phone"))
    );
    assert!(came["at"].as_u64().is_some_and(|at| at > 0), "{came}");
    let verdict = answer["verdict"].as_str().expect("a sentence");
    assert!(
        verdict.starts_with("no node that answered knows that anything went wrong with it"),
        "{answer}"
    );
    let all = call("GET", &node.url("/v1/users/42/trace")).await.2;
    assert_eq!(all.get("verdict"), None, "of no message in particular");
}

#[tokio::test]
async fn a_message_that_did_not_arrive_is_explained() {
    let node = node(&[("PUSH_QUEUE_BYTES", "150000"), ("PUSH_WRITE_SECONDS", "60")]);
    push(&node, to("42", "early")).await;
    says(
        &node,
        "42",
        "early",
        "the user was offline: no connection is known before",
    )
    .await;

    let client = Client::v1(&node.ws_url("42")).await;
    push(&node, to("42", "m1")).await;
    assert_eq!(push(&node, to("42", "m1")).await["status"], "duplicate");
    let words = format!(
        "dropped on {}: this id was seen for this target within a minute",
        node.id
    );
    let answer = says(&node, "42", "m1", &words).await;
    assert!(!answer.to_string().contains("secret"), "{answer}");
    let left_out =
        json!({"to": {"user": "42"}, "id": "m2", "data": 1, "except": {"users": ["42"]}});
    push(&node, left_out).await;
    let words = format!(
        "left out on {}: except named the user or the connections",
        node.id
    );
    says(&node, "42", "m2", &words).await;
    push(
        &node,
        json!({"to": {"topic": "room"}, "id": "t1", "data": 1}),
    )
    .await;
    says(&node, "42", "t1", "no client was in the topic room").await;
    drop(client);
    eventually(async || {
        let answer = trace(&node, "42", "m3").await;
        if answer["online"] == false {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    push(&node, to("42", "m3")).await;
    let answer = trace(&node, "42", "m3").await;
    let verdict = answer["verdict"].as_str().expect("a sentence");
    let start = "the user was offline: no connection from ";
    assert!(
        verdict.starts_with(start) && verdict.ends_with("(closed: gone)"),
        "{answer}"
    );
    let keep = json!({"to": {"user": "42"}, "id": "m4", "data": 1, "keep": true});
    push(&node, keep).await;
    let answer = trace(&node, "42", "m4").await;
    let verdict = answer["verdict"].as_str().expect("a sentence");
    assert!(verdict.starts_with("stored in the inbox: "), "{answer}");
}

#[tokio::test]
async fn what_a_slow_client_loses_is_explained_by_its_id() {
    let node = node(&[("PUSH_QUEUE_BYTES", "150000"), ("PUSH_WRITE_SECONDS", "60")]);
    // Takes nothing, until its queue is full.
    let mut slow = Raw::open_narrow(node.client_address()).await;
    slow.upgrade("slow", "").await;
    let mut last = 0;
    for n in 0..400 {
        let data = "x".repeat(60_000);
        let id = format!("n{n}");
        push(
            &node,
            json!({"to": {"user": "slow"}, "id": id, "data": data, "policy": "drop"}),
        )
        .await;
        if node.labelled("drops_total", "reason=\"slow\"").await > 0.0 {
            last = n;
            break;
        }
    }
    assert!(last > 0, "nothing was dropped");
    let words = format!("dropped for {}/1: its queue was full", node.id);
    says(&node, "slow", &format!("n{last}"), &words).await;
    drop(slow);
    // What waited for it is told of without ids: what may be delivered leaves no trace.
    eventually(async || {
        let answer = trace(&node, "slow", &format!("n{}", last - 1)).await;
        let verdict = answer["verdict"].as_str().expect("a sentence");
        let thrown = format!("messages for {}/1 were thrown away at ", node.id);
        if verdict.contains(&thrown) && verdict.ends_with("(gone)") {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
}

#[tokio::test]
async fn only_senders_may_ask_and_only_so() {
    let key = "0123456789abcdef";
    let node = node(&[("PUSH_API_KEYS", key)]);
    let path = node.url("/v1/users/42/trace");
    assert_eq!(call("GET", &path).await.0, 401);
    let ask = async |method: &str, query: &str| {
        let url = format!("{path}{query}");
        let method = method.parse().expect("a method");
        let request = http().request(method, url).bearer_auth(key);
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("text"))
    };
    assert_eq!(ask("GET", "").await.0, 200);
    assert_eq!(ask("DELETE", "").await.0, 405);
    for (query, words) in [
        ("?id=", "id must be 1 to 128 bytes"),
        ("?ids=1", "the only parameter is id"),
    ] {
        let (status, body) = ask("GET", query).await;
        assert_eq!(status, 400, "{query}");
        assert!(body.contains(words), "{query}: {body}");
    }
    let long = format!("?id={}", "x".repeat(129));
    assert_eq!(ask("GET", &long).await.0, 400);
}

#[tokio::test]
async fn without_entries_there_is_nothing_to_ask() {
    let node = node(&[("PUSH_TRACE", "0")]);
    let (status, _, body) = call("GET", &node.url("/v1/users/42/trace")).await;
    assert_eq!(status, 404, "{body}");
    let words = body["error"]["message"].as_str().expect("words");
    assert!(words.contains("PUSH_TRACE"), "{words}");
}
