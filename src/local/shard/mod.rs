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

pub mod encoded;
pub mod members;
pub mod resync;
pub mod socket;
pub mod task;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::auth::Grants;
use crate::edge::requests::Asked;
use crate::local::admission::Permit;
use crate::local::connection::{Role, Settings};
use crate::local::hub::calls::Pending;
use crate::local::hub::{Member, Membership, Topics};
use crate::local::receipt::Receipt;
use crate::local::replay::page::{Ask, Page, Since, Start};
use crate::local::shard::members::Members;
pub use crate::local::shard::socket::Socket;
use crate::local::shard::task::Owner;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, NodeId, Subject, Topic, UserId};
use crate::protocol::{Dialect, Except, Message};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

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
        /// If topics are granted to it, or it comes with some.
        arrival: Option<Box<Arrival>>,
        /// When its token ends, if that ends it.
        expires: Option<Instant>,
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
    /// A push for all connections in a topic.
    Publish {
        /// The topic.
        topic: Topic,
        /// What.
        message: Arc<Message>,
        /// But for these.
        except: Option<Arc<Except>>,
        /// Who wants to know.
        receipt: Option<Receipt>,
    },
    /// Put a connection into a topic.
    Subscribe {
        /// Which.
        fd: Fd,
        /// The topic.
        topic: Topic,
        /// From where in its log, if it was there before.
        since: Option<Since>,
        /// Who asks for it.
        by: Asker,
        /// Hears of it, or why the connection is not in it.
        done: oneshot::Sender<Result<Subscribed, NotSubscribed>>,
    },
    /// Take a connection out of a topic.
    Unsubscribe {
        /// Which.
        fd: Fd,
        /// The topic.
        topic: Topic,
        /// Who asks for it.
        by: Asker,
        /// Hears when it is done.
        done: oneshot::Sender<()>,
    },
    /// Let a connection hear who comes and goes in a topic that it is in.
    Watch {
        /// Which.
        fd: Fd,
        /// The topic.
        topic: Topic,
        /// What it hears first.
        object: Arc<str>,
    },
    /// Tell the connections that watch a topic.
    TellWatchers {
        /// The topic.
        topic: Topic,
        /// What they hear.
        object: Arc<str>,
    },
    /// Tell which connections are in a topic.
    Members {
        /// The topic.
        topic: Topic,
        /// Whom to tell.
        answer: oneshot::Sender<Vec<Member>>,
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
    /// As `Pass`, for all connections in a topic.
    PassTopic {
        /// The topic.
        topic: Topic,
        /// What.
        message: Arc<Message>,
    },
    /// Something is in the log of this topic.
    LookInto {
        /// The topic.
        topic: Topic,
    },
    /// The page that a connection asked for.
    Page {
        /// Which.
        fd: Fd,
        /// Of whose inbox or which topic's log.
        subject: Subject,
        /// From where it was asked for.
        since: Since,
        /// The page.
        page: Arc<Page>,
        /// The client knows whether something is missing before it.
        is_told: bool,
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
    /// A connection has a new token.
    Renew {
        /// Which.
        fd: Fd,
        /// When it ends, if it does.
        expires: Option<Instant>,
        /// What it may subscribe to from now on, if that is not what the settings say.
        grants: Option<Arc<Grants>>,
    },
    /// Tell a client something, if it gets objects of ours.
    Say {
        /// Which.
        fd: Fd,
        /// The object.
        object: Arc<str>,
    },
    /// Ask a client something for a sender.
    Call {
        /// Which.
        fd: Fd,
        /// What it hears.
        object: Arc<str>,
        /// Where its answer goes; dropped if it is gone.
        pending: Pending,
    },
    /// What a client asked of the node is done: its next request may come.
    Answered {
        /// Which.
        fd: Fd,
        /// What it hears of it.
        object: Option<String>,
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

/// Who asks for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The client, within its grants.
    Client,
    /// A sender, who may decide as it likes; the client hears of it.
    Server,
}

/// A connection is in a topic.
#[derive(Debug)]
pub struct Subscribed {
    /// Resolves once the row is written.
    pub row: oneshot::Receiver<()>,
    /// It begins to follow the topic's log, and waits for the first page.
    pub follows: bool,
}

/// Why a connection is not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSubscribed {
    /// It is no longer here.
    Gone,
    /// Its grants do not have this topic.
    Forbidden,
    /// It has this many already, and that is the limit.
    TooMany(usize),
}

/// What a new connection brings with regard to topics.
#[derive(Debug)]
pub struct Arrival {
    /// What it may subscribe to, if that is not what the settings say.
    pub grants: Option<Arc<Grants>>,
    /// What it is subscribed to from its beginning.
    pub topics: Vec<Topic>,
    /// It wants to hear who comes and goes there.
    pub watches: bool,
    /// Hears of each topic.
    pub done: oneshot::Sender<Vec<Subscribed>>,
}

/// Where shards hand on what others are to do.
#[derive(Debug, Clone)]
pub(crate) struct Outlets {
    /// What connections want to read of inboxes and logs.
    pub(crate) asks: mpsc::UnboundedSender<Ask>,
    /// What clients ask of the node.
    pub(crate) requests: mpsc::UnboundedSender<Asked>,
}

/// A socket on its way to its shard.
#[derive(Debug)]
pub struct Attach {
    /// The socket, its HTTP part over but for the answer.
    pub socket: Socket,
    /// The head of that answer: written before anything else. Empty where there is none.
    pub head: Bytes,
    /// What the client sent right behind its request.
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

    /// How many commands wait for the shard.
    #[must_use]
    pub fn waiting(&self) -> usize {
        INBOX - self.inbox.capacity()
    }

    /// Puts a command into the inbox if there is room.
    pub(crate) fn try_send(&self, command: Command) {
        let _ = self.inbox.try_send(command);
    }

    /// Puts a command into the inbox, in order; waits only for the shard's processor time.
    pub async fn send(&self, command: Command) {
        // Closed only when the node is ending: then the command's parts are dropped, which
        // settles receipts and leaves the hub.
        let _ = self.inbox.send(command).await;
    }
}

/// Starts `count` shards. Each ends when the last handle to it is gone. `asks` gets what their
/// connections want to read of inboxes, `requests` what their clients ask of the node.
///
/// # Errors
/// When the kernel gives no epoll instance.
pub(crate) fn start(
    count: usize,
    node: &NodeId,
    topics: &Arc<Topics>,
    settings: &Arc<Settings>,
    outlets: &Outlets,
    trace: &Arc<Trace>,
    metrics: &Arc<Metrics>,
) -> io::Result<Vec<ShardHandle>> {
    (0..count)
        .map(|number| {
            let (sender, inbox) = mpsc::channel(INBOX);
            let shard = Owner::new(
                inbox,
                node.clone(),
                Members::new(topics.clone(), number),
                settings.clone(),
                outlets.clone(),
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
