//! What two masters made of one inbox: each gave the next number to another message.

use serde_json::json;

use crate::common::keep::{connect, keep, ready};
use crate::common::{Redis, node_on};

/// As after a fail-over: the message that the client had last is not there, but another one.
#[tokio::test]
async fn a_position_whose_number_another_message_has_is_not_recovered() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let mut client = connect(&node, "42", None).await;
    keep(&node, "42", 1).await;
    keep(&node, "42", 2).await;
    client.json().await;
    let last = client.json().await;
    assert_eq!(last["data"], 2, "{last}");
    let token = last["resume"].as_str().expect("a token").to_owned();
    drop(client);
    redis.cli(&["DEL", "pn:inbox:{42}"]);
    // By the clock of a master that is behind.
    for (entry, data) in [("1-1", "1"), ("1-2", "3")] {
        redis.cli(&["XADD", "pn:inbox:{42}", entry, "data", data]);
    }
    let client = connect(&node, "42", Some(&token)).await;
    assert_eq!(ready(&client, "recovered"), &json!(false));
}
