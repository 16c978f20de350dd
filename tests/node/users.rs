//! Users and connections as senders see them: where they are, and sending them away.

use serde_json::{Value, json};

use crate::common::{Client, eventually, http, node};
use crate::raw::Raw;
use crate::sender::{call, push, summary};

#[tokio::test]
async fn a_user_is_shown_with_every_connection() {
    let node = node(&[]);
    let before = std::time::SystemTime::now();
    let a = Client::v1(&node.ws_url("a&device=phone")).await;
    let mut a2 = Client::v1(&node.ws_url("a")).await;
    let _b = Client::v1(&node.ws_url("b")).await;
    let (status, _, shown) = call("GET", &node.url("/v1/users/a")).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&shown["user"], &shown["online"]),
        (&json!("a"), &json!(true))
    );
    let rows = shown["connections"].as_array().expect("rows");
    assert_eq!(rows.len(), 2, "{shown}");
    for (client, device) in [(&a, json!("phone")), (&a2, Value::Null)] {
        let is_its = |row: &&Value| {
            format!("{}/{}", row["node"].as_str().unwrap(), row["fd"]) == client.connection()
        };
        let row = rows.iter().find(is_its).expect("its row");
        assert_eq!(row["transport"], "ws", "{row}");
        assert_eq!(row["device"], device, "{row}");
        let since = before.duration_since(std::time::UNIX_EPOCH).unwrap();
        let at = row["at"].as_u64().expect("milliseconds");
        assert!(
            (0..60_000).contains(&(at - since.as_millis() as u64)),
            "{row}"
        );
        assert_eq!(row.get("addr"), None, "nobody asked to store it: {row}");
    }

    a2.socket.close(None).await.expect("closed");
    drop(a);
    let shown = eventually(async || {
        let (_, _, shown) = call("GET", &node.url("/v1/users/a")).await;
        if shown["online"] == false {
            Ok(shown)
        } else {
            Err(shown)
        }
    })
    .await;
    assert_eq!(
        shown,
        json!({"user": "a", "online": false, "devices": 0, "since": null, "connections": []})
    );
    let (status, _, _) = call("GET", &node.url("/v1/users/a%00b")).await;
    assert_eq!(status, 400, "not a user's name");
}

#[tokio::test]
async fn a_users_name_may_be_escaped_in_the_path() {
    let node = node(&[]);
    let _client = Client::v1(&node.ws_url("team:ann@example.org")).await;
    for path in ["team:ann@example.org", "team%3Aann%40example.org"] {
        let (status, _, shown) = call("GET", &node.url(&format!("/v1/users/{path}"))).await;
        assert_eq!(
            (status, &shown["online"]),
            (200, &json!(true)),
            "{path}: {shown}"
        );
    }
}

#[tokio::test]
async fn a_user_is_sent_away_from_every_connection() {
    let node = node(&[]);
    let mut plain = Client::plain(&node.ws_url("a")).await;
    let mut v1 = Client::v1(&node.ws_url("a")).await;
    let mut b = Client::v1(&node.ws_url("b")).await;
    push(&node, json!({"to": {"user": "a"}, "data": "last words"})).await;
    let (status, _, answer) = call("DELETE", &node.url("/v1/users/a")).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["connections"], 2, "{answer}");
    assert_eq!(
        plain.json().await,
        "last words",
        "what was pushed before arrives"
    );
    assert_eq!(plain.close_frame().await, (4001, "kicked".to_owned()));
    assert_eq!(v1.json().await["data"], "last words");
    let bye = v1.json().await;
    let expected = json!({"type": "bye", "code": 4001, "reason": "kicked"});
    assert_eq!(bye, expected, "it is not asked to come back");
    assert_eq!(v1.close_frame().await, (4001, "kicked".to_owned()));
    let answer = push(&node, json!({"to": {"user": "a"}, "data": 1})).await;
    assert_eq!(summary(&answer), ("offline", 0, 0), "{answer}");
    let (status, _, answer) = call("DELETE", &node.url("/v1/users/a")).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(0)),
        "{answer}"
    );
    push(&node, json!({"to": {"user": "b"}, "data": "marker"})).await;
    b.hears_next("marker").await;
}

#[tokio::test]
async fn whoever_is_sent_away_still_gets_what_was_pushed_before() {
    const MESSAGES: usize = 100;
    let node = node(&[("PUSH_QUEUE_BYTES", "16777216")]);
    let mut raw = Raw::open_narrow(node.client_address()).await;
    raw.upgrade("a", "").await;
    let padding = "x".repeat(80_000);
    for n in 0..MESSAGES {
        let data = json!({"n": n, "padding": padding});
        push(&node, json!({"to": {"user": "a"}, "data": data})).await;
    }
    let written = node.metric("written_total").await;
    assert!(
        written < MESSAGES as f64,
        "some wait in the node: {written}"
    );
    call("DELETE", &node.url("/v1/users/a")).await;
    for n in 0..MESSAGES {
        assert_eq!(raw.frame().await.json()["n"], n);
    }
    assert_eq!(raw.close_frame().await.0, 4001);
}

