//! The task that owns a shard's sockets: its loop, and what each input does.

pub(crate) mod attach;

pub(crate) mod deliver;

pub(crate) mod replay;

pub(crate) mod shed;

pub(crate) mod together;

pub(crate) mod topics;

pub(crate) mod watchers;

pub(crate) mod io;

pub(crate) mod tick;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use mio::{Events, Poll, Registry};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::local::admission::Permit;
use crate::local::budget::Holds;
use crate::local::connection::timer_wheel::{NEVER, Tick, Wheel};
use crate::local::connection::{Connection, Next, Settings};
use crate::local::density::Density;
use crate::local::pending_call::PendingCall;
use crate::local::receipt::Receipt;
use crate::local::shard::command::Command;
use crate::local::shard::gathered::GatheredMessages;
use crate::local::shard::members::Members;
use crate::local::shard::outlets::ShardOutputs;
use crate::local::shard::resync::Resync;
use crate::local::shard::slot_index::SlotIndex;
use crate::local::shard::socket_table::SocketTable;
use crate::local::shard::uring::{ENTRIES, RingOnDemand};
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, NodeId};
use crate::protocol::info::Info;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// Most commands taken before their connections are flushed.
const BATCH: usize = 1_024;
/// Messages put into queues before those are flushed: a broadcast to many is one command, and a
/// thousand of them must not pile up.
const UNFLUSHED: u64 = 64 * 1024;
/// Sockets served before other tasks get their turn: about a millisecond of writes.
const TURN: usize = ENTRIES;
/// From so many sockets on one call of io_uring is cheaper than a write to each (`cargo bench
/// --bench broadcast`).
const RING_FROM: usize = 96;
/// Reads of one socket before the others get their turn.
const READS: usize = 16;
/// What one read may give.
const SCRATCH: usize = 64 * 1024;

/// A connection, and what its end must give back.
#[derive(Debug)]
struct ConnectionSlot {
    connection: Connection,
    permit: Option<Permit>,
    /// The socket took no more; wait for the kernel.
    blocked: bool,
    /// The kernel says when it takes more.
    awaits_room: bool,
    /// The kernel has been told to give it up.
    is_watched: bool,
    /// The kernel has said that the other side closed: after what is there to read is the end.
    ended: bool,
    /// In the list of connections to flush.
    dirty: bool,
}

pub(crate) struct ShardTask {
    inbox: mpsc::Receiver<Command>,
    node: NodeId,
    poll: AsyncFd<Poll>,
    registry: Registry,
    places: Slab<ConnectionSlot>,
    /// The sockets of those that have theirs, by slot.
    sockets: SocketTable,
    /// Writes to many of them at once, if the kernel allows it.
    ring: RingOnDemand,
    /// Their number, for others to see.
    pub(crate) count: Arc<AtomicUsize>,
    slots: SlotIndex,
    /// Which slots are in which topic.
    members: Members,
    /// Messages that are to be sent with one system call.
    together: GatheredMessages,
    /// How close commands are to each other.
    density: Density,
    /// What the queues hold of the node's memory.
    holds: Holds,
    /// Slots with something to write.
    dirty: Vec<usize>,
    /// Fds with more to read than one turn gave.
    unread: Vec<Fd>,
    scratch: Box<[u8]>,
    wheel: Wheel,
    started: Instant,
    now: Tick,
    /// Messages of broadcasts, messages put into queues and written to sockets since the last
    /// flush. Counted here and added to the node's counters once a flush: shards share those.
    offered: u64,
    delivered: u64,
    written: u64,
    /// Which clients are still to be told to resync.
    resync: Resync,
    settings: Arc<Settings>,
    outlets: ShardOutputs,
    trace: Arc<Trace>,
    metrics: Arc<Metrics>,
}

