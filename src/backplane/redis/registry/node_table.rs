//! The table of the nodes that hold a lease, read with each beat, and once more if this node hears
//! from one that is not in it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fred::error::Error;
use fred::prelude::SetsInterface;
use parking_lot::RwLock;

use crate::backplane::nodes::{NodeRecord, Standing};
use crate::backplane::redis::keys::Keys;
use crate::backplane::redis::registry::belief::{Beliefs, LeaseSeen, LeaseValue, Look};
use crate::backplane::redis::servers::Servers;
use crate::protocol::ids::NodeId;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// Between two lines in the log about nodes with other rules.
const QUIET: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct NodeTable {
    nodes: RwLock<Arc<Vec<NodeRecord>>>,
    /// Whether this node signs its lines.
    signs: bool,
    /// Whether all nodes of the table do. Until it is read, an unsigned line is not believed.
    all_sign: AtomicBool,
    /// How many other nodes have other topic rules.
    other_rules: AtomicUsize,
    /// Whether a node of an older version is there.
    has_older: AtomicBool,
    complaints: Throttle,
}

impl NodeTable {
    pub(crate) fn new(signs: bool) -> Self {
        Self {
            nodes: RwLock::default(),
            signs,
            all_sign: AtomicBool::new(true),
            other_rules: AtomicUsize::new(0),
            has_older: AtomicBool::new(false),
            complaints: Throttle::new(QUIET),
        }
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        self.nodes.read().clone()
    }

    pub(crate) fn has(&self, node: &NodeId) -> bool {
        let nodes = self.nodes.read();
        nodes.iter().any(|record| record.node == *node)
    }

    /// Whether all nodes sign their lines, this one included.
    pub(crate) fn requires_signatures(&self) -> bool {
        self.signs && self.all_sign.load(Ordering::Relaxed)
    }

    /// Whether another node has other topic rules.
    pub(crate) fn has_other_rules(&self) -> bool {
        self.other_rules.load(Ordering::Relaxed) > 0
    }

    /// Compares the topic rules of the other nodes with this digest of ours.
    pub(crate) fn note_rules(&self, here: &NodeId, digest: &str, metrics: &Metrics) {
        let nodes = self.nodes();
        let others = nodes
            .iter()
            .filter(|record| record.node != *here && record.rules != digest);
        let count = others.clone().count();
        metrics.topic_rules_differ.set(count as i64);
        let before = self.other_rules.swap(count, Ordering::Relaxed);
        match others.map(|record| &record.node).next() {
            Some(node) => {
                if let Some(unlogged) = self.complaints.pass() {
                    tracing::warn!(
                        %node, count, unlogged,
                        "nodes have other topic rules (PUSH_TOPIC_RULES): topics behave differently"
                    );
                }
            }
            None if before > 0 => tracing::info!("all nodes have the same topic rules"),
            None => {}
        }
    }

