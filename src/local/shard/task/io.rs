//! Moving bytes between sockets and connections.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::Token;

use crate::local::shard::outlets::{ClientRequest, PageRequest};
use crate::local::shard::socket_table::Unnoted;
use crate::local::shard::task::{ConnectionSlot, READS, SCRATCH, ShardTask, TURN};
use crate::protocol::ids::Fd;
use crate::protocol::{Request, RequestKind};

impl ShardTask {
    pub(crate) fn on_ready(&mut self, event: &mio::event::Event) {
        // A token is an fd, never reused: an event of a closed socket finds no slot.
        let fd = Fd(event.token().0 as u64);
        let Some(slot) = self.slot_of(fd) else {
            return;
        };
        if event.is_writable() {
            self.places[slot].blocked = false;
            if !self.places[slot].connection.queue.is_empty() {
                self.touch(slot);
            }
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.places[slot].ended |= event.is_read_closed() || event.is_error();
            self.read(slot);
        }
    }

    pub(crate) fn with_slot(&mut self, fd: Fd, act: impl FnOnce(&mut Self, usize)) {
        if let Some(slot) = self.slot_of(fd) {
            act(self, slot);
        }
    }

    pub(crate) fn read(&mut self, slot: usize) {
        let fd = self.places[slot].connection.fd;
        let mut scratch = std::mem::take(&mut self.scratch);
        for turn in 1.. {
            // Gone since the last round, by what it said.
            if self.slot_of(fd) != Some(slot) {
                break;
            }
            let Some(socket) = self.sockets.get_mut(slot) else {
                break;
            };
            match socket.read(&mut scratch) {
                Ok(0) => {
                    self.places[slot].connection.close_bookmark();
                    self.hung_up(slot);
                    break;
                }
                Ok(count) => {
                    self.hear(slot, &mut scratch[..count]);
                    // A short read: the kernel has no more, and will say when it has. If it has
                    // already said that the other side closed, it says no more: read on to it.
                    let ended = self.places.get(slot).is_some_and(|place| place.ended);
                    if count < SCRATCH && !ended {
                        break;
                    }
                    if turn == READS {
                        self.unread.push(fd);
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.hung_up(slot);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    pub(crate) fn hear(&mut self, slot: usize, bytes: &mut [u8]) {
        self.settle(slot);
        let ConnectionSlot { connection, .. } = &mut self.places[slot];
        let received = &self.metrics.received;
        let next = connection.hear(bytes, &self.settings, self.now, || {
            received.inc();
        });
        if !self.places[slot].connection.queue.is_empty() {
            self.touch(slot);
        }
        self.save_bookmark(slot);
        self.pass_request(slot);
        self.follow(slot, next);
    }

    /// Hands on what a client asks of the node, if its turn has come.
    pub(crate) fn pass_request(&mut self, slot: usize) {
        while let Some(request) = self.places[slot].connection.next_request() {
            if self.refuses(slot, &request) {
                continue;
            }
            let connection = &self.places[slot].connection;
            let (fd, user) = (connection.fd, connection.user.clone());
            // Closed only when the node is ending.
            let _ = self
                .outlets
                .requests
                .send(ClientRequest { fd, user, request });
            return;
        }
    }

    /// Whether it is something that its shard refuses: what the client asked before counts.
    fn refuses(&mut self, slot: usize, request: &Request) -> bool {
        let RequestKind::Publish(publish) = &request.what else {
            return self.refuses_history(slot, request);
        };
        let connection = &mut self.places[slot].connection;
        let topics = &self.members.topics;
        let tried = connection.try_publish(publish, topics, &self.settings, self.now);
        let Err(refused) = tried else {
            return false;
        };
        self.metrics.member_published(refused.code());
        let object = refused.object(request.reference.as_deref(), &publish.topic);
        connection.answered(Some(&object));
        self.touch(slot);
        true
    }

    /// As `refuses`, for one that wants to look back.
    fn refuses_history(&mut self, slot: usize, request: &Request) -> bool {
        let connection = &mut self.places[slot].connection;
        let Some(refusal) = connection.refusal(request) else {
            return false;
        };
        connection.answered(Some(&refusal));
        self.touch(slot);
        true
    }

    /// Writes what waits, connection by connection, giving way to other tasks now and then.
    pub(crate) async fn flush(&mut self) {
        let mut written = 0;
        while let Some(slot) = self.dirty.pop() {
            // The slot may be empty or written by now, or belong to another connection, which
            // then has a place of its own in the list if it needs one.
            if self.places.get(slot).is_some_and(|place| place.dirty) {
                self.write(slot);
            }
            written += 1;
            if written % TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        if self.holds.must_shed() {
            self.shed();
        }
        self.account();
        self.count.store(self.places.len(), Ordering::Relaxed);
    }

    pub(crate) fn write(&mut self, slot: usize) {
        self.settle(slot);
        let ConnectionSlot {
            connection,
            blocked,
            awaits_room,
            dirty,
            ..
        } = &mut self.places[slot];
        *dirty = false;
        let Some(socket) = self.sockets.get_mut(slot) else {
            return connection.queue.hold(&mut self.holds);
        };
        let mut progress = 0;
        let mut failed = false;
        let mut messages = 0;
        // The socket is closed as soon as it has all that waits.
        let is_last = connection.has_parted();
        while !connection.queue.is_empty() {
            let result = match connection.queue.only() {
                Some(frame) if !is_last => socket.write(frame),
                None if !is_last => socket.write_vectored(&connection.queue.slices()),
                _ => socket.write_last(&connection.queue.slices()),
            };
            match result {
                Ok(count) => {
                    progress += count;
                    let mut sent = smallvec::SmallVec::<[_; 2]>::new();
                    messages += connection.queue.advance(count, |one| sent.push(one));
                    for one in sent {
                        let forgotten = connection.await_ack(one);
                        self.metrics.acks_forgotten.inc_by(u64::from(forgotten));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    *blocked = error.kind() == ErrorKind::WouldBlock;
                    failed = !*blocked;
                    if *blocked && !*awaits_room {
                        let token = Token(connection.fd.0 as usize);
                        failed = socket.await_room(&self.registry, token).is_err();
                        *awaits_room = true;
                    }
                    break;
                }
            }
        }
        self.written += messages;
        connection.credit(messages);
        let is_blocked = *blocked;
        let has_pinged = connection.wrote(progress, is_blocked, self.now, &self.settings);
        if failed {
            return self.hung_up(slot);
        }
        if has_pinged {
            self.await_pong(slot);
        }
        if is_blocked {
            self.places[slot].connection.queue.hold(&mut self.holds);
            self.arm(slot);
        } else {
            self.emptied(slot);
        }
    }

    /// Tells a connection what was written to its socket without it.
    pub(crate) fn settle(&mut self, slot: usize) {
        if let Some(Unnoted { pushes, bytes }) = self.sockets.take_unnoted(slot) {
            let connection = &mut self.places[slot].connection;
            connection.wrote_at_once(u64::from(pushes), bytes);
        }
    }

    /// Whether a frame may go straight to the socket, by what the connection says.
    pub(crate) fn is_clear(&self, slot: usize) -> bool {
        self.places.get(slot).is_some_and(|place| {
            place.connection.is_open() && !place.blocked && place.connection.queue.is_empty()
        })
    }

    /// A ping was written.
    fn await_pong(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        if place.connection.is_awaited_longer()
            && !place.is_watched
            && let Some(socket) = self.sockets.get(slot)
        {
            // Meanwhile TCP tells sooner if the client is gone.
            place.is_watched = true;
            let limit = Duration::from_secs(u64::from(self.settings.pong + self.settings.write));
            if let Err(error) = socket.limit_silence(limit) {
                let fd = place.connection.fd;
                tracing::debug!(%fd, %error, "the kernel does not look after this socket");
            }
        }
        self.arm(slot);
    }

    /// All that waited is written.
    fn emptied(&mut self, slot: usize) {
        let connection = &mut self.places[slot].connection;
        if connection.has_parted() {
            // RFC 6455, 7.1.1: the server closes first, and does not wait for the client.
            return self.remove(slot);
        }
        if connection.is_finished() {
            if let Some(socket) = self.sockets.get(slot) {
                socket.finish();
            }
            return;
        }
        if connection.is_open() {
            self.sockets.clear(slot, connection.dialect());
        }
        let fd = connection.fd;
        for (subject, ask) in connection.asks() {
            // Closed only when the node is ending.
            let _ = self.outlets.asks.send(PageRequest {
                fd,
                subject,
                ask,
                told: None,
            });
        }
        // One may have waited for this.
        self.pass_request(slot);
    }
}
