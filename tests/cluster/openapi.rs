//! What `openapi.json` promises and only several nodes can show; the rest is in `tests/node`.

use std::collections::BTreeSet;

use reqwest::Method;

use crate::common::openapi::{Answer, OF_CLUSTERS, judge};
use crate::common::{Redis, eventually, http, node_on};

#[tokio::test]
async fn what_only_clusters_answer_is_as_the_document_says() {
    let mut redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    let mut seen = BTreeSet::new();
    let mut drain = async |name: &str| {
        let url = a.url(&format!("/v1/nodes/{name}/drain"));
        let response = http().post(&url).send().await.expect("an answer");
        let answer = Answer::read(response).await;
        let what = judge(&Method::POST, &url, &answer).unwrap_or_else(|words| panic!("{words}"));
        seen.extend(what);
        answer.status
    };
    // Until `a` has heard of `b`.
    eventually(async || match drain("b").await {
        202 => Ok(()),
        status => Err(status),
    })
    .await;
    drop(b);
    redis.kill();
    assert_eq!(drain("a").await, 503);
    seen.remove("drainNode 404 not_found");
    assert_eq!(seen, OF_CLUSTERS.map(str::to_owned).into());
}