impl ShardTask {
    pub(crate) fn new(
        inbox: mpsc::Receiver<Command>,
        node: NodeId,
        members: Members,
        holds: Holds,
        settings: Arc<Settings>,
        outlets: ShardOutputs,
        (trace, metrics): (Arc<Trace>, Arc<Metrics>),
    ) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        // Its successor is an unsafe function, because a type could hand out a file descriptor
        // that it closes without tokio's knowledge. Mio's Poll owns its own until it is dropped.
        #[allow(deprecated)]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        Ok(Self {
            inbox,
            node,
            poll,
            registry,
            places: Slab::new(),
            sockets: SocketTable::default(),
            ring: match settings.uring {
                true => RingOnDemand::Untried,
                false => RingOnDemand::Without,
            },
            count: Arc::default(),
            slots: SlotIndex::default(),
            members,
            together: GatheredMessages::default(),
            density: Density::default(),
            holds,
            dirty: Vec::new(),
            unread: Vec::new(),
            scratch: vec![0; SCRATCH].into(),
            wheel: Wheel::new(),
            started: Instant::now(),
            now: 0,
            offered: 0,
            delivered: 0,
            written: 0,
            resync: Resync::default(),
            settings,
            outlets,
            trace,
            metrics,
        })
    }

    /// Serves until the inbox is closed. Inputs: commands (from the hub and the handshake),
    /// readiness of sockets (from the kernel), and a beat each second.
    pub(crate) async fn run(mut self) {
        let mut commands = Vec::with_capacity(BATCH);
        let mut events = Events::with_capacity(BATCH);
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                count = self.inbox.recv_many(&mut commands, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.metrics.shard_batch_size.observe(count as f64);
                    // Only what one call sends is worth waiting for.
                    let is_busy = self.density.note() && self.ring.may_be();
                    for command in commands.drain(..) {
                        match command {
                            Command::Deliver { .. }
                            | Command::Broadcast { .. }
                            | Command::Publish { .. }
                                if count == 1 =>
                            {
                                self.apply_alone(command).await;
                            }
                            command => self.apply_together(command),
                        }
                        if self.together.is_full() {
                            self.send_together();
                            tokio::task::yield_now().await;
                        }
                        if self.delivered > UNFLUSHED || self.holds.must_shed() {
                            self.send_together();
                            self.flush().await;
                        }
                    }
                    self.send_together();
                    if is_busy {
                        // The next commands gather until the tasks that send them have had their
                        // turn.
                        self.flush().await;
                        tokio::task::yield_now().await;
                    }
                }
                ready = self.poll.readable_mut() => {
                    // Only an ending runtime fails here.
                    let Ok(mut guard) = ready else { return };
                    let polled = guard.get_inner_mut().poll(&mut events, Some(Duration::ZERO));
                    if polled.is_ok() && events.iter().count() < BATCH {
                        // All taken. An event that came meanwhile is not forgotten: the guard
                        // clears only what it saw.
                        guard.clear_ready();
                    }
                    drop(guard);
                    for event in &events {
                        self.on_ready(event);
                    }
                }
                _ = beat.tick() => self.on_beat(),
                () = std::future::ready(()), if !self.unread.is_empty() => {
                    for fd in std::mem::take(&mut self.unread) {
                        self.with_slot(fd, Self::read);
                    }
                }
            }
            self.flush().await;
        }
    }

    pub(crate) fn apply(&mut self, command: Command) {
        match command {
            Command::Reserve(wanted) => self.reserve(*wanted),
            Command::Attach(attach) => self.attach(*attach),
            Command::Deliver {
                fd,
                message,
                receipt,
            } => self.deliver(fd, &message, receipt.as_ref()),
            Command::Broadcast {
                message,
                except,
                receipt,
            } => self.broadcast(&message, except.as_deref(), receipt.as_ref()),
            Command::Publish {
                topic,
                message,
                except,
                receipt,
            } => self.publish(&topic, &message, except.as_deref(), receipt.as_ref()),
            Command::Subscribe {
                fd,
                topic,
                since,
                by,
                info,
                done,
            } => self.on_subscribe(fd, &topic, since, (by, info), done),
            Command::Unsubscribe {
                fd,
                topic,
                by,
                done,
            } => self.on_unsubscribe(fd, &topic, by, done),
            Command::Introduce { fd, topic, info } => {
                self.with_slot(fd, |it, at| it.introduce(at, &topic, info));
            }
            Command::Watch { fd, topic, object } => self.watch(fd, &topic, &object),
            Command::TellWatchers { topic, object } => self.tell_watchers(&topic, &object),
            Command::Members { topic, answer } => _ = answer.send(self.members_of(&topic)),
            Command::SkipKept { fd, message } => self.with_slot(fd, |it, at| it.pass(at, &message)),
            Command::SkipInTopic { topic, message } => self.skip_in_topic(&topic, &message),
            Command::CheckLog { topic } => self.check_log(&topic),
            Command::Missed { fd } => self.with_slot(fd, Self::missed),
            Command::CheckInbox { fd } => self.with_slot(fd, Self::check_inbox),
            Command::CheckAll { fd } => self.with_slot(fd, Self::look),
            Command::Page {
                fd,
                subject,
                ask,
                page,
                tryout,
            } => self.with_slot(fd, |it, at| it.on_page(at, &subject, ask, &page, tryout)),
            Command::Close {
                fd,
                reason,
                receipt,
            } => self.with_slot(fd, |it, at| it.close(at, reason, receipt)),
            Command::Renew {
                fd,
                expires,
                grants,
                info,
            } => self.with_slot(fd, |it, at| it.renew(at, expires, grants, info)),
            Command::Say { fd, object } => self.with_slot(fd, |it, at| it.say(at, &object)),
            Command::Call {
                fd,
                object,
                pending,
            } => self.with_slot(fd, |it, at| it.call(at, &object, pending)),
            Command::Answered { fd, object } => {
                self.with_slot(fd, |it, at| it.answered(at, object.as_deref()));
            }
            Command::CheckGrants => self.check_grants(),
            Command::DoubtKept => self.doubt_kept(),
            Command::Resync => self.begin_resync(),
            Command::Degraded => self.tell_all(protocol::DEGRADED, |_| true),
            Command::Count(answer) => self.count_load(answer),
        }
    }

    /// Where a connection is, if it is here.
    pub(crate) fn slot_of(&self, fd: Fd) -> Option<usize> {
        let places = &self.places;
        self.slots.find(fd, |slot| places[slot].connection.fd)
    }

    /// A connection must go. Its end begins once.
    fn close(&mut self, slot: usize, reason: CloseReason, receipt: Option<Receipt>) {
        if self.places[slot].connection.is_closing() {
            return;
        }
        if let Some(receipt) = receipt {
            receipt.written();
        }
        self.end(slot, reason);
    }

    /// A connection has a new token.
    fn renew(
        &mut self,
        slot: usize,
        expires: Option<Instant>,
        grants: Option<Arc<TopicPatterns>>,
        info: Option<Info>,
    ) {
        let expires = expires.map(|at| self.tick(at));
        let now = self.now;
        self.places[slot].connection.hold_until(expires, now);
        self.arm(slot);
        self.regrant(slot, grants, info);
    }

    /// Tells a client something that is not an answer.
    fn say(&mut self, slot: usize, object: &str) {
        let connection = &mut self.places[slot].connection;
        if !connection.is_closing() {
            connection.say(object);
            self.touch(slot);
        }
    }

    /// Puts a sender's call to a client.
    fn call(&mut self, slot: usize, object: &str, pending: PendingCall) {
        let bound = self.settings.queue_bytes;
        self.places[slot].connection.call(object, pending, bound);
        self.touch(slot);
    }

    /// A client's request is done: the next one may be handed on.
    pub(crate) fn answered(&mut self, slot: usize, object: Option<&str>) {
        self.places[slot].connection.answered(object);
        self.touch(slot);
        self.pass_request(slot);
    }

    /// The first beat at or after this moment.
    fn tick(&self, at: Instant) -> Tick {
        let since = at.saturating_duration_since(self.started);
        let beats = since.as_secs() + u64::from(since.subsec_nanos() > 0);
        Tick::try_from(beats).unwrap_or(NEVER).min(NEVER - 1)
    }

    /// The other side has closed its half: what waits cannot reach it.
    fn hung_up(&mut self, slot: usize) {
        if self.places[slot].connection.is_closing() {
            self.remove(slot);
        } else {
            self.end(slot, CloseReason::Gone);
        }
    }

    fn follow(&mut self, slot: usize, next: Next) {
        match next {
            Next::Stay => self.arm(slot),
            Next::End(reason) => self.end(slot, reason),
            Next::Hangup => self.remove(slot),
        }
    }

    /// Begins the end of a connection: counted, out of the directory, goodbye sent.
    fn end(&mut self, slot: usize, reason: CloseReason) {
        self.leave_topics(slot);
        self.settle(slot);
        self.sockets.hold(slot);
        let place = &mut self.places[slot];
        let dropped = place.connection.end(reason, self.now);
        self.save_bookmark(slot);
        let place = &self.places[slot];
        self.metrics.closed(reason);
        self.metrics.dropped(reason.label(), dropped);
        let (user, fd) = (&place.connection.user, place.connection.fd);
        let code = place.connection.close_code();
        self.trace.closed(user, fd, reason, code);
        self.trace
            .dropped(Some(user), fd, None, reason.label(), dropped);
        tracing::debug!(%fd, reason = reason.label(), "closed");
        if reason.code().is_none() {
            return self.remove(slot);
        }
        // Without its socket yet, the goodbye waits for that: the client has its 101, or soon will.
        self.write(slot);
        self.arm_if_here(slot);
    }

    /// Lets the socket go.
    fn remove(&mut self, slot: usize) {
        let place = self.places.remove(slot);
        self.sockets.remove(slot);
        self.slots.remove(place.connection.fd, slot);
        let (user, fd) = (&place.connection.user, place.connection.fd);
        let dropped = place.connection.queue.pushes();
        self.metrics.dropped("gone", dropped);
        self.trace.dropped(Some(user), fd, None, "gone", dropped);
    }

    fn touch(&mut self, slot: usize) {
        self.sockets.hold(slot);
        let place = &mut self.places[slot];
        if place.blocked {
            return place.connection.queue.hold(&mut self.holds);
        }
        if !place.dirty {
            place.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn arm_if_here(&mut self, slot: usize) {
        if self.places.contains(slot) {
            self.arm(slot);
        }
    }

    /// Makes sure that the wheel looks at the connection by its next deadline.
    fn arm(&mut self, slot: usize) {
        let connection = &mut self.places[slot].connection;
        let due = connection.due();
        if due < connection.scheduled {
            connection.scheduled = self.wheel.put(due, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_extras_is_small() {
        assert!(
            size_of::<ConnectionSlot>() <= 176,
            "{}",
            size_of::<ConnectionSlot>()
        );
    }
}
