//! Many topics in one request on a node by itself.

use crate::common::many_topics::{
    SETTINGS, a_client_names_many_topics_at_once, many_topics_are_watched_at_once,
};
use crate::common::node;

#[tokio::test]
async fn a_client_names_many_topics_at_once_here() {
    let node = node(&SETTINGS);
    a_client_names_many_topics_at_once(&node, &node).await;
    many_topics_are_watched_at_once(&node, &node).await;
}
