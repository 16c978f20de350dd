//! How a route takes the socket of its request, as a WebSocket or an event stream does.
//!
//! Such a route never answers. It leaves a [`Takeover`] in the [`UpgradeSlot`] of its request and
//! waits. The acceptor sees the slot filled, takes the HTTP connection apart, which drops the
//! route, and hands the raw socket to the client's shard. The client's answer is the first thing
//! that the shard writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use warp::http::{HeaderMap, Method, Version};

use crate::edge::caller::Caller;
use crate::edge::handshake::Admitted;
use crate::edge::peer::Peer;
use crate::edge::request_body::BodyHead;
use crate::local::connection::Role;
use crate::local::hub::Hub;
use crate::local::shard::command::{Attach, Command};
use crate::local::shard::socket::Socket;

/// A request that may become a connection.
pub(crate) struct UpgradeRequest {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: String,
    pub(crate) context: RequestContext,
}

/// What the acceptor knows of a request; in the request's extensions.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) peer: Peer,
    /// The HTTP version of the request.
    pub(crate) version: Version,
    pub(crate) caller: Caller,
    pub(crate) body: BodyHead,
    pub(crate) slot: UpgradeSlot,
}

/// Where a route leaves what is to become of its request's socket. Shared by all requests of one
/// HTTP connection, which come one after the other.
#[derive(Clone, Default)]
pub(crate) struct UpgradeSlot(Arc<Slot>);

#[derive(Default)]
struct Slot {
    takeover: Mutex<Option<Box<Takeover>>>,
    filled: Notify,
}

impl UpgradeSlot {
    /// Asks for the request's socket. Does not return: the caller is dropped with the HTTP
    /// connection. If the client is gone by then, `takeover` is dropped too.
    pub(crate) async fn fill<T>(&self, takeover: Takeover) -> T {
        *self.0.takeover.lock() = Some(Box::new(takeover));
        self.0.filled.notify_one();
        std::future::pending().await
    }

    /// Waits until a route wants the socket.
    pub(crate) async fn filled(&self) -> Box<Takeover> {
        loop {
            self.0.filled.notified().await;
            let takeover = self.0.takeover.lock().take();
            if let Some(takeover) = takeover {
                return takeover;
            }
        }
    }
}

/// What becomes of a socket that its route took.
pub(crate) enum Takeover {
    /// It is the client's, in its shard.
    Client(Upgrade),
    /// It is closed after these bytes.
    Refused(Bytes),
}

/// A client that is in the hub and waits for its socket. Dropping it leaves the hub.
pub(crate) struct Upgrade {
    pub(crate) hub: Arc<Hub>,
    pub(crate) admitted: Admitted,
    pub(crate) peer: Peer,
    pub(crate) role: Role,
    /// The head of the answer to its request, where it made one by HTTP.
    pub(crate) head: Bytes,
    /// How long sent bytes may stay unacknowledged by TCP; the kernel's default, if not named. For
    /// clients that do not answer pings.
    pub(crate) silence: Option<Duration>,
}

impl Upgrade {
    /// Hands the socket over to the client's shard. `leftover` is what was read from it after the
    /// request.
    pub(crate) async fn attach(self, socket: Socket, leftover: Bytes) {
        let Admitted {
            membership,
            degraded,
        } = self.admitted;
        let fd = membership.fd();
        if let Some(limit) = self.silence
            && let Err(error) = socket.limit_silence(limit)
        {
            tracing::debug!(%fd, %error, "the kernel does not look after this socket");
        }
        let attach = Attach {
            socket,
            head: self.head,
            leftover,
            membership: membership.attach(),
            permit: self.peer.permit,
            role: self.role,
            degraded,
        };
        let attach = Command::Attach(Box::new(attach));
        self.hub.tell(fd, attach).await;
    }
}