    /// Reads the leases of all nodes, and tells what they say of each. `with_beat`: this node's own
    /// beat has just been taken, so that a missing lease counts.
    pub(crate) async fn read(
        &self,
        servers: &Servers,
        keys: &Keys,
        beliefs: &Beliefs,
        with_beat: bool,
    ) -> Result<(), Error> {
        let (key, boots) = (keys.nodes(), keys.boots());
        let listed: Vec<String> = servers.at(&key).smembers(&key).await?;
        let boots: Vec<String> = servers.at(&boots).smembers(&boots).await?;
        let boots: BTreeSet<NodeId> = boots.iter().filter_map(|boot| boot.parse().ok()).collect();
        // Also those that Redis does not list any more.
        let before = self.nodes();
        let mut all: BTreeSet<NodeId> = boots.clone();
        all.extend(before.iter().map(|record| record.node.clone()));
        all.extend(beliefs.doubted());
        let mut names: BTreeSet<String> = listed.iter().cloned().collect();
        names.extend(all.iter().map(|node| node.name().to_owned()));
        let names: Vec<String> = names.into_iter().collect();
        let leases = read_leases(servers, keys, &names).await?;
        all.extend(
            leases
                .iter()
                .flatten()
                .map(|lease| lease.record.node.clone()),
        );

        let look = |node: NodeId| {
            let place = names.iter().position(|name| name == node.name());
            let lease = place.and_then(|place| leases[place].as_ref());
            let lease = beliefs.read(&node, lease);
            let is_listed = boots.contains(&node) || listed.iter().any(|name| name == node.name());
            Look {
                node,
                lease,
                is_listed,
            }
        };
        let looks: Vec<Look> = all.into_iter().map(look).collect();
        if with_beat {
            beliefs.look(&looks);
        } else {
            let held = looks.iter().filter(|look| look.lease == LeaseSeen::Held);
            beliefs.see(held.map(|look| &look.node));
        }
        let idle: Vec<String> = (names.iter().zip(&leases))
            .filter(|(name, lease)| with_beat && lease.is_none() && listed.contains(name))
            .filter(|(name, _)| !boots.iter().any(|node| node.name() == **name))
            .map(|(name, _)| name.clone())
            .collect();
        self.note_older(leases.iter().flatten());
        let records = leases.into_iter().flatten().map(|lease| lease.record);
        // A dead node's lease may be there if it is not believed.
        let mut nodes: Vec<NodeRecord> = records
            .filter(|record| beliefs.standing(&record.node) != Standing::Dead)
            .collect();
        servers.note_population(nodes.len());
        self.note_signing(&nodes);
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        *self.nodes.write() = Arc::new(nodes);
        if !idle.is_empty() {
            // A node that comes back adds its name again with its next beat.
            let _: () = servers.at(&key).srem(&key, idle).await?;
        }
        Ok(())
    }

    /// Says which of the present features a node of an older version lacks: it does not refuse what it
    /// does not understand in a way that a sender would see. Such nodes do not count their beats.
    fn note_older<'a>(&self, mut leases: impl Iterator<Item = &'a LeaseValue>) {
        let older = leases.find(|lease| lease.beat == 0);
        let before = self.has_older.swap(older.is_some(), Ordering::Relaxed);
        match older {
            Some(lease) if !before => tracing::warn!(
                node = %lease.record.node, version = lease.record.version,
                "a node is of an older version: its clients do not get what members publish, what is \
                 erased stays with them, and it knows no topic rules; use these once all nodes are new"
            ),
            None if before => tracing::info!("no node is of an older version any more"),
            _ => {}
        }
    }

    fn note_signing(&self, nodes: &[NodeRecord]) {
        let unsigned = nodes.iter().find(|record| !record.signs);
        let before = self.all_sign.swap(unsigned.is_none(), Ordering::Relaxed);
        match unsigned {
            _ if !self.signs => {}
            Some(record) if before => tracing::warn!(
                node = %record.node,
                "a node does not sign (PUSH_CLUSTER_SECRET); unsigned lines are believed"
            ),
            None if !before => tracing::info!("all nodes sign; unsigned lines are refused"),
            _ => {}
        }
    }
}

/// All nodes that have a lease now.
pub(crate) async fn read_all(servers: &Servers, keys: &Keys) -> Result<Vec<NodeRecord>, Error> {
    let key = keys.nodes();
    let names: Vec<String> = servers.at(&key).smembers(&key).await?;
    let leases = read_leases(servers, keys, &names).await?;
    Ok(leases
        .into_iter()
        .flatten()
        .map(|lease| lease.record)
        .collect())
}

/// The lease of each name.
async fn read_leases(
    servers: &Servers,
    keys: &Keys,
    names: &[String],
) -> Result<Vec<Option<LeaseValue>>, Error> {
    let leases: Vec<String> = names.iter().map(|name| keys.lease(name)).collect();
    let values = servers.read_each("GET", &leases).await?;
    let read = values.into_iter().map(|value| {
        let value: Option<String> = value.convert().ok().flatten();
        serde_json::from_str(&value?).ok()
    });
    Ok(read.collect())
}
