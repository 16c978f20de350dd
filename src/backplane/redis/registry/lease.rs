//! The lease: a node's heartbeat, and the table of the other nodes.
//!
//! Each beat reads the own lease before it renews it. If the lease is missing, Redis has
//! forgotten, so every row is written again. If another boot holds it, the name is taken: a dead
//! boot is overwritten, but if the other is live, this process must end. "Live" is decided by
//! publishing to the other's channel, where 0 receivers are proof. No clock decides anything.
//! A node that was taken for dead finds itself missing in `pn:boots`, or its sweep under way. Then
//! it also writes every row again. What is believed of other nodes stands in [`Beliefs`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fred::error::ErrorKind;
use fred::prelude::{Expiration, KeysInterface, SetOptions, SetsInterface};
use fred::types::Value;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backplane::answers::Unavailable;
use crate::backplane::nodes::{NodeRecord, NodeState};
use crate::backplane::redis::registry::belief::{BEAT, Beliefs, LEASE, LeaseValue};
use crate::backplane::redis::registry::isolation::Isolation;
use crate::backplane::redis::registry::node_table::{NodeTable, read_all};
use crate::backplane::redis::registry::skew::ClockSkew;
use crate::backplane::redis::registry::unwritten::UnwrittenRows;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::{RedisHealth, is_broken_off, redacted};
use crate::backplane::redis::{AWAY, Fatal, Keys, ROW_TTL_SECONDS};
use crate::local::hub::Hub;
use crate::protocol::ids::NodeId;
use crate::protocol::{self, Announcement, ClusterKeys};

/// The time between two checks that Redis still has the lease: how long a loss can go unnoticed.
const LOOK: Duration = Duration::from_secs(1);
/// After Redis forgot everything, the other nodes need up to this long to notice and to write
/// their rows again. Until then, a missing row says nothing about its user.
const REBUILD: Duration = Duration::from_secs(5);
/// Why rows may be missing by mistake.
const REBUILDING: &str = "the registry is being rebuilt";
/// The pause between two attempts while the beat fails.
const RETRY: Duration = Duration::from_millis(250);
/// After this long all rows are rewritten, well before their TTL of one day expires.
const REFRESH: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug)]
pub(crate) struct Lease {
    servers: Servers,
    keys: Keys,
    record: NodeRecord,
    hub: Arc<Hub>,
    draining: AtomicBool,
    /// When the lease was last known to be held by this node.
    held: RwLock<Option<Instant>>,
    /// When it was last found missing, after it had been held.
    forgotten: RwLock<Option<Instant>>,
    /// The value of `forgotten` whose loss was repaired: the lease stands, and all rows are dirty.
    marked: RwLock<Option<Instant>>,
    table: NodeTable,
    beliefs: Beliefs,
    beats: watch::Sender<u64>,
    refusal: RedisHealth,
    pub(crate) isolation: Isolation,
    skew: ClockSkew,
    unwritten: UnwrittenRows,
    /// What the others were last told of this node's rows; `None`: nothing yet.
    announced: RwLock<Option<Option<&'static str>>>,
    /// How often they were told.
    announcements: AtomicU64,
    secrets: ClusterKeys,
    /// Woken if a node may not be in the table yet.
    strangers: Notify,
    /// The lease was given up for good. Locked during a beat, so that no beat follows the end.
    left: tokio::sync::Mutex<bool>,
    fatal: watch::Sender<Option<Fatal>>,
}

impl Lease {
    pub(crate) fn new(
        servers: Servers,
        keys: Keys,
        (record, unwritten): (NodeRecord, UnwrittenRows),
        hub: Arc<Hub>,
        secrets: ClusterKeys,
        fatal: watch::Sender<Option<Fatal>>,
    ) -> Self {
        let table = NodeTable::new(record.signs);
        Self {
            servers,
            keys,
            record,
            hub,
            draining: AtomicBool::new(false),
            held: RwLock::default(),
            forgotten: RwLock::default(),
            marked: RwLock::default(),
            table,
            beliefs: Beliefs::default(),
            beats: watch::channel(0).0,
            refusal: RedisHealth::default(),
            isolation: Isolation::new(),
            skew: ClockSkew::default(),
            unwritten,
            announced: RwLock::default(),
            announcements: AtomicU64::new(0),
            secrets,
            strangers: Notify::new(),
            left: tokio::sync::Mutex::default(),
            fatal,
        }
    }

    pub(crate) fn node(&self) -> &NodeId {
        &self.record.node
    }

