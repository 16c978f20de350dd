//! The entries of the stream of events (`pn:events`): one JSON object each. They hold no time,
//! because a stream entry's id has Redis's own.

use serde::Serialize;

use crate::protocol::ids::{ConnectionId, Fd, NodeId, Topic, UserId};
use crate::protocol::json::to_json;

/// What happened. The variants are the values of `type`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum EventEntry<'a> {
    NodeLost {
        node: &'a NodeId,
    },
    Leave {
        user: &'a UserId,
        node: &'a NodeId,
        reason: &'static str,
    },
    Connect {
        user: &'a UserId,
        node: &'a NodeId,
        fd: Fd,
        transport: &'a str,
        device: Option<&'a str>,
    },
    Disconnect {
        user: &'a UserId,
        node: &'a NodeId,
        fd: Fd,
        transport: &'a str,
        device: Option<&'a str>,
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
}

/// A node died; its rows have been removed.
#[must_use]
pub fn node_lost_event(node: &NodeId) -> String {
    to_json(&EventEntry::NodeLost { node })
}

/// A user of a dead node has not come back.
#[must_use]
pub fn leave_event(user: &UserId, node: &NodeId) -> String {
    let reason = "node-lost";
    to_json(&EventEntry::Leave { user, node, reason })
}

/// A client is connected.
#[must_use]
pub fn connect_event(
    id: &ConnectionId,
    user: &UserId,
    transport: &str,
    device: Option<&str>,
) -> String {
    to_json(&EventEntry::Connect {
        user,
        node: &id.node,
        fd: id.fd,
        transport,
        device,
    })
}

/// A connection has ended. `code` is what the client's close frame said.
#[must_use]
pub fn disconnect_event(
    id: &ConnectionId,
    user: &UserId,
    transport: &str,
    device: Option<&str>,
    reason: &str,
    code: Option<u16>,
) -> String {
    to_json(&EventEntry::Disconnect {
        user,
        node: &id.node,
        fd: id.fd,
        transport,
        device,
        reason,
        code,
    })
}

/// A connection has begun to receive what is sent to a topic, or has ceased to: `what` is
/// `subscribe` or `unsubscribe`.
#[must_use]
pub fn topic_event(what: &str, id: &ConnectionId, user: &UserId, topic: &Topic) -> String {
    #[derive(Serialize)]
    struct Fields<'a> {
        r#type: &'a str,
        user: &'a UserId,
        node: &'a NodeId,
        fd: Fd,
        topic: &'a Topic,
    }
    to_json(&Fields {
        r#type: what,
        user,
        node: &id.node,
        fd: id.fd,
        topic,
    })
}
