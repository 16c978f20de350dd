//! What the rest of the node says to its connections.
//!
//! The hub finds connections in the directory and hands commands to their shards. Joining gives
//! a [`Reservation`]; dropping it leaves, as dropping the `Membership` does that it gives its
//! shard. Nothing here waits for a socket or for Redis; an inbox of a shard may make a caller
//! wait for that shard's processor time, never for a slow client.

pub(crate) mod await_rows;

pub(crate) mod deliver;

pub(crate) mod subscribe;

pub(crate) mod evict;

pub(crate) mod calls;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::local::budget::Budget;
use crate::local::dedup::Recent;
use crate::local::directory::{Directory, Traits};
use crate::local::directory::{LocalConnection, LocalConnections};
use crate::local::dirty_rows::DirtyRows;
use crate::local::event_queue::Events;
use crate::local::evictions::RecentEvictions;
use crate::local::membership;
use crate::local::replay::follower::Start;
use crate::local::replay::stumbles::Stumbles;
use crate::local::row_wait::RowWait;
use crate::local::shard::command::{
    Arrival, Command, INBOX, Load, PlaceRequest, ShardHandle, Subscribed,
};
use crate::local::shard::outlets::PageRequest;
use crate::local::topics::Topics;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Subject, Topic, UserId};
use crate::protocol::info::Info;
use crate::protocol::session_id::SessionId;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::protocol::{Dialect, Target};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// A connection that is to be let in.
#[derive(Debug)]
pub(crate) struct NewConnection {
    /// Whose it is.
    pub user: UserId,
    /// What it speaks.
    pub dialect: Dialect,
    /// The device the client named.
    pub device: Option<Arc<str>>,
    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    pub address: Option<IpAddr>,
    /// For a connection that follows its user's inbox. It must have been read before: then
    /// what is kept later finds the connection, or leaves a gap that it can see.
    pub inbox: Option<Box<Start>>,
    /// What it may subscribe to, if that is not what the settings say.
    pub grants: Option<Arc<TopicPatterns>>,
    /// What it shows of itself to the members of its topics.
    pub info: Option<Info>,
    /// What it is subscribed to from its beginning.
    pub topics: Vec<Topic>,
    /// Of those, what it shows of itself where that is something else.
    pub infos: Vec<(Topic, Info)>,
    /// Of those, the logs that it follows from a page that was read before, as its inbox.
    pub logs: Vec<(Topic, Start)>,
    /// When its token ends, if that ends it.
    pub expires: Option<Instant>,
    /// The session it rests on, if it does.
    pub session: Option<SessionId>,
    /// Its place in the order of its user's connections, if these are limited.
    pub ordinal: Option<u64>,
    /// It wants to hear who comes and goes there.
    pub watches: bool,
    /// It wants heartbeats that its program sees.
    pub beats: bool,
    /// The device whose reading is remembered, if that is wanted.
    pub bookmark: Option<Arc<str>>,
}

/// A connection whose socket is still in the handshake. Dropping it leaves, and tells the shard.
#[derive(Debug)]
pub(crate) struct Reservation {
    fd: Fd,
    /// Taken by [`Reservation::attach`] alone.
    membership: Option<membership::Membership>,
    shard: ShardHandle,
}

impl Reservation {
    /// The connection's number.
    pub(crate) fn fd(&self) -> Fd {
        self.fd
    }

    /// The handshake is over: what goes to the shard together with the socket.
    pub(crate) fn attach(mut self) -> membership::Membership {
        let membership = self.membership.take();
        membership.expect("taken here alone, and this is the end of it")
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.membership.is_some() {
            // The handshake came to nothing. Without room in the inbox the shard finds out by the
            // clock.
            self.shard.try_send(Command::Close {
                fd: self.fd,
                reason: CloseReason::NeverAttached,
                receipt: None,
            });
        }
    }
}

