//! Which rows of users and topics in the registry no longer tell the truth.
//!
//! The registry works by level: an entry here says only *that* a row must be written; what is
//! written is read from the hub at that moment. So no order of joins and leaves can leave a wrong
//! row, and a failed write is repaired by putting the entry back. Fields that were removed are
//! remembered for a while: after a fail-over the next master may not know that they are gone, and
//! unlike what stands in the hub, they could not be written again.
//!
//! Rows are taken by lanes: those of one lane are written in one round, and rounds of several lanes
//! are under way at once. What must stay true: a row is in one round at a time, or an older state
//! of it could be written after a newer one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::protocol::ids::{Fd, Subject, Topic, UserId};

/// How long a removal is remembered: longer than a fail-over takes.
const REMEMBERED: Duration = Duration::from_secs(30);
/// And so many at most, the newest.
const MOST_REMEMBERED: usize = 1 << 16;

/// What is known of one dirty row.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Fields that may stand in a user's row and should not.
    pub gone: SmallVec<[Fd; 1]>,
    /// For a topic: at some time it had no connections here, so this node's field may have to go.
    pub emptied: bool,
    /// Redis lacked something of the row that it had been given: once the row is written, its
    /// connections must hear that messages may have passed them by.
    pub lost: bool,
    /// All clients hear of a greater loss, which may have taken the row: what is missing from it
    /// is no news.
    pub forgotten: bool,
    /// Who waits for the row to be written.
    pub waiting: SmallVec<[oneshot::Sender<()>; 1]>,
}

pub(crate) type RowChanges = Vec<(Subject, Change)>;

impl Change {
    /// What of a change that was not written holds of the next one too.
    fn take_over(&mut self, older: Self) {
        self.gone.extend(older.gone);
        self.emptied |= older.emptied;
        self.lost |= older.lost;
        self.forgotten |= older.forgotten;
        self.waiting.extend(older.waiting);
    }
}

/// Which rows are written together: all those of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RowLane(pub(crate) usize);

type Changes = HashMap<Subject, Change, ahash::RandomState>;

/// The set of dirty rows. Disabled without a registry: then nothing is kept.
#[derive(Debug)]
pub(crate) struct DirtyRows {
    state: Option<Mutex<State>>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Those that are not held. No row is in both.
    dirty: Changes,
    /// Dirty rows that wait until a round of this lane ends.
    held: HashMap<RowLane, Changes>,
    /// The lanes with a round, and since when the oldest of its rows was dirty.
    rounds: HashMap<RowLane, Option<Instant>>,
    /// Rows that were taken and are being written, and in which lane.
    under_way: HashMap<Subject, RowLane, ahash::RandomState>,
    /// How many of all these are `forgotten`.
    forgotten: usize,
    /// When the oldest that is dirty or held came to be.
    dirty_since: Option<Instant>,
    /// Rows of those that are watched that no change has touched since.
    untouched: HashSet<Subject>,
    /// Fields that were removed, the oldest first. A topic has only one, without an fd.
    removed: VecDeque<(Instant, Subject, Option<Fd>)>,
}

impl State {
    /// What is known of a row that is dirty from now on.
    fn change(&mut self, subject: Subject) -> &mut Change {
        if !self.untouched.is_empty() {
            self.untouched.remove(&subject);
        }
        let mut held = self.held.values_mut();
        if let Some(rows) = held.find(|rows| rows.contains_key(&subject)) {
            return rows.entry(subject).or_default();
        }
        self.dirty.entry(subject).or_default()
    }

    /// Takes what may be written now, and begins a round of each lane that has some of it.
    fn take(&mut self, lane_of: impl Fn(&Subject) -> RowLane) -> Vec<(RowLane, RowChanges)> {
        let mut taken: HashMap<RowLane, RowChanges> = HashMap::new();
        for (subject, change) in self.dirty.drain() {
            let lane = self.under_way.get(&subject).copied();
            let lane = lane.unwrap_or_else(|| lane_of(&subject));
            if self.rounds.contains_key(&lane) {
                let held = self.held.entry(lane).or_default();
                held.insert(subject, change);
            } else {
                taken.entry(lane).or_default().push((subject, change));
            }
        }
        // After a rebuild of many rows the table would stay large for ever.
        self.dirty.shrink_to(1024);
        for (lane, changes) in &taken {
            self.rounds.insert(*lane, self.dirty_since);
            let rows = changes.iter().map(|(subject, _)| (subject.clone(), *lane));
            self.under_way.extend(rows);
        }
        if self.held.is_empty() {
            self.dirty_since = None;
        }
        taken.into_iter().collect()
    }

