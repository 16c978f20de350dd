//! Ids of the messages that were kept within the last minute, on a node without Redis.
//!
//! What must stay true: an id stays for its minute whatever becomes of its message, which may be
//! trimmed, erased, or gone with its inbox. So a late retry does not bring it back. Fingerprints
//! have one size, and no more than half a million are here: a node that keeps more than that in a
//! minute forgets the oldest early.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use ahash::RandomState;

use crate::local::dedup::Fingerprint;
use crate::local::replay::page::REPEAT;
use crate::protocol::ids::Subject;

/// Most ids: about 70 bytes each, 35 MiB at the worst.
const CAPACITY: usize = 500_000;

#[derive(Debug, Default)]
pub(crate) struct Marks {
    states: (RandomState, RandomState),
    known: HashSet<Fingerprint, RandomState>,
    /// The same, by age.
    queue: VecDeque<(Instant, Fingerprint)>,
}

impl Marks {
    /// Marks the id of a message that is kept now, for its inbox or log; whether it is marked
    /// already, and so is a repeat.
    pub(crate) fn is_repeat(&mut self, subject: &Subject, id: &str, now: Instant) -> bool {
        self.prune(now);
        let key = (subject, id);
        let print = (self.states.0.hash_one(key), self.states.1.hash_one(key));
        if !self.known.insert(print) {
            return true;
        }
        self.queue.push_back((now, print));
        if self.queue.len() > CAPACITY {
            self.forget_oldest();
        }
        false
    }

    /// Forgets what is too old.
    pub(crate) fn prune(&mut self, now: Instant) {
        let is_old = |(at, _): &(Instant, _)| now.duration_since(*at) >= REPEAT;
        while self.queue.front().is_some_and(is_old) {
            self.forget_oldest();
        }
        if self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(self.queue.len() * 2);
            self.known.shrink_to(self.known.len() * 2);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.queue.pop_front() {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_marked_for_a_minute_and_for_one_inbox() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let user = |id: &str| Subject::User(id.parse().unwrap());
        assert!(!marks.is_repeat(&user("a"), "1", now));
        assert!(marks.is_repeat(&user("a"), "1", now));
        assert!(!marks.is_repeat(&user("b"), "1", now));
        assert!(!marks.is_repeat(&Subject::Topic("a".parse().unwrap()), "1", now));
        assert!(marks.is_repeat(&user("a"), "1", now + REPEAT / 2));
        // From when it was kept, not from its last repeat.
        assert!(!marks.is_repeat(&user("a"), "1", now + REPEAT));
        assert!(marks.is_repeat(&user("a"), "1", now + REPEAT));
        marks.prune(now + 2 * REPEAT);
        assert_eq!((marks.known.len(), marks.queue.len()), (0, 0));
    }

    #[test]
    fn the_oldest_of_very_many_are_forgotten() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let user = Subject::User("a".parse().unwrap());
        for n in 0..=CAPACITY {
            assert!(!marks.is_repeat(&user, &n.to_string(), now));
        }
        assert_eq!((marks.known.len(), marks.queue.len()), (CAPACITY, CAPACITY));
        assert!(marks.is_repeat(&user, "1", now));
        assert!(!marks.is_repeat(&user, "0", now));
    }
}