/// The connections of one node, for everything above them.
#[derive(Debug)]
pub(crate) struct Hub {
    directory: Arc<Directory>,
    shards: Box<[ShardHandle]>,
    memory: Arc<Budget>,
    recently: RecentEvictions,
    doubts: Notify,
    /// All clients are about to be told of a loss.
    owes_resync: AtomicBool,
    topics: Arc<Topics>,
    /// What connections want to read of inboxes and logs.
    asks: mpsc::UnboundedSender<PageRequest>,
    recent: Recent,
    stumbles: Arc<Stumbles>,
    trace: Arc<Trace>,
    metrics: Arc<Metrics>,
}

impl Hub {
    /// A hub of `node` over these shards, without connections.
    pub(crate) fn new(
        node: NodeId,
        (shards, memory): (Vec<ShardHandle>, Arc<Budget>),
        topics: Arc<Topics>,
        asks: mpsc::UnboundedSender<PageRequest>,
        events: Events,
        trace: Arc<Trace>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let changes = topics.changes.clone();
        Self {
            directory: Arc::new(Directory::new(node, changes, events, metrics.clone())),
            shards: shards.into(),
            memory,
            recently: RecentEvictions::default(),
            doubts: Notify::new(),
            owes_resync: AtomicBool::new(false),
            topics,
            asks,
            recent: Recent::default(),
            stumbles: Arc::default(),
            trace,
            metrics,
        }
    }

    /// The node of these connections.
    pub(crate) fn node(&self) -> &NodeId {
        &self.directory.node
    }

    /// Whether all clients are about to be told of a loss. Taken back right before that is begun, so
    /// what was found by then needs no news of its own.
    pub(crate) fn owes_resync(&self) -> bool {
        self.owes_resync.load(Ordering::Acquire)
    }

    pub(crate) fn set_owes_resync(&self, owes: bool) {
        self.owes_resync.store(owes, Ordering::Release);
    }

    /// The name of a connection here, as other nodes and backends know it.
    pub(crate) fn connection_id(&self, fd: Fd) -> ConnectionId {
        ConnectionId {
            node: self.node().clone(),
            fd,
        }
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.directory.len()
    }

    /// How many users are connected.
    pub(crate) fn user_count(&self) -> usize {
        self.directory.user_count()
    }

    /// Whether every shard has let go of every socket: nothing waits to be written any more.
    pub(crate) fn is_flushed(&self) -> bool {
        self.shards.iter().all(ShardHandle::is_empty)
    }

    /// What may wait here, queued for clients or not.
    pub(crate) fn memory(&self) -> &Arc<Budget> {
        &self.memory
    }

    /// How many commands wait for their shards.
    pub(crate) fn waiting_commands(&self) -> usize {
        self.shards.iter().map(ShardHandle::waiting).sum()
    }

    /// What happened here lately.
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Which kept messages clients cannot take.
    pub(crate) fn stumbles(&self) -> &Arc<Stumbles> {
        &self.stumbles
    }

    /// What the registry still has to write.
    pub(crate) fn changes(&self) -> &DirtyRows {
        &self.directory.changes
    }

    /// What is told of connections.
    pub(crate) fn events(&self) -> &Events {
        &self.directory.events
    }

    /// The user's connections here.
    pub(crate) fn seats(&self, user: &UserId) -> LocalConnections {
        self.directory.seats(user)
    }

    /// Whether this connection is known to have been in its user's row.
    pub(crate) fn is_written(&self, fd: Fd) -> bool {
        self.directory.is_written(fd)
    }

    /// Rows have been written with these connections, or without them.
    pub(crate) fn note_written(&self, fds: impl IntoIterator<Item = Fd>) {
        self.directory.note_written(fds);
    }

    /// Whose connection this is.
    pub(crate) fn user_of(&self, fd: Fd) -> Option<UserId> {
        self.directory.user_of(fd)
    }

    /// Whether this connection is here.
    pub(crate) fn holds(&self, fd: Fd) -> bool {
        self.directory.holds(fd)
    }

