//! One id, sent again and again by several nodes at once: delivered once.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::common::keep::{connect, hears, ready, resume};
use crate::common::topics::push_as;
use crate::common::{Client, Node, Redis, logs, node_on, post};

/// Fifty times by each node, all at the same moment; how often each status was answered.
async fn send_all(nodes: [&Node; 2], keep: bool) -> Vec<String> {
    let body = json!({"to": {"user": "42"}, "id": "once", "keep": keep, "data": 1});
    let sends = (0..100).map(|i| post(&nodes[i % 2].push_url, &body));
    let answers = join_all(sends).await;
    let statuses = answers.into_iter().map(|(status, answer)| {
        assert_eq!(status, 200, "{answer}");
        answer["status"].as_str().expect("a status").to_owned()
    });
    statuses.collect()
}

#[tokio::test]
async fn the_same_id_sent_by_two_nodes_is_delivered_once() {
    let redis = Redis::start();
    let nodes = [&node_on(&redis, "a"), &node_on(&redis, "b")];
    // One connection on each.
    let mut clients = [
        Client::plain(&nodes[0].ws_url("42")).await,
        Client::plain(&nodes[1].ws_url("42")).await,
    ];
    send_all(nodes, false).await;
    for node in nodes {
        let body = json!({"to": {"user": "42"}, "data": "end"});
        assert_eq!(post(&node.push_url, &body).await.0, 200);
    }
    for client in &mut clients {
        let heard = [
            client.text().await,
            client.text().await,
            client.text().await,
        ];
        assert_eq!(heard, ["1", "\"end\"", "\"end\""]);
    }
}

#[tokio::test]
async fn an_id_sent_again_to_others_as_well_is_delivered_once_to_each_user() {
    let redis = Redis::start();
    let (near, far) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut clients = Vec::new();
    for user in ["u", "v", "w"] {
        clients.push(Client::plain(&far.ws_url(user)).await);
    }
    let to = [
        json!({"users": ["u", "v"]}),
        json!({"users": ["w", "v", "u"]}),
        json!({"user": "v"}),
        json!({"users": ["u"]}),
    ];
    for to in to {
        let body = json!({"to": to, "id": "m", "data": 1});
        let (status, answer) = post(&near.push_url, &body).await;
        assert_eq!(status, 200, "{answer}");
    }
    let body = json!({"to": {"users": ["u", "v", "w"]}, "data": "end"});
    assert_eq!(post(&near.push_url, &body).await.0, 200);
    for client in &mut clients {
        assert_eq!([client.text().await, client.text().await], ["1", "\"end\""]);
    }
}

#[tokio::test]
async fn the_same_id_kept_by_two_nodes_is_delivered_once_also_later() {
    let redis = Redis::start();
    let nodes = [&node_on(&redis, "a"), &node_on(&redis, "b")];
    let mut client = connect(nodes[0], "42", None).await;
    let start = resume(&client);
    let statuses = send_all(nodes, true).await;
    assert!(
        statuses.iter().any(|status| status == "routed"),
        "{statuses:?}"
    );
    let end = json!({"to": {"user": "42"}, "keep": true, "data": 2});
    assert_eq!(post(&nodes[1].push_url, &end).await.0, 200);
    hears(&mut client, 1..=2).await;
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]).trim(), "2");
    let mut again = connect(nodes[1], "42", Some(&start)).await;
    hears(&mut again, 1..=2).await;
    assert_eq!(*ready(&again, "recovered"), true);
}

/// As if a minute had passed in Redis: it has forgotten the id, and a new entry is so much later.
fn pass_a_minute(redis: &Redis, answer: &Value, mark: &str, stream: &str) {
    let token = answer["seq_id"].as_str().expect("a position");
    let entry = token.split_once('.').expect("an entry").1;
    let ms: u64 = entry
        .split_once('-')
        .expect("its time")
        .0
        .parse()
        .expect("a number");
    assert_eq!(redis.cli(&["DEL", mark]), "1");
    let later = format!("{}-0", ms + 60_000);
    assert_eq!(redis.cli(&["XSETID", stream, &later]), "OK");
}

/// Once Redis has forgotten an id, a message with it is another one, also for nodes that remember
/// the id for longer.
#[tokio::test]
async fn an_id_that_redis_takes_again_is_another_message() {
    let redis = Redis::start();
    let nodes = [&node_on(&redis, "a"), &node_on(&redis, "b")];
    let body = |to: &Value, data| json!({"to": to, "keep": true, "id": "once", "data": data});

    let mut client = connect(nodes[1], "42", None).await;
    let start = resume(&client);
    let mut plain = Client::plain(&nodes[1].ws_url("42")).await;
    let to = json!({"user": "42"});
    let first = push_as(nodes[0], body(&to, 1)).await;
    pass_a_minute(&redis, &first, "pn:kept:{42}:once", "pn:inbox:{42}");
    let second = push_as(nodes[0], body(&to, 2)).await;
    assert_eq!(second["status"], "routed", "{second}");
    hears(&mut client, 1..=2).await;
    assert_eq!([plain.text().await, plain.text().await], ["1", "2"]);
    let mut again = connect(nodes[0], "42", Some(&start)).await;
    assert_eq!(*ready(&again, "recovered"), true);
    hears(&mut again, 1..=2).await;

    let (mut member, reply) = logs::follower(nodes[1], "chat.1", None).await;
    let start = reply["resume"].as_str().expect("a position");
    let to = json!({"topic": "chat.1"});
    let first = push_as(nodes[0], body(&to, 1)).await;
    pass_a_minute(
        &redis,
        &first,
        "pn:logkept:{chat.1}:once",
        "pn:log:{chat.1}",
    );
    let second = push_as(nodes[0], body(&to, 2)).await;
    assert_eq!(second["status"], "routed", "{second}");
    logs::hears(&mut member, "chat.1", 1..=2).await;
    let (mut again, reply) = logs::follower(nodes[0], "chat.1", Some(start)).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    logs::hears(&mut again, "chat.1", 1..=2).await;
}

#[tokio::test]
async fn a_batch_reads_each_row_once_so_no_push_overtakes_another() {
    let redis = Redis::start();
    let nodes = [&node_on(&redis, "a"), &node_on(&redis, "b")];
    let mut client = Client::plain(&nodes[1].ws_url("42")).await;
    redis.cli(&["CONFIG", "SET", "slowlog-max-len", "10000"]);
    redis.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    let batch: Vec<_> = (0..50)
        .map(|n| json!({"to": {"user": "42"}, "data": n}))
        .collect();
    assert_eq!(post(&nodes[0].push_url, &json!(batch)).await.0, 200);
    let commands = redis.cli(&["SLOWLOG", "GET", "10000"]).to_uppercase();
    let of_the_row = "HKEYS\nPN:USER:{42}";
    let looks = commands.matches(of_the_row).count();
    // One for the batch; another if the node itself checks the row in this moment.
    assert!((1..=2).contains(&looks), "{looks} looks at one row");
    for n in 0..50 {
        assert_eq!(client.text().await, n.to_string());
    }
}