    /// These are no longer under way. Answers since when the oldest round of them was dirty.
    fn give_back(&mut self, changes: &[(Subject, Change)]) -> Option<Instant> {
        let mut since = None;
        for (subject, _) in changes {
            let lane = self.under_way.remove(subject);
            let dirty = lane.and_then(|lane| *self.rounds.get(&lane)?);
            since = earlier(since, dirty);
        }
        self.under_way.shrink_to(1024);
        since
    }

    fn unwritten(&self) -> usize {
        let held = self.held.values().map(Changes::len).sum::<usize>();
        self.dirty.len() + held + self.under_way.len()
    }

    fn remember(&mut self, subject: &Subject, change: &Change, now: Instant) {
        for fd in &change.gone {
            self.removed.push_back((now, subject.clone(), Some(*fd)));
        }
        if change.emptied {
            self.removed.push_back((now, subject.clone(), None));
        }
        while self.removed.len() > MOST_REMEMBERED
            || (self.removed.front()).is_some_and(|(at, ..)| now - *at > REMEMBERED)
        {
            self.removed.pop_front();
        }
    }
}

impl DirtyRows {
    /// For a backplane with a registry to write.
    pub(crate) fn tracked() -> Self {
        Self {
            state: Some(Mutex::default()),
            notify: Notify::new(),
        }
    }

    /// For a backplane without one.
    pub(crate) fn ignored() -> Self {
        Self {
            state: None,
            notify: Notify::new(),
        }
    }

    /// Whether there is a registry to write.
    pub(crate) fn are_tracked(&self) -> bool {
        self.state.is_some()
    }

