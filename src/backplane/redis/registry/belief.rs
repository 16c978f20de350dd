//! What this process believes of other nodes: alive, suspect or dead. The only memory of that kind.
//!
//! Fed by leases (looked at with each beat of this node, and whenever a sender needs to know), by
//! the receivers that `PUBLISH` counts, by replies, and by the probes of [`super::inquiry`]. Every
//! reader asks here. What must stay true: a lease that is there disproves death, whatever is
//! remembered; and a lease that is missing for [`LISTENING_BEATS`] while Redis takes this node's
//! own beats is death, whatever `PUBLISH` counts: the host may have vanished without closing.
//!
//! A node without an entry is alive, so that the hot path needs no lock while nothing is wrong.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backplane::nodes::{NodeRecord, Standing};
use crate::backplane::redis::registry::absent::AbsentNodes;
use crate::protocol::ids::NodeId;

/// Beats without a lease after which a node that does not listen is dead. One may be Redis's own
/// pause.
pub(crate) const MISSING_BEATS: u32 = 2;
/// The same for a node that `PUBLISH` still counts.
pub(crate) const LISTENING_BEATS: u32 = 3;
/// Looks that are further apart than this do not count together: Redis or this node stood still.
const APART: Duration = Duration::from_secs(7);
/// After Redis forgot everything, a node that still listens has this long to put its lease back.
pub(crate) const ABSENCE: Duration = Duration::from_secs(16);
/// How long a dead node is remembered: `PUBLISH` may still count it, or it may come back. Redis
/// closes its connection well before, because nothing is sent to it.
const GRAVE: Duration = Duration::from_secs(3600);
/// Maximum number of nodes that are not simply alive.
const ENTRIES: usize = 10_000;

/// The time between two beats.
pub(crate) const BEAT: Duration = Duration::from_secs(3);
/// How long a lease lasts without a beat.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// A lease without a beat for so long is late: this node saw two beats go by.
const OVERDUE: Duration = Duration::from_millis(5_500);

/// The content of a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeaseValue {
    #[serde(flatten)]
    pub record: NodeRecord,
    /// Changes with each beat. Nodes of older versions do not count.
    #[serde(default)]
    pub beat: u64,
}

/// A node's lease, as it was just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseSeen {
    /// It is there, and was renewed in time.
    Held,
    /// It is there, and for longer than it can last with the beat that it names: Redis's clock went
    /// back and no beat has come since. It proves no more than a missing one.
    Stale,
    /// Another boot of the same name holds it.
    Another,
    Missing,
}

/// What a look, made with a beat, found of one node.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub node: NodeId,
    pub lease: LeaseSeen,
    /// Whether Redis lists the node, so that its rows may be there.
    pub is_listed: bool,
}

#[derive(Debug, Default)]
struct Belief {
    /// Looks in a row that found no lease to believe.
    missed: u32,
    /// Another boot has its name, or no list has it: a silent channel is proof then.
    is_replaced: bool,
    /// Since when no subscriber is known.
    unheard: Option<Instant>,
    /// A sender waits for it to listen again.
    is_awaited: bool,
    /// Its lease is back, and it was not heard since: its rows may be missing.
    is_back: bool,
    /// Redis listed it without a lease: it did not leave, and may come back.
    was_listed: bool,
    died: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Beliefs {
    nodes: RwLock<HashMap<NodeId, Belief, ahash::RandomState>>,
    /// How many entries there are: asked without a lock.
    doubted: AtomicUsize,
    /// Woken when there is a node to ask after.
    doubt: Notify,
    /// Counts deaths.
    deaths: watch::Sender<u64>,
    /// The last beat of each node, and since when it is the last.
    beats: Mutex<HashMap<NodeId, (u64, Instant), ahash::RandomState>>,
    times: Mutex<Times>,
    absent: AbsentNodes,
}

#[derive(Debug, Default)]
struct Times {
    looked: Option<Instant>,
    /// When Redis was last found to have forgotten this node.
    forgotten: Option<Instant>,
}

impl Belief {
    fn standing(&self) -> Standing {
        match (self.died, self.unheard) {
            (Some(_), _) => Standing::Dead,
            (None, Some(_)) => Standing::Suspect,
            (None, None) => Standing::Alive,
        }
    }

