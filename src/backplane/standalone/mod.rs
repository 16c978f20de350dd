//! The backplane of one process: look-ups in the nodes' own maps, channels in memory.
//!
//! One node by itself needs nothing of this but the global channel. Several nodes in one process
//! may share an [`Exchange`], so that a test of many nodes needs no Redis.

pub mod access;
pub mod kept;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, watch};

use crate::backplane::standalone::access::Passes;
use crate::backplane::standalone::kept::Inboxes;
use crate::backplane::{
    About, Health, Kept, Locations, NodeRecord, NodeState, Parties, Population, Published, Row,
};
use crate::cluster::inbound::{Channel, Inbound};
use crate::local::hub::{Hub, Seat};
use crate::local::replay::page::{Bounds, Page, Since};
use crate::protocol::Message;
use crate::protocol::ids::{NodeId, Subject, Topic, UserId};
use crate::telemetry::metrics::Metrics;

/// Lines that may wait for a node; whoever sends more waits.
const QUEUE: usize = 8_192;

/// What the nodes of one process share.
#[derive(Debug, Clone, Default)]
pub struct Exchange(
    Arc<RwLock<BTreeMap<NodeId, Party>>>,
    Arc<Inboxes>,
    Arc<Passes>,
);

#[derive(Debug, Clone)]
struct Party {
    hub: Arc<Hub>,
    record: NodeRecord,
    lines: mpsc::Sender<(Channel, String)>,
}

/// One node's part in an exchange.
#[derive(Debug)]
pub struct Embedded {
    exchange: Exchange,
    node: NodeId,
    health: watch::Sender<Health>,
    shared: bool,
    bounds: Bounds,
}

impl Embedded {
    /// Joins an exchange; without one the node is by itself.
    pub fn join(
        exchange: Option<Exchange>,
        hub: &Arc<Hub>,
        record: NodeRecord,
        bounds: Bounds,
    ) -> (Self, Feed) {
        let shared = exchange.is_some();
        let exchange = exchange.unwrap_or_default();
        let (lines, feed) = mpsc::channel(QUEUE);
        let node = hub.node().clone();
        let party = Party {
            hub: hub.clone(),
            record,
            lines,
        };
        exchange
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.clone(), party);
        let (health, _) = watch::channel(Health::Ready);
        (
            Self {
                exchange,
                node,
                health,
                shared,
                bounds,
            },
            Feed(feed),
        )
    }

    fn parties(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NodeId, Party>> {
        self.exchange
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    pub(crate) fn members(&self, topic: &Topic) -> Vec<Population> {
        let parties = self.parties();
        let populations = parties.iter().map(|(node, party)| Population {
            node: node.clone(),
            connections: party.hub.topics().count(topic),
        });
        populations.filter(|one| one.connections > 0).collect()
    }

    pub(crate) fn parties_of(&self, topics: &[Topic]) -> Vec<Parties> {
        let parties = self.parties();
        let others = || parties.iter().filter(|(node, _)| **node != self.node);
        let of = |topic: &Topic| {
            let there = others().filter(|(_, party)| party.hub.topics().count(topic) > 0);
            there
                .map(|(node, party)| (node.clone(), party.hub.topics().is_watched(topic)))
                .collect()
        };
        topics.iter().map(of).collect()
    }

    pub(crate) fn locate(&self, subjects: &[Subject]) -> Vec<Option<Locations>> {
        let parties = self.parties();
        let others = || parties.iter().filter(|(node, _)| **node != self.node);
        let count = |hub: &Hub, subject: &Subject| match subject {
            Subject::User(user) => hub.seats(user).len() as u32,
            Subject::Topic(topic) => hub.topics().count(topic),
        };
        subjects
            .iter()
            .map(|subject| {
                let held = others()
                    .map(|(node, party)| (node.clone(), count(&party.hub, subject)))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                Some(held)
            })
            .collect()
    }

    pub(crate) fn rows(&self, user: &UserId) -> Vec<Row> {
        let parties = self.parties();
        parties
            .iter()
            .flat_map(|(node, party)| {
                let leaving = party.record.state == NodeState::Draining;
                party.hub.seats(user).into_iter().map(move |seat| Row {
                    node: node.clone(),
                    fd: seat.fd.0,
                    about: About {
                        leaving,
                        ..about(&seat)
                    },
                })
            })
            .collect()
    }

    pub(crate) async fn publish(&self, node: &NodeId, line: String) -> Published {
        let party = self.parties().get(node).cloned();
        let Some(party) = party else {
            return Published::now(Ok(0));
        };
        let sent = party.lines.send((Channel::Own, line)).await;
        Published::now(Ok(u32::from(sent.is_ok())))
    }

    pub(crate) async fn publish_all(&self, line: String) -> Published {
        let others = |(node, party): (&NodeId, &Party)| (*node != self.node).then(|| party.clone());
        let parties: Vec<Party> = self.parties().iter().filter_map(others).collect();
        let mut receivers = 1;
        for party in parties {
            let sent = party.lines.send((Channel::Global, line.clone())).await;
            receivers += u32::from(sent.is_ok());
        }
        Published::now(Ok(receivers))
    }

    pub(crate) fn keep(&self, subject: &Subject, message: &Message) -> Kept {
        self.exchange.1.keep(subject, message, &self.bounds)
    }

    pub(crate) fn read_inbox(&self, subject: &Subject, since: Since) -> Page {
        self.exchange.1.read(subject, since, &self.bounds)
    }

    pub(crate) fn passes(&self) -> &Passes {
        &self.exchange.2
    }

    pub(crate) fn is_dead(&self, node: &NodeId) -> bool {
        !self.parties().contains_key(node)
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        let parties = self.parties();
        let records = parties.values().map(|party| {
            let mut record = party.record.clone();
            record.connections = party.hub.len();
            record
        });
        Arc::new(records.collect())
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn gauge(&self, metrics: &Metrics) {
        let parties = self.parties();
        metrics.nodes.set(parties.len() as i64);
        if let Some(party) = parties.get(&self.node) {
            metrics.queue("bus", QUEUE - party.lines.capacity(), QUEUE);
        }
    }

    pub(crate) fn announce_draining(&self) {
        let mut parties = self
            .exchange
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(party) = parties.get_mut(&self.node) {
            party.record.state = NodeState::Draining;
        }
    }

    pub(crate) fn leave(&self) {
        let mut parties = self
            .exchange
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        parties.remove(&self.node);
    }
}

/// What is published to this node, to be read by one task.
#[derive(Debug)]
pub struct Feed(mpsc::Receiver<(Channel, String)>);

impl Feed {
    /// Reads until the node has left the exchange.
    pub async fn read(mut self, mut inbound: Inbound) {
        while let Some((channel, line)) = self.0.recv().await {
            inbound.hear(channel, line.as_bytes()).await;
        }
    }
}

/// What a row says of a seat.
pub(crate) fn about(seat: &Seat) -> About {
    About {
        at: seat.at,
        transport: seat.dialect.transport().to_owned(),
        device: seat.device().map(str::to_owned),
        addr: seat.address().map(|address| address.to_string()),
        n: seat.ordinal(),
        leaving: false,
    }
}
