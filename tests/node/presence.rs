//! Who is there, asked of one node by itself.

use crate::common::node;
use crate::common::presence::{
    a_bad_question_after_presence_is_refused, many_users_are_asked_after_at_once,
    members_are_listed_by_user,
};

#[tokio::test]
async fn many_users_are_asked_after_at_once_here() {
    let node = node(&[]);
    many_users_are_asked_after_at_once(&node, &node, &node).await;
    a_bad_question_after_presence_is_refused(&node).await;
}

#[tokio::test]
async fn members_are_listed_by_user_here() {
    let node = node(&[]);
    members_are_listed_by_user(&node, &node, &node).await;
}
