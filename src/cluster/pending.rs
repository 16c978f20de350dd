//! What comes back from other nodes: who waits for which, and the way back to whoever asked.
//!
//! Receipts tell what became of a push, answers what a node says to a question.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use tokio::sync::mpsc;

use crate::protocol::{NodeAnswer, Receipt};

/// Receipts that may wait to be looked at by one sender.
const WAITING: usize = 1_024;

/// Those on this node who wait for something from others.
#[derive(Debug, Default)]
pub struct Replies {
    receipts: Arc<Table<Receipt>>,
    answers: Arc<Table<NodeAnswer>>,
}

/// By reference: who waits for this kind.
#[derive(Debug)]
struct Table<T> {
    last: AtomicU64,
    waiting: DashMap<String, mpsc::Sender<T>>,
}

/// A place in a table; dropping it gives the place up.
#[derive(Debug)]
pub struct Expected<T = Receipt> {
    table: Arc<Table<T>>,
    /// What the receipts carry as `ref`.
    pub reference: String,
    /// Where they arrive.
    pub receipts: mpsc::Receiver<T>,
}

impl Replies {
    /// A place for receipts under a new reference.
    #[must_use]
    pub fn expect(&self) -> Expected {
        Table::expect(&self.receipts, WAITING)
    }

    /// A place for the answers of so many nodes under a new reference.
    #[must_use]
    pub fn expect_answers(&self, nodes: usize) -> Expected<NodeAnswer> {
        Table::expect(&self.answers, nodes.max(1))
    }

    /// How many senders wait for receipts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.receipts.waiting.len()
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receipts.waiting.is_empty()
    }

    /// Hands a receipt to whoever waits for it; one that comes too late is of no use. Answers
    /// whether somebody took it.
    pub fn settle(&self, receipt: Receipt) -> bool {
        // Full only if somebody floods us with receipts of that reference.
        let sender = self.receipts.waiting.get(&receipt.reference);
        sender.is_some_and(|sender| sender.try_send(receipt).is_ok())
    }

    /// Hands a node's answer to whoever waits for it; one that comes too late is of no use.
    pub fn settle_answer(&self, answer: NodeAnswer) {
        if let Some(sender) = self.answers.waiting.get(&answer.reference) {
            // Full only if somebody floods us with answers of that reference.
            let _ = sender.try_send(answer);
        }
    }
}

impl<T> Table<T> {
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

impl<T> Default for Table<T> {
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