#[tokio::test]
async fn one_connection_is_sent_away_and_then_not_found() {
    let node = node(&[]);
    let mut a = Client::v1(&node.ws_url("a")).await;
    let mut a2 = Client::v1(&node.ws_url("a")).await;
    let url = node.url(&format!("/v1/connections/{}", a.connection()));
    let (status, _, answer) = call("DELETE", &url).await;
    assert_eq!(
        (status, &answer["connections"]),
        (200, &json!(1)),
        "{answer}"
    );
    assert_eq!(a.close_frame().await, (4001, "kicked".to_owned()));
    let (status, _, answer) = call("DELETE", &url).await;
    assert_eq!(status, 404, "{answer}");
    assert_eq!(answer["error"]["code"], "not_found", "{answer}");
    for (path, status) in [
        (format!("{}/999999", node.id), 404),
        ("other.0123/1".to_owned(), 404),
        (format!("{}/0", node.id), 400),
        (format!("{}/x", node.id), 400),
        ("x/1".to_owned(), 400),
    ] {
        let (seen, _, answer) = call("DELETE", &node.url(&format!("/v1/connections/{path}"))).await;
        assert_eq!(seen, status, "{path}: {answer}");
    }
    push(&node, json!({"to": {"user": "a"}, "data": "marker"})).await;
    a2.hears_next("marker").await;
}

/// Between the answer to the handshake and the hand-over of its socket, too.
#[tokio::test]
async fn whoever_is_sent_away_right_after_the_handshake_is_told_so() {
    let node = node(&[]);
    let sender = http();
    for n in 0..100 {
        let user = format!("u{n}");
        let mut raw = Raw::plain(&node, &user).await;
        let kick = sender.delete(node.url(&format!("/v1/users/{user}")));
        let answer: Value = kick.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["connections"], 1, "{user}: {answer}");
        assert_eq!(raw.close_frame().await.0, 4001, "{user}");
    }
}

#[tokio::test]
async fn somebody_elses_fd_is_never_given_to_a_new_connection() {
    let node = node(&[]);
    let first = Client::v1(&node.ws_url("a")).await;
    let old = first.connection();
    drop(first);
    let mut next = Client::v1(&node.ws_url("b")).await;
    assert_ne!(next.connection(), old);
    eventually(async || {
        let answer = push(&node, json!({"to": {"fd": old}, "data": "for a"})).await;
        if answer["status"] == "offline" {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await;
    push(&node, json!({"to": {"all": true}, "data": "marker"})).await;
    next.hears_next("marker").await;
}

#[tokio::test]
async fn a_node_is_listed_and_can_be_told_to_leave() {
    let mut node = node(&[
        ("PUSH_NODE_NAME", "solo"),
        ("PUSH_PUBLIC_URL", "wss://solo.example.org/ws"),
        ("PUSH_WEIGHT", "7"),
        ("PUSH_DRAIN_SECONDS", "1"),
    ]);
    let mut client = Client::v1(&node.ws_url("a")).await;
    let (status, _, answer) = call("GET", &node.url("/v1/nodes")).await;
    assert_eq!(status, 200, "{answer}");
    let [record] = &answer["nodes"].as_array().expect("a list")[..] else {
        panic!("one node: {answer}")
    };
    for (field, expected) in [
        ("node", json!(node.id)),
        ("name", json!("solo")),
        ("boot", json!(node.id.trim_start_matches("solo."))),
        ("state", json!("up")),
        ("connections", json!(1)),
        ("version", json!(pushnode::VERSION)),
        ("url", json!("wss://solo.example.org/ws")),
        ("weight", json!(7)),
    ] {
        assert_eq!(record[field], expected, "{field}: {record}");
    }
    assert!(
        record["started"].as_u64().is_some_and(|ms| ms > 0),
        "{record}"
    );

    let (status, _, answer) = call("POST", &node.url("/v1/nodes/other/drain")).await;
    assert_eq!(status, 404, "{answer}");
    let (status, _, answer) = call("POST", &node.url("/v1/nodes/solo/drain")).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(answer["status"], "draining", "{answer}");
    assert_eq!(client.close_frame().await, (1012, "drain".to_owned()));
    client.end().await;
    assert_eq!(node.wait_exit().code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn a_client_that_answers_no_close_is_let_go_all_the_same() {
    let node = node(&[]);
    let mut raw = Raw::plain(&node, "a").await;
    let answer = http().delete(node.url("/v1/users/a")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(raw.close_frame().await.0, 4001);
    // It says nothing, and its socket ends.
    raw.end().await;
}
