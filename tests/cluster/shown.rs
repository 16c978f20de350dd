//! What members of a topic show of themselves, seen on other nodes.

use crate::common::hooks::Backend;
use crate::common::shown::{
    a_topic_may_show_something_else, answer, members_see_what_the_others_show,
    much_is_shown_in_parts, settings,
};
use crate::common::{Node, Redis, node_with};

/// Two nodes that ask this backend.
fn two(redis: &Redis, backend: &Backend) -> (Node, Node) {
    let url = backend.url("/");
    (
        node_with(redis, "a", &settings(&url)),
        node_with(redis, "b", &settings(&url)),
    )
}

#[tokio::test]
async fn members_see_what_the_others_show_on_any_node() {
    let redis = Redis::start();
    let backend = Backend::start(answer).await;
    let (a, b) = two(&redis, &backend);
    members_see_what_the_others_show(&a, &b).await;
    a_topic_may_show_something_else(&a, &b).await;
}

#[tokio::test]
async fn much_is_shown_in_parts_by_two_nodes() {
    let redis = Redis::start();
    let backend = Backend::start(answer).await;
    let (a, b) = two(&redis, &backend);
    much_is_shown_in_parts(&a, &b).await;
}