    /// Whether nothing speaks against the node.
    fn is_empty(&self) -> bool {
        self.missed == 0 && !self.is_replaced && self.unheard.is_none() && self.died.is_none()
    }

    /// Whether the evidence is now enough for death, and was not before.
    fn dies(&mut self, spares_listeners: bool) -> bool {
        let is_silent = self.unheard.is_some();
        let is_dead = is_silent && (self.is_replaced || self.missed >= MISSING_BEATS)
            || !spares_listeners && self.missed >= LISTENING_BEATS;
        let dies = is_dead && self.died.is_none();
        if dies {
            self.died = Some(Instant::now());
            self.is_back = false;
        }
        dies
    }

    /// A lease is there. If it was missing, the node is suspect until it is heard. Returns whether
    /// it was.
    fn holds_lease(&mut self) -> bool {
        let was_missed = std::mem::take(&mut self.missed) > 0;
        self.is_replaced = false;
        let returns = self.died.take().is_some() || was_missed;
        if returns {
            self.unheard = Some(Instant::now());
            self.is_awaited = false;
            self.is_back = true;
        }
        returns
    }
}

impl Default for Beliefs {
    fn default() -> Self {
        Self {
            nodes: RwLock::default(),
            doubted: AtomicUsize::new(0),
            doubt: Notify::new(),
            deaths: watch::channel(0).0,
            beats: Mutex::default(),
            times: Mutex::default(),
            absent: AbsentNodes::default(),
        }
    }
}

impl Beliefs {
    /// What is believed now, from what is known already. A caller that would act on a death by
    /// removing or refusing something reads the lease first, and says so by [`Beliefs::weigh`].
    pub(crate) fn standing(&self, node: &NodeId) -> Standing {
        if self.doubted.load(Ordering::Relaxed) == 0 {
            return Standing::Alive;
        }
        let nodes = self.nodes.read();
        nodes.get(node).map_or(Standing::Alive, Belief::standing)
    }

    /// `PUBLISH` counted a subscriber, or the node replied. This lifts a suspicion, but it does not
    /// raise the dead: Redis counts a host that has vanished.
    pub(crate) fn note_heard(&self, node: &NodeId) {
        if self.doubted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut nodes = self.nodes.write();
        if let Some(belief) = nodes.get_mut(node) {
            belief.unheard = None;
            belief.is_awaited = false;
            if std::mem::take(&mut belief.is_back) {
                self.absent.note_return();
            }
            if belief.is_empty() {
                nodes.remove(node);
            }
            self.count(&nodes);
        }
    }

    /// `PUBLISH` counted no subscriber. `is_known`: the node is in the table. Others get no entry,
    /// because a publisher can invent names.
    pub(crate) fn note_unheard(&self, node: &NodeId, is_known: bool) {
        let mut nodes = self.nodes.write();
        if !(nodes.contains_key(node) || is_known && nodes.len() < ENTRIES) {
            return;
        }
        let belief = nodes.entry(node.clone()).or_default();
        belief.unheard.get_or_insert_with(Instant::now);
        let dies = belief.dies(self.spares_listeners());
        self.count(&nodes);
        drop(nodes);
        self.tell(dies);
    }

    /// Whether a sender may wait until this suspect listens again: only the first one does, and
    /// the others answer at once.
    pub(crate) fn may_wait(&self, node: &NodeId) -> bool {
        let mut nodes = self.nodes.write();
        let Some(belief) = nodes.get_mut(node) else {
            return true;
        };
        !std::mem::replace(&mut belief.is_awaited, true)
    }

