//! Stops asking a hook that has failed several times in a row, except once in a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many failures in a row open it.
const FAILURES: u32 = 10;
/// Open, it lets one through in this time.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// When one was last let through while it was open.
    tried: Option<Instant>,
}

/// The breaker of one hook.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

impl Breaker {
    /// Whether the hook may be asked now.
    pub(super) fn lets_through(&self) -> bool {
        let mut state = self.0.lock();
        if state.failures < FAILURES {
            return true;
        }
        let now = Instant::now();
        let is_due = state.tried.is_none_or(|tried| now - tried >= PAUSE);
        if is_due {
            state.tried = Some(now);
        }
        is_due
    }

    /// As [`Breaker::lets_through`], for one that still has to wait: it is not taken for the one
    /// that is let through.
    pub(super) fn may_let_through(&self) -> bool {
        let state = self.0.lock();
        state.failures < FAILURES || state.tried.is_none_or(|tried| tried.elapsed() >= PAUSE)
    }

    /// The hook was asked; answers whether the breaker opened or closed by it, and which.
    pub(super) fn note(&self, is_good: bool) -> Option<BreakerTurn> {
        let mut state = self.0.lock();
        let was_open = state.failures >= FAILURES;
        if is_good {
            *state = State::default();
            return was_open.then_some(BreakerTurn::Closed);
        }
        state.failures = state.failures.saturating_add(1);
        if was_open || state.failures < FAILURES {
            return None;
        }
        state.tried = Some(Instant::now());
        Some(BreakerTurn::Opened)
    }
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerTurn {
    Opened,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_success_closes_it() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            for _ in 1..FAILURES {
                assert_eq!(breaker.note(false), None);
            }
            assert!(breaker.lets_through());
            // Not in a row.
            assert_eq!(breaker.note(true), None);
        }
        for failures in 1..=FAILURES {
            let turn = (failures == FAILURES).then_some(BreakerTurn::Opened);
            assert_eq!(breaker.note(false), turn);
        }
        assert!(!breaker.lets_through());
        for _ in 0..3 {
            tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
            assert!(!breaker.lets_through());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(breaker.lets_through(), "one in each second");
            assert!(!breaker.lets_through(), "and only one");
            assert_eq!(breaker.note(false), None);
        }
        assert_eq!(breaker.note(true), Some(BreakerTurn::Closed));
        assert!(breaker.lets_through());
        assert!(breaker.lets_through());
    }
}
