//! Who joins and leaves a topic, told to the clients that ask for it.
//!
//! A node whose clients watch a topic keeps a `View` of it and is told by the nodes with members,
//! each of which keeps a `Roster`. Both find each other by the topic's row: the watching node
//! writes its mark there before it reads who has members, and the node with its first member writes
//! that before it reads who watches. So one of them sees the other, and where no client watches,
//! nothing is said. All of it is asked and told again where it may have been lost.
//!
//! What must stay true: no leave is announced while only the user's node, or ours, may be cut off:
//! leaves wait for the grace, for a backplane that is well, and for the lists of all nodes.

pub(crate) mod peers;
pub(crate) mod roster;
pub(crate) mod row_reader;
pub(crate) mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::backplane::Backplane;
use crate::backplane::nodes::Health;
use crate::local::hub::Hub;
use crate::local::presence_queue::{PresenceBatch, PresenceQueue};
use crate::presence::peers::{CarriedLine, Found, carry};
use crate::presence::roster::{HEARD, Roster};
use crate::presence::row_reader::RowReader;
use crate::presence::view::{PresenceChanges, View};
use crate::protocol;
use crate::protocol::ids::{Fd, NodeId, Topic, UserId};
use crate::protocol::topic_rules::PresenceRule;
use crate::protocol::{MAX_NAMES, PresenceLine, Told, Watch};
use crate::telemetry::metrics::Metrics;

/// Between two looks at what time brings.
const BEAT: Duration = Duration::from_secs(1);
/// How often the nodes hear that we still listen, and the row is read for what was missed.
const REFRESH: Duration = Duration::from_secs(30);
/// The same after a loss: by then the nodes have put their rows back.
const REBUILT: Duration = Duration::from_secs(6);
/// How long a client waits for nodes that owe their list; their members join later.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a view outlives its last watcher: it may be coming back.
const IDLE: Duration = Duration::from_secs(10);
/// Before a leave that was due is looked at again, while it is not certain.
const RETRY: Duration = Duration::from_secs(1);
/// How long the backplane must be well before leaves are told: it has to tell us what we missed.
const SETTLED: Duration = Duration::from_secs(2);
/// Longer than this between two beats the task did not run, and perhaps the whole node.
const STILL: Duration = Duration::from_secs(3);
/// Listeners of other nodes that are noted whatever they name. Beyond, only nodes of the table are,
/// and only for topics with members here: a publisher can invent topics and names.
const LISTENERS: usize = 10_000;
/// Lines on their way to the backplane. Beyond, the node is told nothing until it asks again.
const LINES: usize = 8_192;

/// The task that knows who is where.
pub(crate) struct Presence {
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    health: watch::Receiver<Health>,
    /// Since when it is well.
    well: Option<Instant>,
    /// When this task looked at the clock last.
    awake: Instant,
    grace: Duration,
    /// Topics of whose members here clients are told.
    rolls: HashMap<Topic, Roster>,
    /// How many listeners those have: exact with each beat, and counted up in between.
    listeners: usize,
    /// When to look at them.
    looks: BTreeSet<(Instant, Topic)>,
    /// Topics that clients here watch.
    views: HashMap<Topic, View>,
    /// Who leaves when. Each is in its view, which so bounds them.
    leaves: BTreeSet<(Instant, Topic, UserId)>,
    rows: RowReader,
    is_judging: bool,
    /// Nodes that did not get what they were told, and when they are told all again.
    unheard: BTreeSet<(Instant, Topic, NodeId)>,
    lines: mpsc::Sender<CarriedLine>,
    finds: mpsc::UnboundedSender<Found>,
    found: mpsc::UnboundedReceiver<Found>,
    metrics: Arc<Metrics>,
}

impl Presence {
    pub(crate) fn new(
        hub: &Arc<Hub>,
        backplane: &Arc<Backplane>,
        grace: Duration,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (lines, carried) = mpsc::channel(LINES);
        // Under way at most: one find for each topic, one of who is dead, and one for each line.
        let (finds, found) = mpsc::unbounded_channel();
        tokio::spawn(carry(backplane.clone(), carried, finds.clone()));
        Self {
            health: backplane.health(),
            hub: hub.clone(),
            backplane: backplane.clone(),
            well: None,
            awake: Instant::now(),
            grace,
            rolls: HashMap::new(),
            listeners: 0,
            metrics: metrics.clone(),
            looks: BTreeSet::new(),
            views: HashMap::new(),
            leaves: BTreeSet::new(),
            rows: RowReader::new(backplane, finds.clone()),
            is_judging: false,
            unheard: BTreeSet::new(),
            lines,
            finds,
            found,
        }
    }

