//! Event streams that come back, on one node by itself.

use crate::common::{node, streams};

#[tokio::test]
async fn an_event_stream_goes_on_from_every_event() {
    let node = node(&[]);
    streams::goes_on_from_every_event(&node, &node, &node).await;
}

#[tokio::test]
async fn an_event_stream_claims_only_what_its_id_covers() {
    streams::claims_only_what_its_id_covers(&node(&[])).await;
}

#[tokio::test]
async fn an_event_stream_with_a_foreign_id_begins_anew() {
    streams::begins_anew_with_a_foreign_id(&node(&[])).await;
}
