//! Looking back and erasing, on a node by itself.

use crate::common::{history, node};

#[tokio::test]
async fn senders_look_back_here() {
    let node = node(&[]);
    history::senders_look_back(&node, &node).await;
}

#[tokio::test]
async fn members_look_back_here() {
    let node = node(&[]);
    history::members_look_back(&node, &node).await;
}

#[tokio::test]
async fn only_members_look_back_here() {
    history::only_members_look_back(&node(&[])).await;
}

#[tokio::test]
async fn one_message_is_erased_here() {
    let node = node(&[]);
    history::one_message_is_erased(&node, &node).await;
}

#[tokio::test]
async fn an_erased_message_does_not_come_back_here() {
    let node = node(&[]);
    history::an_erased_message_does_not_come_back(&node, &node).await;
}

#[tokio::test]
async fn all_messages_are_erased_here() {
    let node = node(&[]);
    history::all_messages_are_erased(&node, &node).await;
}
