//! What a shard is told to do, and the way in.
//!
//! What must stay true: commands of one sender arrive in its order, and no command is thrown
//! away while the shard lives, but for `ShardHandle::try_send`. A command that is dropped at
//! the end of the node settles what it carries: receipts, answers, memberships.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::local::admission::Permit;
use crate::local::connection::Role;
use crate::local::connection::subscriptions::{Asker, NotSubscribed};
use crate::local::membership::Membership;
use crate::local::pending_call::PendingCall;
use crate::local::receipt::Receipt;
use crate::local::replay::follower::{PageAsk, Start};
use crate::local::replay::page::Page;
use crate::local::replay::stumbles::Tryout;
use crate::local::shard::socket::Socket;
use crate::local::topics::Member;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, Subject, Topic, UserId};
use crate::protocol::info::Info;
use crate::protocol::position::Since;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::protocol::{Dialect, Except, Message};

/// Commands that may wait for a shard. It is emptied at processor speed, so a full one means
/// that the processor is, and then the sender waits its turn.
pub(crate) const INBOX: usize = 8_192;

/// Who is to have a place.
#[derive(Debug)]
pub(crate) struct PlaceRequest {
    pub(crate) fd: Fd,
    pub(crate) user: UserId,
    pub(crate) dialect: Dialect,
    /// If it follows its user's inbox: from where.
    pub(crate) inbox: Option<Box<Start>>,
    /// If topics are granted to it, or it comes with some.
    pub(crate) arrival: Option<Box<Arrival>>,
    /// When its token ends, if that ends it.
    pub(crate) expires: Option<Instant>,
    /// It wants heartbeats that its program sees.
    pub(crate) beats: bool,
    /// The device whose reading is remembered, if that is wanted.
    pub(crate) bookmark: Option<Arc<str>>,
}

/// Something for a shard to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new fd; its socket comes later. Messages for it wait.
    Reserve(Box<PlaceRequest>),
    /// The socket of a reserved fd.
    Attach(Box<Attach>),
    /// A push for one connection.
    Deliver {
        fd: Fd,
        message: Arc<Message>,
        receipt: Option<Receipt>,
    },
    /// A push for all connections.
    Broadcast {
        message: Arc<Message>,
        except: Option<Arc<Except>>,
        receipt: Option<Receipt>,
    },
    /// A push for all connections in a topic.
    Publish {
        topic: Topic,
        message: Arc<Message>,
        except: Option<Arc<Except>>,
        receipt: Option<Receipt>,
    },
    /// Put a connection into a topic.
    Subscribe {
        fd: Fd,
        topic: Topic,
        /// From where in its log, if it was there before.
        since: Option<Since>,
        by: Asker,
        /// What it shows of itself there, if that is not what it shows to all.
        info: Option<Info>,
        /// Hears of it, or why the connection is not in it.
        done: oneshot::Sender<Result<Subscribed, NotSubscribed>>,
    },
    /// Take a connection out of a topic.
    Unsubscribe {
        fd: Fd,
        topic: Topic,
        by: Asker,
        /// Hears when it is done.
        done: oneshot::Sender<()>,
    },
    /// A connection shows something else of itself in a topic, if it is there.
    Introduce {
        fd: Fd,
        topic: Topic,
        info: Option<Info>,
    },
    /// Let a connection hear who comes and goes in a topic that it is in.
    Watch {
        fd: Fd,
        topic: Topic,
        /// What it hears first.
        object: Arc<str>,
    },
    /// Tell the connections that watch a topic.
    TellWatchers {
        topic: Topic,
        /// What they hear.
        object: Arc<str>,
    },
    /// Tell which connections are in a topic.
    Members {
        topic: Topic,
        answer: oneshot::Sender<Vec<Member>>,
    },
    /// A kept message that the connection counts as given, although it is not.
    SkipKept { fd: Fd, message: Arc<Message> },
    /// Messages may have passed this connection by.
    Missed { fd: Fd },
    /// Something is in the inbox of this connection's user.
    CheckInbox { fd: Fd },
    /// As `CheckInbox`, for the logs that the connection follows, too.
    CheckAll { fd: Fd },
    /// As `SkipKept`, for all connections in a topic.
    SkipInTopic { topic: Topic, message: Arc<Message> },
    /// Something is in the log of this topic.
    CheckLog { topic: Topic },
    /// The page that a connection asked for.
    Page {
        fd: Fd,
        /// Of whose inbox or which topic's log.
        subject: Subject,
        /// As it was asked for.
        ask: PageAsk,
        page: Arc<Page>,
        /// If it is the first of one that came back: what it could not take before. Then the
        /// client knows whether something is missing before the page.
        tryout: Option<Box<Tryout>>,
    },
    /// End a connection.
    Close {
        fd: Fd,
        reason: CloseReason,
        /// Counts as written when the end has begun.
        receipt: Option<Receipt>,
    },
    /// A connection has a new token.
    Renew {
        fd: Fd,
        /// When it ends, if it does.
        expires: Option<Instant>,
        /// What it may subscribe to from now on, if that is not what the settings say.
        grants: Option<Arc<TopicPatterns>>,
        /// What it shows of itself from now on.
        info: Option<Info>,
    },
    /// Tell a client something, if it gets objects of ours.
    Say { fd: Fd, object: Arc<str> },
    /// Ask a client something for a sender.
    Call {
        fd: Fd,
        /// What it hears.
        object: Arc<str>,
        /// Where its answer goes; dropped if it is gone.
        pending: PendingCall,
    },
    /// What a client asked of the node is done: its next request may come.
    Answered {
        fd: Fd,
        /// What it hears of it.
        object: Option<String>,
    },
    /// Take connections out of topics that they chose and that the rules now keep from them.
    CheckGrants,
    /// Redis may have lost all that it kept: tell the clients at once that could seem to have missed
    /// nothing.
    DoubtKept,
    /// Tell all clients, over some seconds, that messages may be lost.
    Resync,
    /// Tell all clients that this node is cut off.
    Degraded,
    /// Count what waits in the queues.
    Count(oneshot::Sender<Load>),
}

