//! What `pushnode check` says of a Redis: that it answers, its version, the rights of the user,
//! whether it evicts keys. And that it changes nothing.

use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use crate::common::ended::run;
use crate::common::{Redis, free_port, node_command};
use crate::redis_groups::{RedisCluster, Trio};

/// All that needs rights of its own.
const EVERYTHING: [(&str, &str); 3] = [
    ("PUSH_AUTH", "session"),
    ("PUSH_KEEP_REPLICAS", "1"),
    ("PUSH_UPSTREAM_ROUTES", "*=default"),
];

fn check(url: &str, settings: &[(&str, &str)]) -> (Option<i32>, Value) {
    let mut all = vec![("PUSH_REDIS_URL", url)];
    all.extend(settings);
    let mut command = node_command(&all);
    command.args(["check", "--json"]);
    let ended = run(command);
    let said = serde_json::from_str(&ended.stdout);
    (ended.code, said.unwrap_or_else(|_| panic!("{ended:#?}")))
}

/// The findings about this, one for each server.
fn about<'a>(said: &'a Value, what: &str) -> Vec<&'a Value> {
    let checks = said["checks"].as_array().expect("checks");
    checks.iter().filter(|one| one["check"] == what).collect()
}

fn is_fine(url: &str, settings: &[(&str, &str)], servers: usize) -> Value {
    let (code, said) = check(url, settings);
    assert_eq!((code, &said["ok"]), (Some(0), &json!(true)), "{said:#}");
    for what in ["redis", "rights", "eviction"] {
        let found = about(&said, what);
        assert_eq!(found.len(), servers, "{what}: {said:#}");
        assert!(found.iter().all(|one| one["status"] == "ok"), "{said:#}");
    }
    said
}

/// The one finding that is a fault.
fn fault(url: &str, what: &str) -> Value {
    let (code, said) = check(url, &[]);
    assert_eq!((code, &said["ok"]), (Some(69), &json!(false)), "{said:#}");
    assert!(!said.to_string().contains("hunter2"), "{said:#}");
    let found = about(&said, what);
    assert_eq!(found.len(), 1, "{said:#}");
    assert_eq!(found[0]["status"], "fault", "{said:#}");
    found[0].clone()
}

#[test]
fn a_good_redis_passes_and_nothing_in_it_changes() {
    let redis = Redis::start();
    redis.cli(&["SET", "other", "1"]);
    let said = is_fine(&redis.url(), &EVERYTHING, 1);
    let version = redis.cli(&["INFO", "server"]);
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let text = about(&said, "redis")[0]["text"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert_eq!(
        text,
        format!("Redis {}", version.expect("a version").trim())
    );
    assert_eq!(redis.cli(&["KEYS", "*"]), "other");
    // Commands of a queue that was given up are not counted, because they were not carried out.
    let stats = redis.cli(&["INFO", "commandstats"]);
    for command in [
        "hset",
        "xadd",
        "publish",
        "subscribe",
        "sadd",
        "expire",
        "del",
    ] {
        let counted = format!("cmdstat_{command}:calls");
        assert!(!stats.contains(&counted), "{stats}");
    }
}

#[test]
fn eviction_is_a_warning_and_no_fault() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let (code, said) = check(&redis.url(), &[]);
    assert_eq!((code, &said["ok"]), (Some(0), &json!(true)), "{said:#}");
    let found = about(&said, "eviction")[0];
    assert_eq!(found["status"], "warning", "{said:#}");
    assert!(
        found["text"].as_str().unwrap().contains("allkeys-lru"),
        "{said:#}"
    );
}

#[test]
fn a_redis_that_cannot_serve_is_a_fault_with_its_reason() {
    let gone = format!("redis://:hunter2@127.0.0.1:{}", free_port());
    let found = fault(&gone, "redis");
    assert!(
        found["text"]
            .as_str()
            .unwrap()
            .contains("refuses connections"),
        "{found}"
    );

    let redis = Redis::start_with(&["--requirepass", "secret"]);
    for login in ["", ":hunter2@", "user:hunter2@"] {
        let url = format!("redis://{login}127.0.0.1:{}", redis.port());
        let found = fault(&url, "redis");
        assert!(
            found["text"].as_str().unwrap().contains("password"),
            "{login}: {found}"
        );
    }

    let port = redis.port().to_string();
    // A replica writes what it gets from its master into a file.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().to_str().expect("UTF-8");
    let replica = ["--replicaof", "127.0.0.1", &port, "--masterauth", "secret"];
    let replica = Redis::start_with(&[&replica[..], &["--dir", dir]].concat());
    let found = fault(&replica.url(), "redis");
    assert!(
        found["text"].as_str().unwrap().contains("replica"),
        "{found}"
    );

    for url in [
        format!("redis-sentinel://127.0.0.1:{}?master=mymaster", free_port()),
        format!("redis-cluster://:hunter2@127.0.0.1:{}", free_port()),
    ] {
        let found = fault(&url, "redis");
        let text = found["text"].as_str().unwrap();
        assert!(
            text.contains("no Sentinel") || text.contains("no server"),
            "{found}"
        );
    }
}

