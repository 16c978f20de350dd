//! Messages into the queues of connections, each accounted for: it is in, or it is lost with a
//! reason, or it is left to an inbox or log.

use std::sync::Arc;

use bytes::Bytes;

use crate::local::connection::Connection;
use crate::local::connection::send_queue::Offer;
use crate::local::receipt::Receipt;
use crate::local::shard::command::Command;
use crate::local::shard::encoded::Encoded;
use crate::local::shard::socket_table::SentAtOnce;
use crate::local::shard::task::{RING_FROM, ShardTask, TURN};
use crate::protocol::ids::{Fd, UserId};
use crate::protocol::{Except, Message};

impl ShardTask {
    /// A message for one connection.
    pub(crate) fn deliver(&mut self, fd: Fd, message: &Arc<Message>, receipt: Option<&Receipt>) {
        match self.slot_of(fd) {
            Some(slot) if message.position().is_some() => self.offer_kept(slot, message, receipt),
            Some(slot) => {
                let frame = message.frame(self.places[slot].connection.dialect());
                self.offer(slot, frame, message, receipt);
            }
            None => self.lose(None, fd, "gone", message.id()),
        }
    }

    /// As [`ShardTask::deliver`] and the flush after it, but straight to the socket if nothing
    /// waits for it.
    fn deliver_alone(&mut self, fd: Fd, message: &Arc<Message>, receipt: Option<&Receipt>) {
        let must_be_remembered = receipt.is_some_and(Receipt::wants_ack);
        let Some(slot) = self.slot_of(fd) else {
            return self.deliver(fd, message, receipt);
        };
        if must_be_remembered || message.position().is_some() {
            return self.deliver(fd, message, receipt);
        }
        debug_assert!(!self.sockets.is_clear(slot) || self.is_clear(slot), "stale");
        let frame = message.frame(self.places[slot].connection.dialect());
        match self.sockets.send(slot, |_| &frame) {
            SentAtOnce::Whole => {
                self.delivered += 1;
                self.written += 1;
                if let Some(receipt) = receipt {
                    receipt.written();
                }
            }
            SentAtOnce::Part(count) => self.offer_rest(slot, frame, count, message, receipt),
        }
    }

    /// Offers a message of which so many bytes are in the socket.
    pub(crate) fn offer_rest(
        &mut self,
        slot: usize,
        frame: Bytes,
        count: usize,
        message: &Arc<Message>,
        receipt: Option<&Receipt>,
    ) {
        self.offer(slot, frame, message, receipt);
        if count > 0 {
            // The rest of it, the first in its queue.
            self.places[slot].connection.queue.advance(count, |_| {});
        }
    }

    pub(crate) fn broadcast(
        &mut self,
        message: &Arc<Message>,
        except: Option<&Except>,
        receipt: Option<&Receipt>,
    ) {
        // By number: ending a slow connection on the way changes the slab.
        self.spread(0..self.places.capacity(), message, except, receipt);
    }

    /// Offers a message to many.
    pub(crate) fn spread(
        &mut self,
        slots: impl IntoIterator<Item = usize>,
        message: &Arc<Message>,
        except: Option<&Except>,
        receipt: Option<&Receipt>,
    ) {
        let frames = Encoded::default();
        let author = self.slot_left_out(message);
        for slot in slots {
            let Some(place) = self.places.get(slot) else {
                continue;
            };
            if author == Some(slot) {
                // It has what it sent. Where it follows the log, that counts as given.
                if message.position().is_some() {
                    self.pass(slot, message);
                }
                continue;
            }
            let connection = &place.connection;
            if except.is_some_and(|except| except.has(&self.node, connection.fd, &connection.user))
            {
                continue;
            }
            self.offered += 1;
            if message.position().is_some() {
                self.offer_kept(slot, message, receipt);
                continue;
            }
            // A copy for this shard: thousands of clones would fight with those of the other
            // shards for the cache line of one reference count.
            let copy = |dialect| Bytes::copy_from_slice(&message.frame(dialect));
            let frame = frames.get(connection.dialect(), copy);
            self.offer(slot, frame, message, receipt);
        }
    }

    /// The place of the connection that does not get a message, for it sent it.
    fn slot_left_out(&self, message: &Message) -> Option<usize> {
        let sender = message.left_out()?;
        let is_here = sender.node == self.node;
        is_here.then(|| self.slot_of(sender.fd))?
    }

    /// Carries out a command that came alone: with none after it, frames need not gather in
    /// queues to share a write.
    pub(crate) async fn apply_alone(&mut self, command: Command) {
        match command {
            Command::Deliver {
                fd,
                message,
                receipt,
            } => self.deliver_alone(fd, &message, receipt.as_ref()),
            Command::Broadcast {
                message,
                except: None,
                receipt: None,
            } if message.position().is_none() => {
                self.send_at_once(0..self.places.capacity(), &message).await;
            }
            Command::Publish {
                topic,
                message,
                except: None,
                receipt: None,
            } if message.position().is_none() => {
                let slots: Vec<usize> = self.members.of(&topic).collect();
                self.send_at_once(slots, &message).await;
            }
            command => self.apply(command),
        }
    }

