//! Whichever node is asked, all nodes tell what they know of a message, and the missing are named.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, http, node_on, node_with, post};

/// The node's answer as soon as `fits` holds.
async fn says(node: &Node, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let url = node.url(&format!("/v1/users/42/trace?id={id}"));
    eventually(async || {
        let answer = http().get(&url).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        if fits(&answer) {
            Ok(answer)
        } else {
            Err(answer)
        }
    })
    .await
}

fn begins(words: &str) -> impl Fn(&Value) -> bool {
    move |answer| {
        let verdict = answer["verdict"].as_str();
        verdict.is_some_and(|verdict| verdict.starts_with(words))
    }
}

#[tokio::test]
async fn any_node_tells_what_all_of_them_know() {
    let mut redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let client = Client::v1(&b.ws_url("42")).await;
    let both = |answer: &Value| answer["nodes"].as_array().is_some_and(|all| all.len() == 2);
    let answer = says(&a, "m0", both).await;
    assert_eq!(answer["missing"], json!([]), "{answer}");
    assert_eq!(answer["connections"][0]["node"], b.id, "{answer}");
    assert_eq!(answer["events"][0]["what"], "connected", "{answer}");
    assert_eq!(answer["events"][0]["node"], b.id, "{answer}");

    // An envelope for somebody who is no longer there: b knows, and a is asked.
    drop(client);
    eventually(async || match b.metric("connections").await {
        0.0 => Ok(()),
        count => Err(count),
    })
    .await;
    let late = r#"{"to":{"user":"42"},"id":"m1","data":1}"#;
    redis.cli(&["PUBLISH", &format!("pn:n:{{{}}}", b.id), late]);
    let words = format!(
        "came too late: no client it was for was on {} any more",
        b.id
    );
    let answer = says(&a, "m1", begins(&words)).await;
    let word = |event: &Value| event["what"].as_str().map(str::to_owned);
    let words: Vec<_> = answer["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(word)
        .collect();
    let expected = ["connected", "closed", "arrived"].map(|word| Some(word.to_owned()));
    assert_eq!(words, expected, "{answer}");

    // Pushed through a, asked of b.
    let push = json!({"to": {"user": "42"}, "id": "m2", "data": 1});
    post(&a.push_url, &push).await;
    says(
        &b,
        "m2",
        begins("the user was offline: no connection from "),
    )
    .await;

    // Without Redis: its sender was told, and so is whoever asks; the other node is missing.
    redis.kill();
    let push = json!({"to": {"user": "42"}, "id": "m3", "data": 1, "timeout_ms": 200});
    let (status, _) = post(&a.push_url, &push).await;
    assert_eq!(status, 503);
    let answer = says(&a, "m3", begins("not routed, and its sender was told: ")).await;
    assert_eq!(answer["connections"], json!([]));
    assert!(answer["reason"].is_string(), "{answer}");
    assert_eq!(
        (&answer["nodes"], &answer["missing"]),
        (&json!([a.id]), &json!([b.id])),
        "{answer}"
    );
}

#[tokio::test]
async fn a_node_that_traces_nothing_is_missing() {
    let redis = Redis::start();
    let a = node_on(&redis, "a");
    let b = node_with(&redis, "b", &[("PUSH_TRACE", "0")]);
    let named = json!([b.id]);
    let answer = says(&a, "m1", |answer| answer["missing"] == named).await;
    let verdict = answer["verdict"].as_str().expect("a sentence");
    assert!(verdict.ends_with(&b.id), "{answer}");
}