    /// There is one connection more. Resolves once the row has been written; at once, with an
    /// error, if there is none to write.
    pub(crate) fn joined(&self, subject: Subject) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.with(|state| {
            state.change(subject).waiting.push(sender);
        });
        receiver
    }

    pub(crate) fn left(&self, user: &UserId, fd: Fd) {
        let user = Subject::User(user.clone());
        self.with(|state| state.change(user).gone.push(fd));
    }

    /// The topic has another number of connections; none if it is `emptied`.
    pub(crate) fn counted(&self, topic: &Topic, emptied: bool) {
        let topic = Subject::Topic(topic.clone());
        self.with(|state| state.change(topic).emptied |= emptied);
    }

    /// Redis lacks something of these rows, which were written.
    pub(crate) fn lost(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.with(|state| {
            for subject in subjects {
                state.change(subject).lost = true;
            }
        });
    }

    /// All of these must be written again, as Redis may have lost them with all the rest, of which
    /// all clients hear.
    pub(crate) fn forgotten(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.with(|state| {
            for subject in subjects {
                let change = state.change(subject);
                let was_forgotten = std::mem::replace(&mut change.forgotten, true);
                state.forgotten += usize::from(!was_forgotten);
            }
        });
    }

    /// All of these must be written again.
    pub(crate) fn mark(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.with(|state| {
            for subject in subjects {
                state.change(subject);
            }
        });
    }

    /// Leaves only those that do not wait to be written, and are not being written.
    pub(crate) fn retain_clean(&self, subjects: &mut Vec<Subject>) {
        if let Some(state) = &self.state {
            let state = state.lock();
            let is_held =
                |subject: &Subject| state.held.values().any(|rows| rows.contains_key(subject));
            subjects.retain(|subject| {
                !state.dirty.contains_key(subject)
                    && !state.under_way.contains_key(subject)
                    && !is_held(subject)
            });
        }
    }

    /// From now on, it is known which of these are touched by a change. Others no longer are.
    pub(crate) fn watch(&self, subjects: &[Subject]) {
        if let Some(state) = &self.state {
            state.lock().untouched = subjects.iter().cloned().collect();
        }
    }

    /// Leaves only those that are watched and that no change has touched since.
    pub(crate) fn retain_untouched(&self, subjects: &mut Vec<Subject>) {
        if let Some(state) = &self.state {
            let untouched = std::mem::take(&mut state.lock().untouched);
            subjects.retain(|subject| untouched.contains(subject));
        }
    }

    /// What was removed lately must be removed again: Redis may have forgotten that.
    pub(crate) fn mark_removed(&self) {
        self.with(|state| {
            for (at, subject, fd) in std::mem::take(&mut state.removed) {
                if at.elapsed() <= REMEMBERED {
                    let change = state.change(subject);
                    match fd {
                        Some(fd) => change.gone.push(fd),
                        None => change.emptied = true,
                    }
                }
            }
        });
    }

    /// Waits until there is something to write in lanes without a round, and takes all of that.
    /// Each row must come back through [`DirtyRows::written`] or [`DirtyRows::put_back`], and then
    /// each lane through [`DirtyRows::end_round`].
    pub(crate) async fn take(
        &self,
        lane_of: impl Fn(&Subject) -> RowLane,
    ) -> Vec<(RowLane, RowChanges)> {
        loop {
            if let Some(state) = &self.state {
                let taken = state.lock().take(&lane_of);
                if !taken.is_empty() {
                    return taken;
                }
            }
            self.notify.notified().await;
        }
    }

    /// What became dirty in this lane since its round began may be taken.
    pub(crate) fn end_round(&self, lane: RowLane) {
        self.with(|state| {
            state.rounds.remove(&lane);
            state
                .dirty
                .extend(state.held.remove(&lane).into_iter().flatten());
        });
    }

    /// These have been written: those who wait for them may go on.
    pub(crate) fn written(&self, changes: Vec<(Subject, Change)>) {
        let now = Instant::now();
        self.with(|state| {
            state.give_back(&changes);
            for (subject, change) in &changes {
                state.forgotten -= usize::from(change.forgotten);
                state.remember(subject, change, now);
            }
        });
        for waiting in changes.into_iter().flat_map(|(_, change)| change.waiting) {
            // Gone if the client did not wait for its row.
            let _ = waiting.send(());
        }
    }

    /// These could not be written and are dirty again.
    pub(crate) fn put_back(&self, changes: Vec<(Subject, Change)>) {
        self.with(|state| {
            let since = state.give_back(&changes);
            state.dirty_since = earlier(state.dirty_since, since);
            for (subject, change) in changes {
                let newer = state.change(subject);
                let is_twice = newer.forgotten && change.forgotten;
                newer.take_over(change);
                state.forgotten -= usize::from(is_twice);
            }
        });
    }

    /// Redis refused these themselves, perhaps for long, and took others: they are dirty again.
    /// News of a greater loss does not wait for them: they are told once they stand.
    pub(crate) fn put_back_refused(&self, mut changes: Vec<(Subject, Change)>) {
        let mut no_longer = 0;
        for (_, change) in &mut changes {
            if std::mem::take(&mut change.forgotten) {
                change.lost = true;
                no_longer += 1;
            }
        }
        if let Some(state) = &self.state {
            state.lock().forgotten -= no_longer;
        }
        self.put_back(changes);
    }

    /// How many users' rows are still to be written.
    pub(crate) fn unwritten(&self) -> usize {
        let state = self.state.as_ref();
        state.map_or(0, |state| state.lock().unwritten())
    }

    /// Whether all rows stand again that Redis had forgotten. Others may be dirty.
    pub(crate) fn are_back(&self) -> bool {
        let state = self.state.as_ref();
        state.is_none_or(|state| state.lock().forgotten == 0)
    }

    /// Whether every row tells the truth, as far as this node knows.
    pub(crate) fn is_settled(&self) -> bool {
        self.unwritten() == 0
    }

    /// How many users' rows wait to be written, and for how long the oldest has.
    pub(crate) fn waiting(&self) -> (usize, Duration) {
        let Some(state) = &self.state else {
            return Default::default();
        };
        let state = state.lock();
        let taken = state.rounds.values().copied();
        let oldest = taken.fold(state.dirty_since, earlier);
        let lag = match (state.unwritten(), oldest) {
            (1.., Some(at)) => at.elapsed(),
            _ => Duration::ZERO,
        };
        (state.unwritten(), lag)
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = &self.state {
            let mut state = state.lock();
            change(&mut state);
            if state.dirty_since.is_none() && !state.dirty.is_empty() {
                state.dirty_since = Some(Instant::now());
            }
            drop(state);
            self.notify.notify_one();
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
