//! Whether work comes so densely that some of it may gather: then each piece waits for others a
//! moment, and all go with one system call, which wakes their readers once. Work that comes alone
//! never waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pieces of work nearer to each other than this are dense: a push costs some 15 us, so the node
/// is busy.
const GAP: Duration = Duration::from_micros(50);

/// When the last piece of work came. Shared by those that do such work.
#[derive(Debug)]
pub(crate) struct Density {
    started: Instant,
    /// Nanoseconds from the start to the last piece of work.
    last: AtomicU64,
}

impl Default for Density {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Density {
    /// A piece of work has come: whether the one before it came just before.
    pub(crate) fn note(&self) -> bool {
        self.note_at(self.started.elapsed())
    }

    fn note_at(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let last = self.last.swap(now, Ordering::Relaxed);
        now.saturating_sub(last) < GAP.as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_dense_while_little_time_lies_between() {
        let density = Density::default();
        let note = |micros| density.note_at(Duration::from_micros(micros));
        assert!(!note(1_000));
        assert!(note(1_049));
        assert!(note(1_050));
        assert!(!note(1_100));
        // Clocks of two threads may be read in one order and told in the other.
        assert!(note(1_090));
    }
}
