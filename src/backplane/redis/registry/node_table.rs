//! The table of the nodes that hold a lease, read with each beat, and once more if this node hears
//! from one that is not in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fred::prelude::SetsInterface;

use crate::backplane::nodes::NodeRecord;
use crate::backplane::redis::keys::Keys;
use crate::backplane::redis::servers::Servers;
use crate::protocol::ids::NodeId;
use parking_lot::RwLock;

/// Beats without a lease after which a node counts as dead. One may be Redis's own pause.
pub(crate) const MISSING_BEATS: u32 = 2;

#[derive(Debug)]
pub(crate) struct NodeTable {
    leases: RwLock<KnownLeases>,
    /// Whether this node signs its lines.
    signs: bool,
    /// Whether all nodes of the table do. Until it is read, an unsigned line is not believed.
    all_sign: AtomicBool,
}

#[derive(Debug, Default)]
struct KnownLeases {
    nodes: Arc<Vec<NodeRecord>>,
    /// Names in the set without a lease, and for how many beats.
    missing: HashMap<String, u32>,
}

impl NodeTable {
    pub(crate) fn new(signs: bool) -> Self {
        Self {
            leases: RwLock::default(),
            signs,
            all_sign: AtomicBool::new(true),
        }
    }

    fn leases(&self) -> parking_lot::RwLockReadGuard<'_, KnownLeases> {
        self.leases.read()
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        self.leases().nodes.clone()
    }

    pub(crate) fn has(&self, node: &NodeId) -> bool {
        let leases = self.leases();
        leases.nodes.iter().any(|record| record.node == *node)
    }

    /// Whether all nodes sign their lines, this one included.
    pub(crate) fn requires_signatures(&self) -> bool {
        self.signs && self.all_sign.load(Ordering::Relaxed)
    }

    /// Whether the name has been without a lease for two beats.
    pub(crate) fn is_missing(&self, name: &str) -> bool {
        let leases = self.leases();
        // A name that is not even in the set was removed for that reason.
        match leases.missing.get(name) {
            Some(beats) => *beats >= MISSING_BEATS,
            None => !leases.nodes.iter().any(|record| record.name == name),
        }
    }

    /// Reads the leases of all nodes. With each beat, counts the names without a lease, and removes
    /// those that have had none for long.
    pub(crate) async fn read(
        &self,
        servers: &Servers,
        keys: &Keys,
        with_beat: bool,
    ) -> Result<(), fred::error::Error> {
        let leases = read_leases(servers, keys).await?;
        let mut nodes = Vec::new();
        let mut missing = HashMap::new();
        let mut gone = Vec::new();
        {
            let before = self.leases();
            for (name, lease) in leases {
                match lease {
                    Some(record) => nodes.push(record),
                    None => {
                        let beats = before.missing.get(&name).copied().unwrap_or(0);
                        let beats = beats + u32::from(with_beat);
                        if beats > MISSING_BEATS {
                            gone.push(name.clone());
                        }
                        missing.insert(name, beats);
                    }
                }
            }
        }
        servers.note_population(nodes.len());
        self.note_signing(&nodes);
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let nodes = Arc::new(nodes);
        *self.leases.write() = KnownLeases { nodes, missing };
        if !gone.is_empty() {
            let key = keys.nodes();
            let _: () = servers.at(&key).srem(&key, gone).await?;
        }
        Ok(())
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

/// The name of each node, with its lease if there is one.
pub(crate) async fn read_leases(
    servers: &Servers,
    keys: &Keys,
) -> Result<Vec<(String, Option<NodeRecord>)>, fred::error::Error> {
    let key = keys.nodes();
    let names: HashSet<String> = servers.at(&key).smembers(&key).await?;
    let names: Vec<String> = names.into_iter().collect();
    let leases: Vec<String> = names.iter().map(|name| keys.lease(name)).collect();
    let values = servers.read_each("GET", &leases).await?;
    let leases = names.into_iter().zip(values).map(|(name, value)| {
        let value: Option<String> = value.convert().ok();
        let lease = value.and_then(|value| serde_json::from_str(&value).ok());
        (name, lease)
    });
    Ok(leases.collect())
}