    /// Whether this node holds the lease, as far as it knows.
    pub(crate) fn is_held(&self) -> bool {
        let held = self.held.read();
        held.is_some_and(|at| at.elapsed() < LEASE)
    }

    /// Counts successful beats. The first announces the node and fetches the table of the others.
    pub(crate) fn beats(&self) -> watch::Receiver<u64> {
        self.beats.subscribe()
    }

    /// The time since it was last known to be held; zero if it never was.
    pub(crate) fn age(&self) -> Duration {
        let held = self.held.read();
        held.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Why Redis refuses what a beat needs.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.refusal.reason()
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        self.table.nodes()
    }

    /// Whether a node is in the table, or is this one.
    pub(crate) fn knows(&self, node: &NodeId) -> bool {
        *node == self.record.node || self.table.has(node)
    }

    /// Whether all nodes sign their lines.
    pub(crate) fn requires_signatures(&self) -> bool {
        self.table.requires_signatures()
    }

    /// That nodes do not agree on topics, if so.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        let words = "another node has other topic rules (PUSH_TOPIC_RULES)";
        self.table.has_other_rules().then_some(words)
    }

    /// Has the table read again before the next beat.
    pub(crate) fn look_soon(&self) {
        self.strangers.notify_one();
    }

    /// What this process believes of the others.
    pub(crate) fn beliefs(&self) -> &Beliefs {
        &self.beliefs
    }

    pub(super) fn servers(&self) -> &Servers {
        &self.servers
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// When Redis was last found to have forgotten this node; set once all rows are marked dirty.
    pub(crate) fn forgotten(&self) -> Option<Instant> {
        *self.marked.read()
    }

    /// The lease of the node that has this name now.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<NodeRecord>, Unavailable> {
        let key = self.keys.lease(name);
        let value = self.servers.call("GET", &key, &[]).await;
        let value: Option<String> = value.and_then(Value::convert).map_err(|_| AWAY)?;
        Ok(value.and_then(|value| serde_json::from_str(&value).ok()))
    }

    /// Why a missing row does not prove that its user is offline; `None` if it does. Not if this
    /// node or another one cannot write its rows, or if Redis has just forgotten everything, which
    /// the own lease shows.
    pub(crate) async fn doubts_rows(&self) -> Result<Option<&'static str>, Unavailable> {
        if let Some(reason) = self.refusal().or_else(|| self.unwritten.reason()) {
            return Ok(Some(reason));
        }
        Ok((!self.vouches_for_rows().await?).then_some(REBUILDING))
    }

    async fn vouches_for_rows(&self) -> Result<bool, Unavailable> {
        let forgotten = *self.forgotten.read();
        if forgotten.is_some_and(|at| at.elapsed() < REBUILD)
            // A new master may lack the newest rows even though it has this node's lease.
            || self.servers.has_turned_within(REBUILD)
            || self.beliefs.may_lack_rows(REBUILD)
        {
            return Ok(false);
        }
        let holder = self.read(&self.record.name).await?;
        Ok(holder.is_some_and(|record| record.node == self.record.node))
    }

    /// Keeps the lease until the node ends.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut breaks = self.servers.breaks();
        let mut refreshed = Instant::now();
        let mut trusted = false;
        loop {
            let left = self.left.lock().await;
            if *left {
                return;
            }
            let was_due = self.has_loss_to_tell();
            let beat = self.beat().await;
            drop(left);
            match beat {
                Ok(intact) => {
                    let is_due = self.has_loss_to_tell();
                    let intact = intact && !is_due;
                    self.refusal.clear();
                    self.beats.send_modify(|count| *count += 1);
                    // Again if the others may have taken it for dead: they look at its lease.
                    if !intact {
                        *self.announced.write() = None;
                    }
                    self.announce().await;
                    if !(intact && trusted) {
                        // A deposed master may have accepted removals that no other server has.
                        self.hub.changes().mark_removed();
                    }
                    if !(intact && trusted && refreshed.elapsed() < REFRESH) {
                        refreshed = Instant::now();
                        // If not all are told, who was passed by hears of its row.
                        if !is_due {
                            self.hub.changes().mark(self.hub.subjects());
                        } else if was_due {
                            self.hub.changes().forgotten(self.hub.subjects());
                        }
                        *self.marked.write() = *self.forgotten.read();
                    }
                    trusted = self.watch(&mut breaks).await;
                }
                Err(error) => {
                    tracing::debug!(error = %redacted(&error), "beat failed");
                    self.refusal.note(&error);
                    self.servers.note(&error);
                    // The lease cannot say it.
                    if !is_broken_off(&error) {
                        self.announce().await;
                    }
                    if !is_broken_off(&error) && self.isolation.wants_look() {
                        self.look_at_others().await;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits for the next beat. It comes early if Redis forgets the lease or was unavailable:
    /// then it may have lost anything. Returns whether the rows can still be trusted.
    async fn watch(&self, breaks: &mut watch::Receiver<u64>) -> bool {
        let next = Instant::now() + BEAT;
        while Instant::now() < next {
            let changed = tokio::select! {
                changed = tokio::time::timeout(LOOK, breaks.changed()) => changed,
                () = self.strangers.notified() => {
                    // If it fails, the next beat shows why.
                    let _ = self.look_around(false).await;
                    // However many names are heard: a few looks in a second.
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                () = self.unwritten.news() => {
                    // A refusal is said at once, and then by the lease, if its beat is not refused
                    // too. That it is over, the lease says first.
                    if self.unwritten.own().is_some() {
                        self.announce().await;
                    }
                    tokio::time::sleep(RETRY).await;
                    return true;
                }
            };
            match changed {
                Ok(Ok(())) => return false,
                // The servers are dropped, and the node ends in a moment.
                Ok(Err(_)) => tokio::time::sleep(LOOK).await,
                Err(_) => {
                    if let Ok(None) = self.read(&self.record.name).await {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// One beat. Returns whether this node still held the lease and no other node took it for
    /// dead, so that the rows can be trusted.
    async fn beat(&self) -> Result<bool, fred::error::Error> {
        let key = self.keys.lease(&self.record.name);
        let value = self.servers.call("GET", &key, &[]).await?;
        let value: Option<String> = value.convert()?;
        let holder: Option<NodeRecord> = value.and_then(|value| serde_json::from_str(&value).ok());
        let ours = holder
            .as_ref()
            .is_some_and(|record| record.node == self.record.node);
        if !ours && let Some(other) = holder {
            if !self.is_deaf(&other.node).await? {
                let name = self.record.name.clone();
                self.fatal.send_replace(Some(Fatal::NameTaken {
                    name,
                    by: other.node,
                }));
                return Ok(true);
            }
            self.put(None).await?;
        } else if ours {
            self.put(None).await?;
        } else {
            self.note_forgotten();
            if !self.put(Some(SetOptions::NX)).await? {
                // Another process was faster; check again at once.
                let words = "lost the race for the lease";
                return Err(fred::error::Error::new(ErrorKind::Unknown, words));
            }
        }
        *self.held.write() = Some(Instant::now());
        let swept = self.enlist().await?;
        if ours && swept {
            tracing::warn!("this node was taken for dead; rewriting its rows");
        }
        self.look_around(true).await?;
        let redis = self.servers.at(&key);
        self.skew.measure(&redis, self.servers.metrics()).await;
        Ok(ours && !swept)
    }

    /// Puts the node into the sets of nodes and keeps the indexes of its rows alive. Returns
    /// whether another node sweeps its rows, or has swept them: a sweeper holds a lock meanwhile
    /// and ends by removing the node from the set.
    async fn enlist(&self) -> Result<bool, fred::error::Error> {
        let node = &self.record.node;
        let nodes = self.keys.nodes();
        let _: () = self
            .servers
            .at(&nodes)
            .sadd(&nodes, &self.record.name)
            .await?;
        let (sweep, boots) = (self.keys.sweep(node), self.keys.boots());
        let sweeping: bool = self.servers.at(&sweep).exists(&sweep).await?;
        // After the check of the lock: a sweep that ended in between has left its mark here.
        let added: i64 = self
            .servers
            .at(&boots)
            .sadd(&boots, node.to_string())
            .await?;
        for index in [self.keys.users(node), self.keys.topics(node)] {
            let client = self.servers.at(&index);
            let _: () = client.expire(&index, ROW_TTL_SECONDS, None).await?;
        }
        Ok(sweeping || added > 0)
    }

    fn note_forgotten(&self) {
        if self.held.read().is_some() {
            if self.refusal.tells_forgotten() {
                tracing::warn!("Redis has forgotten this node; rewriting lease and rows");
            }
            let others = self.nodes();
            let others = others.iter().map(|record| &record.node);
            self.beliefs
                .forget_leases(others.filter(|node| **node != self.record.node));
            // At once: a row missed until the lease stands would pass for one that was lost alone.
            if !self.has_loss_to_tell() {
                self.hub.changes().forgotten(self.hub.subjects());
            }
            *self.forgotten.write() = Some(Instant::now());
        }
    }

    /// Whether Redis forgot this node, and no beat went through since then.
    fn has_loss_to_tell(&self) -> bool {
        *self.forgotten.read() != *self.marked.read()
    }

    async fn put(&self, options: Option<SetOptions>) -> Result<bool, fred::error::Error> {
        let mut record = self.record.clone();
        record.connections = self.hub.len();
        record.rules = self.hub.topics().rules().all().digest();
        record.degraded = self.isolation.is_degraded();
        record.unwritten = self.unwritten.own().unwrap_or_default().to_owned();
        if self.draining.load(Ordering::Relaxed) {
            record.state = NodeState::Draining;
        }
        let beat = *self.beats.borrow() + 1;
        let value = LeaseValue { record, beat };
        let value = serde_json::to_string(&value).expect("plain fields");
        let expire = Expiration::PX(LEASE.as_millis() as i64);
        let key = self.keys.lease(&self.record.name);
        let answer: Value = self
            .servers
            .at(&key)
            .set(key, value, Some(expire), options, false)
            .await?;
        Ok(!answer.is_null())
    }

    /// Tells the other nodes what is new: this one, or that its rows are not written or are again.
    async fn announce(&self) {
        let unwritten = self.unwritten.own();
        if *self.announced.read() == Some(unwritten) {
            return;
        }
        let channel = self.keys.global_channel();
        let said = Announcement {
            from: self.record.node.clone(),
            n: self.announcements.fetch_add(1, Ordering::Relaxed) + 1,
            unwritten: unwritten.map(str::to_owned),
        };
        let line = protocol::announcement_payload(&said);
        let line = self.secrets.signed(&channel, "", &line);
        let key = self.keys.lease(&self.record.name);
        if (self.servers.publish_by(&key, &channel, line.into()).await).is_ok() {
            *self.announced.write() = Some(unwritten);
        }
    }

    /// Another node says whether Redis takes its rows.
    pub(crate) fn note_announced(&self, said: &Announcement) {
        if said.from != self.record.node && self.table.has(&said.from) {
            self.unwritten.hear(said);
        }
    }

    async fn look_around(&self, with_beat: bool) -> Result<(), fred::error::Error> {
        let (servers, keys) = (&self.servers, &self.keys);
        let read = self
            .table
            .read(servers, keys, &self.beliefs, with_beat)
            .await;
        let nodes = self.table.nodes();
        self.beliefs.see_present(&nodes);
        let rules = self.hub.topics().rules().all().digest();
        self.table
            .note_rules(self.node(), &rules, self.servers.metrics());
        if read.is_ok() {
            self.isolation.see(self.node(), &nodes);
            let is_late = self.hears_one_of(&self.beliefs.late()).await;
            self.unwritten.see(self.node(), &nodes, is_late);
        }
        read
    }

    /// While Redis refuses a beat, the table stays as it was: only the isolation takes note.
    async fn look_at_others(&self) {
        if let Ok(nodes) = read_all(&self.servers, &self.keys).await {
            self.isolation.see(self.node(), &nodes);
        }
    }

    /// Returns whether Redis has it. If not, the next beat reports it.
    pub(crate) async fn announce_draining(&self) -> bool {
        self.draining.store(true, Ordering::Relaxed);
        self.put(None).await.is_ok()
    }

    /// Removes the lease, so that all nodes know at once. With `clean`, no row is left for others
    /// to sweep.
    pub(crate) async fn give_up(&self, clean: bool) {
        // A beat under way ends first, or it would write the lease again.
        *self.left.lock().await = true;
        let node = &self.record.node;
        if clean {
            for index in [self.keys.users(node), self.keys.topics(node)] {
                let _: Result<(), _> = self.servers.at(&index).del(&index).await;
            }
            let boots = self.keys.boots();
            let _: Result<(), _> = self.servers.at(&boots).srem(&boots, node.to_string()).await;
        }
        let (key, nodes) = (self.keys.lease(&self.record.name), self.keys.nodes());
        let _: Result<(), _> = self.servers.at(&key).del(&key).await;
        let _: Result<(), _> = self
            .servers
            .at(&nodes)
            .srem(&nodes, &self.record.name)
            .await;
    }
}
