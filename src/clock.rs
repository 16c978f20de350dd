//! The time of day, for what other machines read: entries, rows, claims of tokens.
//!
//! Intervals are measured by `Instant` instead: this clock may be set back at any moment.

use std::time::{Duration, SystemTime};

/// The time since 1970 in UTC; none if the clock stands before that.
pub(crate) fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Milliseconds since 1970 in UTC.
pub(crate) fn unix_ms() -> u64 {
    since_1970().as_millis() as u64
}
