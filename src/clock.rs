//! The time of day, for what other machines read: entries, rows, claims of tokens.
//!
//! Intervals are measured by `Instant` instead: this clock may be set back at any moment. Nodes
//! agree on the clock of Redis: what they show of each other is told by it, once it is known. What
//! must stay true: whether a token is valid is judged by this machine's clock alone, or another
//! program in the place of Redis could revive one that has ended.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// How many milliseconds the clock of Redis is ahead of this machine's. Of the process, as its
/// clock is.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The time since 1970 in UTC; none if the clock stands before that.
pub(crate) fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Milliseconds since 1970 in UTC.
pub(crate) fn unix_ms() -> u64 {
    since_1970().as_millis() as u64
}

/// As [`unix_ms`], by the clock that the nodes share: that of Redis, as it was heard at last.
pub(crate) fn shared_ms() -> u64 {
    unix_ms().saturating_add_signed(AHEAD.load(Ordering::Relaxed))
}

/// Notes how far the clock of Redis is ahead of this machine's; negative if it is behind.
pub(crate) fn note_ahead(milliseconds: i64) {
    AHEAD.store(milliseconds, Ordering::Relaxed);
}
