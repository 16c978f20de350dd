//! Names of events over several nodes and a real Redis.

use serde_json::json;

use crate::common::named_events::{
    a_name_reaches_every_transport, an_event_stream_can_have_whole_objects,
};
use crate::common::transports::{TRANSPORTS, Transport, connect_as, connect_back};
use crate::common::{Redis, node_on};

#[tokio::test]
async fn a_name_reaches_every_transport_at_another_node() {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    a_name_reaches_every_transport(&a, &b).await;
    an_event_stream_can_have_whole_objects(&a, &b).await;
}

/// A line of a publisher without HTTP carries the name too; one that is none is a bad envelope.
/// What another program wrote into an inbox with a name of two lines does not get out.
#[tokio::test]
async fn a_name_comes_by_lines_on_channels_and_never_breaks_an_event_stream() {
    let redis = Redis::start();
    let node = node_on(&redis, "a");
    let channel = format!("pn:n:{{{}}}", node.id);
    for by in TRANSPORTS {
        let mut client = connect_as(by, &node, &[("user", "1")]).await;
        for (event, data) in [("a\\nid: bye", 1), ("order.paid", 2)] {
            let line = format!(r#"{{"to":{{"user":"1"}},"event":"{event}","data":{data}}}"#);
            redis.cli(&["PUBLISH", &channel, &line]);
        }
        let object = client.json().await;
        let seen = (&object["event"], &object["data"]);
        assert_eq!(seen, (&json!("order.paid"), &json!(2)), "{by:?}");
    }
    assert_eq!(node.metric("bad_envelopes_total").await, 3.0);
    for (event, data) in [("a\nid: bye", "1"), ("order.paid", "2")] {
        redis.cli(&["INCR", "pn:pos:{2}"]);
        redis.cli(&["XADD", "pn:inbox:{2}", "*", "event", event, "data", data]);
    }
    let mut client = connect_back(Transport::Sse, &node, &[("user", "2")], Some("0")).await;
    let object = client.json().await;
    let seen = (&object["event"], &object["data"]);
    assert_eq!(seen, (&json!("order.paid"), &json!(2)), "{object}");
}
