//! A model: one node and what becomes of it, and another that believes something of it.

use super::*;
use crate::backplane::nodes::NodeState;

const STEP: Duration = Duration::from_millis(500);
const BEAT: Duration = Duration::from_secs(3);
const REBUILD: Duration = Duration::from_secs(5);
/// Within this time a dead node's users are free.
const FREE: Duration = Duration::from_secs(20);

fn id(name: &str) -> NodeId {
    name.parse().expect("an id")
}

fn lease_of(node: &NodeId, beat: u64) -> LeaseValue {
    let record = NodeRecord {
        degraded: false,
        unwritten: String::new(),
        node: node.clone(),
        name: node.name().to_owned(),
        boot: node.boot_part().to_owned(),
        state: NodeState::Up,
        connections: 0,
        started: 0,
        version: String::new(),
        url: String::new(),
        weight: 1,
        signs: false,
        rules: String::new(),
    };
    LeaseValue { record, beat }
}

fn look(node: &NodeId, lease: LeaseSeen) -> Look {
    Look {
        node: node.clone(),
        lease,
        is_listed: true,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Routed,
    Unrouted,
    Offline,
}

/// The node `b` of today: its process, and what Redis has of it.
struct World {
    beliefs: Beliefs,
    boot: u64,
    node: NodeId,
    earlier: Vec<NodeId>,
    /// Since when its process, and with it each socket, is gone.
    dead_since: Option<Instant>,
    /// It stands still, or cannot reach Redis.
    is_cut_off: bool,
    /// What Redis counts as its subscriber.
    subscribed: bool,
    resubscribes: Option<Instant>,
    /// Who holds the lease of the name, with which beat, and until when.
    lease: Option<(NodeId, u64, Instant)>,
    beats: u64,
    next_beat: Instant,
    next_look: Instant,
    listed: bool,
    has_rows: bool,
    /// Whether clients of this boot are connected: none is told so before its row is written.
    has_users: bool,
    history: String,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            beliefs: Beliefs::default(),
            boot: 1,
            node: id("b.1"),
            earlier: Vec::new(),
            dead_since: None,
            is_cut_off: false,
            subscribed: true,
            resubscribes: None,
            lease: None,
            beats: 0,
            next_beat: now,
            next_look: now,
            listed: false,
            has_rows: false,
            has_users: false,
            history: String::new(),
        }
    }

    fn holder(&self) -> Option<LeaseValue> {
        let now = Instant::now();
        let lease = self.lease.as_ref().filter(|(.., until)| now < *until);
        lease.map(|(node, beat, _)| lease_of(node, *beat))
    }

    fn holds_lease(&self) -> bool {
        self.holder()
            .is_some_and(|lease| lease.record.node == self.node)
    }

    fn seen(&self, node: &NodeId) -> LeaseSeen {
        self.beliefs.read(node, self.holder().as_ref())
    }

    fn weigh(&self, node: &NodeId) -> Standing {
        self.beliefs.weigh(node, self.seen(node), self.listed)
    }

    fn count(&self, node: &NodeId) -> bool {
        let counts = *node == self.node && self.subscribed;
        match counts {
            true => self.beliefs.note_heard(node),
            false => self.beliefs.note_unheard(node, self.listed),
        }
        counts
    }

    /// What a sender is told, as the carrier goes about it.
    fn push(&mut self) -> Said {
        if !self.has_rows {
            return match self.beliefs.may_lack_rows(REBUILD) {
                true => Said::Unrouted,
                false => Said::Offline,
            };
        }
        let node = self.node.clone();
        let is_dead = self.beliefs.standing(&node) == Standing::Dead;
        if !(is_dead && self.weigh(&node) == Standing::Dead) && self.count(&node) {
            return Said::Routed;
        }
        match self.weigh(&node) {
            Standing::Dead => {
                self.has_rows = false;
                Said::Offline
            }
            Standing::Alive | Standing::Suspect => Said::Unrouted,
        }
    }

    fn lives(&self) -> bool {
        self.dead_since.is_none() && !self.is_cut_off
    }

    fn befalls(&mut self, step: u32, rng: &mut fastrand::Rng) {
        let now = Instant::now();
        let event = rng.u8(..9);
        self.history += &format!(" {event}@{step}");
        match event {
            // Cut off from Redis, which notices, or stopped, which Redis does not.
            0 => (self.is_cut_off, self.subscribed) = (true, false),
            1 => self.is_cut_off = true,
            2 | 3 => {
                self.is_cut_off = false;
                self.next_beat = now;
            }
            4 if self.lives() => self.subscribed = false,
            // Killed; or the host vanishes, and Redis goes on counting it.
            5 if self.dead_since.is_none() => {
                (self.dead_since, self.subscribed) = (Some(now), false);
            }
            6 if self.dead_since.is_none() => self.dead_since = Some(now),
            // A restart with the same name. One whose lease is there and who listens is not
            // replaced.
            7 if self.dead_since.is_some() && !(self.holds_lease() && self.subscribed) => {
                self.boot += 1;
                self.earlier.push(std::mem::replace(
                    &mut self.node,
                    id(&format!("b.{}", self.boot)),
                ));
                (self.dead_since, self.is_cut_off) = (None, false);
                (self.subscribed, self.has_rows, self.has_users) = (false, false, false);
                self.next_beat = now;
            }
            // Redis forgets everything but its subscribers.
            8 => {
                (self.lease, self.listed, self.has_rows) = (None, false, false);
                let others = [self.node.clone()];
                self.beliefs.forget_leases(others.iter());
                self.dead_since = self.dead_since.map(|_| now);
                self.next_beat = self.next_beat.min(now + Duration::from_secs(1));
            }
            _ => {}
        }
    }

    /// What the node does by itself: it beats, subscribes again, and then offers its rows.
    fn goes_on(&mut self) {
        let now = Instant::now();
        if !self.lives() {
            return;
        }
        if now >= self.next_beat {
            self.next_beat = now + BEAT;
            let was_away = !self.holds_lease() || !self.listed;
            self.beats += 1;
            self.lease = Some((self.node.clone(), self.beats, now + LEASE));
            self.listed = true;
            if was_away {
                // It announces itself, and the other looks.
                self.seen(&self.node);
                self.beliefs.see([&self.node].into_iter());
            }
        }
        if !self.subscribed {
            let due = *self.resubscribes.get_or_insert(now + 4 * STEP);
            if now >= due {
                (self.subscribed, self.resubscribes) = (true, None);
            }
        }
        self.has_rows |= self.subscribed && self.holds_lease();
        self.has_users |= self.has_rows;
    }

    /// What the other one does: probes, looks and sweeps.
    fn is_looked_at(&mut self) {
        let now = Instant::now();
        for node in self.beliefs.in_doubt() {
            if !self.count(&node) {
                self.weigh(&node);
            }
        }
        if now >= self.next_look {
            self.next_look = now + BEAT;
            let mut nodes = self.earlier.clone();
            nodes.push(self.node.clone());
            let look = |node: NodeId| Look {
                lease: self.seen(&node),
                is_listed: self.listed && node == self.node,
                node,
            };
            let looks: Vec<Look> = nodes.into_iter().map(look).collect();
            self.beliefs.look(&looks);
        }
        let node = self.node.clone();
        let is_dead = self.beliefs.standing(&node) == Standing::Dead;
        if is_dead && self.listed && self.weigh(&node) == Standing::Dead {
            (self.listed, self.has_rows) = (false, false);
        }
    }

    fn check(&mut self, when: &str) {
        let said = self.push();
        let history = format!("{when}, after{}", self.history);
        let lives = self.dead_since.is_none() && self.has_users && self.holds_lease();
        assert!(
            !(lives && said == Said::Offline),
            "a user with a socket and a lease is offline; {history}"
        );
        if self.dead_since.is_some_and(|at| at.elapsed() > FREE) {
            assert!(
                !self.has_rows && said != Said::Routed,
                "{said:?} to a dead node; {history}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_there_is_never_offline_and_who_is_dead_is_free_in_time() {
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        for step in 0..600 {
            if rng.u8(..30) == 0 {
                world.befalls(step, &mut rng);
            }
            world.goes_on();
            world.is_looked_at();
            world.check(&format!("seed {seed}, step {step}"));
            tokio::time::advance(STEP).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_disproves_a_death_that_is_remembered() {
    let (beliefs, node) = (Beliefs::default(), id("b.1"));
    beliefs.note_unheard(&node, true);
    for _ in 0..MISSING_BEATS {
        assert_eq!(beliefs.standing(&node), Standing::Suspect);
        beliefs.look(&[look(&node, LeaseSeen::Missing)]);
        tokio::time::advance(BEAT).await;
    }
    assert_eq!(beliefs.standing(&node), Standing::Dead);
    beliefs.note_heard(&node);
    assert_eq!(
        beliefs.standing(&node),
        Standing::Dead,
        "a count raises the dead"
    );
    let lease = beliefs.weigh(&node, LeaseSeen::Held, true);
    assert_eq!(lease, Standing::Suspect, "until it is heard");
    assert!(beliefs.may_lack_rows(REBUILD));
    beliefs.note_heard(&node);
    assert_eq!(beliefs.standing(&node), Standing::Alive);
    assert!(beliefs.doubted().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_missing_lease_is_death_whatever_a_count_says() {
    let (beliefs, node) = (Beliefs::default(), id("b.1"));
    for beat in 1..=LISTENING_BEATS {
        beliefs.note_heard(&node);
        beliefs.look(&[look(&node, LeaseSeen::Missing)]);
        let is_dead = beliefs.standing(&node) == Standing::Dead;
        assert_eq!(is_dead, beat == LISTENING_BEATS, "beat {beat}");
        tokio::time::advance(BEAT).await;
    }
    // Looks that are far apart do not count together: Redis stood still, and with it each beat.
    let other = id("c.1");
    for _ in 0..10 {
        beliefs.look(&[look(&other, LeaseSeen::Missing)]);
        assert_eq!(beliefs.standing(&other), Standing::Alive);
        tokio::time::advance(APART + BEAT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_first_sender_waits_for_a_suspect() {
    let (beliefs, node) = (Beliefs::default(), id("b.1"));
    for _ in 0..2 {
        beliefs.note_unheard(&node, true);
        assert!(beliefs.may_wait(&node));
        assert!(!beliefs.may_wait(&node));
        beliefs.note_heard(&node);
    }
    // Invented names take no room.
    beliefs.note_unheard(&id("ghost.1"), false);
    assert!(beliefs.doubted().is_empty());
    let ghost = beliefs.weigh(&id("ghost.1"), LeaseSeen::Missing, false);
    assert_eq!(ghost, Standing::Dead);
}

/// Redis's clock went back, so that the lease of a dead node stays for hours.
#[tokio::test(start_paused = true)]
async fn a_lease_without_beats_is_not_believed() {
    let (beliefs, node) = (Beliefs::default(), id("b.1"));
    let mut looked = Duration::ZERO;
    while beliefs.standing(&node) != Standing::Dead {
        assert!(looked < FREE, "alive after {looked:?} without a beat");
        beliefs.note_unheard(&node, true);
        let lease = beliefs.read(&node, Some(&lease_of(&node, 7)));
        beliefs.look(&[look(&node, lease)]);
        tokio::time::advance(BEAT).await;
        looked += BEAT;
    }
    assert!(looked > LEASE);
    let lease = beliefs.read(&node, Some(&lease_of(&node, 8)));
    assert_eq!(beliefs.weigh(&node, lease, true), Standing::Suspect);
    // Nodes of older versions do not count their beats.
    for _ in 0..10 {
        let lease = beliefs.read(&id("old.1"), Some(&lease_of(&id("old.1"), 0)));
        assert_eq!(lease, LeaseSeen::Held);
        tokio::time::advance(BEAT).await;
    }
}
