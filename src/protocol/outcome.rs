//! What became of a push: how long its sender waits, and what nodes report.
//!
//! A sender or a node that wants to know puts a [`ReceiptRequest`] beside the push; the node that
//! delivers it answers with a [`DeliveryReport`]. The texts of [`Status`] stand in answers,
//! receipts and metric labels.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::protocol::ids::NodeId;

/// How long a sender may wait for an answer.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a sender waits if it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a node reports what became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRequest {
    /// Whose channel gets the receipt.
    pub node: NodeId,
    /// Comes back in the receipt.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What the receipt should wait for.
    #[serde(default = "written", deserialize_with = "wait_or_written")]
    pub wait: Wait,
    /// And for how long, in milliseconds.
    #[serde(
        default = "default_timeout_ms",
        deserialize_with = "timeout_ms_or_default"
    )]
    pub timeout_ms: u64,
}

const fn written() -> Wait {
    Wait::Written
}

/// `null` is as good as being absent.
fn wait_or_written<'de, D: Deserializer<'de>>(from: D) -> Result<Wait, D::Error> {
    Option::deserialize(from).map(|wait| wait.unwrap_or_else(written))
}

fn timeout_ms_or_default<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Option::deserialize(from).map(|ms| ms.unwrap_or_else(default_timeout_ms))
}

const fn default_timeout_ms() -> u64 {
    DEFAULT_TIMEOUT.as_millis() as u64
}

/// How far a message must get before its sender is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// A node has taken it for its connections.
    #[default]
    Routed,
    /// It has been written to the sockets.
    Written,
    /// The clients have said that they have it (`pushnode.v1` only).
    Acked,
}

/// What became of a push, or of the part of it for one user or one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A node took it for the user's connections.
    Routed,
    /// Written to sockets.
    Written,
    /// Acknowledged by clients.
    Acked,
    /// In the user's inbox. No connection is known to have received it yet.
    Stored,
    /// The user has no connection.
    Offline,
    /// A node has seen this id for this target within the last minute, and dropped it.
    Duplicate,
    /// The node no longer holds such a connection.
    Stale,
    /// Unknown: the way to the user's node is down.
    Unrouted,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Routed,
        Self::Written,
        Self::Acked,
        Self::Stored,
        Self::Offline,
        Self::Duplicate,
        Self::Stale,
        Self::Unrouted,
    ];

    /// As in answers, receipts and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Written => "written",
            Self::Acked => "acked",
            Self::Stored => "stored",
            Self::Offline => "offline",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Unrouted => "unrouted",
        }
    }
}

/// A node's report on a push that asked for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryReport {
    /// From the push's `reply`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Who reports.
    pub node: NodeId,
    /// `written`, `acked`, `stale` or `duplicate`; `routed` if less happened in time.
    pub status: Status,
    /// On how many connections.
    pub connections: u32,
}
