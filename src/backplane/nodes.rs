//! The nodes of the cluster as their leases describe them, and the state of this one.

use serde::{Deserialize, Serialize};

use crate::protocol::ids::NodeId;

/// A node as the others see it: the content of its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// The full id.
    pub node: NodeId,
    /// The part of the id that outlives a restart.
    pub name: String,
    /// The part of the id that changes with each restart.
    pub boot: String,
    /// Whether it takes new clients.
    pub state: NodeState,
    /// Its client connections at the last beat.
    pub connections: usize,
    /// When it started, in milliseconds since 1970.
    pub started: u64,
    /// Its version of this program.
    pub version: String,
    /// Where clients can reach it, if that is configured.
    pub url: String,
    /// Its share of the clients, relative to other nodes.
    pub weight: u32,
    /// Whether it signs its lines. Older nodes do not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signs: bool,
    /// The digest of its topic rules. Without rules it is empty, and older nodes do not say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rules: String,
    /// Whether it is not ready, and has not been for a while. Older nodes do not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// Why Redis refuses its rows, if it does. Older nodes do not say so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unwritten: String,
}

/// Whether a node takes new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeState {
    /// It takes new clients.
    Up,
    /// It is closing its connections so that clients go to other nodes.
    Draining,
}

/// What this process believes of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known to the contrary.
    Alive,
    /// Its channel has no subscriber, and it is not known to be dead.
    Suspect,
    /// It is dead, although Redis may still count it as a receiver.
    Dead,
}

/// Whether this node can serve, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It is subscribed and holds its lease.
    Ready,
    /// It cannot serve (yet), for this reason.
    Down(&'static str),
}
