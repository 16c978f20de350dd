//! Looking back and erasing, over several nodes and a real Redis.

use serde_json::json;

use crate::common::topics::{call, push_as};
use crate::common::{Redis, history, node_on, two_nodes};

#[tokio::test]
async fn senders_look_back_at_another_node() {
    let (_redis, a, b) = two_nodes();
    history::senders_look_back(&a, &b).await;
}

#[tokio::test]
async fn members_look_back_at_another_node() {
    let (_redis, a, b) = two_nodes();
    history::members_look_back(&a, &b).await;
}

#[tokio::test]
async fn one_message_is_erased_at_another_node() {
    let (_redis, a, b) = two_nodes();
    history::one_message_is_erased(&a, &b).await;
}

#[tokio::test]
async fn an_erased_message_does_not_come_back_at_another_node() {
    let (_redis, a, b) = two_nodes();
    history::an_erased_message_does_not_come_back(&a, &b).await;
}

#[tokio::test]
async fn all_messages_are_erased_at_another_node() {
    let (_redis, a, b) = two_nodes();
    history::all_messages_are_erased(&a, &b).await;
}

/// No key holds what was erased, and erasing what is not there writes nothing.
#[tokio::test]
async fn what_is_erased_is_nowhere_in_redis() {
    const SECRET: &str = "a secret that must go";
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    for to in [json!({"user": "42"}), json!({"topic": "chat.1"})] {
        for id in ["1", "2"] {
            let body = json!({"to": to, "keep": true, "id": id, "data": SECRET});
            push_as(&node, body).await;
        }
    }
    let found = || {
        let keys = redis.cli(&["KEYS", "*"]);
        let held = keys
            .lines()
            .filter(|key| redis.cli(&["DUMP", key]).contains(SECRET));
        held.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(found().len(), 2, "an inbox and a log");
    let (_, read) = call(&node, "GET", "/v1/users/42/messages").await;
    for message in read["messages"].as_array().expect("messages") {
        let entry = message["entry"].as_str().expect("an entry");
        let path = format!("/v1/users/42/messages/{entry}");
        assert_eq!(call(&node, "DELETE", &path).await.1["erased"], 1);
    }
    assert_eq!(
        call(&node, "DELETE", "/v1/topics/chat.1/messages").await.1["erased"],
        2
    );
    assert_eq!(found(), [""; 0]);
    let keys = redis.cli(&["DBSIZE"]);
    for path in [
        "/v1/users/43/messages",
        "/v1/users/43/messages/1-1",
        "/v1/topics/x/messages",
    ] {
        assert_eq!(call(&node, "DELETE", path).await.1["erased"], 0);
    }
    assert_eq!(redis.cli(&["DBSIZE"]), keys);
}
