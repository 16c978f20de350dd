//! Complaints that a peer can cause as often as it likes: one is logged in a while, with the number
//! of those that were not.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// One kind of complaint.
#[derive(Debug)]
pub(crate) struct Throttle {
    kinds: ThrottleByKind,
}

impl Throttle {
    pub(crate) fn new(pause: Duration) -> Self {
        let kinds = ThrottleByKind::new(pause);
        Self { kinds }
    }

    /// As [`ThrottleByKind::pass`].
    pub(crate) fn pass(&self) -> Option<u64> {
        self.kinds.pass("")
    }
}

/// Several kinds, each on its own. They are fixed texts, so their number is bounded.
#[derive(Debug)]
pub(crate) struct ThrottleByKind {
    /// Between two of one kind that are logged.
    pause: Duration,
    /// When one of this kind was last logged, and how many were not since.
    logged: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl ThrottleByKind {
    pub(crate) fn new(pause: Duration) -> Self {
        let logged = Mutex::default();
        Self { pause, logged }
    }

    /// Whether to log this one: the number of those before it that were not logged.
    pub(crate) fn pass(&self, kind: &'static str) -> Option<u64> {
        let (mut logged, now) = (self.logged.lock(), Instant::now());
        match logged.get_mut(kind) {
            Some((at, unlogged)) if now - *at < self.pause => {
                *unlogged += 1;
                None
            }
            _ => Some(
                logged
                    .insert(kind, (now, 0))
                    .map_or(0, |(_, unlogged)| unlogged),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_in_a_while_passes_and_the_others_are_counted() {
        let kinds = ThrottleByKind::new(Duration::from_secs(60));
        assert_eq!(kinds.pass("a"), Some(0));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!((kinds.pass("a"), kinds.pass("a")), (None, None));
        assert_eq!(kinds.pass("b"), Some(0), "another kind");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(kinds.pass("a"), Some(2));
        assert_eq!(kinds.pass("a"), None);
    }
}
