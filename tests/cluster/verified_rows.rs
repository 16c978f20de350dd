//! Rows that Redis loses one by one, by an eviction or a `DEL`, are found and written again.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, http, node_on, node_with, post, start_node};
use crate::crowd::Crowd;

/// Its clients need not answer pings: here they do not read.
fn quiet_node_on(redis: &Redis, name: &str) -> Node {
    node_with(redis, name, &[("PUSH_PING_SECONDS", "3600")])
}

async fn readiness(node: &Node) -> (u16, Value) {
    let answer = http().get(node.admin_url("/readyz")).send().await;
    let answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn until_fields(redis: &Redis, key: &str, count: &str) {
    eventually(async || match redis.cli(&["HLEN", key]) {
        found if found == count => Ok(()),
        other => Err(format!("{key} has {other} fields")),
    })
    .await;
}

/// How many rows each node found missing and wrote again while this was done. It is done once more
/// if a node's lease ended meanwhile, as on a machine that stands still for seconds: then the node
/// writes all its rows again and looks for none.
async fn restored_by(nodes: &[&Node], act: impl AsyncFn()) -> Vec<f64> {
    let forgotten = || {
        nodes
            .iter()
            .map(|node| node.log().matches("forgotten").count())
    };
    loop {
        let before: Vec<usize> = forgotten().collect();
        let mut restored = Vec::new();
        for node in nodes {
            let waiting = async || node.metric("registry_waiting").await;
            eventually(async || match waiting().await {
                0.0 => Ok(()),
                rows => Err(format!("{rows} rows wait to be written")),
            })
            .await;
            restored.push(node.metric("registry_rows_restored_total").await);
        }
        act().await;
        for (node, restored) in nodes.iter().zip(&mut restored) {
            *restored = node.metric("registry_rows_restored_total").await - *restored;
        }
        if forgotten().eq(before) {
            return restored;
        }
    }
}

async fn until_routed(node: &Node, to: Value) {
    eventually(async || {
        let (_, answer) = post(&node.push_url, &json!({"to": to, "data": 1})).await;
        match &answer["status"] {
            status if *status == "routed" => Ok(()),
            _ => Err(answer),
        }
    })
    .await;
}

/// The rows are in the next round, and no lease says that anything is missing.
#[tokio::test]
async fn deleted_rows_are_put_back_by_every_node_that_has_a_share() {
    let redis = Redis::start();
    let (a, b) = (quiet_node_on(&redis, "a"), quiet_node_on(&redis, "b"));
    let query = |user: &str| format!("{user}&topics=news");
    let _here = Client::v1(&a.ws_url(&query("42"))).await;
    let _there = Client::v1(&b.ws_url(&query("42"))).await;
    let _only = Client::v1(&a.ws_url(&query("7"))).await;
    let keys = ["pn:user:{42}", "pn:user:{7}", "pn:topic:{news}"];
    let restored = restored_by(&[&a, &b], async || {
        for key in keys {
            assert_eq!(redis.cli(&["DEL", key]), "1", "{key}");
        }
        until_routed(&b, json!({"user": "7"})).await;
        for (key, count) in keys.into_iter().zip(["2", "1", "2"]) {
            until_fields(&redis, key, count).await;
        }
        until_routed(&a, json!({"topic": "news"})).await;
    })
    .await;
    assert_eq!(restored, [3.0, 2.0]);
    a.until_logged("written again").await;
}

/// One field goes, as if another node took this one for dead, and the row stays.
#[tokio::test]
async fn a_field_that_is_missing_from_a_row_is_put_back() {
    let redis = Redis::start();
    let (a, b) = (quiet_node_on(&redis, "a"), quiet_node_on(&redis, "b"));
    let here = Client::v1(&a.ws_url("42")).await;
    let _there = Client::v1(&b.ws_url("42")).await;
    let field = here.connection();
    let restored = restored_by(&[&a, &b], async || {
        assert_eq!(redis.cli(&["HDEL", "pn:user:{42}", &field]), "1");
        until_fields(&redis, "pn:user:{42}", "2").await;
    })
    .await;
    assert_eq!(restored, [1.0, 0.0]);
}

/// Who is passed by until the row is back hears so, and gets what was kept meanwhile.
#[tokio::test]
async fn who_was_passed_by_while_a_row_was_lost_is_told() {
    let redis = Redis::start();
    let (node, sender) = (quiet_node_on(&redis, "a"), quiet_node_on(&redis, "b"));
    let mut client = Client::v1(&format!("{}&topics=news", node.ws_url("42"))).await;
    for key in ["pn:user:{42}", "pn:topic:{news}"] {
        assert_eq!(redis.cli(&["DEL", key]), "1", "{key}");
    }
    let kept = json!({"to": {"user": "42"}, "keep": true, "data": "kept"});
    let (_, answer) = post(&sender.push_url, &kept).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| *last != "kept") {
        let object = client.json().await;
        heard.push(match object["type"].as_str() {
            Some("message") => object["data"].clone(),
            _ => object["type"].clone(),
        });
    }
    // Both rows may have their turn at once: then the second loss is told before what was kept.
    let losses = heard.len() - 1;
    assert!(losses == 1 || losses == 2, "{heard:?}");
    assert!(
        heard[..losses].iter().all(|one| *one == "resync"),
        "{heard:?}"
    );
    until_fields(&redis, "pn:topic:{news}", "1").await;
    let sign = r#"sign="lost_row""#;
    eventually(async || match node.labelled("losses_total", sign).await {
        2.0 => Ok(()),
        other => Err(other),
    })
    .await;
}

