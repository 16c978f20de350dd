//! What members of a topic show of themselves, on one node by itself.

use crate::common::hooks::{Backend, hooked};
use crate::common::shown::{
    a_topic_may_show_something_else, answer, members_see_what_the_others_show,
    much_is_shown_in_parts, settings, too_much_is_refused,
};

#[tokio::test]
async fn members_see_what_the_others_show_here() {
    let backend = Backend::start(answer).await;
    let node = hooked(&settings(&backend.url("/")), &[]);
    members_see_what_the_others_show(&node, &node).await;
    a_topic_may_show_something_else(&node, &node).await;
}

#[tokio::test]
async fn much_is_shown_in_parts_here() {
    let backend = Backend::start(answer).await;
    let node = hooked(&settings(&backend.url("/")), &[]);
    much_is_shown_in_parts(&node, &node).await;
}

#[tokio::test]
async fn too_much_is_refused_here() {
    let backend = Backend::start(answer).await;
    let node = hooked(&settings(&backend.url("/")), &[]);
    too_much_is_refused(&node).await;
}
