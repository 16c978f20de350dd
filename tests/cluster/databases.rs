//! Two environments on one Redis, told apart by the number of the database: Redis keeps their keys
//! apart, but not their channels.

use serde_json::json;

use crate::common::{Client, Node, Redis, http, node_with, post};

fn node_in(redis: &Redis, name: &str, suffix: &str) -> Node {
    let url = format!("{}{suffix}", redis.url());
    node_with(redis, name, &[("PUSH_REDIS_URL", &url)])
}

#[tokio::test]
async fn environments_in_two_databases_do_not_hear_each_other() {
    let redis = Redis::start();
    let (prod, staging) = (
        node_in(&redis, "prod", "/1"),
        node_in(&redis, "staging", "?db=2"),
    );
    let mut client = Client::plain(&prod.ws_url("42")).await;
    let all = json!({"to": {"all": true}, "data": "of staging"});
    let (status, answer) = post(&staging.push_url, &all).await;
    assert_eq!((status, &answer["nodes"]), (200, &json!(1)), "{answer}");
    // Neither kick nor ban of one ends the other's connection.
    let kick = http().delete(staging.url("/v1/users/42")).send().await;
    assert_eq!(kick.expect("an answer").status(), 200);
    let ban = http().put(staging.url("/v1/users/42/ban"));
    let ban = ban.json(&json!({"seconds": 60})).send().await;
    assert_eq!(ban.expect("an answer").status(), 200);
    let all = json!({"to": {"all": true}, "data": "of prod"});
    assert_eq!(post(&prod.push_url, &all).await.0, 200);
    assert_eq!(client.json().await, "of prod");
}

#[tokio::test]
async fn channels_carry_the_number_of_the_database() {
    let redis = Redis::start();
    let (zero, one) = (node_in(&redis, "zero", "/0"), node_in(&redis, "one", "/1"));
    let mut clients = [
        Client::plain(&zero.ws_url("42")).await,
        Client::plain(&one.ws_url("42")).await,
    ];
    let line = |data: &str| json!({"to": {"user": "42"}, "data": data}).to_string();
    let to_all = [("pn:g", "0"), ("pn:1:g", "1")];
    for (channel, data) in to_all {
        assert_eq!(redis.cli(&["PUBLISH", channel, &line(data)]), "1");
    }
    let own = format!("pn:1:n:{{{}}}", one.id);
    assert_eq!(redis.cli(&["PUBLISH", &own, &line("own")]), "1");
    assert_eq!(clients[0].json().await, "0");
    assert_eq!(clients[1].json().await, "1");
    assert_eq!(clients[1].json().await, "own");
}
