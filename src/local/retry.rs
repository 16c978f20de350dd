//! When clients come back.

use std::time::Duration;

/// When a client that must go may come back: spread, so that they do not come back together.
pub(crate) fn retry_after() -> Duration {
    Duration::from_millis(fastrand::u64(100..3000))
}