/// What a client hears until each of these has come: the data of messages, the type of the rest.
async fn hears_all(client: &mut Client, expected: &[&str]) {
    let mut lacking = expected.to_vec();
    while !lacking.is_empty() {
        let object = client.json().await;
        let heard = match object["type"].as_str() {
            Some("message") => object["data"].clone(),
            _ => object["type"].clone(),
        };
        lacking.retain(|one| heard != *one);
    }
}

/// The row is written again before its turn to be looked at comes, and is whole by then.
#[tokio::test]
async fn who_was_passed_by_is_told_although_another_leaves_and_the_row_is_written() {
    let redis = Redis::start();
    let (node, sender) = (quiet_node_on(&redis, "a"), quiet_node_on(&redis, "b"));
    let mut stays = Client::v1(&node.ws_url("42")).await;
    let leaves = Client::v1(&node.ws_url("42")).await;
    until_fields(&redis, "pn:user:{42}", "2").await;
    assert_eq!(redis.cli(&["DEL", "pn:user:{42}"]), "1");
    let kept = json!({"to": {"user": "42"}, "keep": true, "data": "kept"});
    let (_, answer) = post(&sender.push_url, &kept).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    drop(leaves);
    until_fields(&redis, "pn:user:{42}", "1").await;
    hears_all(&mut stays, &["resync", "kept"]).await;
    assert_eq!(node.metric("registry_rows_restored_total").await, 1.0);
}

/// As above, for a topic: its count changes.
#[tokio::test]
async fn members_who_were_passed_by_are_told_although_another_comes() {
    let redis = Redis::start();
    let (node, sender) = (quiet_node_on(&redis, "a"), quiet_node_on(&redis, "b"));
    let url = |user: &str| format!("{}&topics=news", node.ws_url(user));
    let mut first = Client::v1(&url("42")).await;
    until_fields(&redis, "pn:topic:{news}", "1").await;
    assert_eq!(redis.cli(&["DEL", "pn:topic:{news}"]), "1");
    let push = json!({"to": {"topic": "news"}, "data": "lost"});
    let (_, answer) = post(&sender.push_url, &push).await;
    assert_eq!(answer["status"], "offline", "{answer}");
    let mut second = Client::v1(&url("43")).await;
    until_fields(&redis, "pn:topic:{news}", "1").await;
    hears_all(&mut first, &["resync"]).await;
    hears_all(&mut second, &["resync"]).await;
}

/// A missing index has all rows written again, and those that were gone with it are then whole.
#[tokio::test]
async fn whose_row_went_together_with_the_index_is_told() {
    let redis = Redis::start();
    let node = quiet_node_on(&redis, "a");
    let mut clients = Vec::new();
    // So many that most are looked at later than the index.
    for user in 0..20 {
        clients.push(Client::v1(&node.ws_url(&format!("u{user}"))).await);
    }
    assert_eq!(
        redis.cli(&["DEL", &format!("pn:users:{{{}}}", node.id)]),
        "1"
    );
    for user in 0..20 {
        assert_eq!(redis.cli(&["DEL", &format!("pn:user:{{u{user}}}")]), "1");
    }
    for client in &mut clients {
        hears_all(client, &["resync"]).await;
    }
}

