//! What is appended to the stream of events: one JSON object each. No time in it, because a
//! stream entry's id has Redis's own.

use crate::names::{NodeId, UserId};

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
