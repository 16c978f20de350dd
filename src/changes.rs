//! Which users' rows in the registry no longer tell the truth.
//!
//! The registry works by level: an entry here says only *that* a user's row must be written;
//! what is written is read from the hub at that moment. So no order of joins and leaves can
//! leave a wrong row behind, and a failed write is repaired by putting the entry back.

use std::collections::HashMap;
use std::sync::Mutex;

use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};

use crate::names::{Fd, UserId};

/// What is known of one dirty user.
#[derive(Debug, Default)]
pub struct Change {
    /// Fields that may stand in the row and should not.
    pub gone: SmallVec<[Fd; 1]>,
    /// Who waits for the row to be written.
    pub waiting: SmallVec<[oneshot::Sender<()>; 1]>,
}

/// The set of dirty users. Disabled without a registry: then nothing is kept.
#[derive(Debug)]
pub struct Changes {
    state: Option<Mutex<State>>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    dirty: HashMap<UserId, Change, ahash::RandomState>,
    /// How many were taken and are being written.
    under_way: usize,
}

impl Changes {
    /// For a backplane with a registry to write.
    #[must_use]
    pub fn tracked() -> Self {
        Self {
            state: Some(Mutex::default()),
            notify: Notify::new(),
        }
    }

    /// For a backplane without one.
    #[must_use]
    pub fn ignored() -> Self {
        Self {
            state: None,
            notify: Notify::new(),
        }
    }

    /// The user has one connection more. Resolves once the row has been written; at once, with
    /// an error, if there is none to write.
    pub fn joined(&self, user: &UserId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.with(|state| {
            state
                .dirty
                .entry(user.clone())
                .or_default()
                .waiting
                .push(sender);
        });
        receiver
    }

    pub(crate) fn left(&self, user: &UserId, fd: Fd) {
        self.with(|state| state.dirty.entry(user.clone()).or_default().gone.push(fd));
    }

    /// All of these must be written again.
    pub fn mark(&self, users: impl IntoIterator<Item = UserId>) {
        self.with(|state| {
            for user in users {
                state.dirty.entry(user).or_default();
            }
        });
    }

    /// Waits until there is something to write and takes all of it. Each must come back through
    /// [`Changes::written`] or [`Changes::put_back`].
    pub async fn take(&self) -> Vec<(UserId, Change)> {
        loop {
            let mut taken = Vec::new();
            if let Some(state) = &self.state {
                let mut state = lock(state);
                taken.extend(state.dirty.drain());
                state.under_way += taken.len();
                // After a rebuild of many rows the table would stay large for ever.
                state.dirty.shrink_to(1024);
            }
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }

    /// These have been written: whoever waits for them may go on.
    pub fn written(&self, changes: Vec<(UserId, Change)>) {
        self.with(|state| state.under_way -= changes.len());
        for waiting in changes.into_iter().flat_map(|(_, change)| change.waiting) {
            // Gone if the client did not wait for its row.
            let _ = waiting.send(());
        }
    }

    /// These could not be written and are dirty again.
    pub fn put_back(&self, changes: Vec<(UserId, Change)>) {
        self.with(|state| {
            state.under_way -= changes.len();
            for (user, change) in changes {
                let entry = state.dirty.entry(user).or_default();
                entry.gone.extend(change.gone);
                entry.waiting.extend(change.waiting);
            }
        });
    }

    /// Whether every row tells the truth, as far as this node knows.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.state.as_ref().is_none_or(|state| {
            let state = lock(state);
            state.dirty.is_empty() && state.under_way == 0
        })
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = &self.state {
            change(&mut lock(state));
            self.notify.notify_one();
        }
    }
}

/// A poisoned lock still guards a whole map: no statement above leaves it half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_one_user_come_out_together() {
        let changes = Changes::tracked();
        let user: UserId = "a".parse().unwrap();
        let row = changes.joined(&user);
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
    async fn without_a_registry_nobody_waits() {
        let changes = Changes::ignored();
        let user: UserId = "a".parse().unwrap();
        assert!(changes.joined(&user).await.is_err());
        assert!(changes.is_settled());
    }
}