/// As if another node had taken this one for dead: of that, not all clients are told.
#[tokio::test]
async fn whose_row_went_together_with_the_mark_of_its_node_is_told() {
    let redis = Redis::start();
    let (node, sender) = (quiet_node_on(&redis, "a"), quiet_node_on(&redis, "b"));
    let mut clients = Vec::new();
    // So many that most are looked at later than the mark.
    for user in 0..20 {
        clients.push(Client::v1(&node.ws_url(&format!("u{user}"))).await);
    }
    let names: Vec<String> = (0..20).map(|user| format!("pn:user:{{u{user}}}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(redis.cli(&["SREM", "pn:boots", &node.id]), "1");
    assert_eq!(redis.cli(&[&["DEL"], &keys[..]].concat()), "20");
    let kept = json!({"to": {"user": "u7"}, "keep": true, "data": "kept"});
    let (_, answer) = post(&sender.push_url, &kept).await;
    assert_eq!(answer["status"], "stored", "{answer}");
    hears_all(&mut clients[7], &["resync", "kept"]).await;
    clients.remove(7);
    for client in &mut clients {
        hears_all(client, &["resync"]).await;
    }
}

/// Redis refuses one row of many that are written together, and carries out the rest.
#[tokio::test]
async fn a_row_of_another_type_keeps_no_other_row_from_being_written() {
    let redis = Redis::start();
    let node = quiet_node_on(&redis, "a");
    let mut clients = Vec::new();
    for user in 0..20 {
        clients.push(Client::v1(&node.ws_url(&format!("u{user}"))).await);
    }
    let key = |user: usize| format!("pn:user:{{u{user}}}");
    assert_eq!(redis.cli(&["SET", &key(0), "1"]), "OK");
    for user in 1..20 {
        assert_eq!(redis.cli(&["DEL", &key(user)]), "1");
    }
    // All are written again together.
    let index = format!("pn:users:{{{}}}", node.id);
    assert_eq!(redis.cli(&["DEL", &index]), "1");
    for client in &mut clients[1..] {
        hears_all(client, &["resync"]).await;
    }
    eventually(async || match node.metric("registry_waiting").await {
        1.0 => Ok(()),
        rows => Err(format!("{rows} rows wait to be written")),
    })
    .await;
    assert_eq!(redis.cli(&["GET", &key(0)]), "1");
    assert_eq!(redis.cli(&["DEL", &key(0)]), "1");
    until_fields(&redis, &key(0), "1").await;
    hears_all(&mut clients[0], &["resync"]).await;
}

#[tokio::test]
async fn a_row_that_became_a_key_of_another_type_is_found() {
    let redis = Redis::start();
    let node = quiet_node_on(&redis, "a");
    let mut client = Client::v1(&node.ws_url("42")).await;
    assert_eq!(redis.cli(&["SET", "pn:user:{42}", "1"]), "OK");
    eventually(
        async || match node.metric("registry_rows_restored_total").await {
            1.0 => Ok(()),
            other => Err(other),
        },
    )
    .await;
    assert_eq!(redis.cli(&["DEL", "pn:user:{42}"]), "1");
    hears_all(&mut client, &["resync"]).await;
    until_fields(&redis, "pn:user:{42}", "1").await;
}

/// Redis lost everything, and the row of one user cannot be written: the others are back.
#[tokio::test]
async fn a_row_of_another_type_does_not_count_as_not_back_after_a_loss_of_all() {
    let redis = Redis::start();
    let node = quiet_node_on(&redis, "a");
    let mut lacks = Client::v1(&node.ws_url("lacks")).await;
    let mut other = Client::v1(&node.ws_url("other")).await;
    let lose = "redis.call('FLUSHALL') return redis.call('SET', KEYS[1], 1)";
    assert_eq!(redis.cli(&["EVAL", lose, "1", "pn:user:{lacks}"]), "OK");
    for client in [&mut lacks, &mut other] {
        hears_all(client, &["resync"]).await;
    }
    until_fields(&redis, "pn:user:{other}", "1").await;
    eventually(async || match node.metric("registry_waiting").await {
        1.0 => Ok(()),
        rows => Err(format!("{rows} rows wait to be written")),
    })
    .await;
    // What is lost from now on is not told with all the rest.
    assert_eq!(redis.cli(&["DEL", "pn:user:{other}"]), "1");
    hears_all(&mut other, &["resync"]).await;
    assert_eq!(redis.cli(&["DEL", "pn:user:{lacks}"]), "1");
    until_fields(&redis, "pn:user:{lacks}", "1").await;
    hears_all(&mut lacks, &["resync"]).await;
}

/// What tells other nodes which rows to remove when this one dies.
#[tokio::test]
async fn a_deleted_index_of_rows_is_put_back() {
    let redis = Redis::start();
    let node = quiet_node_on(&redis, "a");
    let _client = Client::v1(&format!("{}&topics=news", node.ws_url("42"))).await;
    let indexes = [("users", "42"), ("topics", "news")];
    let key = |kind: &str| format!("pn:{kind}:{{{}}}", node.id);
    for (kind, _) in indexes {
        assert_eq!(redis.cli(&["DEL", &key(kind)]), "1");
    }
    for (kind, name) in indexes {
        eventually(async || match redis.cli(&["SMEMBERS", &key(kind)]) {
            names if names == name => Ok(()),
            names => Err(names),
        })
        .await;
    }
}

/// So many that rows are asked for together, and most of them not read.
#[tokio::test]
async fn a_few_lost_rows_among_many_are_put_back() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let _crowd = Crowd::of(&node, "u", 2_600).await;
    let keys = [0, 1_299, 2_599].map(|user| format!("pn:user:{{u{user}}}"));
    let restored = restored_by(&[&node], async || {
        for key in &keys {
            assert_eq!(redis.cli(&["DEL", key]), "1");
        }
        for key in &keys {
            until_fields(&redis, key, "1").await;
        }
    })
    .await;
    assert_eq!(restored, [3.0]);
    assert_eq!(node.metric("registry_errors_total").await, 0.0);
}

#[tokio::test]
async fn an_eviction_policy_is_named_and_evicted_rows_come_back() {
    let redis = Redis::start_with(&["--maxmemory-policy", "volatile-lru"]);
    let node = node_on(&redis, "a");
    let named = "Redis may evict keys: maxmemory-policy is volatile-lru, not noeviction";
    eventually(async || match readiness(&node).await {
        (200, body) if body == json!({"status": "ready", "reason": named}) => Ok(()),
        other => Err(other),
    })
    .await;
    node.until_logged(named).await;
    assert_eq!(node.metric("redis_may_evict").await, 1.0);

    // Of the rows, leases and indexes some must go.
    let crowd = Crowd::of(&node, "u", 100).await;
    let used = redis.cli(&["INFO", "memory"]);
    let used = used
        .lines()
        .find_map(|line| line.trim().strip_prefix("used_memory:"));
    let used: u64 = used.expect("a field").parse().expect("a number");
    let below = (used - 40_000).to_string();
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", &below]), "OK");
    let evicted = async || node.metric("redis_evictions_total").await;
    eventually(async || match evicted().await {
        count if count > 0.0 => Ok(()),
        count => Err(count),
    })
    .await;
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    assert_eq!(
        redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]),
        "OK"
    );
    for member in &crowd.members {
        until_fields(&redis, &format!("pn:user:{{{}}}", member.user), "1").await;
    }
    eventually(async || match readiness(&node).await {
        (200, body) if body == json!({"status": "ready"}) => Ok(()),
        other => Err(other),
    })
    .await;
}

/// As managed servers do.
#[tokio::test]
async fn the_policy_is_known_without_config_and_by_config_without_info() {
    for denied in ["-config", "-info"] {
        let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-random"]);
        redis.cli(&[
            "ACL", "SETUSER", "node", "on", ">secret", "~*", "&*", "+@all", denied,
        ]);
        let url = redis.url().replace("://", "://node:secret@");
        let node = start_node(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")]);
        node.wait_ready();
        let named = async || readiness(&node).await.1["reason"].to_string();
        eventually(async || match named().await {
            reason if reason.contains("allkeys-random") => Ok(()),
            reason => Err(reason),
        })
        .await;
    }
}
