//! Topic rules over several nodes and a real Redis.

use serde_json::{Value, json};

use crate::common::rules::{
    SETTINGS, a_log_that_members_may_not_read, a_new_member_gets_what_the_rule_says,
    a_rule_bounds_what_is_kept, a_rule_says_what_members_hear_of_each_other,
    a_rule_says_which_clients_may_subscribe, every_push_is_kept, members_publish_to_each_other,
    what_members_may_not_publish, what_members_publish_is_kept,
};
use crate::common::topics::{ask, hears, push};
use crate::common::{Client, Node, Redis, eventually, http, node_with, send_signal};

/// Two nodes with the rules of the scenarios and these further settings.
fn two(redis: &Redis, further: &[(&str, &str)]) -> (Node, Node) {
    let mut settings = SETTINGS.to_vec();
    settings.extend(further);
    (
        node_with(redis, "a", &settings),
        node_with(redis, "b", &settings),
    )
}

#[tokio::test]
async fn a_rule_says_which_clients_may_subscribe_anywhere() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    a_rule_says_which_clients_may_subscribe(&a, &b).await;
}

#[tokio::test]
async fn every_push_is_kept_at_another_node() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    every_push_is_kept(&a, &b, &a).await;
}

#[tokio::test]
async fn a_rule_bounds_what_is_kept_in_redis() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    a_rule_bounds_what_is_kept(&a, &b).await;
    assert_eq!(redis.cli(&["XLEN", "pn:log:{short.1}"]), "5");
}

#[tokio::test]
async fn members_publish_to_each_other_over_two_nodes() {
    let redis = Redis::start();
    for secret in [
        &[][..],
        &[("PUSH_CLUSTER_SECRET", "a-secret-of-32-bytes-for-members")],
    ] {
        let (a, b) = two(&redis, secret);
        members_publish_to_each_other(&a, &a, &b).await;
        redis.cli(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn what_members_may_not_publish_is_refused_in_a_cluster() {
    let redis = Redis::start();
    let (a, _b) = two(&redis, &[]);
    what_members_may_not_publish(&a).await;
}

#[tokio::test]
async fn what_members_publish_is_kept_in_redis() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    what_members_publish_is_kept(&a, &a, &b).await;
}

#[tokio::test]
async fn a_rule_says_what_members_hear_of_each_other_over_two_nodes() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[("PUSH_PRESENCE_GRACE_SECONDS", "0")]);
    a_rule_says_what_members_hear_of_each_other(&a, &b).await;
}

#[tokio::test]
async fn a_new_member_gets_what_the_rule_says_at_another_node() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    a_new_member_gets_what_the_rule_says(&a, &b).await;
}

#[tokio::test]
async fn a_log_that_members_may_not_read_at_another_node() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    a_log_that_members_may_not_read(&a, &b).await;
}

