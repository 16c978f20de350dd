//! When clients come back: spread, so that they do not come back together.

use std::time::Duration;

/// The longest pause of a client that must go, in milliseconds.
const LONGEST: u64 = 3_000;

/// When a client that must go may come back.
pub(crate) fn retry_after() -> Duration {
    retry_within(LONGEST)
}

/// As [`retry_after`], within so many milliseconds.
pub(crate) fn retry_within(most: u64) -> Duration {
    Duration::from_millis(fastrand::u64(100..most))
}
