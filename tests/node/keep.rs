//! Kept messages on a node by itself.

use serde_json::json;

use crate::common::keep::{
    a_client_goes_on_where_it_was, an_id_is_kept_once, nothing_is_lost_or_repeated_under_way,
    offline_is_stored, what_was_thrown_out_is_not_claimed,
};
use crate::common::transports::TRANSPORTS;
use crate::common::{node, post, refused_handshake};

#[tokio::test]
async fn a_client_goes_on_where_it_was_here() {
    let node = node(&[]);
    for by in TRANSPORTS {
        a_client_goes_on_where_it_was(by, &node, &node, &node).await;
    }
    offline_is_stored(&node, &node).await;
    an_id_is_kept_once(&node, &node, &node).await;
}

#[tokio::test]
async fn a_client_that_comes_and_goes_misses_nothing() {
    for by in TRANSPORTS {
        let node = node(&[]);
        nothing_is_lost_or_repeated_under_way(by, [&node; 2], [&node; 2]).await;
    }
}

#[tokio::test]
async fn what_was_thrown_out_is_not_claimed_here() {
    let node = node(&[("PUSH_KEEP_MESSAGES", "10")]);
    what_was_thrown_out_is_not_claimed(&node, &node).await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused() {
    let node = node(&[]);
    for (to, more, words) in [
        (
            json!({"all": true}),
            json!({}),
            "keep needs to.user, to.users, to.topic or to.topics",
        ),
        (
            json!({"fd": "a.1f2e3d4c5b6a/1"}),
            json!({}),
            "keep needs to.user, to.users, to.topic or to.topics",
        ),
        (
            json!({"user": "a"}),
            json!({"policy": "drop"}),
            "neither except nor policy",
        ),
        (
            json!({"user": "a"}),
            json!({"except": {"users": ["b"]}}),
            "neither except nor policy",
        ),
    ] {
        let mut body = json!({"to": to, "keep": true, "data": 1});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (status, answer) = post(&node.push_url, &body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
    for since in ["x", "1", "1.2", "-1.2-3", "1.2-3.4"] {
        let (status, body) =
            refused_handshake(&format!("{}&since={since}", node.ws_url("a"))).await;
        assert_eq!(status, 400, "{since}: {body}");
        assert!(body.contains("since must be 0 or"), "{body}");
    }
    let off = crate::common::node(&[("PUSH_KEEP_MESSAGES", "0")]);
    let body = json!({"to": {"user": "a"}, "keep": true, "data": 1});
    let (status, answer) = post(&off.push_url, &body).await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("PUSH_KEEP_MESSAGES")
    );
}
