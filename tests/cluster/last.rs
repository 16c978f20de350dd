//! Clients that begin with the last messages of a topic, over several nodes and a real Redis.

use crate::common::{Redis, last, logs, node_on, node_with, two_nodes};

#[tokio::test]
async fn an_entrant_gets_the_last_and_then_live_at_another_node() {
    let (_redis, a, b) = two_nodes();
    last::an_entrant_gets_the_last_and_then_live(&a, &b).await;
}

#[tokio::test]
async fn the_last_are_proven_where_they_can_be_at_another_node() {
    let (_redis, a, b) = two_nodes();
    last::the_last_are_proven_where_they_can_be(&a, &b).await;
}

/// Redis trims by whole blocks, which are made as small as the bound.
#[tokio::test]
async fn what_redis_threw_out_is_not_among_the_last() {
    let redis = Redis::start();
    let node = node_with(&redis, "a", &[("PUSH_KEEP_MESSAGES", "10")]);
    redis.cli(&["CONFIG", "SET", "stream-node-max-entries", "10"]);
    last::what_was_thrown_out_is_not_among_the_last(&node, 30, 10).await;
}

/// What somebody took out of the middle is missing among the last.
#[tokio::test]
async fn a_hole_among_the_last_is_not_claimed_to_be_none() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    for number in 1..=5 {
        logs::keep(&node, "chat.1", number).await;
    }
    let all = redis.cli(&["XRANGE", "pn:log:{chat.1}", "-", "+"]);
    let second = all.lines().filter(|line| line.contains('-')).nth(1);
    redis.cli(&["XDEL", "pn:log:{chat.1}", second.expect("an entry")]);
    last::the_last_of_a_log_with_a_hole(&node, [1, 3, 4, 5], 3).await;
}

#[tokio::test]
async fn entrants_under_load_get_each_once_at_two_nodes() {
    let (_redis, a, b) = two_nodes();
    last::entrants_under_load_get_each_once(&a, [&a, &b]).await;
}
