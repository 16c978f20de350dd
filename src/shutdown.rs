//! The shutdown signal: raised once, seen through every handle. And the work that the end of the
//! node waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Work that the node's end waits for. All copies count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// Counts one, until the guard is dropped.
    pub(crate) fn begin(&self) -> WorkGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        WorkGuard(self.0.clone())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One piece of work under way; dropping it says that it is done.
#[derive(Debug)]
pub(crate) struct WorkGuard(Arc<AtomicUsize>);

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
