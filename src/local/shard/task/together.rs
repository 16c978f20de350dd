//! Messages that came together, for connections of which nothing waits: one system call writes
//! them, which wakes a reader of several once.
//!
//! What must stay true: what is for one connection is carried out in the order in which it came. So
//! a second message for a connection takes the first with it into the queue, and a command that is
//! no message waits until those before it are sent.

use std::sync::Arc;

use crate::local::receipt::Receipt;
use crate::local::shard::command::Command;
use crate::local::shard::gathered::{GatheredMessage, GatheredMessages};
use crate::local::shard::socket_table::SentAtOnce;
use crate::local::shard::task::ShardTask;
use crate::local::shard::uring::RingOnDemand;
use crate::protocol::Message;
use crate::protocol::ids::Fd;

/// From so many on, one call of io_uring is cheaper than a write to each.
const RING_FROM: usize = 4;

impl ShardTask {
    /// Carries out a command that came with others. [`ShardTask::send_together`] ends it.
    pub(crate) fn apply_together(&mut self, command: Command) {
        match command {
            Command::Deliver {
                fd,
                message,
                receipt,
            } => self.deliver_together(fd, message, receipt),
            command => {
                self.send_together();
                self.apply(command);
            }
        }
    }

    fn deliver_together(&mut self, fd: Fd, message: Arc<Message>, receipt: Option<Receipt>) {
        let must_be_remembered = receipt.as_ref().is_some_and(Receipt::wants_ack);
        let slot = self.slot_of(fd).filter(|slot| self.sockets.is_clear(*slot));
        if let Some(slot) = slot {
            if let Some(first) = self.together.take(slot) {
                self.offer(slot, first.frame, &first.message, first.receipt.as_ref());
            } else if !must_be_remembered && message.position().is_none() {
                let frame = message.frame(self.places[slot].connection.dialect());
                let gathered = GatheredMessage {
                    frame,
                    message,
                    receipt,
                };
                return self.together.put(slot, gathered);
            }
        }
        self.deliver(fd, &message, receipt.as_ref());
    }

    /// Sends what has come together.
    pub(crate) fn send_together(&mut self) {
        if self.together.slots.is_empty() {
            return;
        }
        let GatheredMessages {
            mut slots,
            mut items,
        } = std::mem::take(&mut self.together);
        let mut whole = 0;
        let mut parts = Vec::new();
        let mut note = |place: usize, sent| match sent {
            SentAtOnce::Whole => {
                whole += 1;
                if let Some(receipt) = &items[place].receipt {
                    receipt.written();
                }
            }
            SentAtOnce::Part(count) => parts.push((place, count)),
        };
        let are_many = slots.len() >= RING_FROM;
        match are_many.then(|| self.ring.get()).flatten() {
            Some(ring) => {
                let frame = |place: usize, _| &items[place].frame[..];
                if !self.sockets.send_many(&slots, ring, frame, note) {
                    self.give_up_ring();
                }
            }
            None => {
                for (place, (slot, item)) in slots.iter().zip(&items).enumerate() {
                    note(place, self.sockets.send(*slot, |_| &item.frame));
                }
            }
        }
        self.delivered += whole;
        self.written += whole;
        for (place, count) in parts {
            let GatheredMessage {
                frame,
                message,
                receipt,
            } = &items[place];
            let receipt = receipt.as_ref();
            self.offer_rest(slots[place], frame.clone(), count, message, receipt);
        }
        // The room is used again.
        slots.clear();
        items.clear();
        self.together = GatheredMessages { slots, items };
    }

    /// The ring has failed, and is used no more.
    pub(crate) fn give_up_ring(&mut self) {
        self.ring = RingOnDemand::Without;
        tracing::warn!("io_uring failed: messages are written socket by socket");
    }
}
