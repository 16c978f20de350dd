//! Sessions, bans and ordinals in memory, for a node without Redis. They are lost at exit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backplane::access::{Ban, Session};
use crate::protocol::ids::UserId;
use crate::protocol::session_id::SessionId;

#[derive(Debug, Default)]
pub(crate) struct MemoryAccess {
    sessions: Ending<SessionId>,
    bans: Ending<UserId>,
    ordinals: AtomicU64,
}

impl MemoryAccess {
    pub(crate) fn sessions(&self, ids: &[SessionId]) -> Vec<Option<Session>> {
        let session = |id| {
            let (claims, left) = self.sessions.get(id)?;
            let left = Some(left);
            Some(Session { claims, left })
        };
        ids.iter().map(session).collect()
    }

    pub(crate) fn open_session(&self, id: SessionId, claims: String, lasts: Duration) {
        self.sessions.put(id, claims, lasts);
    }

    pub(crate) fn close_session(&self, id: SessionId) -> bool {
        self.sessions.remove(&id)
    }

    pub(crate) fn ban(&self, user: &UserId) -> Option<Ban> {
        let (reason, left) = self.bans.get(user)?;
        let left = Some(left);
        Some(Ban { reason, left })
    }

    pub(crate) fn put_ban(&self, user: &UserId, reason: String, lasts: Duration) {
        self.bans.put(user.clone(), reason, lasts);
    }

    pub(crate) fn lift_ban(&self, user: &UserId) -> bool {
        self.bans.remove(user)
    }

    /// Removes what has expired.
    pub(crate) fn sweep(&self) {
        self.sessions.sweep();
        self.bans.sweep();
    }

    pub(crate) fn next_ordinal(&self) -> u64 {
        self.ordinals.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Texts with an expiry time.
#[derive(Debug)]
struct Ending<K>(Mutex<HashMap<K, (String, Instant)>>);

impl<K> Default for Ending<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Ending<K> {
    fn get(&self, key: &K) -> Option<(String, Duration)> {
        let state = self.0.lock();
        let (text, ends) = state.get(key)?;
        let left = ends.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then(|| (text.clone(), left))
    }

    fn put(&self, key: K, text: String, lasts: Duration) {
        let ends = Instant::now() + lasts;
        self.0.lock().insert(key, (text, ends));
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.0.lock().retain(|_, (_, ends)| *ends > now);
    }

    fn remove(&self, key: &K) -> bool {
        let mut state = self.0.lock();
        state
            .remove(key)
            .is_some_and(|(_, ends)| ends > Instant::now())
    }
}
