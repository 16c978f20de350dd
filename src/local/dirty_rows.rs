//! Which rows of users and topics in the registry no longer tell the truth.
//!
//! The registry works by level: an entry here says only *that* a row must be written; what is
//! written is read from the hub at that moment. So no order of joins and leaves can leave a wrong
//! row, and a failed write is repaired by putting the entry back. Fields that were removed are
//! remembered for a while: after a fail-over the next master may not know that they are gone, and
//! unlike what stands in the hub, they could not be written again.

use std::collections::{HashMap, VecDeque};
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

/// The set of dirty rows. Disabled without a registry: then nothing is kept.
#[derive(Debug)]
pub(crate) struct DirtyRows {
    state: Option<Mutex<State>>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    dirty: HashMap<Subject, Change, ahash::RandomState>,
    /// How many were taken and are being written.
    under_way: usize,
    /// How many of all these are `forgotten`.
    forgotten: usize,
    /// When the oldest that is dirty came to be, and the oldest that is being written.
    dirty_since: Option<Instant>,
    taken_since: Option<Instant>,
    /// Fields that were removed, the oldest first. A topic has only one, without an fd.
    removed: VecDeque<(Instant, Subject, Option<Fd>)>,
}

impl State {
    fn give_back(&mut self, changes: usize) {
        self.under_way -= changes;
        if self.under_way == 0 {
            self.taken_since = None;
        }
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
            state.dirty.entry(subject).or_default().waiting.push(sender);
        });
        receiver
    }

    pub(crate) fn left(&self, user: &UserId, fd: Fd) {
        let user = Subject::User(user.clone());
        self.with(|state| state.dirty.entry(user).or_default().gone.push(fd));
    }

    /// The topic has another number of connections; none if it is `emptied`.
    pub(crate) fn counted(&self, topic: &Topic, emptied: bool) {
        let topic = Subject::Topic(topic.clone());
        self.with(|state| state.dirty.entry(topic).or_default().emptied |= emptied);
    }

    /// Redis lacks something of these rows, which were written.
    pub(crate) fn lost(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.with(|state| {
            for subject in subjects {
                state.dirty.entry(subject).or_default().lost = true;
            }
        });
    }

    /// All of these must be written again, as Redis may have lost them with all the rest, of which
    /// all clients hear.
    pub(crate) fn forgotten(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.with(|state| {
            for subject in subjects {
                let change = state.dirty.entry(subject).or_default();
                let was_forgotten = std::mem::replace(&mut change.forgotten, true);
                state.forgotten += usize::from(!was_forgotten);
            }
        });
    }

    /// All of these must be written again.
    pub(crate) fn mark(&self, subjects: impl IntoIterator<Item = Subject>) {
        self.with(|state| {
            for subject in subjects {
                state.dirty.entry(subject).or_default();
            }
        });
    }

    /// Leaves only those that are not waiting to be written.
    pub(crate) fn retain_clean(&self, subjects: &mut Vec<Subject>) {
        if let Some(state) = &self.state {
            let state = state.lock();
            subjects.retain(|subject| !state.dirty.contains_key(subject));
        }
    }

    /// What was removed lately must be removed again: Redis may have forgotten that.
    pub(crate) fn mark_removed(&self) {
        self.with(|state| {
            for (at, subject, fd) in std::mem::take(&mut state.removed) {
                if at.elapsed() <= REMEMBERED {
                    let change = state.dirty.entry(subject).or_default();
                    match fd {
                        Some(fd) => change.gone.push(fd),
                        None => change.emptied = true,
                    }
                }
            }
        });
    }

    /// Waits until there is something to write and takes all of it. Each must come back through
    /// [`DirtyRows::written`] or [`DirtyRows::put_back`].
    pub(crate) async fn take(&self) -> Vec<(Subject, Change)> {
        loop {
            let mut taken = Vec::new();
            if let Some(state) = &self.state {
                let mut state = state.lock();
                taken.extend(state.dirty.drain());
                state.under_way += taken.len();
                let oldest = state.dirty_since.take();
                state.taken_since = earlier(state.taken_since, oldest);
                // After a rebuild of many rows the table would stay large for ever.
                state.dirty.shrink_to(1024);
            }
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }

    /// These have been written: those who wait for them may go on.
    pub(crate) fn written(&self, changes: Vec<(Subject, Change)>) {
        let now = Instant::now();
        self.with(|state| {
            state.give_back(changes.len());
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
            state.dirty_since = earlier(state.dirty_since, state.taken_since);
            state.give_back(changes.len());
            for (subject, change) in changes {
                let newer = state.dirty.entry(subject).or_default();
                state.forgotten -= usize::from(newer.forgotten && change.forgotten);
                newer.take_over(change);
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
        self.state.as_ref().map_or(0, |state| {
            let state = state.lock();
            state.dirty.len() + state.under_way
        })
    }

    /// Whether all rows stand again that Redis had forgotten. Others may be dirty.
    pub(crate) fn are_back(&self) -> bool {
        let state = self.state.as_ref();
        state.is_none_or(|state| state.lock().forgotten == 0)
    }

    /// Whether every row tells the truth, as far as this node knows.
    pub(crate) fn is_settled(&self) -> bool {
        self.state.as_ref().is_none_or(|state| {
            let state = state.lock();
            state.dirty.is_empty() && state.under_way == 0
        })
    }

    /// How many users' rows wait to be written, and for how long the oldest has.
    pub(crate) fn waiting(&self) -> (usize, Duration) {
        let Some(state) = &self.state else {
            return Default::default();
        };
        let state = state.lock();
        let oldest = earlier(state.dirty_since, state.taken_since);
        let lag = oldest.map_or(Duration::ZERO, |at| at.elapsed());
        (state.dirty.len() + state.under_way, lag)
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
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_one_user_come_out_together() {
        let changes = DirtyRows::tracked();
        let user: UserId = "a".parse().unwrap();
        let row = changes.joined(Subject::User(user.clone()));
        changes.left(&user, Fd(1));
        changes.left(&user, Fd(2));
        let taken = changes.take().await;
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].1.gone[..], [Fd(1), Fd(2)]);
        assert!(!changes.is_settled(), "it is being written");
        changes.put_back(taken);
        let again = changes.take().await;
        assert_eq!(again[0].1.gone.len(), 2);
        changes.written(again);
        assert!(changes.is_settled());
        assert_eq!(row.await, Ok(()));
    }

    #[tokio::test]
    async fn a_loss_is_remembered_until_the_row_is_written() {
        let changes = DirtyRows::tracked();
        let [a, b] = ["a", "b"].map(|user| Subject::User(user.parse().unwrap()));
        changes.lost([a.clone()]);
        changes.forgotten([b.clone()]);
        let taken = changes.take().await;
        changes.mark([a.clone(), b.clone()]);
        changes.put_back(taken);
        assert!(!changes.are_back());
        let mut again = changes.take().await;
        assert!(!changes.are_back());
        again.sort_by_key(|(subject, _)| *subject != a);
        let marks = again
            .iter()
            .map(|(_, change)| (change.lost, change.forgotten));
        assert_eq!(marks.collect::<Vec<_>>(), [(true, false), (false, true)]);
        changes.forgotten([b.clone()]);
        changes.put_back(again.split_off(1));
        changes.written(again);
        assert!(!changes.are_back(), "forgotten twice, written not once");
        let again = changes.take().await;
        changes.written(again);
        assert!(changes.are_back());
        changes.mark([a]);
        assert!(!changes.take().await[0].1.lost);
    }

    #[tokio::test]
    async fn a_row_that_is_refused_itself_is_not_waited_for() {
        let changes = DirtyRows::tracked();
        let [a, b] = ["a", "b"].map(|user| Subject::User(user.parse().unwrap()));
        changes.forgotten([a.clone(), b.clone()]);
        let mut taken = changes.take().await;
        taken.sort_by_key(|(subject, _)| *subject != a);
        let well = taken.split_off(1);
        changes.put_back_refused(taken);
        assert!(!changes.are_back(), "the other is being written");
        changes.written(well);
        assert!(changes.are_back());
        let taken = changes.take().await;
        assert_eq!((&taken[0].0, taken[0].1.lost), (&a, true));
        // As if all were forgotten again meanwhile.
        changes.forgotten([a]);
        changes.put_back_refused(taken);
        assert!(!changes.are_back());
        changes.written(changes.take().await);
        assert!(changes.are_back() && changes.is_settled());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_removed_lately_can_be_removed_again() {
        let changes = DirtyRows::tracked();
        let [early, late]: [UserId; 2] = ["early", "late"].map(|user| user.parse().unwrap());
        changes.left(&early, Fd(1));
        changes.written(changes.take().await);
        tokio::time::advance(REMEMBERED).await;
        changes.left(&late, Fd(2));
        changes.written(changes.take().await);
        tokio::time::advance(Duration::from_secs(1)).await;
        changes.mark_removed();
        let taken = changes.take().await;
        assert_eq!(taken.len(), 1);
        let late = Subject::User(late);
        assert_eq!((&taken[0].0, &taken[0].1.gone[..]), (&late, &[Fd(2)][..]));
        // It is remembered again: the next master may not know of it either.
        changes.written(taken);
        changes.mark_removed();
        assert_eq!(changes.take().await.len(), 1);
        changes.mark_removed();
        assert_eq!(changes.state.as_ref().unwrap().lock().dirty.len(), 0);
    }

    #[tokio::test]
    async fn a_topic_that_was_emptied_lately_is_looked_at_again() {
        let changes = DirtyRows::tracked();
        let topic: Topic = "news".parse().unwrap();
        changes.counted(&topic, true);
        changes.counted(&topic, false);
        let taken = changes.take().await;
        assert!(taken[0].1.emptied);
        changes.put_back(taken);
        changes.written(changes.take().await);
        changes.mark_removed();
        let taken = changes.take().await;
        assert_eq!(taken[0].0, Subject::Topic(topic));
        assert!(taken[0].1.emptied);
    }

    #[tokio::test]
    async fn only_so_many_removals_are_remembered() {
        let changes = DirtyRows::tracked();
        let user: UserId = "a".parse().unwrap();
        for fd in 0..MOST_REMEMBERED as u64 + 2 {
            changes.left(&user, Fd(fd));
        }
        changes.written(changes.take().await);
        changes.mark_removed();
        let taken = changes.take().await;
        assert_eq!(taken[0].1.gone.len(), MOST_REMEMBERED);
        assert_eq!(taken[0].1.gone[0], Fd(2));
    }

    #[tokio::test]
    async fn without_a_registry_nobody_waits() {
        let changes = DirtyRows::ignored();
        let user = Subject::User("a".parse().unwrap());
        assert!(changes.joined(user).await.is_err());
        assert!(changes.is_settled());
    }
}
