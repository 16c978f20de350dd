//! Sessions, bans, kicks and limits across nodes and Redis.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::grants::{
    SETTINGS, a_new_token_takes_topics_away, a_session_says_what_may_be_subscribed,
};
use crate::common::hooks::{Backend, Deed, SECRET};
use crate::common::passes::{self, ask, refused, report, url};
use crate::common::{Client, Redis, eventually, node, node_with};
use crate::redis_groups::{Frozen, RedisCluster};

/// SHA-256 as any application computes it.
pub(crate) fn digest(token: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(token);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_session_is_honoured_by_every_node_until_it_is_ended() {
    let redis = Redis::start();
    let settings = [
        ("PUSH_AUTH", "jwt,session"),
        ("PUSH_JWT_SECRETS", &"x".repeat(32)),
    ];
    let (a, b) = (
        node_with(&redis, "a", &settings),
        node_with(&redis, "b", &settings),
    );
    passes::sessions(&a, &b).await;
    for (text, user) in [("42", "42"), (r#"{"sub":"43","topics":["x.*"]}"#, "43")] {
        let token = format!("written-by-somebody-{user}");
        let key = format!("pn:session:{}", digest(&token));
        redis.cli(&["SET", &key, text, "EX", "100"]);
        for node in [&a, &b] {
            let client = Client::v1(&url(node, &token)).await;
            assert_eq!(client.ready.expect("ready")["user"], user);
        }
    }
    for text in ["", "a\u{1}b", "{}", r#"{"sub":"a","exp":1}"#, "[]"] {
        let key = format!("pn:session:{}", digest("bad"));
        redis.cli(&["SET", &key, text]);
        let (status, _) = refused(&url(&b, "bad")).await;
        assert_eq!(status, 401, "{text}");
    }
    // An application that has nothing but Redis ends a session.
    let token = "written-by-somebody-42";
    let mut client = Client::v1(&url(&b, token)).await;
    let session = digest(token);
    redis.cli(&["DEL", &format!("pn:session:{session}")]);
    redis.cli(&[
        "PUBLISH",
        "pn:g",
        &json!({"cmd": "revoke", "session": session}).to_string(),
    ]);
    assert_eq!(client.close_frame().await.0, 4004);
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_key() {
    let redis = Redis::start();
    let a = node_with(&redis, "a", &[("PUSH_AUTH", "session")]);
    passes::session_ends(&a, async |session: &Value| {
        let key = format!(
            "pn:session:{}",
            session["session"].as_str().expect("a name")
        );
        assert_eq!(redis.cli(&["EXPIRE", &key, "300"]), "1");
    })
    .await;
}

#[tokio::test]
async fn without_redis_sessions_are_unknown_and_connections_stay() {
    let mut redis = Redis::start();
    let a = node_with(&redis, "a", &[("PUSH_AUTH", "session")]);
    let wish = json!({"user": "42", "ttl_seconds": 10});
    let opened_at = Instant::now();
    let (_, opened) = ask("POST", &a.url("/v1/sessions"), &wish).await;
    let token = opened["token"].as_str().expect("a token");
    let mut client = Client::v1(&url(&a, token)).await;
    redis.kill();
    assert_eq!(
        refused(&url(&a, token)).await,
        (503, "unavailable".to_owned())
    );
    let (status, _) = ask("POST", &a.url("/v1/sessions"), &wish).await;
    assert_eq!(status, 503);
    // Beyond the session's end, which nobody can look at.
    while opened_at.elapsed() < Duration::from_secs(12) {
        client.send(r#"{"type":"ping"}"#).await;
        while client.json().await["type"] != "pong" {}
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Back without the session: only now is it known to be gone.
    redis.restart();
    assert_eq!(client.close_frame().await.0, 4004);
}

#[tokio::test]
async fn a_ban_closes_on_every_node_and_holds_at_every_door() {
    let redis = Redis::start();
    let (a, b) = (node_with(&redis, "a", &[]), node_with(&redis, "b", &[]));
    passes::bans(&a, &b).await;
    redis.cli(&["SET", "pn:ban:{44}", "by hand", "EX", "100"]);
    assert_eq!(refused(&b.ws_url("44")).await, (403, "banned".to_owned()));
    let (_, shown) = ask("GET", &a.url("/v1/users/44/ban"), &json!(null)).await;
    assert_eq!(shown["reason"], "by hand");
}

#[tokio::test]
async fn kicks_and_bans_reach_connections_without_a_row() {
    let redis = Redis::start();
    let (a, b) = (node_with(&redis, "a", &[]), node_with(&redis, "b", &[]));
    for (method, path, code) in [
        ("DELETE", "/v1/users/42", 4001),
        ("PUT", "/v1/users/42/ban", 4006),
    ] {
        let mut there = Client::v1(&b.ws_url("42")).await;
        let mut here = Client::v1(&a.ws_url("42")).await;
        // As if it had not been written yet.
        redis.cli(&["DEL", "pn:user:{42}"]);
        let began = Instant::now();
        let (status, answer) = ask(method, &a.url(path), &json!({"seconds": 100})).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(here.close_frame().await.0, code);
        assert_eq!(there.close_frame().await.0, code);
        report(path, began);
    }
}

#[tokio::test]
async fn many_who_are_banned_in_their_handshake_are_kept_out() {
    let redis = Redis::start();
    let (a, b) = (node_with(&redis, "a", &[]), node_with(&redis, "b", &[]));
    for round in 0..20 {
        let user = format!("user-{round}");
        let ban_url = b.url(&format!("/v1/users/{user}/ban"));
        let connects = (0..8).map(async |n| {
            let node = if n % 2 == 0 { &a } else { &b };
            let asked = tokio_tungstenite::connect_async(node.ws_url(&user)).await;
            asked.ok().map(|(socket, _)| socket)
        });
        let ban = json!({"seconds": 100});
        let (sockets, banned) = futures::join!(
            futures::future::join_all(connects),
            ask("PUT", &ban_url, &ban)
        );
        assert_eq!(banned.0, 200);
        // Whoever slipped in before the ban is closed by it.
        passes::eventually_online(&a, &user, 0).await;
        for socket in sockets.into_iter().flatten() {
            let mut client = Client {
                socket,
                ready: None,
            };
            assert_eq!(client.close_frame().await.0, 4006);
        }
    }
}

#[tokio::test]
async fn a_users_connections_are_limited_across_nodes() {
    let redis = Redis::start();
    let limit = [("PUSH_MAX_CONNECTIONS_PER_USER", "2")];
    let (a, b) = (
        node_with(&redis, "a", &limit),
        node_with(&redis, "b", &limit),
    );
    passes::newest_wins(&a, &b).await;
    passes::at_the_same_moment(&a, &b, 50, 2, true).await;
    // The order outlives the counter.
    let first = Client::v1(&a.ws_url("c")).await;
    let second = Client::v1(&b.ws_url("c")).await;
    redis.cli(&["DEL", "pn:seat:{c}"]);
    let third = Client::v1(&a.ws_url("c")).await;
    let mut expected = vec![second.connection(), third.connection()];
    expected.sort();
    let mut online = passes::eventually_online(&b, "c", 2).await;
    online.sort();
    assert_eq!(online, expected, "{}", first.connection());
}

#[tokio::test]
async fn the_oldest_connections_of_a_user_stay_across_nodes() {
    let redis = Redis::start();
    let limit = [
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ];
    let (a, b) = (
        node_with(&redis, "a", &limit),
        node_with(&redis, "b", &limit),
    );
    passes::oldest_wins(&a, &b).await;
    passes::at_the_same_moment(&a, &b, 50, 1, false).await;
    // A dead node's connections take no place.
    let _gone = Client::v1(&a.ws_url("d")).await;
    a.kill();
    eventually(async || {
        let answer = tokio_tungstenite::connect_async(b.ws_url("d")).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn tokens_and_sessions_say_on_every_node_what_may_be_subscribed() {
    let redis = Redis::start();
    let (a, b) = (
        node_with(&redis, "a", &SETTINGS),
        node_with(&redis, "b", &SETTINGS),
    );
    a_session_says_what_may_be_subscribed(&a, &b).await;
    a_new_token_takes_topics_away(&a, &b).await;
}

#[tokio::test]
async fn a_node_that_missed_the_word_looks_again_when_it_hears() {
    let redis = Redis::start();
    let settings = [("PUSH_AUTH", "session")];
    let a = node_with(&redis, "a", &settings);
    let open = async |user: &str| {
        let wish = json!({"user": user, "ttl_seconds": 300});
        let (_, opened) = ask("POST", &a.url("/v1/sessions"), &wish).await;
        let token = opened["token"].as_str().expect("a token").to_owned();
        (Client::v1(&url(&a, &token)).await, digest(&token))
    };
    let ((mut stays, _), (mut ended, session)) = (open("42").await, open("42").await);
    let (mut banned, _) = open("43").await;
    // As if the words had been said while the node was deaf.
    redis.cli(&["SET", "pn:ban:{43}", "", "EX", "100"]);
    redis.cli(&["DEL", &format!("pn:session:{session}")]);
    for client in [&mut stays, &mut ended, &mut banned] {
        client.send(r#"{"type":"ping"}"#).await;
        client.hears_next("pong").await;
    }
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    for (client, code) in [(&mut ended, 4004), (&mut banned, 4006)] {
        while client.json().await["type"] != "bye" {}
        assert_eq!(client.close_frame().await.0, code);
    }
    stays.send(r#"{"type":"ping"}"#).await;
    while stays.json().await["type"] != "pong" {}
}

#[tokio::test]
async fn a_session_that_cannot_be_read_holds_up_no_other() {
    let redis = Redis::start();
    let a = node_with(&redis, "a", &[("PUSH_AUTH", "session")]);
    let open = async |user: &str| {
        let wish = json!({"user": user, "ttl_seconds": 300});
        let (_, opened) = ask("POST", &a.url("/v1/sessions"), &wish).await;
        let token = opened["token"].as_str().expect("a token").to_owned();
        let key = format!("pn:session:{}", digest(&token));
        (Client::v1(&url(&a, &token)).await, key)
    };
    let (mut unread, broken) = open("42").await;
    let (mut ended, gone) = open("43").await;
    redis.cli(&["DEL", &broken]);
    redis.cli(&["HSET", &broken, "user", "42"]);
    redis.cli(&["DEL", &gone]);
    let began = Instant::now();
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    while ended.json().await["type"] != "bye" {}
    assert_eq!(ended.close_frame().await.0, 4004);
    report("ended beside one that cannot be read", began);
    // Of the other nothing is known until its key can be read.
    unread.send(r#"{"type":"ping"}"#).await;
    while unread.json().await["type"] != "pong" {}
    redis.cli(&["DEL", &broken]);
    while unread.json().await["type"] != "bye" {}
    assert_eq!(unread.close_frame().await.0, 4004);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_holds_up_no_session_of_another() {
    let cluster = RedisCluster::start(0);
    for server in &cluster.servers {
        server.cli(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let a = node(&[("PUSH_REDIS_URL", &cluster.url()), ("PUSH_AUTH", "session")]);
    // The server that the node listens at goes on.
    let (_, home) = cluster.owner(0, &format!("pn:n:{{{}}}", a.id));
    let silent = cluster.other(home);
    let open = async |server: usize, user: &str| {
        let tokens = (0..).map(|number| format!("token-{number}-of-{user}"));
        let mut keys = tokens.map(|token| (format!("pn:session:{}", digest(&token)), token));
        let here = keys.find(|(key, _)| cluster.owner(home, key).1 == server);
        let (key, token) = here.expect("a key of each server");
        cluster.servers[server].cli(&["SET", &key, user, "EX", "300"]);
        (Client::v1(&url(&a, &token)).await, key)
    };
    let (mut unread, _) = open(silent, "42").await;
    let (mut ended, gone) = open(home, "43").await;
    cluster.servers[home].cli(&["DEL", &gone]);
    let frozen = Frozen::new(&cluster.servers[silent]);
    let began = Instant::now();
    cluster.servers[home].cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(ended.close_frame().await.0, 4004);
    report("ended beside one at a silent server", began);
    unread.send(r#"{"type":"ping"}"#).await;
    while unread.json().await["type"] != "pong" {}
    drop(frozen);
}

#[tokio::test]
async fn a_session_that_ends_in_a_long_handshake_lets_nobody_stay() {
    let backend = Backend::start(|_| Deed::Late(Duration::from_secs(11), json!({"allow": true})));
    let backend = backend.await;
    let redis = Redis::start();
    let settings = [
        ("PUSH_AUTH", "session"),
        ("PUSH_TOPICS", "order.*"),
        (
            "PUSH_TOPIC_RULES",
            r#"[{"match":"order.*","subscribe":"hook"}]"#,
        ),
        ("PUSH_SUBSCRIBE_HOOK", &backend.url("/push/subscribe")),
        ("PUSH_HOOK_SECRET", SECRET),
        ("PUSH_HOOK_TIMEOUT_MS", "15000"),
    ];
    let a = node_with(&redis, "a", &settings);
    let wish = json!({"user": "42", "ttl_seconds": 300});
    let (_, opened) = ask("POST", &a.url("/v1/sessions"), &wish).await;
    let token = opened["token"].as_str().expect("a token").to_owned();
    let address = format!("{}&topics=order.7", url(&a, &token));
    let connects = async { tokio_tungstenite::connect_async(address).await };
    let ends = async {
        // The session was read before the hook was asked.
        backend.was_asked(1).await;
        ask("DELETE", &a.url("/v1/sessions"), &json!({ "token": token })).await
    };
    let (connected, ended) = futures::join!(connects, ends);
    assert_eq!((ended.0, &ended.1["ended"]), (200, &json!(true)));
    // It may be refused, or closed at once: the node believes a key for up to five minutes.
    if let Ok((socket, _)) = connected {
        let began = Instant::now();
        let ready = None;
        assert_eq!(Client { socket, ready }.close_frame().await.0, 4004);
        report("ended in its handshake", began);
    }
}
