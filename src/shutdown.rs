//! The shutdown signal: raised once, seen through every handle.

use std::sync::Arc;

use tokio::sync::watch;

/// A cheap handle; all copies see the same signal.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }
}

impl Shutdown {
    /// Raises the signal. Raising it again changes nothing.
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Whether it is raised.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is raised.
    pub(crate) async fn begun(&self) {
        // `wait_for` fails only without a sender, and this handle holds the sender.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}
