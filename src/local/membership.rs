//! Being in the directory, and what `pn:events` says of it.
//!
//! What must stay true: whatever ends a connection drops its membership, and so the connection
//! leaves the directory. `connect` is the first event of a connection and `disconnect` the last;
//! a connection that never got its socket has neither.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::EventKind;
use crate::local::directory::{Directory, LocalConnection};
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, Topic, UserId};

/// Held by the handshake's reservation, then by the shard's connection; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Membership {
    directory: Arc<Directory>,
    fd: Fd,
    /// What `disconnect` will name; `None` before `connect`.
    reason: Option<CloseReason>,
    /// What the client's close frame said.
    code: Option<u16>,
}

impl Membership {
    /// Enters a connection. The second part of the answer resolves once its row is written.
    pub(in crate::local) fn join(
        directory: &Arc<Directory>,
        user: UserId,
        seat: LocalConnection,
    ) -> (Self, oneshot::Receiver<()>) {
        let fd = seat.fd;
        let row = directory.enter(user, seat);
        let membership = Self {
            directory: directory.clone(),
            fd,
            reason: None,
            code: None,
        };
        (membership, row)
    }

    pub(in crate::local) fn fd(&self) -> Fd {
        self.fd
    }

    /// The socket is where it belongs: its client is connected.
    pub(in crate::local) fn connected(&mut self) {
        // Named only if the end gives no other: when the node's runtime ends.
        self.reason = Some(CloseReason::NeverAttached);
        self.tell(EventKind::Connect, |id, user, seat| {
            let transport = seat.dialect.transport();
            let device = seat.device();
            self.directory.events.connected(id, user, transport, device);
        });
    }

    /// The connection gets what is sent to this topic.
    pub(in crate::local) fn subscribed(&self, topic: &Topic) {
        self.tell(EventKind::Subscribe, |id, user, _| {
            self.directory.events.subscribed(id, user, topic);
        });
    }

    /// The connection no longer gets what is sent to this topic.
    pub(in crate::local) fn unsubscribed(&self, topic: &Topic) {
        self.tell(EventKind::Unsubscribe, |id, user, _| {
            self.directory.events.unsubscribed(id, user, topic);
        });
    }

    /// Leaves, for this reason. `code` is what the client's close frame said.
    pub(in crate::local) fn leave(mut self, reason: CloseReason, code: Option<u16>) {
        self.reason = Some(reason);
        self.code = code;
    }

    /// Looks the connection up only if events of this kind are wanted.
    fn tell(&self, kind: EventKind, tell: impl FnOnce(&ConnectionId, &UserId, &LocalConnection)) {
        if !self.directory.events.wants(kind) {
            return;
        }
        let Some(user) = self.directory.user_of(self.fd) else {
            return;
        };
        let seats = self.directory.seats(&user);
        if let Some(seat) = seats.iter().find(|seat| seat.fd == self.fd) {
            let (node, fd) = (self.directory.node.clone(), self.fd);
            tell(&ConnectionId { node, fd }, &user, seat);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(reason) = self.reason {
            self.tell(EventKind::Disconnect, |id, user, seat| {
                let (transport, device) = (seat.dialect.transport(), seat.device());
                let events = &self.directory.events;
                events.disconnected(id, user, transport, device, reason.label(), self.code);
            });
        }
        self.directory.leave(self.fd);
    }
}