    fn notices(&self) -> &PresenceQueue {
        self.hub.topics().notices()
    }

    /// Serves until the node ends. Inputs: what shards, requests and the reader of the bus have
    /// noted, what was found in Redis, and time.
    pub(crate) async fn serve(mut self) {
        let hub = self.hub.clone();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let look = self.looks.first().map(|(at, _)| *at);
            let leave = self.leaves.first().map(|(at, ..)| *at);
            let due = look.into_iter().chain(leave).min();
            tokio::select! {
                noted = hub.topics().notices().take() => self.take_in(noted).await,
                Some(found) = self.found.recv() => match found {
                    Found::Rows(rows) => rows.into_iter().for_each(|row| self.locate(row)),
                    Found::Dead(nodes) => self.bury(nodes),
                    Found::Unheard(topic, node) => self.note_unheard(topic, node),
                },
                Ok(()) = self.health.changed() => drop(self.is_well(Instant::now())),
                () = until(due) => {
                    self.wake();
                    // Who is to leave may have come back by what is noted already.
                    self.take_in(hub.topics().notices().take_now()).await;
                    self.look().await;
                    self.leave().await;
                }
                _ = beat.tick() => self.beat().await,
            }
        }
    }

    async fn take_in(&mut self, noted: PresenceBatch) {
        for topic in noted.changed {
            self.arrange(&topic);
        }
        for (topic, row) in noted.appeared {
            self.rows.look(topic, row);
        }
        for line in noted.lines {
            self.hear(line).await;
        }
        self.metrics.lines_refused("full", noted.dropped);
        // Behind the lines: a list that seems to end in them may lack its middle.
        if noted.lost {
            self.doubt();
        }
        for (fd, topic) in noted.asked {
            self.watch(fd, topic).await;
        }
    }

    /// A client wants to hear of a topic: the list as soon as it is whole, or after a while.
    async fn watch(&mut self, fd: Fd, topic: Topic) {
        let now = Instant::now();
        if !self.views.contains_key(&topic) {
            self.views.insert(topic.clone(), View::new(now));
            self.notices().watch(&topic, true);
            // Our mark must stand in the row before we read it.
            let row = self.hub.topics().row(&topic);
            self.rows.look(topic.clone(), row);
            let here = self.hub.node().clone();
            self.listen(&topic, &here, true, None);
        }
        let view = self.views.get_mut(&topic).expect("there");
        view.used = now;
        if view.is_whole() {
            return self.give_list(fd, &topic).await;
        }
        view.waiting.push((fd, now + PATIENCE));
    }

    async fn give_list(&self, fd: Fd, topic: &Topic) {
        let view = &self.views[topic];
        match self.tells(topic) {
            PresenceRule::NoClient => {}
            PresenceRule::Count => {
                let object = protocol::presence_count_object(topic, view.count());
                self.hub.watch(fd, topic, object.into()).await;
            }
            PresenceRule::Members => {
                for object in member_objects(topic, view) {
                    self.hub.watch(fd, topic, object.into()).await;
                }
            }
        }
    }

    /// Gives the list to those who wait for it, if it is whole or they have waited long enough.
    async fn give_lists(&mut self, topic: &Topic, now: Instant) {
        let Some(view) = self.views.get_mut(topic) else {
            return;
        };
        let is_whole = view.is_whole();
        let waiting = view
            .waiting
            .extract_if(.., |(_, until)| is_whole || *until <= now);
        let waiting: Vec<Fd> = waiting.map(|(fd, _)| fd).collect();
        for fd in waiting {
            self.give_list(fd, topic).await;
        }
    }

    async fn hear(&mut self, line: PresenceLine) {
        match line {
            PresenceLine::Watch(Watch {
                topic, node, end, ..
            }) if end => {
                if let Some(roster) = self.rolls.get_mut(&topic) {
                    roster.forget(&node);
                }
            }
            PresenceLine::Watch(Watch { topic, node, .. }) if !self.admits(&topic, &node) => {
                self.metrics.line_refused("full");
            }
            PresenceLine::Watch(Watch {
                topic, node, begin, ..
            }) => {
                self.listen(&topic, &node, begin, Some(Instant::now() + HEARD));
            }
            PresenceLine::Told(told) => self.hear_told(told).await,
        }
    }

    async fn hear_told(&mut self, told: Told) {
        let now = Instant::now();
        let topic = told.topic.clone();
        let Some(view) = self.views.get_mut(&topic) else {
            // No client watches it here any more.
            return self.ask(&topic, &told.node, false, true);
        };
        if view.is_full(&told.node) {
            return self.metrics.line_refused("full");
        }
        let changes = view.hear(told, now, self.grace);
        let joined = self.note(&topic, changes);
        self.tell_clients(&topic, &joined, &[]).await;
        self.give_lists(&topic, now).await;
    }

    /// Notes who will have left; answers who has joined.
    fn note(&mut self, topic: &Topic, changes: PresenceChanges) -> Vec<UserId> {
        for (at, user) in changes.back {
            self.leaves.remove(&(at, topic.clone(), user));
        }
        for (at, user) in changes.leaving {
            self.leaves.insert((at, topic.clone(), user));
        }
        changes.join
    }

    /// What clients may hear of the members of a topic.
    fn tells(&self, topic: &Topic) -> PresenceRule {
        let rule = self.hub.topics().rules().find(topic);
        rule.map(|rule| rule.presence).unwrap_or_default()
    }

    async fn tell_clients(&self, topic: &Topic, join: &[UserId], leave: &[UserId]) {
        if join.is_empty() && leave.is_empty() {
            return;
        }
        match self.tells(topic) {
            PresenceRule::Members => {}
            PresenceRule::NoClient => return,
            PresenceRule::Count => {
                let count = self.views.get(topic).map_or(0, View::count);
                let object = protocol::presence_count_object(topic, count);
                return self.hub.tell_watchers(topic, object.into()).await;
            }
        }
        let view = self.views.get(topic);
        let infos = view.map(|view| view.infos(join)).unwrap_or_default();
        let joins = protocol::parts(join, &infos).map(|part| (part, &[][..]));
        let leaves = leave.chunks(MAX_NAMES).map(|part| (&[][..], part));
        for (join, leave) in joins.chain(leaves) {
            let object = protocol::presence_change_object(topic, join, &infos, leave);
            self.hub.tell_watchers(topic, object.into()).await;
        }
    }

    /// Whether another listener may be noted.
    fn admits(&self, topic: &Topic, node: &NodeId) -> bool {
        let is_noted = |roster: &Roster| roster.tells(node);
        self.listeners < LISTENERS
            || self.rolls.get(topic).is_some_and(is_noted)
            || self.hub.topics().count(topic) > 0
                && self
                    .backplane
                    .nodes()
                    .iter()
                    .any(|record| record.node == *node)
    }

    /// A node wants to hear who is here.
    fn listen(&mut self, topic: &Topic, node: &NodeId, begin: bool, until: Option<Instant>) {
        if !self.rolls.contains_key(topic) {
            // Before the first look: what changes behind it is noted.
            self.notices().tell_of(topic, true);
        }
        let roster = self.rolls.entry(topic.clone()).or_default();
        self.listeners += usize::from(!roster.tells(node));
        if roster.listen(node, until, begin) {
            self.arrange(topic);
        }
    }

    /// Has the members of a topic looked at, unless no client is told of them.
    fn arrange(&mut self, topic: &Topic) {
        if let Some(roster) = self.rolls.get_mut(topic)
            && let Some(at) = roster.arrange(Instant::now())
        {
            self.looks.insert((at, topic.clone()));
        }
    }

    /// Looks at the members of all topics that are due, and tells of them.
    async fn look(&mut self) {
        let now = Instant::now();
        while self.looks.first().is_some_and(|(at, _)| *at <= now) {
            let (_, topic) = self.looks.pop_first().expect("one is there");
            let (users, infos) = self.hub.users_in(&topic).await;
            let users = (users.into_iter().map(|(user, _)| user).collect(), infos);
            let here = self.hub.node().clone();
            let Some(roster) = self.rolls.get_mut(&topic) else {
                continue;
            };
            for (node, told) in roster.tell(&topic, &here, users, Instant::now()) {
                if node == here {
                    self.hear_told(told).await;
                } else {
                    self.send(&node, &PresenceLine::Told(told));
                }
            }
        }
    }

    /// Tells who has left, as far as that is certain.
    async fn leave(&mut self) {
        let now = Instant::now();
        let is_well = self.is_well(now);
        let mut left: HashMap<Topic, Vec<UserId>> = HashMap::new();
        while self.leaves.first().is_some_and(|(at, ..)| *at <= now) {
            let (at, topic, user) = self.leaves.pop_first().expect("one is there");
            let Some(view) = self.views.get_mut(&topic) else {
                continue;
            };
            if !is_well || !view.is_certain(now) {
                view.put_off(&user, at, now + RETRY);
                self.leaves.insert((now + RETRY, topic, user));
            } else if view.leave(&user, at) {
                left.entry(topic).or_default().push(user);
            }
        }
        for (topic, users) in left {
            self.tell_clients(&topic, &[], &users).await;
        }
    }

    /// Whether the backplane has been well for a while.
    fn is_well(&mut self, now: Instant) -> bool {
        if *self.health.borrow_and_update() != Health::Ready {
            self.well = None;
            return false;
        }
        let shared = self.backplane.is_shared();
        !shared || now - *self.well.get_or_insert(now) >= SETTLED
    }

    /// Notices that the node stood still: then it has heard nothing meanwhile.
    fn wake(&mut self) {
        let stood_still = self.awake.elapsed() > STILL;
        self.awake = Instant::now();
        if stood_still {
            self.doubt();
        }
    }

    async fn beat(&mut self) {
        self.wake();
        let now = Instant::now();
        // Looked at often enough to see that it was not.
        self.is_well(now);
        self.rolls.retain(|topic, roster| {
            let is_over = roster.is_over(now);
            if is_over {
                if let Some(at) = roster.due {
                    self.looks.remove(&(at, topic.clone()));
                }
                self.hub.topics().notices().tell_of(topic, false);
            }
            !is_over
        });
        self.listeners = self.rolls.values().map(Roster::len).sum();
        let topics: Vec<Topic> = self.views.keys().cloned().collect();
        for topic in topics {
            self.tend(&topic, now).await;
        }
        self.ask_all(now);
        self.tell_again(now);
        self.judge();
    }

    /// What time brings for one view.
    async fn tend(&mut self, topic: &Topic, now: Instant) {
        self.give_lists(topic, now).await;
        let Some(view) = self.views.get_mut(topic) else {
            return;
        };
        if self.hub.topics().has_watchers(topic) || !view.waiting.is_empty() {
            view.used = now;
        } else if now - view.used >= IDLE {
            return self.close(topic);
        }
        if view.refresh <= now {
            let pause = match std::mem::take(&mut view.is_doubted) {
                true => REBUILT,
                // Spread: views that came together should not be refreshed together for ever.
                false => REFRESH.mul_f32(0.5 + fastrand::f32() / 2.0),
            };
            view.refresh = now + pause;
            let nodes: Vec<NodeId> = view.sources().cloned().collect();
            let here = self.hub.node().clone();
            for node in nodes.into_iter().filter(|node| *node != here) {
                self.ask(topic, &node, false, false);
            }
            // Written again, should our mark be lost, and read after that.
            let row = self.hub.topics().row(topic);
            self.rows.look(topic.clone(), row);
        }
    }

    /// No client watches this topic any more. Its nodes hear so when they tell us something.
    fn close(&mut self, topic: &Topic) {
        let Some(view) = self.views.remove(topic) else {
            return;
        };
        for (at, user) in view.leaving() {
            self.leaves.remove(&(at, topic.clone(), user.clone()));
        }
        self.notices().watch(topic, false);
        drop(self.hub.topics().row(topic));
        let here = self.hub.node().clone();
        if let Some(roster) = self.rolls.get_mut(topic) {
            roster.forget(&here);
        }
    }
}

/// The list for a client that begins to watch: all names, and what those show of themselves for
/// whom there is room. What the others show follows, as if they did so only now.
fn member_objects(topic: &Topic, view: &View) -> Vec<String> {
    let (members, more) = view.members(MAX_NAMES);
    let mut infos = view.infos(&members);
    let first = protocol::fitting(&members, &infos);
    let late = members.get(first).map(|user| infos.split_off(user));
    let late = late.unwrap_or_default();
    let mut objects = vec![protocol::presence_members_object(
        topic, &members, &infos, more,
    )];
    let shown: Vec<UserId> = late.keys().cloned().collect();
    let parts = protocol::parts(&shown, &late);
    objects.extend(parts.map(|part| protocol::presence_change_object(topic, part, &late, &[])));
    objects
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
