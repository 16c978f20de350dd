//! The end of a client's token, and the warning before it.

use std::time::Duration;

use crate::local::connection::timer_wheel::{NEVER, Tick};

/// How long before its token ends a client is told so, unless half of the time is over later:
/// one that asks for a new token each time it is told would never stop.
const WARNING_TICKS: Tick = 30;

#[derive(Debug)]
pub(crate) struct Expiry {
    at: Tick,
    warning: Tick,
}

impl Expiry {
    pub(crate) fn new(at: Option<Tick>, now: Tick) -> Self {
        let warning = |at: Tick| {
            let half = at.saturating_sub(now) / 2;
            at - WARNING_TICKS.min(half)
        };
        Self {
            at: at.unwrap_or(NEVER),
            warning: at.map_or(NEVER, warning),
        }
    }

    pub(crate) fn has_come(&self, now: Tick) -> bool {
        self.at <= now
    }

    /// What is left, if it is time to say so; once.
    pub(crate) fn warn(&mut self, now: Tick) -> Option<Duration> {
        if self.warning > now {
            return None;
        }
        self.warning = NEVER;
        Some(Duration::from_secs(u64::from(self.at.saturating_sub(now))))
    }

    pub(crate) fn due(&self) -> Tick {
        self.at.min(self.warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_comes_once_and_not_before_half_of_a_short_life() {
        for (end, expected) in [(1000, 970), (160, 130), (150, 125), (120, 110), (101, 101)] {
            let mut expiry = Expiry::new(Some(end), 100);
            assert_eq!(expiry.due(), expected, "{end}");
            assert_eq!(expiry.warn(expected - 1), None, "{end}");
            let left = u64::from(end - expected);
            assert_eq!(expiry.warn(expected), Some(Duration::from_secs(left)));
            assert_eq!(expiry.warn(expected), None, "{end}");
        }
        assert_eq!(Expiry::new(None, 100).due(), NEVER);
    }
}