/// What waits in the queues of a shard's connections.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Messages.
    pub(crate) messages: u64,
    /// Bytes, frames of our own included.
    pub(crate) bytes: usize,
    /// Bytes in the fullest queue.
    pub(crate) fullest: usize,
    /// Connections whose socket takes no more.
    pub(crate) blocked: usize,
    /// Bytes held by their queues, shared ones once.
    pub(crate) held: usize,
    /// How many bytes all queues of the node may hold.
    pub(crate) may_hold: usize,
}

impl Load {
    /// Adds what waits elsewhere.
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.fullest = self.fullest.max(other.fullest);
        self.blocked += other.blocked;
        self.held += other.held;
        self.may_hold = self.may_hold.max(other.may_hold);
    }
}

/// A connection is in a topic.
#[derive(Debug)]
pub(crate) struct Subscribed {
    /// Resolves once the row is written.
    pub(crate) row: oneshot::Receiver<()>,
    /// It begins to follow the topic's log, and waits for this first page.
    pub(crate) follows: Option<PageAsk>,
}

/// What a new connection brings with regard to topics.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// What it may subscribe to, if that is not what the settings say.
    pub(crate) grants: Option<Arc<TopicPatterns>>,
    /// What it shows of itself to the members of its topics.
    pub(crate) info: Option<Info>,
    /// What it is subscribed to from its beginning.
    pub(crate) topics: Vec<Topic>,
    /// Of those, what it shows of itself where that is something else.
    pub(crate) infos: Vec<(Topic, Info)>,
    /// Of those, the logs that it follows from a page that was read before.
    pub(crate) logs: Vec<(Topic, Start)>,
    /// It wants to hear who comes and goes there.
    pub(crate) watches: bool,
    /// Hears of each topic.
    pub(crate) done: oneshot::Sender<Vec<Subscribed>>,
}

/// A socket on its way to its shard.
#[derive(Debug)]
pub(crate) struct Attach {
    /// The socket, its HTTP part over but for the answer.
    pub(crate) socket: Socket,
    /// The head of that answer: written before anything else. Empty where there is none.
    pub(crate) head: Bytes,
    /// What the client sent right after its request.
    pub(crate) leftover: Bytes,
    /// Its place in the hub.
    pub(crate) membership: Membership,
    /// Its place under the node's limits.
    pub(crate) permit: Arc<Permit>,
    /// What it is there for.
    pub(crate) role: Role,
    /// Let in although its row is not written: it should hear so.
    pub(crate) degraded: bool,
}

/// The way into a shard.
#[derive(Debug, Clone)]
pub(crate) struct ShardHandle {
    inbox: mpsc::Sender<Command>,
    /// How many places the shard has, sockets on their way out included.
    places: Arc<AtomicUsize>,
}

impl ShardHandle {
    pub(crate) fn new(inbox: mpsc::Sender<Command>, places: Arc<AtomicUsize>) -> Self {
        Self { inbox, places }
    }

    /// Whether the shard has let go of every socket and has nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.inbox.capacity() == INBOX && self.places.load(Ordering::Relaxed) == 0
    }

    /// How many commands wait for the shard.
    pub(crate) fn waiting(&self) -> usize {
        INBOX - self.inbox.capacity()
    }

    /// Puts a command into the inbox if there is room.
    pub(crate) fn try_send(&self, command: Command) {
        let _ = self.inbox.try_send(command);
    }

    /// Puts a command into the inbox, in order; waits only for the shard's processor time.
    pub(crate) async fn send(&self, command: Command) {
        // Closed only when the node is ending: then the command's parts are dropped, which
        // settles receipts and leaves the hub.
        let _ = self.inbox.send(command).await;
    }
}
