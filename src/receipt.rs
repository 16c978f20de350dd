//! Counting how far a message got on this node.
//!
//! A [`Receipt`] travels with a message into the shards and from there into the queues of
//! connections; each place that is done with the message drops its copy. When the last copy is
//! gone nothing more can happen, and the [`Waiter`] wakes. So a receipt can not be forgotten:
//! whatever ends a connection also settles what waited on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::protocol::{Status, Wait};

/// What became of a message on each connection it was handed to, counted.
#[derive(Debug, Default)]
pub struct Counts {
    handed: AtomicU32,
    written: AtomicU32,
    acked: AtomicU32,
    dropped: [AtomicU32; Fate::ALL],
}

/// Why a message is not, or not yet, written to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The queue was full.
    Slow,
    /// A newer one of its key took its place.
    Replaced,
    /// The connection ended first.
    Gone,
    /// The client has it already.
    Old,
    /// It comes with a page of the inbox.
    Later,
}

impl Fate {
    const ALL: usize = 5;
}

/// [`Counts`] at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    /// Connections it was handed to.
    pub handed: u32,
    /// Written to the socket.
    pub written: u32,
    /// Acknowledged by the client, if anybody asked for that.
    pub acked: u32,
    /// As [`Fate::Slow`].
    pub slow: u32,
    /// As [`Fate::Replaced`].
    pub replaced: u32,
    /// As [`Fate::Gone`].
    pub gone: u32,
    /// As [`Fate::Old`].
    pub old: u32,
    /// As [`Fate::Later`].
    pub later: u32,
}

impl Fates {
    /// On how many connections it still waits.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let done = [
            self.written,
            self.slow,
            self.replaced,
            self.gone,
            self.old,
            self.later,
        ];
        self.handed.saturating_sub(done.iter().sum())
    }

    /// Adds what became of it elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.handed += other.handed;
        self.written += other.written;
        self.acked += other.acked;
        self.slow += other.slow;
        self.replaced += other.replaced;
        self.gone += other.gone;
        self.old += other.old;
        self.later += other.later;
    }
}

impl Counts {
    /// What they are now.
    #[must_use]
    pub fn fates(&self) -> Fates {
        let load = |count: &AtomicU32| count.load(Ordering::Relaxed);
        let dropped = |fate: Fate| load(&self.dropped[fate as usize]);
        Fates {
            handed: load(&self.handed),
            written: load(&self.written),
            acked: load(&self.acked),
            slow: dropped(Fate::Slow),
            replaced: dropped(Fate::Replaced),
            gone: dropped(Fate::Gone),
            old: dropped(Fate::Old),
            later: dropped(Fate::Later),
        }
    }
}

/// One copy for each place that still may write or acknowledge the message.
#[derive(Debug, Clone)]
pub struct Receipt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    counts: Arc<Counts>,
    wait: Wait,
    /// Never sent: its drop, with the last copy, is the signal. None if nobody waits.
    _open: Option<oneshot::Sender<()>>,
}

/// Wakes when every copy of the receipt is gone.
#[derive(Debug)]
pub struct Waiter {
    counts: Arc<Counts>,
    settled: oneshot::Receiver<()>,
}

impl Receipt {
    /// A receipt and the one who waits for it.
    #[must_use]
    pub fn new(wait: Wait) -> (Self, Waiter) {
        let counts = Arc::new(Counts::default());
        let (open, settled) = oneshot::channel();
        let shared = Shared {
            counts: counts.clone(),
            wait,
            _open: Some(open),
        };
        (Self(Arc::new(shared)), Waiter { counts, settled })
    }

    /// A receipt for nobody who waits: it only counts.
    #[must_use]
    pub fn counting() -> Self {
        Self(Arc::new(Shared {
            counts: Arc::default(),
            wait: Wait::Routed,
            _open: None,
        }))
    }

    /// What it counts. Holding this does not hold the receipt.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        self.0.counts.clone()
    }

    /// The message is handed to one more connection.
    pub fn handed(&self) {
        self.0.counts.handed.fetch_add(1, Ordering::Relaxed);
    }

    /// On one connection it will not be written, or not yet.
    pub fn note(&self, fate: Fate) {
        self.0.counts.dropped[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The message is in the socket of one more connection.
    pub fn written(&self) {
        self.0.counts.written.fetch_add(1, Ordering::Relaxed);
    }

    /// One more client says that it has the message.
    pub fn acked(&self) {
        self.0.counts.acked.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a copy should be kept until the client acknowledges.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.0.wait == Wait::Acked
    }
}

impl Waiter {
    /// Waits until everything is settled or the deadline has passed; answers the furthest that
    /// is proven, and on how many connections.
    pub async fn settle(mut self, deadline: Instant) -> (Status, u32) {
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
