//! Whether this node is cut off alone, or together with the others.
//!
//! A node that cannot reach Redis cannot tell whether others can. But one that Redis answers, and
//! that is still not ready, reads the leases of the others, and each says whether its node is
//! degraded. What must stay true: a node is alone only if another was fine after this one had been
//! down for a whole lease, so that what breaks all nodes at once takes none of them out of service.

use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::backplane::nodes::{NodeRecord, NodeState};
use crate::backplane::redis::registry::belief::{BEAT, LEASE};
use crate::protocol::ids::NodeId;

/// What was seen of the others counts for this long.
const FRESH: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Isolation(RwLock<State>);

#[derive(Debug)]
struct State {
    /// Since when this node is not ready.
    down_since: Option<Instant>,
    has_served: bool,
    looked: Option<Instant>,
    /// When the lease of another node last said that it is fine.
    fine: Option<Instant>,
}

impl Isolation {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(State {
            down_since: Some(Instant::now()),
            has_served: false,
            looked: None,
            fine: None,
        }))
    }

    /// Notes whether this node is ready.
    pub(crate) fn note(&self, is_ready: bool) {
        let mut state = self.0.write();
        match is_ready {
            true => (state.down_since, state.has_served) = (None, true),
            false => _ = state.down_since.get_or_insert_with(Instant::now),
        }
    }

    /// Notes the leases of all nodes as they are now.
    pub(crate) fn see(&self, own: &NodeId, nodes: &[NodeRecord]) {
        let now = Instant::now();
        let is_fine = |record: &NodeRecord| {
            record.node != *own && record.state == NodeState::Up && !record.degraded
        };
        let mut state = self.0.write();
        state.looked = Some(now);
        if nodes.iter().any(is_fine) {
            state.fine = Some(now);
        }
    }

    /// Whether the leases should be read although the beat fails.
    pub(crate) fn wants_look(&self) -> bool {
        let looked = self.0.read().looked;
        looked.is_none_or(|at| at.elapsed() > BEAT)
    }

    /// Whether the own lease should say that this node is degraded. Not for what passes at once.
    pub(crate) fn is_degraded(&self) -> bool {
        let since = self.0.read().down_since;
        since.is_some_and(|at| at.elapsed() > BEAT)
    }

    /// Whether clients may be sent here although this node is not ready: it has served, and no
    /// other node is known to be better off.
    pub(crate) fn may_take_clients(&self) -> bool {
        let state = self.0.read();
        let is_alone = match (state.down_since, state.fine) {
            (Some(since), Some(fine)) => fine > since + LEASE && fine.elapsed() < FRESH,
            _ => false,
        };
        state.has_served && !is_alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, degraded: bool) -> NodeRecord {
        let text = format!(
            r#"{{"node":"{name}.1","name":"{name}","boot":"1","state":"up","connections":0,
            "started":0,"version":"","url":"","weight":1,"degraded":{degraded}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_alone_only_while_others_are_fine() {
        let own: NodeId = "a.1".parse().unwrap();
        let isolation = Isolation::new();
        assert!(!isolation.may_take_clients(), "it starts");
        isolation.note(true);
        isolation.note(false);
        let both = [record("a", false), record("b", false)];
        isolation.see(&own, &both);
        assert!(isolation.may_take_clients(), "b may have gone down with it");
        assert!(!isolation.is_degraded());
        tokio::time::advance(LEASE + BEAT).await;
        assert!(isolation.may_take_clients(), "nothing was seen since");
        assert!(isolation.is_degraded() && isolation.wants_look());
        isolation.see(&own, &[record("a", false), record("b", true)]);
        assert!(isolation.may_take_clients(), "both are degraded");
        isolation.see(&own, &both);
        assert!(!isolation.may_take_clients() && !isolation.wants_look());
        tokio::time::advance(FRESH).await;
        assert!(isolation.may_take_clients(), "Redis is silent again");
        isolation.note(true);
        isolation.note(false);
        isolation.see(&own, &both);
        assert!(isolation.may_take_clients(), "down again");
    }
}
