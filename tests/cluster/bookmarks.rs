//! `resume=server` over several nodes and a real Redis.

use serde_json::{Value, json};

use crate::common::bookmarks::{
    a_device_goes_on_where_it_has_read, a_stream_goes_on_where_its_device_has_read,
};
use crate::common::keep::keep;
use crate::common::transports::{Transport, connect_as};
use crate::common::{PATIENCE, Redis, eventually, node_on, send_signal};

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
