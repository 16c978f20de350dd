//! Topics on a node by itself.

use serde_json::json;

use crate::common::logs::{
    a_client_goes_on_where_it_was, a_kept_push_to_many_topics, a_newcomer_misses_nothing,
};
use crate::common::topics::{
    a_push_can_leave_out_some_and_name_many, a_push_reaches_who_is_subscribed,
    a_sender_subscribes_others, ask, call, topics_come_with_the_connection,
    what_is_not_allowed_is_refused,
};
use crate::common::{Client, node, post};

#[tokio::test]
async fn a_push_reaches_who_is_subscribed_here() {
    let node = node(&[]);
    a_push_reaches_who_is_subscribed(&node, &node, &node).await;
}

#[tokio::test]
async fn topics_come_with_a_connection_here() {
    let node = node(&[]);
    topics_come_with_the_connection(&node, &node).await;
}

#[tokio::test]
async fn a_sender_subscribes_others_here() {
    let node = node(&[]);
    a_sender_subscribes_others(&node, &node, &node).await;
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_here() {
    let settings = [
        ("PUSH_TOPICS", "chat.*,user.{user}"),
        ("PUSH_MAX_TOPICS", "2"),
    ];
    what_is_not_allowed_is_refused(&node(&settings)).await;
}

#[tokio::test]
async fn a_push_can_leave_out_some_and_name_many_here() {
    let node = node(&[]);
    a_push_can_leave_out_some_and_name_many(&node, &node, &node).await;
}

#[tokio::test]
async fn a_client_goes_on_in_a_log_where_it_was_here() {
    let node = node(&[]);
    a_client_goes_on_where_it_was(&node, &node, &node).await;
}

#[tokio::test]
async fn a_kept_push_to_many_topics_here() {
    let node = node(&[]);
    a_kept_push_to_many_topics(&node, &node).await;
}

#[tokio::test]
async fn a_newcomer_misses_nothing_here() {
    let node = node(&[]);
    a_newcomer_misses_nothing(&node, &node).await;
}

#[tokio::test]
async fn without_logs_a_subscription_has_no_position() {
    let node = node(&[("PUSH_KEEP_MESSAGES", "0")]);
    let mut client = Client::v1(&node.ws_url("1")).await;
    let request = json!({"type": "subscribe", "topic": "news", "ref": 1, "since": "0"});
    let reply = ask(&mut client, request).await;
    let expected = json!({"type": "reply", "ref": 1, "topic": "news", "status": "subscribed"});
    assert_eq!(reply, expected);
    let body = json!({"to": {"topic": "news"}, "keep": true, "data": 1});
    assert_eq!(post(&node.push_url, &body).await.0, 400);
}

#[tokio::test]
async fn a_node_lists_its_topics_and_their_members() {
    let node = node(&[]);
    let url = |user: &str, topics: &str| format!("{}&topics={topics}", node.ws_url(user));
    let _one = Client::v1(&url("1", "a,b,c")).await;
    let _two = Client::v1(&url("2", "b")).await;
    let (status, answer) = call(&node, "GET", "/v1/topics").await;
    let count = |topic: &str, connections| json!({"topic": topic, "connections": connections});
    let expected =
        json!({"node": node.id, "topics": [count("a", 1), count("b", 2), count("c", 1)]});
    assert_eq!((status, answer), (200, expected));
    let (_, answer) = call(&node, "GET", "/v1/topics?limit=1").await;
    assert_eq!(
        (&answer["topics"], &answer["next"]),
        (&json!([count("a", 1)]), &json!("a"))
    );
    let (_, answer) = call(&node, "GET", "/v1/topics?limit=2&after=a").await;
    assert_eq!(answer["topics"], json!([count("b", 2), count("c", 1)]));
    assert_eq!(answer["next"], json!(null));
    let (status, answer) = call(&node, "GET", "/v1/topics?limit=0").await;
    assert_eq!(status, 400, "{answer}");

    let (_, answer) = call(&node, "GET", "/v1/topics/b?members=true").await;
    assert_eq!(answer["connections"], 2, "{answer}");
    assert_eq!(
        answer["nodes"],
        json!([{"node": node.id, "connections": 2}]),
        "{answer}"
    );
    let member = |user: &str| json!({"user": user, "connections": 1, "nodes": [node.id]});
    assert_eq!(answer["members"], json!([member("1"), member("2")]));
    assert_eq!(
        (&answer["truncated"], &answer["missing"]),
        (&json!(false), &json!([]))
    );
    let (status, answer) = call(&node, "GET", "/v1/topics/a%20b").await;
    assert_eq!(status, 400, "{answer}");
    let (status, _) = call(&node, "PATCH", "/v1/topics/b").await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_push_to_topics_that_makes_no_sense_is_refused() {
    let node = node(&[]);
    let many: Vec<String> = (0..101).map(|i| format!("t{i}")).collect();
    for (to, words) in [
        (json!({"topic": "a b"}), "topic must be 1 to 200 bytes"),
        (json!({"topics": []}), "to.topics must not be empty"),
        (json!({"topics": many}), "101 topics; 100 at most"),
        (json!({"topic": "a", "user": "b"}), "only one of"),
        (json!({"topic": "a", "topics": ["b"]}), "only one of"),
        (json!({"topic": "a", "all": true}), "only one of"),
    ] {
        let (status, answer) = post(&node.push_url, &json!({"to": to, "data": 1})).await;
        assert_eq!(status, 400, "{answer}");
        let message = answer["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{message}");
    }
}
