//! Kept messages that a client cannot take, on one node by itself.

use crate::common::transports::{TRANSPORTS, Transport};
use crate::common::{Node, node, stumbles};

fn roomy() -> Node {
    node(&[])
}

#[tokio::test]
async fn who_vanishes_at_a_kept_message_gets_what_is_behind_it() {
    let node = roomy();
    for by in TRANSPORTS {
        stumbles::who_vanishes_at_a_message_gets_what_is_behind_it(&node, &node, by).await;
    }
}

#[tokio::test]
async fn what_a_client_complains_of_when_it_closes_is_passed_over() {
    let node = roomy();
    stumbles::what_a_client_complains_of_is_passed_over(&node, &node).await;
}

#[tokio::test]
async fn who_takes_a_kept_message_gets_it_however_often_it_is_cut_off() {
    let node = roomy();
    for by in [Transport::Ws, Transport::Tcp] {
        stumbles::who_takes_a_message_gets_it_however_often_it_is_cut_off(&node, &node, by).await;
    }
}