    /// What is to be believed of a node whose lease was just read. `is_known`: it is in the table.
    pub(crate) fn weigh(&self, node: &NodeId, lease: LeaseSeen, is_known: bool) -> Standing {
        let mut nodes = self.nodes.write();
        let Some(belief) = nodes.get_mut(node) else {
            return match lease {
                LeaseSeen::Held => Standing::Alive,
                // No list has it, and it has no lease.
                _ if !is_known => Standing::Dead,
                _ => Standing::Alive,
            };
        };
        let mut dies = false;
        match lease {
            LeaseSeen::Held => {
                if belief.holds_lease() {
                    self.doubt.notify_one();
                }
            }
            LeaseSeen::Another => {
                belief.is_replaced = true;
                dies = belief.dies(self.spares_listeners());
            }
            LeaseSeen::Stale | LeaseSeen::Missing => {}
        }
        let standing = belief.standing();
        if belief.is_empty() {
            nodes.remove(node);
        }
        self.count(&nodes);
        drop(nodes);
        self.tell(dies);
        standing
    }

    /// What the lease of a node's name, read now, says of the node. The time that Redis gives it is
    /// not asked for: its clock may have gone back. A living node beats, which this node can count.
    pub(crate) fn read(&self, node: &NodeId, lease: Option<&LeaseValue>) -> LeaseSeen {
        let Some(lease) = lease else {
            return LeaseSeen::Missing;
        };
        if lease.record.node != *node {
            return LeaseSeen::Another;
        }
        let now = Instant::now();
        let mut beats = self.beats.lock();
        let last = beats.entry(node.clone()).or_insert((lease.beat, now));
        if last.0 != lease.beat {
            *last = (lease.beat, now);
        }
        match lease.beat > 0 && now - last.1 > LEASE {
            true => LeaseSeen::Stale,
            false => LeaseSeen::Held,
        }
    }

    /// What this node found when it looked, right after Redis had taken its own beat.
    pub(crate) fn look(&self, looks: &[Look]) {
        let now = Instant::now();
        let looked = self.times.lock().looked.replace(now);
        let begins_again = looked.is_none_or(|at| now - at > APART);
        let spares_listeners = self.spares_listeners();
        let has_lease = |look: &Look| matches!(look.lease, LeaseSeen::Held | LeaseSeen::Stale);
        let holders = looks.iter().filter(|look| has_lease(look));
        let holders: HashSet<&NodeId> = holders.map(|look| &look.node).collect();
        self.beats.lock().retain(|node, _| holders.contains(node));
        let mut nodes = self.nodes.write();
        let mut die = false;
        for look in looks {
            if look.lease == LeaseSeen::Held {
                self.see_held(&mut nodes, &look.node);
                continue;
            }
            if !nodes.contains_key(&look.node) && nodes.len() >= ENTRIES {
                continue;
            }
            let belief = nodes.entry(look.node.clone()).or_default();
            if begins_again {
                belief.missed = 0;
            }
            belief.missed += 1;
            // After Redis forgot everything, no list means anything.
            belief.was_listed |= look.is_listed || spares_listeners;
            let is_unlisted = look.lease == LeaseSeen::Missing && !look.is_listed;
            belief.is_replaced |=
                look.lease == LeaseSeen::Another || is_unlisted && !spares_listeners;
            die |= belief.dies(spares_listeners);
            let has_left = belief.unheard.is_some() && !belief.was_listed;
            let is_over = belief
                .died
                .is_some_and(|at| has_left || at.elapsed() > GRAVE);
            if is_over && is_unlisted {
                nodes.remove(&look.node);
            }
        }
        self.count(&nodes);
        drop(nodes);
        self.tell(die);
    }

    /// These nodes have a lease now; read between two beats.
    pub(crate) fn see<'a>(&self, holders: impl Iterator<Item = &'a NodeId>) {
        if self.doubted.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut nodes = self.nodes.write();
        holders.for_each(|node| self.see_held(&mut nodes, node));
        self.count(&nodes);
    }

