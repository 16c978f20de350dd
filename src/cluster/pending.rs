//! Replies from other nodes: which request waits for which reply, and the way back to its asker.
//!
//! A receipt reports the outcome of a push; an answer replies to a question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use tokio::sync::mpsc;

use crate::protocol::{DeliveryReport, NodeAnswer};

/// Maximum number of receipts queued for one sender.
const WAITING: usize = 1_024;

/// The requests on this node that wait for replies from other nodes.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    receipts: Arc<WaitTable<DeliveryReport>>,
    answers: Arc<WaitTable<NodeAnswer>>,
}

/// The waiting requests of one kind, by reference.
#[derive(Debug)]
struct WaitTable<T> {
    last: AtomicU64,
    waiting: DashMap<String, mpsc::Sender<T>>,
}

/// A place in a table; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Expected<T = DeliveryReport> {
    table: Arc<WaitTable<T>>,
    /// The `ref` that the receipts carry.
    pub reference: String,
    /// Where the receipts arrive.
    pub receipts: mpsc::Receiver<T>,
}

impl Replies {
    /// A place for receipts under a new reference.
    pub(crate) fn expect(&self) -> Expected {
        WaitTable::expect(&self.receipts, WAITING)
    }

    /// A place for the answers of this many nodes under a new reference.
    pub(crate) fn expect_answers(&self, nodes: usize) -> Expected<NodeAnswer> {
        WaitTable::expect(&self.answers, nodes.max(1))
    }

    /// How many senders wait for receipts.
    pub(crate) fn len(&self) -> usize {
        self.receipts.waiting.len()
    }

    /// Passes a receipt to the sender that waits for it; a late receipt is dropped. Returns
    /// whether a sender took it.
    pub(crate) fn settle(&self, receipt: DeliveryReport) -> bool {
        // Full only if a node floods this one with receipts of that reference.
        let sender = self.receipts.waiting.get(&receipt.reference);
        sender.is_some_and(|sender| sender.try_send(receipt).is_ok())
    }

    /// Passes a node's answer to the asker that waits for it; a late answer is dropped.
    pub(crate) fn settle_answer(&self, answer: NodeAnswer) {
        if let Some(sender) = self.answers.waiting.get(&answer.reference) {
            // Full only if a node floods this one with answers of that reference.
            let _ = sender.try_send(answer);
        }
    }
}

impl<T> WaitTable<T> {
    fn expect(table: &Arc<Self>, room: usize) -> Expected<T> {
        let reference = table.last.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, receipts) = mpsc::channel(room);
        table.waiting.insert(reference.clone(), sender);
        Expected {
            table: table.clone(),
            reference,
            receipts,
        }
    }
}

impl<T> Default for WaitTable<T> {
    fn default() -> Self {
        Self {
            last: AtomicU64::new(0),
            waiting: DashMap::new(),
        }
    }
}

impl<T> Drop for Expected<T> {
    fn drop(&mut self) {
        self.table.waiting.remove(&self.reference);
    }
}
