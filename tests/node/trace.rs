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
async fn a_message_that_arrived_is_told_of() {
    let node = node(&[]);
    let mut client = Client::v1(&node.ws_url("42&device=phone")).await;
    let _other = Client::plain(&node.ws_url("42")).await;
    push(&node, to("42", "m1")).await;
    push(&node, to("42", "m2")).await;
    let answer = says(&node, "42", "m1", "delivered to 2 connections").await;
    assert_eq!(
        (&answer["user"], &answer["online"]),
        (&json!("42"), &json!(true))
    );
    assert_eq!(answer["connections"][0]["device"], "phone", "{answer}");
    assert_eq!(answer["nodes"], json!([node.id]));
    assert_eq!(
        events(&answer),
        ["connected", "connected", "arrived", "pushed"],
        "{answer}"
    );
    let pushed = &answer["events"][3];
    assert_eq!(
        (&pushed["status"], &pushed["id"]),
        (&json!("routed"), &json!("m1"))
    );
    assert_eq!(
        (&pushed["nodes"], &pushed["node"]),
        (&json!([node.id]), &json!(node.id))
    );
    assert!(pushed["at"].as_u64().is_some_and(|at| at > 0), "{pushed}");

    client.json().await;
    let acked = json!({"to": {"user": "42"}, "id": "m3", "data": 1, "wait": "acked"});
    let (answer, ()) = tokio::join!(push(&node, acked), async {
        client.json().await;
        client.json().await;
        client.send(r#"{"type":"ack","id":"m3"}"#).await;
    });
    assert_eq!(answer["status"], "acked", "{answer}");
    let verdict = "acknowledged by 1 connection; delivered to 2 connections";
    says(&node, "42", "m3", verdict).await;

    let all = call("GET", &node.url("/v1/users/42/trace")).await.2;
    assert_eq!(events(&all).len(), 8, "all messages: {all}");
    assert_eq!(all.get("verdict"), None, "of no message in particular");
    assert!(!all.to_string().contains("secret"), "{all}");
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
    let left_out =
        json!({"to": {"user": "42"}, "id": "m2", "data": 1, "except": {"users": ["42"]}});
    push(&node, left_out).await;
    let words = "left out: except named the user or the connections";
    says(&node, "42", "m2", words).await;
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
    let unknown = trace(&node, "42", "m5").await;
    let verdict = unknown["verdict"].as_str().expect("a sentence");
    assert!(
        verdict.starts_with("nothing is known of it here"),
        "{unknown}"
    );

    // A client that takes nothing, until its queue is full.
    let mut slow = Raw::open_narrow(node.client_address()).await;
    slow.upgrade("slow", "").await;
    for n in 0..400 {
        let data = "x".repeat(60_000);
        let id = format!("n{n}");
        push(
            &node,
            json!({"to": {"user": "slow"}, "id": id, "data": data, "policy": "drop"}),
        )
        .await;
        if node.labelled("drops_total", "reason=\"slow\"").await > 0.0 {
            says(&node, "slow", &id, "dropped: the queue was full").await;
            says(
                &node,
                "slow",
                &format!("n{}", n - 1),
                "waiting: the client has not taken it yet",
            )
            .await;
            drop(slow);
            let gone = "dropped: the connection ended first";
            says(&node, "slow", &format!("n{}", n - 1), gone).await;
            return;
        }
    }
    panic!("nothing was dropped");
}

#[tokio::test]
async fn a_push_to_everybody_is_one_entry() {
    let node = node(&[]);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::plain(&node.ws_url("42")).await);
    }
    push(&node, json!({"to": {"all": true}, "id": "m1", "data": 1})).await;
    let answer = trace(&node, "42", "m1").await;
    let pushes = |what: &str| events(&answer).iter().filter(|one| **one == what).count();
    assert_eq!((pushes("pushed"), pushes("arrived")), (1, 1), "{answer}");
    let verdict = answer["verdict"].as_str().expect("a sentence");
    assert!(verdict.starts_with("sent to everybody here"), "{answer}");
    let answer = trace(&node, "43", "m1").await;
    assert_eq!(events(&answer), ["arrived", "pushed"], "{answer}");
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
        ("?id=", "id must have 1 to 128 bytes"),
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
