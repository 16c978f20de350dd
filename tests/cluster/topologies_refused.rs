//! A Redis that is there and does not let us: read-only, another password, rules that were taken
//! back. And the rules that we ship: enough for a node and for a publisher, and no more.

use std::time::Instant;

use serde_json::{Value, json};

use crate::common::logs::{a_client_goes_on_where_it_was, a_kept_push_to_many_topics};
use crate::common::passes;
use crate::common::topics::a_push_reaches_who_is_subscribed;
use crate::common::{Client, Node, Redis, eventually, http, post, start_node};
use crate::flow::until_written;
use crate::raw::Resp;
use crate::redis_groups::{RedisCluster, Trio};

/// Two nodes that are ready.
async fn ready_at(url: String) -> (Node, Node) {
    ready_with(url, ["a", "b"], []).await
}

/// As [`ready_at`], with further settings.
async fn ready_with<const N: usize>(
    url: String,
    names: [&'static str; 2],
    settings: [(&'static str, &'static str); N],
) -> (Node, Node) {
    let start = move || {
        let start = |name| {
            let mut all = vec![("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", name)];
            all.push(("PUSH_LOG", "info"));
            all.extend(settings);
            start_node(&all)
        };
        let nodes = (start(names[0]), start(names[1]));
        nodes.0.wait_ready();
        nodes.1.wait_ready();
        nodes
    };
    tokio::task::spawn_blocking(start).await.expect("two nodes")
}

/// Whether the node is ready, and if not, why.
async fn readiness(node: &Node) -> Result<(), String> {
    let answer = http().get(node.admin_url("/readyz")).send().await;
    let answer = answer.expect("an answer");
    if answer.status() == 200 {
        return Ok(());
    }
    let body: Value = answer.json().await.expect("JSON");
    Err(body["reason"].as_str().expect("a reason").to_owned())
}

async fn until_not_ready(node: &Node, word: &str) -> String {
    eventually(async || match readiness(node).await {
        Err(reason) if reason.contains(word) => Ok(reason),
        other => Err(other),
    })
    .await
}

async fn until_ready(node: &Node) {
    eventually(async || readiness(node).await).await;
}

/// A fault that answers at once, and what undoes it. Sockets stay, it is said once in the log.
async fn refuses_for_a_while(
    redis: &Redis,
    url: String,
    (word, said): (&str, &str),
    fault: impl FnOnce(),
    repair: impl FnOnce(),
) {
    let (a, b) = ready_at(url).await;
    let mut client = Client::v1(&a.ws_url("u")).await;
    until_written(&b, "u", &json!("before")).await;
    assert_eq!(client.json().await["data"], "before");

    fault();
    let start = Instant::now();
    let reason = until_not_ready(&a, word).await;
    println!("{said}: not ready after {:.1?}: {reason}", start.elapsed());
    // Those on the same node are reached all the same.
    let push = json!({"to": {"user": "u"}, "data": "meanwhile", "timeout_ms": 500});
    assert_eq!(post(&a.push_url, &push).await.0, 200);
    let next = client.json().await;
    assert!(
        next["data"] == "meanwhile" || next["type"] == "resync",
        "{next}"
    );
    // A few attempts later it has still been said once.
    let refused = |redis: &Redis| -> u64 {
        let stats = redis.cli(&["INFO", "errorstats"]);
        let counts = stats
            .lines()
            .filter_map(|line| line.rsplit_once('=')?.1.trim().parse::<u64>().ok());
        counts.sum()
    };
    let before = refused(redis);
    eventually(async || match refused(redis) - before {
        count if count > 10 => Ok(()),
        count => Err(count),
    })
    .await;
    let log = a.log();
    assert_eq!(log.matches(said).count(), 1, "not said once:\n{log}");

    repair();
    let start = Instant::now();
    until_ready(&a).await;
    until_ready(&b).await;
    until_written(&b, "u", &json!("after")).await;
    println!("{said}: served again after {:.1?}", start.elapsed());
    loop {
        let next = client.json().await;
        if next["data"] == "after" {
            break;
        }
        assert!(
            next["data"] == "meanwhile" || next["type"] == "resync" || next["type"] == "degraded",
            "{next}"
        );
    }
    assert_eq!(a.metric("closes_total").await, 0.0, "connections closed");
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_no_place_for_a_node() {
    let (redis, other) = (Redis::start(), Redis::start());
    let port = other.port().to_string();
    let expected = ("read-only", "Redis is read-only");
    let fault = || assert_eq!(redis.cli(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    let repair = || assert_eq!(redis.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    refuses_for_a_while(&redis, redis.url(), expected, fault, repair).await;
}

#[tokio::test]
async fn a_password_that_is_set_under_us_is_waited_out() {
    let redis = Redis::start();
    // A second way in for the test, since the first is about to be closed.
    assert_eq!(
        redis.cli(&[
            "ACL", "SETUSER", "node", "on", ">first", "~*", "&*", "+@all"
        ]),
        "OK"
    );
    let url = format!("redis://node:first@127.0.0.1:{}", redis.port());
    let fault = || {
        redis.cli(&["ACL", "SETUSER", "node", "resetpass", ">second"]);
        redis.cli(&["CLIENT", "KILL", "USER", "node"]);
    };
    let repair = || {
        redis.cli(&["ACL", "SETUSER", "node", ">first"]);
    };
    let expected = ("", "no connection to Redis: Redis refuses the password");
    refuses_for_a_while(&redis, url, expected, fault, repair).await;
}

/// A Redis, and the URL of a node that has a user of its own there.
fn redis_with_a_user() -> (Redis, String) {
    let redis = Redis::start();
    assert_eq!(
        redis.cli(&[
            "ACL", "SETUSER", "node", "on", ">first", "~*", "&*", "+@all"
        ]),
        "OK"
    );
    let url = format!("redis://node:first@127.0.0.1:{}", redis.port());
    (redis, url)
}

#[tokio::test]
async fn a_user_that_is_switched_off_is_waited_out() {
    let (redis, url) = redis_with_a_user();
    let fault = || {
        redis.cli(&["ACL", "SETUSER", "node", "off"]);
        redis.cli(&["CLIENT", "KILL", "USER", "node"]);
    };
    let repair = || {
        redis.cli(&["ACL", "SETUSER", "node", "on"]);
    };
    let expected = ("", "no connection to Redis: Redis refuses the password");
    refuses_for_a_while(&redis, url, expected, fault, repair).await;
}

#[tokio::test]
async fn rights_that_are_taken_back_while_connected_are_waited_out() {
    let (redis, url) = redis_with_a_user();
    let fault = || {
        redis.cli(&["ACL", "SETUSER", "node", "-@all", "+hello", "+auth"]);
    };
    let repair = || {
        redis.cli(&["ACL", "SETUSER", "node", "+@all"]);
    };
    let expected = ("permission", "Redis denies permission");
    refuses_for_a_while(&redis, url, expected, fault, repair).await;
}

/// Redis with the rules as they are shipped, passwords for both users, and an administrator.
fn redis_with_rules() -> (Redis, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("redis.acl");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis.acl");
    let rules = std::fs::read_to_string(shipped).expect("the rules");
    std::fs::write(
        &file,
        format!("{rules}user default on nopass ~* &* +@all\n"),
    )
    .expect("a file");
    let redis = Redis::start_with(&["--aclfile", file.to_str().expect("UTF-8")]);
    for user in ["node", "publisher"] {
        let answer = redis.cli(&["AUTH", user, "guess"]);
        assert!(
            answer.contains("WRONGPASS"),
            "as shipped, {user} gets in: {answer}"
        );
        assert_eq!(redis.cli(&["ACL", "SETUSER", user, ">secret"]), "OK");
    }
    (redis, folder)
}

#[tokio::test]
async fn the_shipped_rules_let_nodes_and_publishers_work_and_nobody_do_more() {
    let (redis, _folder) = redis_with_rules();
    assert_eq!(redis.cli(&["ACL", "LOG", "RESET"]), "OK");
    let url = format!("redis://node:secret@127.0.0.1:{}", redis.port());
    let (a, b) = ready_at(url).await;
    let mut client = Client::v1(&a.ws_url("42")).await;
    let mut passing = Client::plain(&a.ws_url("43")).await;
    let push = json!({"to": {"users": ["42", "43"]}, "data": 1, "wait": "written"});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("written")),
        "{answer}"
    );
    let push = json!({"to": {"user": "42"}, "data": 2, "id": "kept-1", "keep": true});
    let (status, answer) = post(&b.push_url, &push).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        post(&b.push_url, &json!({"to": {"all": true}, "data": 3}))
            .await
            .0,
        200
    );
    for expected in [1, 2, 3] {
        assert_eq!(client.json().await["data"], expected);
    }
    assert_eq!(redis.cli(&["XLEN", "pn:inbox:{42}"]), "1");
    a_push_reaches_who_is_subscribed(&b, &a, &b).await;
    a_kept_push_to_many_topics(&b, &a).await;
    let rows: Value = http()
        .get(b.url("/v1/users/42"))
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(rows["connections"][0]["node"], a.id, "{rows}");
    // As of the last beat, which may have been before the other node's first.
    eventually(async || {
        let nodes = http().get(b.url("/v1/nodes")).send().await;
        let nodes: Value = nodes.expect("an answer").json().await.expect("JSON");
        match nodes["nodes"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            _ => Err(nodes),
        }
    })
    .await;
    passing.socket.close(None).await.expect("a goodbye");
    eventually(async || match redis.cli(&["EXISTS", "pn:user:{43}"]) {
        gone if gone == "0" => Ok(()),
        there => Err(there),
    })
    .await;

    let mut publisher = Resp::connect(redis.port()).await;
    assert_eq!(
        publisher
            .call(&["AUTH", "publisher", "secret"])
            .await
            .text(),
        "OK"
    );
    let fields = publisher.call(&["HKEYS", "pn:user:{42}"]).await.texts();
    assert_eq!(fields, [client.connection()]);
    let channel = format!("pn:n:{{{}}}", a.id);
    let line = json!({"to": {"user": "42"}, "data": "raw"}).to_string();
    for channel in [channel.as_str(), "pn:g"] {
        assert!(publisher.call(&["PUBLISH", channel, &line]).await.number() > 0);
        assert_eq!(client.json().await["data"], "raw");
    }
    // A node leaves without being denied anything either.
    b.signal("TERM");
    let mut b = b;
    assert!(b.wait_exit().success());
    let log = redis.cli(&["ACL", "LOG"]);
    assert_eq!(log, "", "the rules deny what is needed:\n{log}");

    // What comes seldom: sweeping, trimming, changing servers.
    for command in [
        "SSCAN pn:users:{a.b} 0 COUNT 256",
        "DEL pn:users:{a.b}",
        "EXISTS pn:sweep:{a.b}",
        "SET pn:sweep:{a.b} a.c PX 30000 NX",
        "PEXPIRE pn:sweep:{a.b} 30000",
        "DEL pn:sweep:{a.b}",
        "SMEMBERS pn:boots",
        "WATCH pn:user:{42}",
        "WATCH pn:topic:{news}",
        "SREM pn:boots a.b",
        "XADD pn:upstream:chat MAXLEN ~ 10000 * route x",
        "XINFO GROUPS pn:upstream:chat",
        "XLEN pn:upstream:chat",
        "XRANGE pn:upstream:chat - + COUNT 500",
        "XADD pn:events MAXLEN ~ 10000 * event x",
        "XREVRANGE pn:inbox:{42} + - COUNT 1",
        "XTRIM pn:inbox:{42} MINID ~ 1",
        "MEMORY USAGE pn:inbox:{42}",
        "INCR pn:pos:{42}",
        "SET pn:kept:{42}:id x EX 60",
        "SSUBSCRIBE pn:n:{a.b}",
        "SUNSUBSCRIBE pn:n:{a.b}",
        "SPUBLISH pn:n:{a.b} x",
        "CLUSTER NODES",
        "ASKING",
        "ROLE",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = redis.cli(&[&["ACL", "DRYRUN", "node"], &words[..]].concat());
        assert_eq!(answer, "OK", "a node may not {command}");
    }

    let mut node = Resp::connect(redis.port()).await;
    assert_eq!(node.call(&["AUTH", "node", "secret"]).await.text(), "OK");
    let for_both: &[&[&str]] = &[
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["CONFIG", "GET", "*"],
        &["EVAL", "return 1", "0"],
        &["FLUSHALL"],
        &["PSUBSCRIBE", "*"],
        &["SUBSCRIBE", "foreign"],
        &["PUBLISH", "foreign", "x"],
        &["GET", "foreign"],
        &["HGETALL", "foreign"],
        &["SET", "foreign", "x"],
        &["GET", "pn:user:{42}"],
        &["ACL", "LIST"],
        &["REPLICAOF", "NO", "ONE"],
    ];
    let for_publishers: &[&[&str]] = &[
        &["SUBSCRIBE", "pn:g"],
        &["SUBSCRIBE", &channel],
        &["SSUBSCRIBE", &channel],
        &["HSET", "pn:user:{42}", "a.b/1", "{}"],
        &["DEL", "pn:node:a"],
        &["SET", "pn:node:a", "x"],
        &["XRANGE", "pn:inbox:{42}", "-", "+"],
        &["MULTI"],
    ];
    let mut denied = 0;
    for (who, connection, commands) in [
        (
            "publisher",
            &mut publisher,
            [for_both, for_publishers].concat(),
        ),
        ("node", &mut node, for_both.to_vec()),
    ] {
        for command in commands {
            let answer = format!("{:?}", connection.call(command).await);
            assert!(answer.contains("NOPERM"), "{who} may {command:?}: {answer}");
            denied += 1;
        }
    }
    assert!(
        !redis.cli(&["ACL", "LOG", "1"]).is_empty(),
        "no entry in the ACL LOG"
    );
    println!("{denied} commands denied");
}

/// The rules of the node's user as they are shipped, as arguments of `ACL SETUSER`.
fn give_rules(redis: &Redis) {
    let rules = include_str!("../../deploy/redis.acl");
    let line = rules
        .lines()
        .find_map(|line| line.strip_prefix("user node "));
    let mut words = vec!["ACL", "SETUSER", "node"];
    words.extend(line.expect("a rule").split(' '));
    words.push(">secret");
    assert_eq!(redis.cli(&words), "OK");
    assert_eq!(redis.cli(&["ACL", "LOG", "RESET"]), "OK");
}

async fn works_without_being_denied(servers: &[Redis], url: &str) {
    servers.iter().for_each(give_rules);
    let (a, b) = ready_at(url.replace("://", "://node:secret@")).await;
    let mut client = Client::plain(&a.ws_url("42")).await;
    until_written(&b, "42", &json!("there")).await;
    assert_eq!(client.json().await, "there");
    a_push_reaches_who_is_subscribed(&b, &a, &b).await;
    a_client_goes_on_where_it_was(&b, &a, &b).await;
    a_kept_push_to_many_topics(&b, &a).await;
    drop((a, b));
    let limit = [("PUSH_MAX_CONNECTIONS_PER_USER", "2")];
    let (a, b) = ready_with(url.replace("://", "://node:secret@"), ["c", "d"], limit).await;
    passes::newest_wins(&a, &b).await;
    passes::bans(&a, &b).await;
    drop((a, b));
    let sessions = [("PUSH_AUTH", "session")];
    let (a, b) = ready_with(url.replace("://", "://node:secret@"), ["e", "f"], sessions).await;
    passes::sessions(&a, &b).await;
    for server in servers {
        let log = server.cli(&["ACL", "LOG"]);
        assert_eq!(log, "", "the rules deny what is needed:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_rules_are_enough_in_a_cluster_and_behind_sentinels() {
    let cluster = RedisCluster::start(0);
    works_without_being_denied(&cluster.servers, &cluster.url()).await;
    drop(cluster);
    let trio = Trio::start();
    works_without_being_denied(&trio.servers, &trio.url()).await;
}
