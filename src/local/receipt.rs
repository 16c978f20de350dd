//! Counting how far a message got on this node.
//!
//! A [`Receipt`] travels with a message into the shards and from there into the queues of
//! connections; each place that is done with the message drops its copy. When the last copy is
//! gone nothing more can happen, and the [`Waiter`] wakes. So a receipt can not be forgotten:
//! whatever ends a connection also settles what waited on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::protocol::{Status, Wait};

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU32,
    acked: AtomicU32,
}

/// One copy for each place that still may write or acknowledge the message.
#[derive(Debug, Clone)]
pub(crate) struct Receipt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    counts: Arc<Counts>,
    wait: Wait,
    /// Never sent: its drop, with the last copy, is the signal.
    _open: oneshot::Sender<()>,
}

/// Wakes when every copy of the receipt is gone.
#[derive(Debug)]
pub(crate) struct Waiter {
    counts: Arc<Counts>,
    settled: oneshot::Receiver<()>,
}

impl Receipt {
    /// A receipt and the one who waits for it.
    pub(crate) fn new(wait: Wait) -> (Self, Waiter) {
        let counts = Arc::new(Counts::default());
        let (open, settled) = oneshot::channel();
        let shared = Shared {
            counts: counts.clone(),
            wait,
            _open: open,
        };
        (Self(Arc::new(shared)), Waiter { counts, settled })
    }

    /// The message is in the socket of one more connection.
    pub(crate) fn written(&self) {
        self.0.counts.written.fetch_add(1, Ordering::Relaxed);
    }

    /// One more client says that it has the message.
    pub(crate) fn acked(&self) {
        self.0.counts.acked.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a copy should be kept until the client acknowledges.
    pub(crate) fn wants_ack(&self) -> bool {
        self.0.wait == Wait::Acked
    }
}

impl Waiter {
    /// Waits until everything is settled or the deadline has passed; answers the furthest that
    /// is proven, and on how many connections.
    pub(crate) async fn settle(mut self, deadline: Instant) -> (Status, u32) {
        // Either the sender's drop (an error, as nothing is ever sent) or the deadline.
        let _ = tokio::time::timeout_at(deadline, &mut self.settled).await;
        let acked = self.counts.acked.load(Ordering::Relaxed);
        let written = self.counts.written.load(Ordering::Relaxed);
        match (acked, written) {
            (0, 0) => (Status::Routed, 0),
            (0, written) => (Status::Written, written),
            (acked, _) => (Status::Acked, acked),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_copy_settles() {
        let (receipt, waiter) = Receipt::new(Wait::Written);
        let copy = receipt.clone();
        copy.written();
        drop((copy, receipt));
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(waiter.settle(far).await, (Status::Written, 1));
        assert!(Instant::now() < far);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_tells_what_is_proven_so_far() {
        let (receipt, waiter) = Receipt::new(Wait::Acked);
        let soon = Instant::now() + Duration::from_secs(1);
        assert_eq!(waiter.settle(soon).await, (Status::Routed, 0));
        drop(receipt);
    }
}
