//! The end of a client's token, and the warning before it.

use std::time::Duration;

use crate::local::connection::timer_wheel::{NEVER, Tick};

/// How long before its token ends a client is told so.
const WARNING_TICKS: Tick = 30;

#[derive(Debug)]
pub(crate) struct Expiry {
    at: Tick,
    warning: Tick,
}

impl Expiry {
    pub(crate) fn new(at: Option<Tick>) -> Self {
        Self {
            at: at.unwrap_or(NEVER),
            warning: at.map_or(NEVER, |at| at.saturating_sub(WARNING_TICKS)),
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
