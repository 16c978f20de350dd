//! Streams of services and of events are bounded in bytes, and nothing unfinished is thrown away
//! for it.

use serde_json::{Value, json};

use crate::common::{Client, Node, Redis, eventually, node_with};

const SERVICE: &str = "pn:upstream:chat";

fn gateway(redis: &Redis) -> Node {
    let settings = [
        ("PUSH_UPSTREAM_ROUTES", "*=chat"),
        ("PUSH_UPSTREAM_BYTES", "200000"),
        ("PUSH_SEND_RATE", "0"),
        ("PUSH_CLIENT_RATE", "0"),
    ];
    node_with(redis, "a", &settings)
}

fn number(redis: &Redis, command: &[&str]) -> u64 {
    let said = redis.cli(command);
    said.parse()
        .unwrap_or_else(|_| panic!("{command:?}: {said}"))
}

/// Sends 10 KB; answers `accepted` or an error's code.
async fn send(client: &mut Client) -> String {
    let object = json!({"type": "send", "route": "say", "ref": 1, "data": "x".repeat(10_000)});
    client.send(&object.to_string()).await;
    let heard = client.json().await;
    let said = [&heard["status"], &heard["code"]];
    let said = said.into_iter().find_map(Value::as_str);
    said.unwrap_or_else(|| panic!("{heard}")).to_owned()
}

async fn send_until_busy(client: &mut Client) -> u64 {
    for accepted in 0..1000 {
        match &*send(client).await {
            "accepted" => {}
            code => {
                assert_eq!(code, "busy");
                return accepted;
            }
        }
    }
    panic!("10 MB were accepted");
}

async fn until_accepted(client: &mut Client) {
    eventually(async || match &*send(client).await {
        "accepted" => Ok(()),
        code => Err(code.to_owned()),
    })
    .await;
}

#[tokio::test]
async fn a_service_that_does_not_finish_is_full_by_bytes() {
    let redis = Redis::start();
    let node = gateway(&redis);
    let mut client = Client::v1(&node.ws_url("42")).await;
    let accepted = send_until_busy(&mut client).await;
    assert!(
        (15..=20).contains(&accepted),
        "{accepted} of 10 KB in 200 KB"
    );
    // Accepted ones are there, whether a group has read them or not.
    assert_eq!(number(&redis, &["XLEN", SERVICE]), accepted);
    assert_eq!(redis.cli(&["XGROUP", "CREATE", SERVICE, "g", "0"]), "OK");
    redis.cli(&["XREADGROUP", "GROUP", "g", "w", "STREAMS", SERVICE, ">"]);
    assert_eq!(send(&mut client).await, "busy");
    assert_eq!(number(&redis, &["XLEN", SERVICE]), accepted);
}

/// The worker finishes all: so do clients send all day, and Redis does not fill.
#[tokio::test]
async fn what_all_groups_have_finished_is_trimmed() {
    let redis = Redis::start();
    let node = gateway(&redis);
    let mut client = Client::v1(&node.ws_url("42")).await;
    until_accepted(&mut client).await;
    for group in ["g", "h"] {
        assert_eq!(redis.cli(&["XGROUP", "CREATE", SERVICE, group, "0"]), "OK");
    }
    let finish = |group: &str| {
        redis.cli(&[
            "XREADGROUP",
            "GROUP",
            group,
            "w",
            "NOACK",
            "STREAMS",
            SERVICE,
            ">",
        ]);
    };
    for _ in 0..5 {
        send_until_busy(&mut client).await;
        let full = number(&redis, &["XLEN", SERVICE]);
        finish("g");
        assert_eq!(send(&mut client).await, "busy", "the other group has not");
        assert_eq!(number(&redis, &["XLEN", SERVICE]), full);
        finish("h");
        until_accepted(&mut client).await;
        let left = number(&redis, &["XLEN", SERVICE]);
        assert!(left < full, "{left} of {full}");
    }
}

/// What a worker has taken and not acknowledged, another one may claim.
#[tokio::test]
async fn what_is_pending_stays() {
    let redis = Redis::start();
    let node = gateway(&redis);
    let mut client = Client::v1(&node.ws_url("42")).await;
    until_accepted(&mut client).await;
    assert_eq!(redis.cli(&["XGROUP", "CREATE", SERVICE, "g", "0"]), "OK");
    let read = [
        "XREADGROUP",
        "GROUP",
        "g",
        "w",
        "COUNT",
        "1",
        "STREAMS",
        SERVICE,
        ">",
    ];
    redis.cli(&read);
    send_until_busy(&mut client).await;
    let rest = [
        "XREADGROUP",
        "GROUP",
        "g",
        "w",
        "NOACK",
        "STREAMS",
        SERVICE,
        ">",
    ];
    redis.cli(&rest);
    let full = number(&redis, &["XLEN", SERVICE]);
    assert_eq!(send(&mut client).await, "busy", "the first is not finished");
    assert_eq!(number(&redis, &["XLEN", SERVICE]), full);
    let pending = redis.cli(&["XPENDING", SERVICE, "g"]);
    let first = pending.lines().nth(1).expect("an id").trim().to_owned();
    assert_eq!(redis.cli(&["XACK", SERVICE, "g", &first]), "1");
    until_accepted(&mut client).await;
    assert_eq!(number(&redis, &["XLEN", SERVICE]), 1, "only the new one");
}

#[tokio::test]
async fn events_are_bounded_by_bytes() {
    let redis = Redis::start();
    let settings = [("PUSH_EVENTS", "connect"), ("PUSH_EVENTS_BYTES", "65536")];
    let node = node_with(&redis, "a", &settings);
    // Half a megabyte of them.
    let device = "d".repeat(60);
    for number in 0..1_500 {
        let user = format!("{number:0>60}&device={device}");
        drop(Client::plain(&node.ws_url(&user)).await);
    }
    eventually(async || {
        let bytes = number(&redis, &["MEMORY", "USAGE", "pn:events"]);
        let newest = redis.cli(&["XREVRANGE", "pn:events", "+", "-", "COUNT", "1"]);
        // A sixteenth may have come since it was measured; Redis counts in whole pages.
        match bytes <= 100_000 && newest.contains("1499") {
            true => Ok(()),
            false => Err((bytes, newest)),
        }
    })
    .await;
    assert!(number(&redis, &["XLEN", "pn:events"]) > 50);
}