    fn see_held(&self, nodes: &mut HashMap<NodeId, Belief, ahash::RandomState>, node: &NodeId) {
        let Some(belief) = nodes.get_mut(node) else {
            return;
        };
        if belief.holds_lease() {
            self.doubt.notify_one();
        }
        if belief.is_empty() {
            nodes.remove(node);
        }
    }

    /// Redis has forgotten this node, and perhaps these others: their missing leases prove nothing
    /// yet.
    pub(crate) fn forget_leases<'a>(&self, others: impl Iterator<Item = &'a NodeId>) {
        self.times.lock().forgotten = Some(Instant::now());
        self.absent.expect(others);
        let mut nodes = self.nodes.write();
        let living = nodes.values_mut().filter(|belief| belief.died.is_none());
        living.for_each(|belief| (belief.missed, belief.is_replaced) = (0, false));
        nodes.retain(|_, belief| !belief.is_empty());
        self.count(&nodes);
    }

    /// The nodes that were there when Redis lost everything.
    pub(crate) fn see_present(&self, present: &[NodeRecord]) {
        self.absent.see(present);
    }

    /// The nodes that have not renewed their lease in time and may be there all the same, as far as
    /// is known: they may have rows to write, and cannot.
    pub(crate) fn late(&self) -> Vec<NodeId> {
        let (nodes, beats) = (self.nodes.read(), self.beats.lock());
        let is_there = |node: &NodeId| {
            let belief = nodes.get(node);
            belief.is_none_or(|belief| belief.standing() == Standing::Alive && !belief.is_replaced)
        };
        // Nodes of older versions do not count their beats.
        let is_overdue = |&(beat, at): &(u64, Instant)| beat > 0 && at.elapsed() > OVERDUE;
        let overdue = beats.iter().filter(|(_, last)| is_overdue(last));
        let missed = nodes.iter().filter(|(_, belief)| belief.missed > 0);
        let overdue = overdue.map(|(node, _)| node);
        let all = overdue.chain(missed.map(|(node, _)| node));
        all.filter(|node| is_there(node)).cloned().collect()
    }

    /// Whether a node may be there whose rows are not back in Redis.
    pub(crate) fn may_lack_rows(&self, rebuild: Duration) -> bool {
        self.absent.may_have_rows(ABSENCE, rebuild)
            || self.nodes.read().values().any(|belief| belief.is_back)
    }

    /// The nodes of which something speaks for death and something against it. Not the dead: what
    /// is sent to a host that has vanished keeps Redis from noticing that.
    pub(crate) fn in_doubt(&self) -> Vec<NodeId> {
        let nodes = self.nodes.read();
        let doubtful = nodes.iter().filter(|(_, belief)| belief.died.is_none());
        doubtful.map(|(node, _)| node.clone()).collect()
    }

    /// All nodes that are not simply alive.
    pub(crate) fn doubted(&self) -> Vec<NodeId> {
        self.nodes.read().keys().cloned().collect()
    }

    /// Waits until there is a new doubt.
    pub(crate) async fn doubt(&self) {
        self.doubt.notified().await;
    }

    /// Changes with each death.
    pub(crate) fn deaths(&self) -> watch::Receiver<u64> {
        self.deaths.subscribe()
    }

    fn spares_listeners(&self) -> bool {
        let forgotten = self.times.lock().forgotten;
        forgotten.is_some_and(|at| at.elapsed() < ABSENCE)
    }

    fn count(&self, nodes: &HashMap<NodeId, Belief, ahash::RandomState>) {
        let before = self.doubted.swap(nodes.len(), Ordering::Relaxed);
        if nodes.len() > before {
            self.doubt.notify_one();
        }
    }

    fn tell(&self, of_a_death: bool) {
        if of_a_death {
            self.deaths.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests;
