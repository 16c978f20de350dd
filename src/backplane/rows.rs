//! Rows: which node holds which connections of a user, or how many connections in a topic.
//!
//! `pn:user:{<user>}` has a field `<node>/<fd>` for each connection, `pn:topic:{<topic>}` a field
//! `<node>` for each node with members. What must stay true: a field that cannot be parsed was
//! not written by pushnode and is left alone.

use serde::{Deserialize, Serialize};

use crate::local::directory::LocalConnection;
use crate::protocol::ids::{ConnectionId, Fd, NodeId};

/// A connection as its row describes it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The node that holds it.
    pub node: NodeId,
    /// Its number on that node.
    pub fd: u64,
    /// The value of its field in the row.
    #[serde(flatten)]
    pub about: RowValue,
}

impl Row {
    /// The row of a connection of this node, whether it is written yet or not.
    pub(crate) fn of(node: &NodeId, seat: &LocalConnection) -> Self {
        Self {
            node: node.clone(),
            fd: seat.fd.0,
            about: RowValue::of(seat),
        }
    }
}

/// The value of a field in `pn:user:{<user>}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RowValue {
    /// When it was opened, in milliseconds since 1970.
    #[serde(default)]
    pub at: u64,
    /// The transport: `ws`, `sse` or `tcp`.
    #[serde(default)]
    pub transport: String,
    /// The device that the client named.
    #[serde(default)]
    pub device: Option<String>,
    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Its place in the order of the user's connections, if their number is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Whether its node is draining.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// A node in a row, and what the row says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowPlace {
    pub node: NodeId,
    /// How many connections are there.
    pub connections: u32,
    /// The oldest of them; 0 in the row of a topic, which does not name them.
    pub oldest: Fd,
}

/// A user's or topic's connections by node: where a push must go.
pub(crate) type Locations = smallvec::SmallVec<[RowPlace; 1]>;

/// The nodes in a topic's row, and whether their clients watch it.
pub(crate) type TopicNodes = Vec<(NodeId, bool)>;

/// How many connections of a node are in a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct MemberCount {
    /// The node id.
    pub node: NodeId,
    /// The number of its connections.
    pub connections: u32,
}

impl RowValue {
    /// The row value of a connection of this node.
    pub(crate) fn of(seat: &LocalConnection) -> Self {
        Self {
            at: seat.at(),
            transport: seat.dialect.transport().to_owned(),
            device: seat.device().map(str::to_owned),
            addr: seat.address().map(|address| address.to_string()),
            n: seat.ordinal(),
            leaving: false,
        }
    }
}

/// Parses a row's field name.
pub(crate) fn parse_field(field: &str) -> Option<ConnectionId> {
    field.parse().ok()
}
