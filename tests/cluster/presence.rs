//! Who is there, over several nodes and a real Redis: what senders ask, and what clients that ask
//! for it hear of others who come and go.

use serde_json::json;

use crate::common::presence::{
    many_users_are_asked_after_at_once, member, members_are_listed_by_user, presence,
};
use crate::common::topics::call;
use crate::common::{Client, Redis, eventually, node_on, post};

#[tokio::test]
async fn many_users_are_asked_after_at_once_at_any_node() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    many_users_are_asked_after_at_once(&c, &a, &b).await;
}

#[tokio::test]
async fn members_are_listed_by_user_at_any_node() {
    let redis = Redis::start();
    let (a, b, c) = (
        node_on(&redis, "a"),
        node_on(&redis, "b"),
        node_on(&redis, "c"),
    );
    members_are_listed_by_user(&c, &a, &b).await;
    members_are_listed_by_user(&a, &a, &b).await;
}

/// A frozen node is named, and the others answer all the same; a dead one is not counted.
#[tokio::test]
async fn a_node_that_does_not_answer_is_named_among_the_members() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let _here = member(&a, "1", "news").await;
    let there = member(&b, "2", "news").await;
    b.signal("STOP");
    let (_, answer) = call(&a, "GET", "/v1/topics/news?members=true").await;
    b.signal("CONT");
    assert_eq!(answer["missing"], json!([b.id]), "{answer}");
    assert_eq!(answer["members"].as_array().expect("a list").len(), 1);
    drop(there);
    let ghost = Client::v1(&b.ws_url("ghost")).await;
    b.kill();
    drop(ghost);
    let shown = presence(&a, json!({"users": ["1", "ghost"]})).await;
    assert_eq!(shown["users"][0]["online"], true, "{shown}");
    eventually(async || {
        let shown = presence(&a, json!({"users": ["1", "ghost"]})).await;
        match shown["users"][1]["online"] == false {
            true => Ok(()),
            false => Err(shown),
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_is_called_offline_while_redis_is_away() {
    let mut redis = Redis::start();
    let a = node_on(&redis, "a");
    redis.kill();
    eventually(async || {
        let (status, answer) = post(&a.url("/v1/presence"), &json!({"users": ["1"]})).await;
        match status {
            503 => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
}
