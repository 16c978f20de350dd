//! Who is there, asked of one node by itself.

use crate::common::node;
use crate::common::presence::{
    SHORT_GRACE, a_bad_question_after_presence_is_refused, a_bad_wish_for_presence_is_refused,
    a_long_list_is_cut_and_says_so, a_quick_return_makes_no_noise,
    every_transport_that_hears_objects_hears_presence, many_users_are_asked_after_at_once,
    members_are_listed_by_user, who_watches_hears_who_comes_and_goes,
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

#[tokio::test]
async fn who_watches_hears_who_comes_and_goes_here() {
    let node = node(&[SHORT_GRACE]);
    who_watches_hears_who_comes_and_goes(&node, &node).await;
    a_bad_wish_for_presence_is_refused(&node).await;
}

#[tokio::test]
async fn a_quick_return_makes_no_noise_here() {
    let node = node(&[]);
    a_quick_return_makes_no_noise(&node, &node).await;
}

#[tokio::test]
async fn every_transport_hears_presence_here() {
    let node = node(&[SHORT_GRACE, ("PUSH_TCP_LISTEN", "127.0.0.1:0")]);
    every_transport_that_hears_objects_hears_presence(&node, &node).await;
}

#[tokio::test]
async fn a_long_list_is_cut_here() {
    let node = node(&[]);
    a_long_list_is_cut_and_says_so(&node, &node).await;
}
