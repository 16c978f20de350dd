//! `pn:events`: what is told of connections, and that nobody waits for it.

use serde_json::{Value, json};

use crate::common::topics::{ask, call};
use crate::common::transports::{Transport, connect};
use crate::common::{Client, Redis, eventually, node_on, node_with};

const EVENTS: &[(&str, &str)] = &[("PUSH_EVENTS", "connect,disconnect")];

/// The events of these types so far, in order.
fn events(redis: &Redis, kinds: &[&str]) -> Vec<Value> {
    let text = redis.cli(&["XRANGE", "pn:events", "-", "+"]);
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| kinds.contains(&event["type"].as_str().unwrap_or_default()))
        .collect()
}

async fn until_told(redis: &Redis, count: usize) -> Vec<Value> {
    eventually(async || {
        let told = events(redis, &["connect", "disconnect"]);
        if told.len() >= count {
            Ok(told)
        } else {
            Err(told)
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_is_told_of_when_it_comes_and_why_it_went() {
    let redis = Redis::start();
    let mut node = node_with(&redis, "a", EVENTS);
    let url = format!("{}&device=my%20%22phone%22", node.ws_url("42"));
    let mut phone = Client::v1(&url).await;
    let told = until_told(&redis, 1).await;
    let expected = json!({"type": "connect", "user": "42", "node": node.id, "fd": 1, "transport": "ws", "device": "my \"phone\""});
    assert_eq!(told, std::slice::from_ref(&expected));
    phone.socket.close(None).await.expect("a goodbye");
    let mut gone = expected;
    gone["type"] = json!("disconnect");
    gone["reason"] = json!("by_client");
    assert_eq!(until_told(&redis, 2).await[1], gone);

    let _kicked = Client::plain(&node.ws_url("43")).await;
    crate::common::post(
        &node.url("/v1/commands"),
        &json!({"cmd": "kick", "user": "43"}),
    )
    .await;
    let _stays = Client::plain(&node.ws_url("44")).await;
    until_told(&redis, 5).await;
    // What happens last is told too.
    node.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || node.wait_exit()).await;
    assert!(ended.expect("a thread").success());
    let told = events(&redis, &["connect", "disconnect"]);
    let seen: Vec<(&str, u64, &str)> = told[2..]
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default();
            (
                text("type"),
                event["fd"].as_u64().expect("a number"),
                text("reason"),
            )
        })
        .collect();
    let expected = [
        ("connect", 2, ""),
        ("disconnect", 2, "kicked"),
        ("connect", 3, ""),
        ("disconnect", 3, "drain"),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_nobody_asked_for_is_not_told() {
    let redis = Redis::start();
    let silent = node_on(&redis, "a");
    let half = node_with(&redis, "b", &[("PUSH_EVENTS", "disconnect")]);
    drop(Client::v1(&silent.ws_url("42")).await);
    let leaves = Client::v1(&half.ws_url("43")).await;
    drop(leaves);
    let told = until_told(&redis, 1).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&told[0]["type"], &told[0]["user"], &told[0]["reason"]),
        (&json!("disconnect"), &json!("43"), &json!("gone"))
    );
}

#[tokio::test]
async fn what_happens_while_redis_is_away_is_told_when_it_is_back() {
    let mut redis = Redis::start();
    let node = node_with(&redis, "a", EVENTS);
    redis.kill();
    eventually(async || match node.metric("redis_up").await {
        0.0 => Ok(()),
        up => Err(up),
    })
    .await;
    let mut client = Client::v1(&node.ws_url("42")).await;
    client.send(r#"{"type":"ping"}"#).await;
    client.socket.close(None).await.expect("a goodbye");
    client.end().await;
    redis.restart();
    let told = until_told(&redis, 2).await;
    assert_eq!(
        (&told[0]["type"], &told[1]["type"]),
        (&json!("connect"), &json!("disconnect"))
    );
    assert_eq!(node.metric("events_dropped_total").await, 0.0);
}

#[tokio::test]
async fn a_storm_of_connections_is_told_whole() {
    const CLIENTS: usize = 500;
    let redis = Redis::start();
    let node = node_with(&redis, "a", EVENTS);
    for _ in 0..CLIENTS / 50 {
        let clients = (0..50).map(async |i| Client::plain(&node.ws_url(&format!("u{i}"))).await);
        drop(futures::future::join_all(clients).await);
    }
    let told = until_told(&redis, 2 * CLIENTS).await;
    for fd in 1..=CLIENTS as u64 {
        let of: Vec<&str> = told
            .iter()
            .filter(|event| event["fd"] == fd)
            .filter_map(|event| event["type"].as_str())
            .collect();
        assert_eq!(of, ["connect", "disconnect"], "fd {fd}");
    }
    assert_eq!(node.metric("events_dropped_total").await, 0.0);
}

#[tokio::test]
async fn topics_are_told_of_whoever_subscribes_and_whatever_the_transport() {
    const ALL: &[&str] = &["connect", "disconnect", "subscribe", "unsubscribe"];
    let redis = Redis::start();
    let settings = &[("PUSH_EVENTS", "connect,disconnect,subscribe,unsubscribe")];
    let node = node_with(&redis, "a", settings);
    let mut client = Client::v1(&format!("{}&topics=news", node.ws_url("42"))).await;
    let wish = json!({"type": "subscribe", "topic": "more", "ref": 1});
    ask(&mut client, wish).await;
    let wish = json!({"type": "unsubscribe", "topic": "news", "ref": 2});
    ask(&mut client, wish).await;
    client.socket.close(None).await.expect("a goodbye");
    client.end().await;
    let _events = connect(Transport::Sse, &node, "43", None).await;
    call(&node, "PUT", "/v1/topics/news/users/43").await;
    let told = eventually(async || {
        let told = events(&redis, ALL);
        if told.len() >= 7 { Ok(told) } else { Err(told) }
    })
    .await;
    let seen: Vec<String> = told
        .iter()
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default();
            format!(
                "{} {} {}{}",
                event["fd"],
                text("type"),
                text("topic"),
                text("transport")
            )
        })
        .collect();
    let expected = [
        "1 connect ws",
        "1 subscribe news",
        "1 subscribe more",
        "1 unsubscribe news",
        "1 disconnect ws",
        "2 connect sse",
        "2 subscribe news",
    ];
    assert_eq!(seen, expected);
}
