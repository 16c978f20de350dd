//! Messages to be sent together, each to a socket of its own.

use std::sync::Arc;

use bytes::Bytes;

use crate::local::receipt::Receipt;
use crate::local::shard::uring::ENTRIES;
use crate::protocol::Message;

/// Messages, and the slots of their connections in the same order. A slot is there once at most.
#[derive(Debug, Default)]
pub(crate) struct GatheredMessages {
    pub(crate) slots: Vec<usize>,
    pub(crate) items: Vec<GatheredMessage>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct GatheredMessage {
    pub(crate) frame: Bytes,
    pub(crate) message: Arc<Message>,
    pub(crate) receipt: Option<Receipt>,
}

impl GatheredMessages {
    /// Adds a message for a slot that has none here.
    pub(crate) fn put(&mut self, slot: usize, message: GatheredMessage) {
        self.slots.push(slot);
        self.items.push(message);
    }

    /// Takes out the message for this slot, if there is one.
    pub(crate) fn take(&mut self, slot: usize) -> Option<GatheredMessage> {
        let place = self.slots.iter().position(|other| *other == slot)?;
        self.slots.swap_remove(place);
        Some(self.items.swap_remove(place))
    }

    /// Whether they are as many as one call sends.
    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= ENTRIES
    }
}
