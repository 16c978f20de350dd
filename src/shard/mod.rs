//! A shard: the one owner of a part of this node's sockets.
//!
//! Nobody else reads from them or writes to them, so there are no locks and no reordering.
//! Commands come through a bounded inbox. A shard takes what is there, puts frames into the
//! queues of their connections, then flushes each touched connection once: one frame is a
//! plain write, several are one `writev`. An idle shard writes at once; under load messages
//! coalesce by themselves. It never waits for a client: a socket that takes no more is left
//! until the kernel says that it does.
//!
//! Readiness comes from an epoll instance of its own (by mio), watched by the runtime as a
//! single file descriptor. That makes a connection a few hundred bytes of plain data, without
//! a task, a waker or a timer of its own.

mod owner;
mod resync;
mod socket;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::owner::Owner;
pub use self::socket::Socket;
use crate::admission::Permit;
use crate::close::CloseReason;
use crate::connection::{Role, Settings};
use crate::hub::Membership;
use crate::inbox::{Ask, Page, Start};
use crate::metrics::Metrics;
use crate::names::{Fd, NodeId, UserId};
use crate::protocol::{Dialect, Except, Message};
use crate::receipt::Receipt;
use crate::trace::Trace;

/// Commands that may wait for a shard. It is emptied at processor speed, so a full one means
/// that the processor is, and then whoever sends waits its turn.
pub(crate) const INBOX: usize = 8_192;

/// Something for a shard to do.
#[derive(Debug)]
pub enum Command {
    /// A new fd; its socket comes later. Messages for it wait.
    Reserve {
        /// The fd.
        fd: Fd,
        /// Whose it is.
        user: UserId,
        /// What it speaks.
        dialect: Dialect,
        /// If it follows its user's inbox: from where.
        inbox: Option<Box<Start>>,
    },
    /// The socket of a reserved fd.
    Attach(Box<Attach>),
    /// A push for one connection.
    Deliver {
        /// Which.
        fd: Fd,
        /// What.
        message: Arc<Message>,
        /// Who wants to know.
        receipt: Option<Receipt>,
    },
    /// A push for all connections.
    Broadcast {
        /// What.
        message: Arc<Message>,
        /// But for these.
        except: Option<Arc<Except>>,
        /// Who wants to know.
        receipt: Option<Receipt>,
    },
    /// A kept message that the connection counts as given, although it is not.
    Pass {
        /// Which.
        fd: Fd,
        /// What.
        message: Arc<Message>,
    },
    /// Messages may have passed this connection by.
    Missed {
        /// Which.
        fd: Fd,
    },
    /// Something is in the inbox of this connection's user.
    Look {
        /// Which.
        fd: Fd,
    },
    /// The page of its user's inbox that a connection asked for.
    Page {
        /// Which.
        fd: Fd,
        /// The page.
        page: Page,
    },
    /// End a connection.
    Close {
        /// Which.
        fd: Fd,
        /// Why.
        reason: CloseReason,
        /// Counts as written when the end has begun.
        receipt: Option<Receipt>,
    },
    /// Tell all clients, over some seconds, that messages may be lost.
    Resync,
    /// Tell all clients that this node is cut off.
    Degraded,
    /// Count what waits in the queues.
    Count(oneshot::Sender<Load>),
}

/// What waits in the queues of a shard's connections.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Messages.
    pub messages: u64,
    /// Bytes, frames of our own included.
    pub bytes: usize,
    /// Bytes in the fullest queue.
    pub fullest: usize,
    /// Connections whose socket takes no more.
    pub blocked: usize,
}

impl Load {
    /// Adds what waits elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.fullest = self.fullest.max(other.fullest);
        self.blocked += other.blocked;
    }
}

/// A socket on its way to its shard.
#[derive(Debug)]
pub struct Attach {
    /// The socket, its HTTP part over.
    pub socket: Socket,
    /// What the client sent right behind its handshake.
    pub leftover: Bytes,
    /// Its place in the hub.
    pub membership: Membership,
    /// Its place under the node's limits.
    pub permit: Arc<Permit>,
    /// What it is there for.
    pub role: Role,
    /// Let in although its row is not written: it should hear so.
    pub degraded: bool,
}

/// The way into a shard.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    inbox: mpsc::Sender<Command>,
    /// How many places the shard has, sockets on their way out included.
    places: Arc<AtomicUsize>,
}

impl ShardHandle {
    /// Whether the shard has let go of every socket and has nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.capacity() == INBOX && self.places.load(Ordering::Relaxed) == 0
    }

    /// How many commands wait.
    #[must_use]
    pub fn backlog(&self) -> usize {
        INBOX - self.inbox.capacity()
    }

    /// Puts a command into the inbox, in order; waits only for the shard's processor time.
    pub async fn send(&self, command: Command) {
        // Closed only when the node is ending: then the command's parts are dropped, which
        // settles receipts and leaves the hub.
        let _ = self.inbox.send(command).await;
    }
}

/// Starts `count` shards. Each ends when the last handle to it is gone. `asks` gets what their
/// connections want to read of inboxes.
///
/// # Errors
/// When the kernel gives no epoll instance.
pub(crate) fn start(
    count: usize,
    node: &NodeId,
    settings: &Arc<Settings>,
    asks: &mpsc::UnboundedSender<Ask>,
    trace: &Arc<Trace>,
    metrics: &Arc<Metrics>,
) -> io::Result<Vec<ShardHandle>> {
    (0..count)
        .map(|_| {
            let (sender, inbox) = mpsc::channel(INBOX);
            let shard = Owner::new(
                inbox,
                node.clone(),
                settings.clone(),
                asks.clone(),
                trace.clone(),
                metrics.clone(),
            )?;
            let handle = ShardHandle {
                inbox: sender,
                places: shard.count.clone(),
            };
            tokio::spawn(shard.run());
            Ok(handle)
        })
        .collect()
}
