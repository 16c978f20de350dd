//! Many topics in one request over several nodes and a real Redis.

use crate::common::many_topics::{
    SETTINGS, a_client_names_many_topics_at_once, many_topics_are_watched_at_once,
};
use crate::common::{Redis, node_with};

#[tokio::test]
async fn a_client_names_many_topics_at_once_at_another_node() {
    let redis = Redis::start();
    let node = |name: &str| node_with(&redis, name, &SETTINGS);
    let (a, b) = (node("a"), node("b"));
    a_client_names_many_topics_at_once(&a, &b).await;
    many_topics_are_watched_at_once(&a, &b).await;
}
