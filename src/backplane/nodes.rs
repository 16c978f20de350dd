//! The nodes of the cluster as their leases describe them, and the state of this one.

use serde::{Deserialize, Serialize};

use crate::protocol::ids::NodeId;

/// A node as the others see it: its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Full id.
    pub node: NodeId,
    /// The part of the id that outlives a restart.
    pub name: String,
    /// The part that does not.
    pub boot: String,
    /// Whether it takes new clients.
    pub state: NodeState,
    /// Its clients at the last beat.
    pub connections: usize,
    /// When it started, in milliseconds since 1970.
    pub started: u64,
    /// Its version of this program.
    pub version: String,
    /// Where clients can reach it, if it was told.
    pub url: String,
    /// How many clients it should hold compared to others.
    pub weight: u32,
}

/// Whether a node takes new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It does.
    Up,
    /// It is sending its clients away.
    Draining,
}

/// Whether this node can serve, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Subscribed, its lease held.
    Ready,
    /// Not (yet).
    Down(&'static str),
}
