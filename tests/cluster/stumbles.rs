//! Kept messages that a client cannot take, pushed at another node.

use crate::common::transports::{TRANSPORTS, Transport};
use crate::common::{Node, Redis, node_with, stumbles};

fn nodes(redis: &Redis) -> (Node, Node) {
    let settings = [("PUSH_EVENTS", "disconnect")];
    (
        node_with(redis, "a", &settings),
        node_with(redis, "b", &settings),
    )
}

#[tokio::test]
async fn who_vanishes_at_a_kept_message_gets_what_is_behind_it_from_redis() {
    let redis = Redis::start();
    let (a, b) = nodes(&redis);
    for by in TRANSPORTS {
        stumbles::who_vanishes_at_a_message_gets_what_is_behind_it(&a, &b, by).await;
    }
}

#[tokio::test]
async fn what_a_client_complains_of_when_it_closes_is_passed_over_and_its_code_is_an_event() {
    let redis = Redis::start();
    let (a, b) = nodes(&redis);
    stumbles::what_a_client_complains_of_is_passed_over(&a, &b).await;
    let events = redis.cli(&["XRANGE", "pn:events", "-", "+"]);
    let codes = events.matches(r#""code":1009"#).count();
    assert_eq!(codes, 6, "{events}");
}

#[tokio::test]
async fn who_takes_a_kept_message_gets_it_from_redis_however_often_it_is_cut_off() {
    let redis = Redis::start();
    let (a, b) = nodes(&redis);
    for by in [Transport::Ws, Transport::Tcp] {
        stumbles::who_takes_a_message_gets_it_however_often_it_is_cut_off(&a, &b, by).await;
    }
}
