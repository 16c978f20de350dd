//! Ids of recent pushes, so that a repeat is dropped.
//!
//! Two generations of fingerprints: an id is remembered for 60 to 120 seconds, or until half a
//! million newer ones have come, whichever is first. The target is part of the fingerprint: a
//! sender may use one id for one event and many users.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::protocol::{Target, push_target_key};

/// How long an id is remembered at least.
const WINDOW: Duration = Duration::from_secs(60);
/// Most ids in one generation: 16 bytes each, 16 MiB at the worst.
const CAPACITY: usize = 500_000;

/// 128 bits: at a million ids, a false repeat is less likely than a broken memory cell.
type Fingerprint = (u64, u64);

#[derive(Debug, Default)]
pub(crate) struct Recent {
    states: (RandomState, RandomState),
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    young: HashSet<Fingerprint, RandomState>,
    old: HashSet<Fingerprint, RandomState>,
    turned: Instant,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            young: HashSet::default(),
            old: HashSet::default(),
            turned: Instant::now(),
        }
    }
}

impl Recent {
    /// Whether this id was here for this target before; from now on it was.
    pub(crate) fn is_repeat(&self, id: &str, to: &Target) -> bool {
        let key = (id, push_target_key(to));
        let print = (self.states.0.hash_one(&key), self.states.1.hash_one(&key));
        let mut sets = self.generations.lock();
        if sets.turned.elapsed() >= WINDOW || sets.young.len() >= CAPACITY {
            sets.old = std::mem::take(&mut sets.young);
            sets.turned = Instant::now();
        }
        sets.old.contains(&print) || !sets.young.insert(print)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_repeats_for_its_target_only() {
        let recent = Recent::default();
        let user = |id: &str| Target::User(id.parse().unwrap());
        assert!(!recent.is_repeat("m", &user("a")));
        assert!(!recent.is_repeat("m", &user("b")));
        assert!(!recent.is_repeat("n", &user("a")));
        assert!(recent.is_repeat("m", &user("a")));
    }
}
