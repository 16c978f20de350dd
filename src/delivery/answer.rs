//! The answer to a sender, and how proofs from several nodes add up.
//!
//! What must stay true: an answer never says more than is proven.

use serde::Serialize;
use tokio::time::Instant;

use crate::cluster::pending::Expected;
use crate::local::receipt::Waiter;
use crate::protocol::Status;
use crate::protocol::ids::Subject;
use crate::protocol::position::Position;

/// The answer to a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    /// The push's id, if it had one.
    pub id: Option<Box<str>>,
    /// The furthest that is proven for at least one connection.
    pub status: Status,
    /// The number of connections: those in the row for `routed`, counted ones for further statuses.
    pub connections: u32,
    /// How many nodes took part.
    pub nodes: u32,
    /// Its position in the inbox or log, if it is kept (and goes to one user or topic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<Position>,
    /// `false`: kept, and not known to be on `PUSH_KEEP_REPLICAS` replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<bool>,
    /// The reason for `unrouted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// For `to.users` and `to.topics`: the answer for each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<PartAnswer>,
}

impl Answer {
    /// An answer without id, reason and parts.
    pub(crate) fn of(status: Status, connections: u32, nodes: u32) -> Self {
        Self {
            id: None,
            status,
            connections,
            nodes,
            seq_id: None,
            replicated: None,
            reason: None,
            targets: Vec::new(),
        }
    }

    /// Not known to have arrived, for this reason.
    pub(crate) fn unrouted(reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..Self::of(Status::Unrouted, 0, 0)
        }
    }
}

/// One user's or topic's part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PartAnswer {
    /// The `user` or the `topic`.
    #[serde(flatten)]
    pub subject: Subject,
    /// As in [`Answer`].
    pub status: Status,
    /// As in [`Answer`].
    pub connections: u32,
    /// As in [`Answer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<Position>,
    /// As in [`Answer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<bool>,
}

/// The field is there only where something is missing.
pub(crate) fn replicated(is_missing: bool) -> Option<bool> {
    is_missing.then_some(false)
}

/// The further of two proofs; the counts of equal ones are added.
pub(crate) fn further(a: (Status, u32), b: (Status, u32)) -> (Status, u32) {
    let rank = |status| match status {
        Status::Acked => 2,
        Status::Written => 1,
        _ => 0,
    };
    match rank(a.0).cmp(&rank(b.0)) {
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Greater => a,
        // Nodes count them, and a sum of theirs must not overflow here.
        std::cmp::Ordering::Equal => (a.0, a.1.saturating_add(b.1)),
    }
}

pub(crate) async fn settled_here(count: u32, waiter: Waiter, deadline: Instant) -> Answer {
    if count == 0 {
        return Answer::of(Status::Offline, 0, 0);
    }
    match waiter.settle(deadline).await {
        (Status::Routed, _) => Answer::of(Status::Routed, count, 1),
        (status, proven) => Answer::of(status, proven, 1),
    }
}

/// Collects receipts of `nodes` nodes until the deadline; `here` is this node's own part.
pub(crate) async fn await_receipts(
    expected: &mut Expected,
    nodes: u32,
    here: Option<(Status, u32)>,
    deadline: Instant,
) -> Answer {
    let mut proven = (Status::Routed, 0);
    let (mut answered, mut duplicates, mut stale) = (0, 0, 0);
    match here {
        Some((Status::Duplicate, _)) => (answered, duplicates) = (1, 1),
        Some(part) => (answered, proven) = (1, part),
        None => {}
    }
    while answered < nodes {
        let receipt = tokio::time::timeout_at(deadline, expected.receipts.recv()).await;
        let Ok(Some(receipt)) = receipt else { break };
        answered += 1;
        match receipt.status {
            Status::Stale => stale += 1,
            Status::Duplicate => duplicates += 1,
            status => proven = further(proven, (status, receipt.connections)),
        }
    }
    match proven {
        (_, 0) if stale == nodes => Answer::of(Status::Offline, 0, 0),
        (_, 0) if duplicates == nodes => Answer::of(Status::Duplicate, 0, nodes),
        (status, connections) => Answer::of(status, connections, nodes - stale),
    }
}
