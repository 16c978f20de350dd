//! Publishing: one lane for each channel, batched by availability.
//!
//! A single line leaves at once. All lines that are there when the connection writes go together in
//! one payload. Lines of one batch are a bundle and stay together: else Redis
//! could find no receiver for one line of a sender, and one for the next. Payloads of one lane
//! are numbered from 1. If Redis gives no answer, the outcome is unknown: the payload is sent again
//! under the same number, and receivers drop a number they have had. Receivers detect a loss by the
//! next number; if no payload follows, a tail repeats the last number.
//!
//! A publisher can name any channel in its `reply`, and a lane takes memory: for names that are
//! not in the table of nodes there is a bounded number, and one that finds no subscriber ends at
//! once.
//!
//! What must stay true: lines of one channel keep their order, each gets exactly one answer, and
//! no number is used twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smallvec::smallvec;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backplane::answers::{Published, Unavailable};
use crate::backplane::redis::bus::lane::{Lane, Lanes};
use crate::backplane::redis::bus::post::{Bundle, LookUp, OutboxLine, Post};
use crate::backplane::redis::keys::Keys;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::registry::whereabouts::Whereabouts;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::wire::connection::Awaited;
use crate::protocol::ClusterKeys;
use crate::protocol::ids::NodeId;
use crate::telemetry::metrics::Metrics;

/// The time between two checks whether every line is answered.
const SETTLE_STEP: Duration = Duration::from_millis(10);
/// Maximum number of open lanes for names that are not in the table; further publishers wait.
const STRANGERS: usize = 1_024;
/// Publishers to more such names than this.
const TOO_MANY: Unavailable = Unavailable("too many channels of unknown nodes");

#[derive(Debug)]
pub(crate) struct Outboxes {
    lanes: Arc<Lanes>,
    /// Places for lanes of names that are not in the table.
    strangers: Arc<Semaphore>,
    /// To which node a line for a user may go ahead.
    pub(crate) whereabouts: Whereabouts,
}

impl Outboxes {
    pub(crate) fn new(
        servers: Servers,
        lease: Arc<Lease>,
        keys: Keys,
        secrets: ClusterKeys,
        metrics: Arc<Metrics>,
    ) -> Self {
        let post = Post {
            servers,
            lease,
            keys,
            secrets,
            unanswered: AtomicUsize::new(0),
            metrics,
        };
        Self {
            lanes: Arc::new(Lanes::new(post)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            whereabouts: Whereabouts::default(),
        }
    }

    /// Puts a line into the lane of a node, or of all; waits for room there.
    pub(crate) async fn publish(
        &self,
        node: Option<&NodeId>,
        text: String,
        deadline: Instant,
    ) -> Published {
        let (line, published) = OutboxLine::new(text, deadline);
        self.put(node, smallvec![line], deadline).await;
        published
    }

    /// As [`Outboxes::publish`], for lines that Redis takes all or none of, each with its deadline;
    /// answers in the same order.
    pub(crate) async fn publish_together(
        &self,
        node: &NodeId,
        lines: Vec<(String, Instant)>,
    ) -> Vec<Published> {
        let Some(last) = lines.iter().map(|(_, deadline)| *deadline).max() else {
            return Vec::new();
        };
        let (bundle, published) = lines
            .into_iter()
            .map(|(text, deadline)| OutboxLine::new(text, deadline))
            .unzip();
        self.put(Some(node), bundle, last).await;
        published
    }

    /// As [`Outboxes::publish`], and has a row read right before, by the same connection. `None` if
    /// the line would have to wait: then nothing is published, nor read.
    pub(crate) fn publish_ahead(
        &self,
        node: &NodeId,
        key: String,
        text: impl FnOnce() -> String,
        deadline: Instant,
    ) -> Option<(Published, Awaited)> {
        let post = &self.lanes.post;
        let channel = post.keys.node_channel(node);
        let lane = self.lanes.find(&channel)?;
        if !post.servers.is_publisher_up(&channel) {
            return None;
        }
        lane.room.try_acquire().ok()?.forget();
        let (caller, row) = Awaited::new();
        let (line, published) = OutboxLine::new(text(), deadline);
        post.unanswered.fetch_add(1, Ordering::Relaxed);
        if lane
            .add(smallvec![line.behind(LookUp { key, caller })])
            .is_err()
        {
            lane.room.add_permits(1);
            post.unanswered.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        post.metrics.lines.inc();
        Some((published, row))
    }

    /// Puts a bundle into a lane; waits for room there.
    async fn put(&self, node: Option<&NodeId>, mut bundle: Bundle, deadline: Instant) {
        loop {
            let Some(lane) = self.lane(node, deadline).await else {
                bundle.into_iter().for_each(|line| line.refuse(TOO_MANY));
                return;
            };
            match lane.room.acquire().await {
                // Given back when the bundle is packed.
                Ok(room) => room.forget(),
                // The semaphore is never closed.
                Err(_) => return,
            }
            // Counted once there is room, because a waiting publisher may be dropped; but before it
            // can be answered.
            let (lines, post) = (bundle.len(), &self.lanes.post);
            post.unanswered.fetch_add(lines, Ordering::Relaxed);
            match lane.add(bundle) {
                Ok(()) => {
                    post.metrics.lines.inc_by(lines as u64);
                    return;
                }
                Err(back) => {
                    post.unanswered.fetch_sub(lines, Ordering::Relaxed);
                    bundle = back;
                }
            }
        }
    }

    /// The lane of a node, or of all. `None` if there are too many to unknown nodes.
    async fn lane(&self, node: Option<&NodeId>, deadline: Instant) -> Option<Arc<Lane>> {
        let post = &self.lanes.post;
        let channel = match node {
            Some(node) => post.keys.node_channel(node),
            None => post.keys.global_channel(),
        };
        if let Some(lane) = self.lanes.find(&channel) {
            return Some(lane);
        }
        if node.is_none_or(|node| post.lease.knows(node)) {
            return Some(self.lanes.open(channel, node, None));
        }
        let place = self.strangers.clone().acquire_owned();
        let place = tokio::time::timeout_at(deadline, place).await.ok()?.ok()?;
        Some(self.lanes.open(channel, node, Some(place)))
    }

    /// How many lines have no answer yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.lanes.post.unanswered.load(Ordering::Relaxed)
    }

    /// How many lines wait for an answer, and how many bundles are queued in the fullest lane.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.unanswered(), self.lanes.fullest())
    }

    /// Waits until every line handed over is answered, for `patience` at most.
    pub(crate) async fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.unanswered() > 0 && Instant::now() < deadline {
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }
}
