//! Whether this node may offer its rows: only while its subscription is known to be heard.
//!
//! A row leads senders to a channel. A node that is cut off from Redis and comes back has its
//! connection for commands up to 2 s before its subscription; rows that it wrote meanwhile would
//! lead to a channel without a subscriber.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::backplane::redis::registry::belief::LEASE;

/// Clones are one and the same.
#[derive(Debug, Clone)]
pub(crate) struct RowOffer(Arc<watch::Sender<Option<Instant>>>);

impl Default for RowOffer {
    fn default() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }
}

impl RowOffer {
    /// The subscription was last heard then; `None` if the present one was not heard yet.
    pub(crate) fn note_heard(&self, at: Option<Instant>) {
        self.0
            .send_if_modified(|heard| std::mem::replace(heard, at) != at);
    }

    pub(crate) fn stands(&self) -> bool {
        // A node that was silent for less was not taken for dead, and has its rows.
        self.0.borrow().is_some_and(|at| at.elapsed() < LEASE)
    }

    /// Waits until it stands, for `patience` at most.
    pub(crate) async fn until_it_stands(&self, patience: Duration) {
        let mut heard = self.0.subscribe();
        let stands = async { while !self.stands() && heard.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(patience, stands).await;
    }
}