/// A publisher in Redis cannot say that a member sent something.
#[tokio::test]
async fn only_nodes_say_which_member_it_was() {
    let redis = Redis::start();
    let (a, _b) = two(
        &redis,
        &[("PUSH_CLUSTER_SECRET", "a-secret-of-32-bytes-for-members")],
    );
    let mut client = Client::v1(&format!("{}&topics=talk.1", a.ws_url("42"))).await;
    let member = r#""member":{"user":"1","connection":"x.0123456789ab/1"}"#;
    let to = r#""to":{"topic":"talk.1"}"#;
    redis.cli(&[
        "PUBLISH",
        "pn:g",
        &format!(r#"{{"cmd":"publish",{member},{to},"data":1}}"#),
    ]);
    redis.cli(&["PUBLISH", "pn:g", &format!(r#"{{{member},{to},"data":2}}"#)]);
    let frame = client.json().await;
    assert_eq!(
        frame,
        json!({"type": "message", "topic": "talk.1", "data": 2})
    );
    assert_eq!(
        a.labelled("lines_refused_total", "reason=\"unsigned\"")
            .await,
        1.0
    );
}

/// A line in Redis is delivered as it is: no node keeps it, or each of them would.
#[tokio::test]
async fn a_line_in_redis_is_not_kept_by_a_rule() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    let mut here = Client::v1(&format!("{}&topics=chat.1", a.ws_url("1"))).await;
    let mut there = Client::v1(&format!("{}&topics=chat.1", b.ws_url("2"))).await;
    redis.cli(&["PUBLISH", "pn:g", r#"{"to":{"topic":"chat.1"},"data":1}"#]);
    for client in [&mut here, &mut there] {
        hears(client, "chat.1", 1).await;
    }
    assert_eq!(redis.cli(&["EXISTS", "pn:log:{chat.1}"]), "0");
}

async fn readiness(node: &Node) -> Value {
    let answer = http().get(node.admin_url("/readyz")).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

#[tokio::test]
async fn nodes_with_different_rules_say_so() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.json");
    std::fs::write(&file, r#"[{"match":"a"}]"#).expect("written");
    let from_file = [("PUSH_TOPIC_RULES_FILE", file.to_str().expect("UTF-8"))];
    let a = node_with(&redis, "a", &[("PUSH_TOPIC_RULES", r#"[{"match":"b"}]"#)]);
    let b = node_with(&redis, "b", &from_file);
    let says = "another node has other topic rules (PUSH_TOPIC_RULES)";
    for node in [&a, &b] {
        eventually(async || match readiness(node).await {
            body if body["reason"] == says => Ok(()),
            body => Err(body),
        })
        .await;
        assert_eq!(node.metric("topic_rules_differ").await, 1.0);
        eventually(async || match node.log() {
            log if log.contains("nodes have other topic rules") => Ok(()),
            log => Err(log),
        })
        .await;
    }
    // However it is written.
    std::fs::write(&file, "[ { \"match\": \"b\", \"policy\": \"close\" } ]\n").expect("written");
    for node in [&a, &b] {
        eventually(async || match readiness(node).await {
            body if body == json!({"status": "ready"}) => Ok(()),
            body => Err(body),
        })
        .await;
        assert_eq!(node.metric("topic_rules_differ").await, 0.0);
        eventually(async || match node.log() {
            log if log.contains("all nodes have the same topic rules") => Ok(()),
            log => Err(log),
        })
        .await;
    }
    let (_, nodes) = crate::common::topics::call(&a, "GET", "/v1/nodes").await;
    let digests: Vec<&Value> = (nodes["nodes"].as_array().expect("nodes").iter())
        .map(|node| &node["rules"])
        .collect();
    assert_eq!(digests[0], digests[1], "{nodes}");
    assert!(
        digests[0].as_str().is_some_and(|digest| digest.len() == 16),
        "{nodes}"
    );
}

/// Across a loss: what a member sent and did not hear of itself does not come from the log.
#[tokio::test]
async fn a_member_that_looks_into_the_log_does_not_hear_itself() {
    let redis = Redis::start();
    let (a, _b) = two(&redis, &[]);
    let mut client = Client::v1(&format!("{}&topics=chat.1", a.ws_url("42"))).await;
    let publish = |n: i32| json!({"type": "publish", "topic": "chat.1", "data": n, "ref": n});
    assert_eq!(ask(&mut client, publish(1)).await["status"], "published");
    // Kept by another program, so that the next one shows a gap and the log is read.
    redis.cli(&["INCR", "pn:logpos:{chat.1}"]);
    redis.cli(&["XADD", "pn:log:{chat.1}", "*", "data", "2"]);
    // Its answer may come before that page or after it.
    client.send(&publish(3).to_string()).await;
    push(&a, "chat.1", 4).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let frame = client.json().await;
        if frame["type"] == "message" {
            heard.push(frame["data"].clone());
        }
    }
    assert_eq!(heard, [2, 4]);
}

/// What a member publishes while Redis does not answer reaches its own node, and it hears that
/// others may have missed it.
#[tokio::test]
async fn a_member_hears_that_others_may_have_missed_what_it_published() {
    let redis = Redis::start();
    let (a, b) = two(&redis, &[]);
    let mut author = Client::v1(&format!("{}&topics=talk.1", a.ws_url("1"))).await;
    let mut near = Client::v1(&format!("{}&topics=talk.1", a.ws_url("2"))).await;
    let _far = Client::v1(&format!("{}&topics=talk.1", b.ws_url("3"))).await;
    let publish = |n: i32| json!({"type": "publish", "topic": "talk.1", "data": n, "ref": n});
    let well = ask(&mut author, publish(1)).await;
    assert_eq!(
        (&well["status"], &well["reason"]),
        (&json!("published"), &Value::Null)
    );
    send_signal(redis.pid(), "STOP");
    author.send(&publish(2).to_string()).await;
    let reply = loop {
        let frame = author.json().await;
        if frame["ref"] == 2 {
            break frame;
        }
    };
    send_signal(redis.pid(), "CONT");
    assert_eq!(reply["status"], "published", "{reply}");
    assert!(reply["reason"].is_string(), "{reply}");
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let frame = near.json().await;
        if frame["type"] == "message" {
            heard.push(frame["data"].clone());
        }
    }
    assert_eq!(heard, [1, 2]);
}
