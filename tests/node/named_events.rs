//! Names of events on a node by itself.

use serde_json::json;

use crate::common::named_events::{
    a_name_reaches_every_transport, an_event_stream_can_have_whole_objects,
};
use crate::common::transports::{Transport, refused_as};
use crate::common::{node, post};

#[tokio::test]
async fn a_name_reaches_every_transport_here() {
    let node = node(&[]);
    a_name_reaches_every_transport(&node, &node).await;
    an_event_stream_can_have_whole_objects(&node, &node).await;
}

#[tokio::test]
async fn a_bad_name_is_refused() {
    let node = node(&[]);
    for event in [
        json!(""),
        json!("a\nid: bye"),
        json!("e".repeat(201)),
        json!(7),
    ] {
        let body = json!({"to": {"user": "1"}, "event": event, "data": 1});
        let (status, answer) = post(&node.push_url, &body).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!("bad_request")),
            "{body}"
        );
    }
    let who = [("user", "1"), ("envelope", "2")];
    assert_eq!(refused_as(Transport::Sse, &node, &who).await, "bad_request");
}
