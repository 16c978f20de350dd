//! What members of a topic show of themselves, seen on other nodes.

use crate::common::hooks::Backend;
use crate::common::shown::{
    a_topic_may_show_something_else, answer, members_see_what_the_others_show,
    much_is_shown_in_parts, settings,
};
use crate::common::{Redis, node_with};

#[tokio::test]
async fn members_see_what_the_others_show_on_any_node() {
    let redis = Redis::start();
    let backend = Backend::start(answer).await;
    let url = backend.url("/");
    let (a, b) = (
        node_with(&redis, "a", &settings(&url)),
        node_with(&redis, "b", &settings(&url)),
    );
    members_see_what_the_others_show(&a, &b).await;
    a_topic_may_show_something_else(&a, &b).await;
}

#[tokio::test]
async fn much_is_shown_in_parts_by_two_nodes() {
    let redis = Redis::start();
    let backend = Backend::start(answer).await;
    let url = backend.url("/");
    let (a, b) = (
        node_with(&redis, "a", &settings(&url)),
        node_with(&redis, "b", &settings(&url)),
    );
    much_is_shown_in_parts(&a, &b).await;
}
