//! Counts refused tokens by reason, for the log.
//!
//! Any client can cause a refusal, as often as it likes. So each reason is logged at once and then
//! at most once a minute, with how often it occurred since.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::auth::Denial;

/// Between two lines about one reason.
const PAUSE: Duration = Duration::from_secs(60);

/// Refusals since the last line about their reason. A reason is present while its pause lasts.
/// The reasons are fixed texts, so their number is bounded.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Arc<Mutex<HashMap<&'static str, u64>>>);

impl Refusals {
    /// Counts one.
    pub(crate) fn count(&self, denial: Denial) {
        let reason = denial.reason();
        tracing::debug!(reason, "token refused");
        match self.0.lock().entry(reason) {
            std::collections::hash_map::Entry::Occupied(mut since) => {
                *since.get_mut() += 1;
                return;
            }
            std::collections::hash_map::Entry::Vacant(free) => free.insert(0),
        };
        say(denial.code(), reason, 1);
        tokio::spawn(say_the_rest(self.0.clone(), denial.code(), reason));
    }
}

/// Logs what comes after the first, until a minute passes without any.
async fn say_the_rest(
    since: Arc<Mutex<HashMap<&'static str, u64>>>,
    code: &'static str,
    reason: &'static str,
) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let mut all = since.lock();
        let count = all.insert(reason, 0).unwrap_or_default();
        if count == 0 {
            all.remove(reason);
            return;
        }
        drop(all);
        say(code, reason, count);
    }
}

fn say(code: &'static str, reason: &'static str, count: u64) {
    tracing::info!(code, reason, count, "clients refused by their token");
}
