//! Clients over links that take long for one message.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::common::{eventually, node};
use crate::raw::{PONG, Raw, frame};
use crate::sender::push;

/// What the link lets through in a tenth of a second: the large message takes 10 s, twice as long as
/// a ping and its pong may.
const SLICE: usize = 2_000;
const LARGE: usize = 200_000;

/// The pong of such a client comes long after its ping was written, because a large message is
/// before it on the link.
#[tokio::test]
async fn a_client_that_is_in_the_middle_of_a_large_message_is_not_given_up() {
    let node = node(&[("PUSH_PING_SECONDS", "1"), ("PUSH_PONG_SECONDS", "4")]);
    let mut slow = Raw::open_narrow(node.client_address()).await;
    slow.upgrade("slow", "").await;
    let data = "x".repeat(LARGE);
    push(&node, json!({"to": {"user": "slow"}, "data": data})).await;
    let mut taken = 0;
    let mut slice = [0; SLICE];
    while taken < LARGE {
        let read = slow.socket.read(&mut slice).await.expect("bytes");
        assert!(read > 0, "closed after {taken} bytes of its message");
        taken += read;
        tokio::time::sleep(Duration::from_millis(100 * read as u64 / SLICE as u64)).await;
    }
    slow.send(&frame(0x80 | PONG, b"")).await;
    assert_eq!(node.metric("closes_total").await, 0.0);

    // Nothing large is on its way any more: who does not answer then is given up.
    push(&node, json!({"to": {"user": "slow"}, "data": 1})).await;
    eventually(
        async || match node.labelled("closes_total", r#"reason="heartbeat""#).await {
            1.0 => Ok(()),
            other => Err(other),
        },
    )
    .await;
}
