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
    dirty: Option<Mutex<HashMap<UserId, Change, ahash::RandomState>>>,
    notify: Notify,
}

impl Changes {
    /// For a backplane with a registry to write.
    #[must_use]
    pub fn tracked() -> Self {
        Self {
            dirty: Some(Mutex::default()),
            notify: Notify::new(),
        }
    }

    /// For a backplane without one.
    #[must_use]
    pub fn ignored() -> Self {
        Self {
            dirty: None,
            notify: Notify::new(),
        }
    }

    pub(crate) fn joined(&self, user: &UserId) {
        self.with(user, |_| ());
    }

    pub(crate) fn left(&self, user: &UserId, fd: Fd) {
        self.with(user, |change| change.gone.push(fd));
    }

    /// Resolves once the user's row has been written, at once if there is none to write.
    pub fn written(&self, user: &UserId) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        // Without a registry the sender is dropped here, which wakes the receiver too.
        self.with(user, |change| change.waiting.push(sender));
        receiver
    }

    /// All of these must be written again.
    pub fn mark(&self, users: impl IntoIterator<Item = UserId>) {
        let Some(dirty) = &self.dirty else { return };
        let mut dirty = lock(dirty);
        for user in users {
            dirty.entry(user).or_default();
        }
        drop(dirty);
        self.notify.notify_one();
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, changes: impl IntoIterator<Item = (UserId, Change)>) {
        let Some(dirty) = &self.dirty else { return };
        let mut dirty = lock(dirty);
        for (user, change) in changes {
            let entry = dirty.entry(user).or_default();
            entry.gone.extend(change.gone);
            entry.waiting.extend(change.waiting);
        }
        drop(dirty);
        self.notify.notify_one();
    }

    /// Waits until there is something to write and takes all of it.
    pub async fn take(&self) -> Vec<(UserId, Change)> {
        loop {
            let taken = self.take_now();
            if !taken.is_empty() {
                return taken;
            }
            self.notify.notified().await;
        }
    }

    /// Takes what there is to write now.
    pub fn take_now(&self) -> Vec<(UserId, Change)> {
        let Some(dirty) = &self.dirty else {
            return Vec::new();
        };
        let mut dirty = lock(dirty);
        let taken = dirty.drain().collect();
        // After a rebuild of many rows the table would stay large for ever.
        dirty.shrink_to(1024);
        taken
    }

    /// How many users wait to be written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dirty.as_ref().map_or(0, |dirty| lock(dirty).len())
    }

    /// Whether every row tells the truth, as far as this node knows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with(&self, user: &UserId, change: impl FnOnce(&mut Change)) {
        if let Some(dirty) = &self.dirty {
            change(lock(dirty).entry(user.clone()).or_default());
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
        changes.joined(&user);
        changes.left(&user, Fd(1));
        changes.left(&user, Fd(2));
        let taken = changes.take().await;
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].1.gone[..], [Fd(1), Fd(2)]);
        assert!(changes.is_empty());
        changes.put_back(taken);
        assert_eq!(changes.take().await[0].1.gone.len(), 2);
    }

    #[tokio::test]
    async fn without_a_registry_nobody_waits() {
        let changes = Changes::ignored();
        let user: UserId = "a".parse().unwrap();
        assert!(changes.written(&user).await.is_err());
        assert!(changes.is_empty());
    }
}
