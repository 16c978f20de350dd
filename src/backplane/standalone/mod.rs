//! The backplane of a single node, without Redis.
//!
//! There are no other nodes, so no user is located and no other node receives a line. Kept
//! messages, sessions and bans live in memory. What must stay true: every feature that works on
//! Redis works here with the same answers; stored data is lost at exit.

pub(crate) mod access;

pub(crate) mod bookmarks;

pub(crate) mod kept;

mod marks;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use crate::backplane::answers::{Kept, Published};
use crate::backplane::nodes::{Health, NodeRecord, NodeState, Standing};
use crate::backplane::rows::{MemberCount, Row, RowValue};
use crate::backplane::standalone::access::MemoryAccess;
use crate::backplane::standalone::bookmarks::MemoryBookmarks;
use crate::backplane::standalone::kept::MemoryLogs;
use crate::local::hub::Hub;
use crate::local::replay::page::{Bounds, Page};
use crate::protocol::Message;
use crate::protocol::ids::{NodeId, Subject, Topic, UserId};
use crate::protocol::position::Since;
use crate::telemetry::metrics::Metrics;

/// Maximum number of queued lines to the node itself. Only operators send them, to drain it.
const QUEUE: usize = 64;

/// Between two removals of what has expired.
const SWEEP: Duration = Duration::from_secs(30);

/// The backplane of the only node.
#[derive(Debug)]
pub(crate) struct Standalone {
    hub: Arc<Hub>,
    record: RwLock<NodeRecord>,
    /// The lines that the node sends to itself.
    lines: mpsc::Sender<String>,
    health: watch::Sender<Health>,
    logs: Arc<MemoryLogs>,
    bounds: Bounds,
    access: Arc<MemoryAccess>,
}

/// Removes what has expired, as long as the backplane lives.
async fn sweep(logs: Weak<MemoryLogs>, access: Weak<MemoryAccess>, bounds: Bounds) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let (Some(logs), Some(access)) = (logs.upgrade(), access.upgrade()) else {
            return;
        };
        logs.sweep(&bounds);
        access.sweep();
    }
}

impl Standalone {
    /// Starts, and is ready at once. The receiver gets the lines that it sends to itself.
    pub(crate) fn start(
        hub: &Arc<Hub>,
        record: NodeRecord,
        bounds: Bounds,
    ) -> (Self, mpsc::Receiver<String>) {
        let (lines, heard) = mpsc::channel(QUEUE);
        let standalone = Self {
            hub: hub.clone(),
            record: RwLock::new(record),
            lines,
            health: watch::channel(Health::Ready).0,
            logs: Arc::new(MemoryLogs::new(hub.topics().rules().clone())),
            bounds,
            access: Arc::default(),
        };
        tokio::spawn(sweep(
            Arc::downgrade(&standalone.logs),
            Arc::downgrade(&standalone.access),
            bounds,
        ));
        (standalone, heard)
    }

    pub(crate) fn members(&self, topic: &Topic) -> Vec<MemberCount> {
        let connections = self.hub.topics().count(topic);
        let node = self.hub.node().clone();
        let here = (connections > 0).then_some(MemberCount { node, connections });
        here.into_iter().collect()
    }

    pub(crate) fn rows(&self, user: &UserId) -> Vec<Row> {
        let leaving = self.record.read().state == NodeState::Draining;
        let row = |seat| Row {
            about: RowValue {
                leaving,
                ..RowValue::of(&seat)
            },
            ..Row::of(self.hub.node(), &seat)
        };
        self.hub.seats(user).into_iter().map(row).collect()
    }

    pub(crate) fn publish(&self, node: &NodeId, line: String) -> Published {
        let is_heard = node == self.hub.node() && self.lines.try_send(line).is_ok();
        Published::now(Ok(u32::from(is_heard)))
    }

    /// Returns 1, for this node: a node does not receive its own line to all nodes.
    pub(crate) fn publish_all() -> Published {
        Published::now(Ok(1))
    }

    pub(crate) fn keep(&self, subject: &Subject, message: &Message) -> Kept {
        self.logs.keep(subject, message, &self.bounds)
    }

    pub(crate) fn read_log(&self, subject: &Subject, since: Since) -> Page {
        self.logs.read(subject, since, &self.bounds)
    }

    pub(crate) fn logs(&self) -> &MemoryLogs {
        &self.logs
    }

    pub(crate) fn bookmarks(&self) -> &MemoryBookmarks {
        &self.logs.bookmarks
    }

    pub(crate) fn access(&self) -> &MemoryAccess {
        &self.access
    }

    pub(crate) fn standing(&self, node: &NodeId) -> Standing {
        match node == self.hub.node() {
            true => Standing::Alive,
            false => Standing::Dead,
        }
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        let mut record = self.record.read().clone();
        record.connections = self.hub.len();
        record.rules = self.hub.topics().rules().all().digest();
        Arc::new(vec![record])
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(crate) fn gauge(&self, metrics: &Metrics) {
        metrics.nodes.set(1);
        metrics.queue("bus", QUEUE - self.lines.capacity(), QUEUE);
    }

    pub(crate) fn announce_draining(&self) {
        self.record.write().state = NodeState::Draining;
    }
}