    /// Every user here. A snapshot.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.directory.users()
    }

    /// Every user and topic here: whose row has something of this node. A snapshot.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        let users = self.users().into_iter().map(Subject::User);
        users
            .chain(self.topics.all().into_iter().map(Subject::Topic))
            .collect()
    }

    /// Every fd here, in the order in which they came.
    pub(crate) fn fds(&self) -> Vec<Fd> {
        self.directory.fds()
    }

    /// The local connections a target names, with their users.
    pub(crate) fn matching(&self, target: &Target) -> SmallVec<[(Fd, UserId); 2]> {
        self.directory.matching(target)
    }

    /// Lets a connection in under a new fd. From here on messages for it are kept by its shard,
    /// although its socket may still be in the handshake. The second part of the answer resolves
    /// once the registry knows.
    ///
    /// If it follows its topics' logs ([`Topics::keeps`]), the caller owes it a `Hub::follow_log`
    /// of each that is not among its `logs`.
    pub(crate) async fn join(&self, newcomer: NewConnection) -> (Reservation, RowWait) {
        let NewConnection {
            user,
            dialect,
            device,
            address,
            inbox,
            grants,
            info,
            topics,
            infos,
            logs,
            expires,
            session,
            ordinal,
            watches,
            beats,
            bookmark,
        } = newcomer;
        let fd = self.directory.next_fd();
        let (arrival, subscribed) = if grants.is_some() || info.is_some() || !topics.is_empty() {
            let (done, subscribed) = oneshot::channel();
            let arrival = Arrival {
                grants,
                info,
                topics,
                infos,
                logs,
                watches,
                done,
            };
            (Some(Box::new(arrival)), Some(subscribed))
        } else {
            (None, None)
        };
        self.trace.connected(&user, fd, device.as_ref());
        let traits = Traits {
            device,
            address,
            session,
            ordinal,
        };
        let seat = LocalConnection::new(fd, dialect, traits);
        // The shard hears of the fd before the directory does, so that no message can overtake.
        let shard = self.shard(fd).clone();
        shard
            .send(Command::Reserve(Box::new(PlaceRequest {
                fd,
                user: user.clone(),
                dialect,
                inbox,
                arrival,
                expires,
                beats,
                bookmark,
            })))
            .await;
        let (membership, row) = membership::Membership::join(&self.directory, user, seat);
        let reservation = Reservation {
            fd,
            membership: Some(membership),
            shard,
        };
        let mut rows = RowWait::from(row);
        if let Some(subscribed) = subscribed {
            // Nothing comes if the node is ending.
            let subscribed: Vec<Subscribed> = subscribed.await.unwrap_or_default();
            rows.extend(subscribed.into_iter().map(|one| one.row));
        }
        (reservation, rows)
    }

    /// Makes the connections of users look into their inbox, or of topics into the log.
    pub(crate) async fn look(&self, target: &Target) {
        match target {
            Target::Topic(topic) => return self.check_log(topic).await,
            Target::Topics(topics) => {
                for topic in topics {
                    self.check_log(topic).await;
                }
                return;
            }
            _ => {}
        }
        for (fd, _) in self.matching(target) {
            self.tell(fd, Command::CheckInbox { fd }).await;
        }
    }

    /// Gives a connection's shard something to do with it.
    pub(crate) async fn tell(&self, fd: Fd, command: Command) {
        self.shard(fd).send(command).await;
    }

    /// Gives every shard the same thing to do.
    pub(crate) async fn tell_all(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            shard.send(command()).await;
        }
    }

    /// What waits in the queues of all connections: every shard counts, and brings the counters
    /// of the node up to date. `None` if one ends meanwhile.
    pub(crate) async fn load(&self) -> Option<Load> {
        let mut answers = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (answer, counted) = oneshot::channel();
            shard.send(Command::Count(answer)).await;
            answers.push(counted);
        }
        let mut load = Load::default();
        for counted in answers {
            load.add(&counted.await.ok()?);
        }
        Some(load)
    }

    /// How many commands wait for the busiest shard, and how many may.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let waiting = self.shards.iter().map(ShardHandle::waiting);
        (waiting.max().unwrap_or(0), INBOX)
    }

    pub(crate) fn shard(&self, fd: Fd) -> &ShardHandle {
        &self.shards[self.shard_number(fd)]
    }

    pub(crate) fn shard_number(&self, fd: Fd) -> usize {
        fd.0 as usize % self.shards.len()
    }
}
