//! Being in the hub's map, and what is told of it in `pn:events`.
//!
//! What must stay true: whatever ends a connection drops its membership, and so it leaves the
//! map; `connect` comes first of what is told of a connection, and `disconnect` last.

use std::sync::Arc;

use crate::config::EventKind;
use crate::local::hub::{Hub, Seat};
use crate::local::shard::Command;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, Topic, UserId};

/// Being in the map. Held by the handshake, then by the shard's connection; dropping it leaves.
#[derive(Debug)]
pub struct Membership {
    hub: Arc<Hub>,
    fd: Fd,
    /// Its socket is with the shard, which ends what it has for it by itself.
    is_attached: bool,
    /// Why it leaves.
    reason: CloseReason,
}

impl Membership {
    pub(crate) fn new(hub: Arc<Hub>, fd: Fd) -> Self {
        Self {
            hub,
            fd,
            is_attached: false,
            reason: CloseReason::NeverAttached,
        }
    }

    /// The connection's number.
    #[must_use]
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// The socket is where it belongs: its client is connected.
    pub(crate) fn attached(&mut self) {
        self.is_attached = true;
        self.told(EventKind::Connect, |id, user, seat| {
            let transport = seat.dialect.transport();
            let device = seat.device();
            self.hub.events.connected(id, user, transport, device);
        });
    }

    /// The connection gets what is sent to this topic.
    pub(crate) fn subscribed(&self, topic: &Topic) {
        self.told(EventKind::Subscribe, |id, user, _| {
            self.hub.events.subscribed(id, user, topic);
        });
    }

    /// It does no more.
    pub(crate) fn unsubscribed(&self, topic: &Topic) {
        self.told(EventKind::Unsubscribe, |id, user, _| {
            self.hub.events.unsubscribed(id, user, topic);
        });
    }

    /// Leaves, for this reason.
    pub(crate) fn leave(mut self, reason: CloseReason) {
        self.reason = reason;
    }

    /// Tells what somebody wants to know; else nothing is looked up.
    fn told(&self, kind: EventKind, tell: impl FnOnce(&ConnectionId, &UserId, &Seat)) {
        if !self.hub.events.wants(kind) {
            return;
        }
        let user = self.hub.connections.get(&self.fd).map(|user| user.clone());
        let Some(user) = user else { return };
        let seats = self.hub.seats(&user);
        if let Some(seat) = seats.iter().find(|seat| seat.fd == self.fd) {
            let (node, fd) = (self.hub.node.clone(), self.fd);
            tell(&ConnectionId { node, fd }, &user, seat);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.is_attached {
            self.told(EventKind::Disconnect, |id, user, seat| {
                let (transport, device) = (seat.dialect.transport(), seat.device());
                let reason = self.reason.label();
                let events = &self.hub.events;
                events.disconnected(id, user, transport, device, reason);
            });
        } else {
            // The handshake came to nothing. Without room in the inbox the shard finds out by the
            // clock.
            self.hub.shard(self.fd).try_send(Command::Close {
                fd: self.fd,
                reason: CloseReason::NeverAttached,
                receipt: None,
            });
        }
        self.hub.leave(self.fd);
    }
}
