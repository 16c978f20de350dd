//! Clients that begin with the last messages of a topic, on a node by itself.

use crate::common::{last, node};

#[tokio::test]
async fn an_entrant_gets_the_last_and_then_live_here() {
    let node = node(&[]);
    last::an_entrant_gets_the_last_and_then_live(&node, &node).await;
}

#[tokio::test]
async fn the_last_are_proven_where_they_can_be_here() {
    let node = node(&[]);
    last::the_last_are_proven_where_they_can_be(&node, &node).await;
}

#[tokio::test]
async fn what_was_thrown_out_is_not_among_the_last_here() {
    let node = node(&[("PUSH_KEEP_MESSAGES", "10")]);
    last::what_was_thrown_out_is_not_among_the_last(&node, 30, 10).await;
}

#[tokio::test]
async fn more_than_may_be_asked_for_is_refused() {
    last::what_may_not_be_asked_for_is_refused(&node(&[])).await;
}

#[tokio::test]
async fn entrants_under_load_get_each_once_here() {
    let node = node(&[]);
    last::entrants_under_load_get_each_once(&node, [&node, &node]).await;
}
