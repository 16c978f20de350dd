//! Nodes that were there when Redis lost everything, and have not been seen since.
//!
//! A node that stands still, or cannot reach Redis, does not write its rows again. Until it would
//! count as dead anyway, a missing row says nothing about a user who may be connected there.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backplane::nodes::NodeRecord;
use crate::protocol::ids::NodeId;

#[derive(Debug, Default)]
pub(crate) struct AbsentNodes(Mutex<Absence>);

#[derive(Debug, Default)]
struct Absence {
    /// Who is missing, and since when.
    nodes: Vec<NodeId>,
    since: Option<Instant>,
    /// When the last of them was seen again: it writes its rows after that.
    returned: Option<Instant>,
}

impl AbsentNodes {
    /// Redis has lost everything; these nodes had a lease before.
    pub(crate) fn expect<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) {
        let mut absence = self.0.lock();
        absence.since = Some(Instant::now());
        for node in nodes {
            if !absence.nodes.contains(node) {
                absence.nodes.push(node.clone());
            }
        }
    }

    /// A node whose lease was missing has it again and is heard: it writes its rows now.
    pub(crate) fn note_return(&self) {
        self.0.lock().returned = Some(Instant::now());
    }

    /// These nodes have a lease now.
    pub(crate) fn see(&self, present: &[NodeRecord]) {
        let mut absence = self.0.lock();
        let before = absence.nodes.len();
        let is_absent = |node: &NodeId| !present.iter().any(|record| record.node == *node);
        absence.nodes.retain(is_absent);
        if absence.nodes.len() < before {
            absence.returned = Some(Instant::now());
        }
    }

    /// Whether one of them may be there and have rows to write. It counts as dead after `patience`;
    /// one that is back needs up to `rebuild` for its rows.
    pub(crate) fn may_have_rows(&self, patience: Duration, rebuild: Duration) -> bool {
        let absence = self.0.lock();
        let within = |at: Option<Instant>, limit| at.is_some_and(|at| at.elapsed() < limit);
        within(absence.returned, rebuild)
            || (!absence.nodes.is_empty() && within(absence.since, patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::nodes::NodeState;

    const PATIENCE: Duration = Duration::from_secs(16);
    const REBUILD: Duration = Duration::from_secs(5);

    fn record(node: &NodeId) -> NodeRecord {
        NodeRecord {
            node: node.clone(),
            name: String::new(),
            boot: String::new(),
            state: NodeState::Up,
            connections: 0,
            started: 0,
            version: String::new(),
            url: String::new(),
            weight: 1,
            signs: false,
            rules: String::new(),
            degraded: false,
            unwritten: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_waited_for_until_it_has_had_time_to_write_its_rows() {
        let [a, b]: [NodeId; 2] = ["a.1", "b.1"].map(|node| node.parse().unwrap());
        let absent = AbsentNodes::default();
        assert!(!absent.may_have_rows(PATIENCE, REBUILD));
        absent.expect([&a, &b].into_iter());
        absent.see(&[record(&a)]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(absent.may_have_rows(PATIENCE, REBUILD), "b is not back");
        absent.see(&[record(&a), record(&b)]);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(absent.may_have_rows(PATIENCE, REBUILD), "b writes its rows");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!absent.may_have_rows(PATIENCE, REBUILD));
        absent.expect([&a].into_iter());
        tokio::time::advance(Duration::from_secs(17)).await;
        assert!(!absent.may_have_rows(PATIENCE, REBUILD), "a is dead");
    }
}
