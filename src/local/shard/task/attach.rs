//! A connection comes: its place first, its socket once the handshake is through.

use std::sync::LazyLock;
use std::time::Duration;

use mio::Token;

use crate::local::admission::Permit;
use crate::local::connection::Connection;
use crate::local::shard::command::{Attach, PlaceRequest};
use crate::local::shard::task::{ConnectionSlot, ShardTask};
use crate::protocol;
use crate::protocol::ids::ConnectionId;
use crate::telemetry::throttle::Throttle;

/// Sockets refused by epoll, in the log: where it has no room for one, it has none for many.
static COMPLAINTS: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(Duration::from_secs(60)));

impl ShardTask {
    /// Makes a place in which messages gather from now on.
    pub(crate) fn reserve(&mut self, wanted: PlaceRequest) {
        let PlaceRequest {
            fd,
            user,
            dialect,
            inbox,
            arrival,
            expires,
            beats,
            bookmark,
        } = wanted;
        let mut connection = Connection::reserve(fd, user, dialect, self.now);
        connection.hold_until(expires.map(|at| self.tick(at)), self.now);
        if beats {
            connection.show_beats();
        }
        if let Some(device) = bookmark {
            connection.begin_bookmark(device);
        }
        let id = ConnectionId {
            node: self.node.clone(),
            fd,
        };
        // First in the queue, before any message that comes during the handshake.
        let start = inbox.map(|start| *start);
        let passed = start.as_ref().map(|start| start.tryout.passed.clone());
        let topics = arrival.as_ref().map_or(&[][..], |arrival| &arrival.topics);
        let logs = arrival.as_ref().map_or(&[][..], |arrival| &arrival.logs);
        self.delivered +=
            connection.welcome(&id, topics, start, logs, &self.settings, &self.metrics);
        let place = ConnectionSlot {
            connection,
            permit: None,
            blocked: false,
            awaits_room: false,
            is_watched: false,
            ended: false,
            dirty: false,
        };
        let slot = self.places.insert(place);
        let places = &self.places;
        self.slots
            .insert(fd, slot, |slot| places[slot].connection.fd);
        self.lose_passed(slot, &passed.unwrap_or_default());
        if let Some(arrival) = arrival {
            self.arrive(slot, *arrival);
        }
        self.save_bookmark(slot);
        self.arm(slot);
    }

    /// The socket of a connection is here.
    pub(crate) fn attach(&mut self, attach: Attach) {
        let Attach {
            mut socket,
            head,
            leftover,
            membership,
            permit,
            role,
            degraded,
        } = attach;
        let fd = membership.fd();
        // Absent if the handshake took longer than the reservation lasted.
        let Some(slot) = self.slot_of(fd) else {
            return;
        };
        let place = &mut self.places[slot];
        if !head.is_empty() {
            place.connection.queue.push_first(head);
        }
        if let Err(error) = socket.register(&self.registry, Token(fd.0 as usize)) {
            if let Some(unlogged) = COMPLAINTS.pass() {
                tracing::warn!(%fd, %error, unlogged, "socket refused by epoll");
            }
            return self.hung_up(slot);
        }
        // Its HTTP connection, which shared it, is gone by now or goes soon.
        place.permit = Some(Permit::unshared(permit));
        if place.connection.is_closing() {
            // Told to go before its socket was here: it still hears why.
            self.sockets.put(slot, socket);
            return self.touch(slot);
        }
        if degraded {
            place.connection.say(protocol::DEGRADED);
        }
        place
            .connection
            .attach(membership, role, self.now, &self.settings);
        self.sockets.put(slot, socket);
        self.touch(slot);
        self.arm(slot);
        if !leftover.is_empty() {
            self.hear(slot, &mut Vec::from(leftover));
        }
    }
}
