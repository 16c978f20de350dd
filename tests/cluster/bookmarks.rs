//! `resume=server` over several nodes and a real Redis.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::common::bookmarks::{
    a_device_goes_on_where_it_has_read, a_stream_goes_on_where_its_device_has_read, acknowledge,
    next,
};
use crate::common::keep::keep;
use crate::common::transports::{Transport, connect_as};
use crate::common::{Node, PATIENCE, Redis, eventually, node_on, send_signal, two_nodes};

const WHO: [(&str, &str); 3] = [("user", "1"), ("device", "tab"), ("resume", "server")];

#[tokio::test]
async fn a_device_goes_on_where_it_has_read_at_another_node() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    a_device_goes_on_where_it_has_read(&b, &a, &b).await;
    a_stream_goes_on_where_its_device_has_read(&b, &a, &b).await;
}

/// Positions live as long as what they point at, and a user has a bounded number of them.
#[tokio::test]
async fn positions_of_devices_are_bounded_and_end_by_themselves() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    for number in 0..70 {
        let device = format!("d{number}");
        let who = [("user", "1"), ("device", &*device), ("resume", "server")];
        drop(connect_as(Transport::Ws, &node, &who).await);
    }
    eventually(async || {
        let last = redis.cli(&["HEXISTS", "pn:read:{1}", "d69"]);
        let count = redis.cli(&["HLEN", "pn:read:{1}"]);
        match (last.trim(), count.trim()) {
            ("1", "64") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let left: u64 = redis
        .cli(&["TTL", "pn:read:{1}"])
        .trim()
        .parse()
        .expect("seconds");
    let most = 24 * 3600 * 2;
    assert!(left <= most && left + PATIENCE.as_secs() > most, "{left} s");
}

/// A node that cannot look the position up lets the client in, says that something may be missing,
/// and does not forget where the device was.
#[tokio::test]
async fn without_redis_no_position_is_lost() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect_as(Transport::Ws, &node, &WHO).await;
    keep(&node, "1", 1).await;
    let resume = client.json().await["resume"].clone();
    client.send(&json!({"type": "ack", "resume": resume})).await;
    eventually(async || {
        let read = redis.cli(&["HGET", "pn:read:{1}", "tab"]);
        if json!(read.trim()) == resume {
            Ok(())
        } else {
            Err(read)
        }
    })
    .await;
    drop(client);
    send_signal(redis.pid(), "STOP");
    let late = connect_as(Transport::Ws, &node, &WHO).await;
    assert_eq!(late.ready["recovered"], false, "{}", late.ready);
    send_signal(redis.pid(), "CONT");
    drop(late);
    let back = eventually(async || {
        let client = connect_as(Transport::Ws, &node, &WHO).await;
        if client.ready["recovered"] == true {
            Ok(client)
        } else {
            Err(client.ready.to_string())
        }
    })
    .await;
    assert_eq!(back.ready["resume"], resume);
    assert_ne!(resume, Value::Null);
}

/// Waits until the node has saved all that it heard before: it takes what waits together, and
/// takes the next only when all of that is saved. So the second of two waited for what the first
/// came with.
async fn has_saved_all(redis: &Redis, node: &Node, user: &str) {
    let who = [("user", user), ("device", "tab"), ("resume", "server")];
    let mut client = connect_as(Transport::Ws, node, &who).await;
    for number in 1..=2 {
        keep(node, user, number).await;
        let token = next(&mut client, number).await;
        acknowledge(&mut client, &json!({"type": "ack", "resume": token})).await;
        eventually(async || {
            let read = redis.cli(&["HGET", &format!("pn:read:{{{user}}}"), "tab"]);
            match read.trim() == token {
                true => Ok(()),
                false => Err(read),
            }
        })
        .await;
    }
}

/// Each has two tabs, at two nodes, which save in the same moment that they have read one message
/// and two.
#[tokio::test]
async fn of_tabs_at_two_nodes_the_one_that_has_read_more_counts() {
    let (redis, a, b) = two_nodes();
    for round in 0..5 {
        let opened = (0..50).map(async |n| {
            let user = format!("{round}-{n}");
            let who = [("user", &*user), ("device", "tab"), ("resume", "server")];
            let mut tabs = [
                connect_as(Transport::Ws, &a, &who).await,
                connect_as(Transport::Ws, &b, &who).await,
            ];
            let mut tokens = [String::new(), String::new()];
            for (number, token) in (1..).zip(&mut tokens) {
                keep(&a, &user, number).await;
                for tab in &mut tabs {
                    *token = next(tab, number).await;
                }
            }
            (user, tabs, tokens)
        });
        let mut opened = join_all(opened).await;
        let read = opened
            .iter_mut()
            .map(async |(_, [less, more], [one, two])| {
                let (one, two) = (
                    json!({"type": "ack", "resume": one}),
                    json!({"type": "ack", "resume": two}),
                );
                futures::join!(acknowledge(less, &one), acknowledge(more, &two));
            });
        join_all(read).await;
        has_saved_all(&redis, &a, &format!("{round}-a")).await;
        has_saved_all(&redis, &b, &format!("{round}-b")).await;
        for (user, _, [_, two]) in &opened {
            let read = redis.cli(&["HGET", &format!("pn:read:{{{user}}}"), "tab"]);
            assert_eq!(read.trim(), two, "user {user}");
        }
    }
}