/// The rules of the node as they are shipped: words, and selectors as words of their own.
fn shipped_rules() -> Vec<String> {
    let rules = include_str!("../../deploy/redis.acl");
    let line = rules
        .lines()
        .find_map(|line| line.strip_prefix("user node "));
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    for word in line.expect("a rule").split(' ') {
        match words.last_mut().filter(|_| is_open) {
            Some(selector) => *selector += &format!(" {word}"),
            None => words.push(word.to_owned()),
        }
        is_open = (is_open || word.starts_with('(')) && !word.ends_with(')');
    }
    words
}

/// A user with these rules, and its URL.
fn with_rules(redis: &Redis, user: &str, rules: &[String]) -> String {
    let mut words = vec!["ACL", "SETUSER", user];
    words.extend(rules.iter().map(String::as_str));
    // After `resetpass`, with which the rules begin.
    words.push(">secret");
    assert_eq!(redis.cli(&words), "OK", "{words:?}");
    format!("redis://{user}:secret@127.0.0.1:{}", redis.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_rules_pass_and_each_right_that_lacks_is_named() {
    let redis = Redis::start();
    let shipped = shipped_rules();
    is_fine(&with_rules(&redis, "whole", &shipped), &EVERYTHING, 1);
    assert_eq!(redis.cli(&["ACL", "LOG"]), "", "nothing more is tried");

    // Of a connection, of a transaction's end, or of a cluster only.
    let elsewhere = ["hello", "auth", "quit", "select", "asking", "cluster|nodes"];
    let of_clusters = ["spublish", "ssubscribe", "sunsubscribe"];
    let mut cut = Vec::new();
    for (place, rule) in shipped.iter().enumerate() {
        for right in rule
            .split(['(', ')', ' '])
            .filter(|word| word.starts_with('+'))
        {
            let name = &right[1..];
            if elsewhere.contains(&name) || of_clusters.contains(&name) {
                continue;
            }
            let mut rules = shipped.clone();
            let words = rules[place].split_inclusive([' ', ')']);
            let kept = words.filter(|word| word.trim_matches(['(', ')', ' ']) != right);
            rules[place] = kept.collect::<String>().trim_end().to_owned();
            if rules[place].starts_with('(') && !rules[place].ends_with(')') {
                rules[place].push(')');
            }
            if rules[place].is_empty() {
                rules.remove(place);
            }
            cut.push((name.replace('|', " ").to_uppercase(), rules));
        }
    }
    assert!(cut.len() > 60, "{}", cut.len());
    let urls: Vec<_> = (cut.iter().enumerate())
        .map(|(n, (command, rules))| (command.clone(), with_rules(&redis, &format!("u{n}"), rules)))
        .collect();
    let looks = urls.into_iter().map(|(command, url)| {
        tokio::task::spawn_blocking(move || (command, check(&url, &EVERYTHING)))
    });
    let mut looks = stream::iter(looks).buffer_unordered(4);
    while let Some(looked) = looks.next().await {
        let (command, (code, said)) = looked.expect("looked");
        let found = about(&said, "rights");
        let missing = found[0]["missing"].as_array().cloned().unwrap_or_default();
        let is_named = |one: &Value| one.as_str().unwrap().starts_with(&command);
        assert!(
            missing.iter().any(is_named),
            "{command} is not named: {said:#}"
        );
        assert!(
            missing.iter().all(is_named),
            "more than {command}: {said:#}"
        );
        assert_eq!(code, Some(69), "{said:#}");
    }
}

#[test]
fn all_servers_of_a_cluster_and_the_master_of_sentinels_are_looked_at() {
    let cluster = RedisCluster::start(0);
    let rules = shipped_rules();
    for server in &cluster.servers {
        with_rules(server, "node", &rules);
    }
    let url = cluster.url().replace("://", "://node:secret@");
    is_fine(&url, &EVERYTHING, cluster.servers.len());
    // One server of a cluster that lacks a right is found.
    let last = cluster.servers.last().expect("a server");
    assert_eq!(last.cli(&["ACL", "SETUSER", "node", "-info"]), "OK");
    let lacking = ["ACL", "SETUSER", "node", "clearselectors"];
    assert_eq!(last.cli(&lacking), "OK");
    let (code, said) = check(&url, &EVERYTHING);
    assert_eq!(code, Some(69), "{said:#}");
    let faults = about(&said, "rights");
    let faults: Vec<_> = faults
        .iter()
        .filter(|one| one["status"] == "fault")
        .collect();
    assert_eq!(faults.len(), 1, "{said:#}");
    let server = faults[0]["server"].as_str().expect("a server");
    assert!(server.ends_with(&format!(":{}", last.port())), "{said:#}");
    drop(cluster);

    let trio = Trio::start();
    is_fine(&trio.url(), &[], 1);
}
