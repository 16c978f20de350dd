//! One push: what arrives, at whom, and what its sender may wait for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, node, post_text};
use crate::raw::{FIN, Raw, TEXT};
use crate::sender::{JSON, push, summary};

#[tokio::test]
async fn data_passes_through_as_the_bytes_it_came_in() {
    let node = node(&[]);
    let mut plain = Raw::plain(&node, "42").await;
    let mut v1 = Raw::v1(&node, "42").await;
    for data in [
        "1",
        "1.0e5",
        "-0",
        "1E+2",
        "123456789012345678901234567890.000",
        "null",
        "\"\"",
        r#""\u00fc \/ \ud83d\ude00 ü""#,
        r#"{ "b" : 1 ,  "a":[ 1,2 , {} ], "b":2 }"#,
        "[\t1]",
        r#""</script><b>""#,
    ] {
        let body = format!(r#"{{ "data" : {data} , "to":{{"user":"42"}}}}"#);
        let (status, answer) = post_text(&node.push_url, JSON, body).await;
        assert_eq!(status, 200, "{data}: {answer}");
        assert_eq!(plain.frame().await.text(), data);
        let expected = format!(r#"{{"type":"message","data":{data}}}"#);
        assert_eq!(v1.frame().await.text(), expected);
    }
    // Line breaks between tokens become blanks; inside a text they are escaped anyway.
    let pretty = "{\n  \"to\": {\n    \"user\": \"42\"\n  },\n  \"data\": {\r\n    \"a\": \"x\\ny\",\n    \"b\": 2\n  }\n}\n";
    let (status, answer) = post_text(&node.push_url, JSON, pretty).await;
    assert_eq!(status, 200, "{answer}");
    let text = plain.frame().await;
    assert_eq!(text.text(), "{      \"a\": \"x\\ny\",     \"b\": 2   }");
    assert_eq!(text.json(), json!({"a": "x\ny", "b": 2}));
}

#[tokio::test]
async fn data_nested_deeply_harms_no_node() {
    let node = node(&[]);
    let mut client = Raw::plain(&node, "42").await;
    let data = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let body = format!(r#"{{"to":{{"user":"42"}},"data":{data}}}"#);
    let (status, answer) = post_text(&node.push_url, JSON, body).await;
    assert_eq!(status, 200, "{answer}");
    assert!(client.frame().await.text() == data, "as it came");
}

#[tokio::test]
async fn every_length_of_a_frame_is_framed_well() {
    let node = node(&[]);
    let mut client = Raw::plain(&node, "42").await;
    for length in [2, 125, 126, 127, 65_535, 65_536, 500_000] {
        let data = "x".repeat(length - 2);
        push(&node, json!({"to": {"user": "42"}, "data": data})).await;
        let frame = client.frame().await;
        assert_eq!((frame.first, frame.payload.len()), (FIN | TEXT, length));
    }
}

#[tokio::test]
async fn users_get_a_message_once_and_have_an_answer_each() {
    let node = node(&[]);
    let mut a = Client::plain(&node.ws_url("a")).await;
    let mut a2 = Client::plain(&node.ws_url("a")).await;
    let mut b = Client::plain(&node.ws_url("b")).await;
    let answer = push(
        &node,
        json!({"to": {"users": ["a", "b", "nobody", "a"]}, "data": 1}),
    )
    .await;
    assert_eq!(summary(&answer), ("routed", 3, 1), "{answer}");
    let targets = json!([
        {"user": "a", "status": "routed", "connections": 2},
        {"user": "b", "status": "routed", "connections": 1},
        {"user": "nobody", "status": "offline", "connections": 0},
    ]);
    assert_eq!(answer["targets"], targets);
    push(&node, json!({"to": {"all": true}, "data": "marker"})).await;
    for client in [&mut a, &mut a2, &mut b] {
        assert_eq!(client.json().await, 1);
        client.hears_next("marker").await;
    }

    let answer = push(
        &node,
        json!({"to": {"user": "nobody"}, "id": "m", "data": 1}),
    )
    .await;
    assert_eq!(summary(&answer), ("offline", 0, 0), "{answer}");
    assert_eq!(answer["id"], "m");
    assert_eq!(answer.get("targets"), None, "only for `users`: {answer}");
}

#[tokio::test]
async fn everybody_gets_a_message_but_those_left_out() {
    let node = node(&[]);
    let mut a = Client::v1(&node.ws_url("a")).await;
    let mut a2 = Client::v1(&node.ws_url("a")).await;
    let mut b = Client::v1(&node.ws_url("b")).await;
    let send = async |to: Value, except: Value, data: u64| {
        push(&node, json!({"to": to, "except": except, "data": data})).await
    };
    let all = json!({"all": true});
    let users = json!({"users": ["a", "b"]});
    let first_of_a = json!([a.connection()]);
    send(all.clone(), json!({}), 1).await;
    send(all.clone(), json!({"users": ["b"]}), 2).await;
    send(all.clone(), json!({"fds": first_of_a}), 3).await;
    send(all, json!({"users": ["b", "a"]}), 4).await;
    let answer = send(users.clone(), json!({"fds": first_of_a}), 5).await;
    assert_eq!(summary(&answer), ("routed", 2, 1), "{answer}");
    send(users, json!({"users": ["a"], "fds": ["other.1/1"]}), 6).await;
    send(json!({"user": "a"}), json!({"fds": first_of_a}), 7).await;
    let answer = send(json!({"user": "a"}), json!({"users": ["a"]}), 8).await;
    assert_eq!(answer["connections"], 0, "{answer}");
    push(&node, json!({"to": {"all": true}, "data": "end"})).await;
    for (name, client, expected) in [
        ("a", &mut a, vec![1, 2]),
        ("a2", &mut a2, vec![1, 2, 3, 5, 7]),
        ("b", &mut b, vec![1, 3, 5, 6]),
    ] {
        let mut seen = Vec::new();
        while let Some(n) = client.json().await["data"].as_u64() {
            seen.push(n);
        }
        assert_eq!(seen, expected, "{name}");
    }
}

#[tokio::test]
async fn a_connection_gets_a_message_only_if_it_is_still_who_was_meant() {
    let node = node(&[]);
    let mut a = Client::v1(&node.ws_url("a")).await;
    let mut a2 = Client::v1(&node.ws_url("a")).await;
    let fd = a.connection();
    let send = async |to: Value| push(&node, json!({"to": to, "data": 1})).await;
    let here = send(json!({"fd": fd})).await;
    assert_eq!(summary(&here), ("routed", 1, 1), "{here}");
    let right = send(json!({"fd": fd, "user": "a"})).await;
    assert_eq!(summary(&right), ("routed", 1, 1), "{right}");
    let other_boot = fd.replace(&node.id, "other.0123");
    for (name, to) in [
        ("another user", json!({"fd": fd, "user": "b"})),
        ("no such fd", json!({"fd": format!("{}/999999", node.id)})),
        ("no such node", json!({"fd": other_boot})),
    ] {
        let answer = send(to).await;
        assert_eq!(summary(&answer), ("offline", 0, 0), "{name}: {answer}");
    }
    push(&node, json!({"to": {"all": true}, "data": "marker"})).await;
    for _ in 0..2 {
        assert_eq!(a.json().await["data"], 1);
    }
    a.hears_next("marker").await;
    a2.hears_next("marker").await;
}

#[tokio::test]
async fn an_id_seen_for_a_target_within_a_minute_is_dropped() {
    let node = node(&[]);
    let mut a = Client::v1(&node.ws_url("a")).await;
    let mut b = Client::v1(&node.ws_url("b")).await;
    let send = async |to: Value, id: &str| {
        let answer = push(&node, json!({"to": to, "id": id, "data": 1})).await;
        answer["status"].as_str().expect("a status").to_owned()
    };
    let (to_a, to_b) = (json!({"user": "a"}), json!({"user": "b"}));
    let to_fd = json!({"fd": a.connection()});
    assert_eq!(send(to_a.clone(), "1").await, "routed");
    assert_eq!(send(to_a.clone(), "1").await, "duplicate");
    assert_eq!(send(to_b, "1").await, "routed", "another target");
    assert_eq!(send(to_a, "2").await, "routed", "another id");
    assert_eq!(send(to_fd.clone(), "1").await, "routed", "another target");
    assert_eq!(send(to_fd, "1").await, "duplicate");
    assert_eq!(send(json!({"all": true}), "3").await, "routed");
    // Nobody was there to get it: so the first that arrives is no repeat.
    assert_eq!(send(json!({"user": "late"}), "4").await, "offline");
    let mut late = Client::v1(&node.ws_url("late")).await;
    assert_eq!(send(json!({"user": "late"}), "4").await, "routed");
    assert_eq!(late.json().await["id"], "4");
    // Of several, those who have it are left out.
    let users = json!({"users": ["a", "late", "c"]});
    let answer = push(&node, json!({"to": users, "id": "4", "data": 1})).await;
    let targets = answer["targets"].as_array().expect("targets");
    let states: Vec<_> = targets.iter().map(|target| &target["status"]).collect();
    assert_eq!(states, ["routed", "duplicate", "offline"], "{answer}");

    push(&node, json!({"to": {"all": true}, "data": "marker"})).await;
    for (client, expected) in [
        (&mut a, ["1", "2", "1", "3", "4"].as_slice()),
        (&mut b, &["1", "3"]),
    ] {
        for id in expected {
            assert_eq!(client.json().await["id"], *id);
        }
        client.hears_next("marker").await;
    }
    assert_eq!(node.metric("duplicates_total").await, 3.0);
}

#[tokio::test]
async fn a_sender_may_wait_until_it_is_written_or_acknowledged() {
    let node = node(&[]);
    let mut plain = Client::plain(&node.ws_url("plain")).await;
    let written = push(
        &node,
        json!({"to": {"user": "plain"}, "data": 1, "wait": "written"}),
    )
    .await;
    assert_eq!(summary(&written), ("written", 1, 1), "{written}");
    // Whoever cannot acknowledge does not keep the sender waiting.
    let begun = Instant::now();
    let acked = json!({"to": {"user": "plain"}, "id": "p", "data": 2, "wait": "acked", "timeout_ms": 30_000});
    let acked = push(&node, acked).await;
    assert_eq!(summary(&acked), ("written", 1, 1), "{acked}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!([plain.json().await, plain.json().await], [1, 2]);

    let mut v1 = Client::v1(&node.ws_url("v1")).await;
    let acknowledging = async {
        let message = v1.json().await;
        assert_eq!(message["id"], "m1", "{message}");
        v1.send(r#"{"type":"ack","id":"m0"}"#).await;
        v1.send(r#"{"type":"ack","id":"m1"}"#).await;
    };
    let pushing = push(
        &node,
        json!({"to": {"user": "v1"}, "id": "m1", "data": 1, "wait": "acked", "timeout_ms": 30_000}),
    );
    let ((), answer) = tokio::join!(acknowledging, pushing);
    assert_eq!(summary(&answer), ("acked", 1, 1), "{answer}");

    let begun = Instant::now();
    let silent =
        json!({"to": {"user": "v1"}, "id": "m2", "data": 1, "wait": "acked", "timeout_ms": 2000});
    let answer = push(&node, silent).await;
    assert_eq!(
        summary(&answer),
        ("written", 1, 1),
        "as far as proven: {answer}"
    );
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(2000), "it did wait: {took:?}");
    // Without an id there is nothing to acknowledge.
    let nameless = json!({"to": {"user": "v1"}, "data": 1, "wait": "acked", "timeout_ms": 30_000});
    let answer = push(&node, nameless).await;
    assert_eq!(summary(&answer), ("written", 1, 1), "{answer}");
    for wait in ["routed", "written", "acked"] {
        let nobody = json!({"to": {"user": "nobody"}, "id": "m3", "data": 1, "wait": wait});
        let answer = push(&node, nobody).await;
        assert_eq!(summary(&answer), ("offline", 0, 0), "{wait}: {answer}");
    }
}

#[tokio::test]
async fn waiting_works_for_every_kind_of_target() {
    let node = node(&[]);
    let mut a = Client::v1(&node.ws_url("a")).await;
    let mut a2 = Client::v1(&node.ws_url("a")).await;
    let mut b = Client::plain(&node.ws_url("b")).await;
    let fd = a.connection();
    for (to, connections) in [
        (json!({"user": "a"}), 2),
        (json!({"users": ["a", "b", "nobody"]}), 3),
        (json!({"fd": fd}), 1),
        (json!({"all": true}), 3),
    ] {
        let answer = push(&node, json!({"to": to, "data": 1, "wait": "written"})).await;
        assert_eq!(
            summary(&answer),
            ("written", connections, 1),
            "{to}: {answer}"
        );
    }
    // One of the two acknowledges: that is what is proven.
    let acknowledging = async {
        loop {
            let message = a.json().await;
            if message["id"] == "m" {
                return a.send(r#"{"type":"ack","id":"m"}"#).await;
            }
        }
    };
    let pushing =
        json!({"to": {"all": true}, "id": "m", "data": 2, "wait": "acked", "timeout_ms": 5000});
    let ((), answer) = tokio::join!(acknowledging, push(&node, pushing));
    assert_eq!(summary(&answer), ("acked", 1, 1), "{answer}");
    for data in [1, 1, 1, 2] {
        assert_eq!(a2.json().await["data"], data);
    }
    for data in [1, 1, 2] {
        assert_eq!(b.json().await, data);
    }
}
