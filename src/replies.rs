//! Receipts between nodes: who waits for which, and the way back to whoever asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dashmap::DashMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::names::NodeId;
use crate::protocol::{DEFAULT_TIMEOUT, Receipt};

/// Receipts that may wait to be looked at by one sender.
const WAITING: usize = 1_024;

/// The senders on this node that wait for receipts.
#[derive(Debug, Default)]
pub struct Replies {
    last: AtomicU64,
    waiting: DashMap<String, mpsc::Sender<Receipt>>,
}

/// A sender's place in the table; dropping it gives the place up.
#[derive(Debug)]
pub struct Expected {
    replies: Arc<Replies>,
    /// What the receipts carry as `ref`.
    pub reference: String,
    /// Where they arrive.
    pub receipts: mpsc::Receiver<Receipt>,
}

impl Replies {
    /// A place under a new reference.
    #[must_use]
    pub fn expect(self: &Arc<Self>) -> Expected {
        let reference = self.last.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, receipts) = mpsc::channel(WAITING);
        self.waiting.insert(reference.clone(), sender);
        Expected {
            replies: self.clone(),
            reference,
            receipts,
        }
    }

    /// Hands a receipt to whoever waits for it; one that comes too late is of no use. Answers
    /// whether somebody took it.
    pub fn settle(&self, receipt: Receipt) -> bool {
        // Full only if somebody floods us with receipts of that reference.
        let sender = self.waiting.get(&receipt.reference);
        sender.is_some_and(|sender| sender.try_send(receipt).is_ok())
    }

    /// How many senders wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.replies.waiting.remove(&self.reference);
    }
}

/// A way to publish for those who exist before the backplane does.
#[derive(Debug, Clone, Default)]
pub struct Outbound(Arc<OnceLock<Weak<Backplane>>>);

impl Outbound {
    /// Ties it to the backplane. Weakly: the backplane's reader holds this.
    pub fn connect(&self, backplane: &Arc<Backplane>) {
        let _ = self.0.set(Arc::downgrade(backplane));
    }

    /// Publishes a line to a node. What cannot be sent is missed by its asker's deadline.
    pub async fn send(&self, node: &NodeId, line: String) {
        if let Some(backplane) = self.0.get().and_then(Weak::upgrade) {
            let deadline = Instant::now() + DEFAULT_TIMEOUT;
            drop(backplane.publish(node, line, deadline).await);
        }
    }
}
