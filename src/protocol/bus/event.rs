//! What is appended to the stream of events: one JSON object each. No time in it, because a
//! stream entry's id has Redis's own.

use crate::protocol::ids::{ConnectionId, NodeId, Topic, UserId};

/// A node died; its rows have been removed.
#[must_use]
pub fn node_lost_event(node: &NodeId) -> String {
    format!(r#"{{"type":"node-lost","node":"{node}"}}"#)
}

/// A user of a dead node has not come back.
#[must_use]
pub fn leave_event(user: &UserId, node: &NodeId) -> String {
    format!(r#"{{"type":"leave","user":"{user}","node":"{node}","reason":"node-lost"}}"#)
}

/// A client is connected.
#[must_use]
pub fn connect_event(
    id: &ConnectionId,
    user: &UserId,
    transport: &str,
    device: Option<&str>,
) -> String {
    let ConnectionId { node, fd } = id;
    let device = serde_json::to_string(&device).expect("text becomes JSON");
    format!(
        r#"{{"type":"connect","user":"{user}","node":"{node}","fd":{fd},"transport":"{transport}","device":{device}}}"#
    )
}

/// A connection has ended.
#[must_use]
pub fn disconnect_event(
    id: &ConnectionId,
    user: &UserId,
    transport: &str,
    device: Option<&str>,
    reason: &str,
) -> String {
    let ConnectionId { node, fd } = id;
    let device = serde_json::to_string(&device).expect("text becomes JSON");
    format!(
        r#"{{"type":"disconnect","user":"{user}","node":"{node}","fd":{fd},"transport":"{transport}","device":{device},"reason":"{reason}"}}"#
    )
}

/// A connection has begun to get what is sent to a topic, or has ceased to: `what` is `subscribe`
/// or `unsubscribe`. A topic's grammar has nothing that needs escaping.
#[must_use]
pub fn topic_event(what: &str, id: &ConnectionId, user: &UserId, topic: &Topic) -> String {
    let ConnectionId { node, fd } = id;
    format!(r#"{{"type":"{what}","user":"{user}","node":"{node}","fd":{fd},"topic":"{topic}"}}"#)
}
