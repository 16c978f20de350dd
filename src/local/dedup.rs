//! Ids of recent pushes, so that a repeat is dropped.
//!
//! Two generations of fingerprints: an id is remembered for 60 to 120 seconds, or until half a
//! million newer ones have come, whichever is first. The target is part of the fingerprint: a
//! sender may use one id for one event and many users. What must stay true: of two kept messages
//! the store has decided that they are two, unless it stored them within a minute.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::local::replay::page::is_stored_twice;
use crate::protocol::position::EntryId;
use crate::protocol::{Target, push_target_key};

/// How long an id is remembered at least.
const WINDOW: Duration = Duration::from_secs(60);
/// Most ids in one generation: 24 bytes each, 24 MiB at the worst.
const CAPACITY: usize = 500_000;

/// 128 bits: at a million ids, a false repeat is less likely than a broken memory cell.
pub(crate) type Fingerprint = (u64, u64);
/// When the newest message with an id was stored, in milliseconds; `None` if none was kept.
type StoredMs = Option<NonZeroU64>;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    states: (RandomState, RandomState),
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    young: HashMap<Fingerprint, StoredMs, RandomState>,
    old: HashMap<Fingerprint, StoredMs, RandomState>,
    turned: Instant,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            turned: Instant::now(),
        }
    }
}

impl Generations {
    /// Forgets what is older than two windows.
    fn turn(&mut self) {
        let past = self.turned.elapsed();
        if past < WINDOW && self.young.len() < CAPACITY {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if past >= 2 * WINDOW {
            // All of it came within the first of them.
            self.old.clear();
        }
        self.turned = Instant::now();
    }
}

impl Recent {
    /// Whether this id was here for this target before, the message kept at `entry` if it is kept;
    /// from now on it was.
    pub(crate) fn is_repeat(&self, id: &str, to: &Target, entry: Option<EntryId>) -> bool {
        let key = (id, push_target_key(to));
        let print = (self.states.0.hash_one(&key), self.states.1.hash_one(&key));
        let stored = entry.and_then(|entry| NonZeroU64::new(entry.ms));
        let mut sets = self.generations.lock();
        sets.turn();
        let known = sets.young.get(&print).or_else(|| sets.old.get(&print));
        let known = known.copied();
        let is_repeat = match (known, stored) {
            (Some(Some(known)), Some(stored)) => is_stored_twice(known.get(), stored.get()),
            (known, _) => known.is_some(),
        };
        if !is_repeat || stored.is_some() {
            sets.young.insert(print, known.flatten().max(stored));
        }
        is_repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> Target {
        Target::User(id.parse().unwrap())
    }

    #[test]
    fn an_id_repeats_for_its_target_only() {
        let recent = Recent::default();
        assert!(!recent.is_repeat("m", &user("a"), None));
        assert!(!recent.is_repeat("m", &user("b"), None));
        assert!(!recent.is_repeat("n", &user("a"), None));
        assert!(recent.is_repeat("m", &user("a"), None));
    }

    #[test]
    fn an_id_is_forgotten_also_where_no_other_comes() {
        let recent = Recent::default();
        assert!(!recent.is_repeat("m", &user("a"), None));
        recent.generations.lock().turned -= 3 * WINDOW;
        assert!(
            !recent.is_repeat("m", &user("a"), None),
            "it came minutes ago"
        );
        assert!(recent.is_repeat("m", &user("a"), None));
        // It is not yet a minute old when the generations turn.
        recent.generations.lock().turned -= WINDOW;
        assert!(recent.is_repeat("m", &user("a"), None));
    }

    #[test]
    fn what_the_store_took_again_is_no_repeat() {
        let recent = Recent::default();
        let kept = |ms| {
            let entry = EntryId { ms, seq: 0 };
            recent.is_repeat("m", &user("a"), Some(entry))
        };
        assert!(!kept(1_000));
        assert!(kept(1_000), "its line came twice");
        assert!(kept(30_000), "stored twice within a minute");
        assert!(!kept(90_000), "a minute after the newest");
        assert!(kept(90_001));
        // One that was overtaken on its way.
        assert!(!kept(150_002) && !kept(60_000) && kept(150_003));
        // One is kept and another is not: the node alone decides.
        assert!(recent.is_repeat("m", &user("a"), None));
        assert!(!recent.is_repeat("n", &user("a"), None));
        let entry = EntryId { ms: 1, seq: 0 };
        assert!(recent.is_repeat("n", &user("a"), Some(entry)));
    }
}