    /// As [`ShardTask::spread`] and the flush after it, but straight to the sockets for which
    /// nothing waits. Gives way to other tasks now and then.
    async fn send_at_once(
        &mut self,
        slots: impl IntoIterator<Item = usize>,
        message: &Arc<Message>,
    ) {
        let frames = Encoded::default();
        let author = self.slot_left_out(message);
        let mut slots = slots.into_iter();
        let mut turn = Vec::with_capacity(TURN);
        loop {
            turn.clear();
            let is_here = |slot: &usize| author != Some(*slot) && self.places.contains(*slot);
            let here = slots.by_ref().filter(is_here);
            turn.extend(here.take(TURN));
            if turn.is_empty() {
                return;
            }
            self.send_turn(&turn, message, &frames);
            if turn.len() == TURN {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Sends a message to some, whose sockets take it at once if they can.
    fn send_turn(&mut self, slots: &[usize], message: &Arc<Message>, frames: &Encoded) {
        // A copy for this shard, as in `spread`.
        let copy = |dialect| Bytes::copy_from_slice(&message.frame(dialect));
        let frame = |dialect| &frames.borrow(dialect, copy)[..];
        let (mut whole, mut parts) = (0, Vec::new());
        let mut note = |place: usize, sent| match sent {
            SentAtOnce::Whole => whole += 1,
            SentAtOnce::Part(count) => parts.push((slots[place], count)),
        };
        let are_many = slots.len() >= RING_FROM;
        match are_many.then(|| self.ring.get()).flatten() {
            Some(ring) => {
                let frame = |_, dialect| frame(dialect);
                if !self.sockets.send_many(slots, ring, frame, note) {
                    self.give_up_ring();
                }
            }
            None => {
                for (place, &slot) in slots.iter().enumerate() {
                    note(place, self.sockets.send(slot, frame));
                }
            }
        }
        self.offered += slots.len() as u64;
        self.delivered += whole;
        self.written += whole;
        for (slot, count) in parts {
            let frame = frames.get(self.places[slot].connection.dialect(), copy);
            self.offer_rest(slot, frame, count, message, None);
        }
    }

    /// Offers a message to one connection.
    pub(crate) fn offer(
        &mut self,
        slot: usize,
        frame: Bytes,
        message: &Arc<Message>,
        receipt: Option<&Receipt>,
    ) {
        let bound = self.settings.queue_bytes;
        let place = &mut self.places[slot];
        let fd = place.connection.fd;
        if place.connection.is_closing() {
            return self.lose_one(slot, "gone", message);
        }
        let has_socket = self.sockets.get(slot).is_some();
        if place.connection.queue.is_full(&frame, bound) && !place.blocked && has_socket {
            // Filled by this batch of commands, not by a client that takes nothing.
            self.write(slot);
        }
        // Writing may have shown that the client is gone.
        let Some(place) = self.places.get_mut(slot) else {
            return self.lose(None, fd, "gone", message.id());
        };
        match place.connection.queue.offer(frame, message, receipt, bound) {
            Offer::Queued => {}
            Offer::Replaced(older) => {
                let older = older.as_deref().and_then(Message::id);
                let user = &self.places[slot].connection.user;
                self.lose(Some(user), fd, "replaced", older);
            }
            Offer::Full => {
                self.lose_one(slot, "slow", message);
                return self.follow(slot, Connection::overflow(message.policy()));
            }
        }
        self.delivered += 1;
        self.touch(slot);
    }

    /// Puts an object of ours into the queue of every connection chosen that gets such, unless it
    /// is told to go. One in its handshake hears it after `ready`, which waits for it there.
    pub(crate) fn tell_all(&mut self, object: &str, chosen: impl Fn(Fd) -> bool) {
        let frames = Encoded::default();
        for slot in 0..self.places.capacity() {
            let Some(place) = self.places.get_mut(slot) else {
                continue;
            };
            let connection = &mut place.connection;
            let dialect = connection.dialect();
            if !connection.is_closing() && dialect.has_objects() && chosen(connection.fd) {
                let frame = frames.get(dialect, |dialect| dialect.encode(object));
                connection.queue.push(frame);
                self.touch(slot);
            }
        }
    }

    /// Counts a message that a connection does not get.
    pub(crate) fn lose_one(&self, slot: usize, reason: &'static str, message: &Message) {
        let connection = &self.places[slot].connection;
        self.lose(Some(&connection.user), connection.fd, reason, message.id());
    }

    fn lose(&self, user: Option<&UserId>, fd: Fd, reason: &'static str, id: Option<&str>) {
        self.metrics.dropped(reason, 1);
        self.trace.dropped(user, fd, id, reason, 1);
    }
}
