//! Users of any name across nodes: exact keys in Redis, one slot in a cluster, exact lines.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::common::passes::ask;
use crate::common::{Client, Node, Redis, node, node_on, post};
use crate::raw::Resp;
use crate::redis_groups::RedisCluster;

fn url(node: &Node, user: &str) -> String {
    node.ws_url(&utf8_percent_encode(user, NON_ALPHANUMERIC).to_string())
}

/// Users, and how they stand in keys.
const USERS: [(&str, &str); 8] = [
    ("42", "42"),
    ("a.b_c:d@e-f", "a.b_c:d@e-f"),
    ("auth0|abc", "auth0%7Cabc"),
    ("}{", "%7D%7B"),
    ("a}b", "a%7Db"),
    ("a%7Db", "a%257Db"),
    ("é \"\\", "%C3%A9%20%22%5C"),
    ("用户", "%E7%94%A8%E6%88%B7"),
];

async fn resume(client: &Client) -> Value {
    client.ready.as_ref().expect("a v1 client")["resume"].clone()
}

/// A plain push, a push that is kept, a resume and a ban, from one node to the other.
async fn a_user_is_served(near: &Node, far: &Node, user: &str) {
    let mut client = Client::v1(&url(far, user)).await;
    let since = resume(&client).await;
    let body = json!({"to": {"user": user}, "data": "plain", "wait": "written"});
    let (_, answer) = post(&near.push_url, &body).await;
    assert_eq!(answer["status"], "written", "{user}: {answer}");
    assert_eq!(client.json().await["data"], "plain", "{user}");
    let body = json!({"to": {"user": user}, "id": "m", "keep": true, "data": "kept"});
    let (status, answer) = post(&near.push_url, &body).await;
    assert_eq!(status, 200, "{user}: {answer}");
    assert_eq!(client.json().await["data"], "kept", "{user}");
    drop(client);
    let since = since.as_str().expect("a position");
    let mut back = Client::v1(&format!("{}&since={since}", url(near, user))).await;
    assert_eq!(back.ready.as_ref().expect("ready")["recovered"], true);
    assert_eq!(back.json().await["data"], "kept", "{user}");
}

#[tokio::test]
async fn keys_of_users_are_exact_and_those_of_before_are_as_they_were() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut resp = Resp::connect(redis.port()).await;
    for (user, key) in USERS {
        let client = Client::v1(&url(&b, user)).await;
        let row = resp.call(&["HKEYS", &format!("pn:user:{{{key}}}")]).await;
        assert_eq!(row.texts(), [client.connection()], "{user}");
        drop(client);
        a_user_is_served(&a, &b, user).await;
        let path = format!(
            "/v1/users/{}/ban",
            utf8_percent_encode(user, NON_ALPHANUMERIC)
        );
        let (status, _) = ask("PUT", &a.url(&path), &json!({"seconds": 60})).await;
        assert_eq!(status, 200, "{user}");
        for kind in ["inbox", "pos", "ban"] {
            let name = format!("pn:{kind}:{{{key}}}");
            assert_eq!(resp.call(&["EXISTS", &name]).await.number(), 1, "{name}");
        }
    }
}

#[tokio::test]
async fn a_user_of_any_name_has_one_slot() {
    let cluster = tokio::task::spawn_blocking(|| RedisCluster::start(0));
    let cluster = cluster.await.expect("a cluster");
    let settings = |name| {
        let url = cluster.url();
        node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", name)])
    };
    let (a, b) = (settings("a"), settings("b"));
    for (user, _) in USERS {
        a_user_is_served(&a, &b, user).await;
    }
}

#[tokio::test]
async fn a_line_may_give_a_user_by_number_and_null_for_what_is_absent() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut resp = Resp::connect(redis.port()).await;
    let mut client = Client::plain(&node.ws_url("42")).await;
    for line in [
        r#"{"to":{"user":42},"data":1}"#,
        r#"{"to":{"users":[41,42]},"data":1}"#,
        r#"{"to":{"user":"42","all":null},"data":1,"keep":null,"except":{"users":null,"fds":null},
            "policy":null,"id":null,"reply":null}"#,
    ] {
        let line = line.replace('\n', " ");
        resp.call(&["PUBLISH", "pn:g", &line]).await;
        assert_eq!(client.json().await, 1, "{line}");
    }
}
