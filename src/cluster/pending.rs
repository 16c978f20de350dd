//! Replies from other nodes: which request waits for which reply, and the way back to its asker.
//!
//! A receipt reports the outcome of a push; an answer replies to a question. References are random,
//! so that only who was asked can answer.

use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::protocol::{DeliveryReport, NodeAnswer};

/// Maximum number of receipts queued for one sender.
const WAITING: usize = 1_024;
/// References for which random bytes are fetched at a time.
const POOL: usize = 64;

/// The requests on this node that wait for replies from other nodes.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    receipts: Arc<WaitTable<DeliveryReport>>,
    answers: Arc<WaitTable<NodeAnswer>>,
}

/// The waiting requests of one kind, by reference.
#[derive(Debug)]
struct WaitTable<T> {
    random: Mutex<RandomPool>,
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
        let reference = format!("{:032x}", table.random.lock().next());
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
            random: Mutex::default(),
            waiting: DashMap::new(),
        }
    }
}

/// Random bytes of the operating system, fetched many at a time: a push that waits for a receipt
/// should not cost a system call.
#[derive(Default)]
struct RandomPool(Vec<[u8; 16]>);

impl RandomPool {
    fn next(&mut self) -> u128 {
        if self.0.is_empty() {
            self.0.resize(POOL, [0; 16]);
            let bytes = self.0.as_flattened_mut();
            getrandom::fill(bytes).expect("the operating system gives random bytes");
        }
        u128::from_ne_bytes(self.0.pop().expect("just filled"))
    }
}

impl std::fmt::Debug for RandomPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RandomPool")
    }
}

impl<T> Drop for Expected<T> {
    fn drop(&mut self) {
        self.table.waiting.remove(&self.reference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_cannot_be_guessed() {
        let replies = Replies::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 * POOL {
            let expected = replies.expect();
            assert_eq!(expected.reference.len(), 32, "{}", expected.reference);
            let last: u128 = u128::from_str_radix(&expected.reference, 16).expect("hexadecimal");
            assert!(!seen.contains(&last.wrapping_add(1)) && !seen.contains(&last.wrapping_sub(1)));
            assert!(seen.insert(last), "twice");
        }
    }
}
