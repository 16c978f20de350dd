//! Asking after nodes: reads one node's lease, publishes to its channel, and tells [`Beliefs`] what
//! that says. In the background, for as long as a node is in doubt: so a suspicion ends as soon as
//! the node listens again, and no sender has to wait to find that out.
//!
//! [`Beliefs`]: super::belief::Beliefs

use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use futures::future::join_all;
use tokio::time::Instant;

use crate::backplane::answers::Unavailable;
use crate::backplane::nodes::Standing;
use crate::backplane::redis::registry::belief::{LeaseSeen, LeaseValue};
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::{AWAY, Redis};
use crate::protocol::ids::NodeId;
use crate::protocol::{self, Announcement};

/// The pause between two probes at first: a subscription that was cut is back within that.
const SOON: Duration = Duration::from_millis(50);
/// And after this long, the other pause.
const FRESH: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_millis(500);
impl Lease {
    /// This node's lease, read now.
    pub(crate) async fn seen(&self, node: &NodeId) -> Result<LeaseSeen, Error> {
        let key = self.keys().lease(node.name());
        let value: Option<String> = self.servers().call("GET", &key, &[]).await?.convert()?;
        let lease: Option<LeaseValue> = value.and_then(|value| serde_json::from_str(&value).ok());
        Ok(self.beliefs().read(node, lease.as_ref()))
    }

    /// What is to be believed of a node, with its lease read now.
    pub(crate) async fn weigh(&self, node: &NodeId) -> Result<Standing, Unavailable> {
        let seen = self.seen(node).await.map_err(|_| AWAY)?;
        Ok(self.beliefs().weigh(node, seen, self.knows(node)))
    }

    /// Whether a node's channel has no subscriber: proof that no message can reach it now.
    pub(crate) async fn is_deaf(&self, node: &NodeId) -> Result<bool, Error> {
        let channel = self.keys().node_channel(node);
        let line = protocol::probe_line(0);
        let listeners = self.servers().publish(&channel, line.into()).await?;
        match listeners {
            0 => self.note_unheard(node),
            _ => self.beliefs().note_heard(node),
        }
        Ok(listeners == 0)
    }

    /// Whether the channel of one of these nodes has a subscriber.
    pub(crate) async fn hears_one_of(&self, nodes: &[NodeId]) -> bool {
        let deaf = join_all(nodes.iter().map(|node| self.is_deaf(node))).await;
        deaf.into_iter().any(|deaf| matches!(deaf, Ok(false)))
    }

    /// `PUBLISH` counted no subscriber of this node.
    pub(crate) fn note_unheard(&self, node: &NodeId) {
        self.beliefs().note_unheard(node, self.knows(node));
    }

    /// Asks after all nodes in doubt until this node ends.
    pub(crate) async fn inquire(self: Arc<Self>) {
        loop {
            let began = Instant::now();
            let mut asked = self.beliefs().in_doubt();
            while !asked.is_empty() {
                join_all(asked.iter().map(|node| self.ask_after(node))).await;
                let pause = match began.elapsed() < FRESH {
                    true => SOON,
                    false => LATER,
                };
                let is_new = tokio::time::timeout(pause, self.beliefs().doubt()).await;
                asked = self.beliefs().in_doubt();
                if is_new.is_ok() {
                    break;
                }
            }
            if asked.is_empty() {
                self.beliefs().doubt().await;
            }
        }
    }

    async fn ask_after(&self, node: &NodeId) {
        // Without an answer, nothing is known; it is asked again soon.
        if self.is_deaf(node).await == Ok(true) {
            let _ = self.weigh(node).await;
        }
    }
}

impl Redis {
    /// What is to be believed of a node, with its lease read now.
    pub(crate) async fn standing(&self, node: &NodeId) -> Result<Standing, Unavailable> {
        self.lease.weigh(node).await
    }

    pub(crate) fn may_wait(&self, node: &NodeId) -> bool {
        self.lease.beliefs().may_wait(node)
    }

    pub(crate) fn note_reply(&self, node: &NodeId) {
        self.lease.beliefs().note_heard(node);
    }

    pub(crate) fn note_announced(&self, said: &Announcement) {
        self.lease.note_announced(said);
    }

    pub(crate) async fn is_deaf(&self, node: &NodeId) -> Result<bool, Unavailable> {
        if self.is_believed_dead(node) && self.standing(node).await? == Standing::Dead {
            return Ok(true);
        }
        self.lease.is_deaf(node).await.map_err(|_| AWAY)
    }

    pub(crate) fn is_believed_dead(&self, node: &NodeId) -> bool {
        self.lease.beliefs().standing(node) == Standing::Dead
    }
}
