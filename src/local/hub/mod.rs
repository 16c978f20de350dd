//! The local map: who is connected here, and on which shard.
//!
//! Owns the fd counter and the look-ups fd -> user and user -> seats. Joining gives a
//! [`Membership`]; dropping it leaves, whatever ended the connection. Leaving removes only its
//! own seat, so a late goodbye can not evict a fresh login. Nothing here waits for a socket or
//! for Redis; an inbox of a shard may make a caller wait for that shard's processor time, never
//! for a slow client.

pub mod await_rows;
pub mod calls;
pub mod deliver;
pub mod evict;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use smallvec::SmallVec;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::auth::{Grants, SessionId};
use crate::local::dedup::Recent;
use crate::local::dirty_rows::Changes;
use crate::local::event_queue::Events;
pub(crate) use crate::local::hub::await_rows::ROW_PATIENCE;
pub use crate::local::hub::await_rows::Rows;
use crate::local::hub::evict::{Bearers, Recently};
pub use crate::local::membership::Membership;
pub(crate) use crate::local::presence_queue::Noted;
pub use crate::local::presence_queue::Notices;
use crate::local::replay::page::{Ask, Start};
use crate::local::shard;
use crate::local::shard::{Arrival, Command, Load, ShardHandle, Subscribed};
pub use crate::local::topics::{Member, Topics};
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Subject, Topic, UserId};
use crate::protocol::{Dialect, Target};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// What a row in the registry says of a connection.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its number.
    pub fd: Fd,
    /// When it came, in milliseconds since 1970, for people to read; no decision rests on it.
    pub at: u64,
    /// What it speaks, and so over what kind of socket.
    pub dialect: Dialect,
    /// What many connections have nothing of: apart, so that those do not pay for it.
    traits: Option<Box<Traits>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Traits {
    device: Option<Arc<str>>,
    address: Option<IpAddr>,
    session: Option<SessionId>,
    ordinal: Option<u64>,
}

impl Seat {
    /// The device the client named.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.traits.as_ref()?.device.as_deref()
    }

    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.traits.as_ref()?.address
    }

    /// The session it rests on, if it does.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.traits.as_ref()?.session
    }

    /// Its place in the order of its user's connections, if these are limited.
    #[must_use]
    pub fn ordinal(&self) -> Option<u64> {
        self.traits.as_ref()?.ordinal
    }

    /// Lets it rest on another session, or none; answers on which it did.
    fn rest_on(&mut self, session: Option<SessionId>) -> Option<SessionId> {
        match (&mut self.traits, session) {
            (None, None) => None,
            (traits, session) => {
                let traits = traits.get_or_insert_default();
                std::mem::replace(&mut traits.session, session)
            }
        }
    }
}

/// A connection that is to be let in.
#[derive(Debug)]
pub struct Newcomer {
    /// Whose it is.
    pub user: UserId,
    /// What it speaks.
    pub dialect: Dialect,
    /// The device the client named.
    pub device: Option<Arc<str>>,
    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    pub address: Option<IpAddr>,
    /// For a connection that follows its user's inbox. It must have been read before: then
    /// whatever is kept later finds the connection, or leaves a gap that it can see.
    pub inbox: Option<Box<Start>>,
    /// What it may subscribe to, if that is not what the settings say.
    pub grants: Option<Arc<Grants>>,
    /// What it is subscribed to from its beginning.
    pub topics: Vec<Topic>,
    /// When its token ends, if that ends it.
    pub expires: Option<Instant>,
    /// The session it rests on, if it does.
    pub session: Option<SessionId>,
    /// Its place in the order of its user's connections, if these are limited.
    pub ordinal: Option<u64>,
    /// It wants to hear who comes and goes there.
    pub watches: bool,
}

/// A user's connections on one node.
pub type Seats = SmallVec<[Seat; 1]>;
pub(crate) type Map<K, V> = DashMap<K, V, ahash::RandomState>;

/// What became of a push on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// Handed to this many connections; 0 where nobody (any more) matches.
    To(u32),
    /// Dropped: its id was seen for this target within a minute.
    Duplicate,
}

/// The map of one node.
#[derive(Debug)]
pub struct Hub {
    pub(crate) node: NodeId,
    pub(crate) shards: Box<[ShardHandle]>,
    pub(crate) last_fd: AtomicU64,
    pub(crate) connections: Map<Fd, UserId>,
    pub(crate) users: Map<UserId, Seats>,
    pub(crate) bearers: Bearers,
    pub(crate) recently: Recently,
    pub(crate) doubts: Notify,
    pub(crate) size: AtomicUsize,
    pub(crate) topics: Arc<Topics>,
    /// What connections want to read of inboxes and logs.
    pub(crate) asks: mpsc::UnboundedSender<Ask>,
    /// Which rows need writing. Taken by the registry writer of the backplane.
    pub(crate) changes: Arc<Changes>,
    /// What is told of connections. Taken by the backplane too.
    pub(crate) events: Events,
    pub(crate) recent: Recent,
    pub(crate) trace: Arc<Trace>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Hub {
    /// An empty map of `node` over these shards.
    #[must_use]
    pub(crate) fn new(
        node: NodeId,
        shards: Vec<ShardHandle>,
        topics: Arc<Topics>,
        asks: mpsc::UnboundedSender<Ask>,
        events: Events,
        trace: Arc<Trace>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            node,
            shards: shards.into(),
            last_fd: AtomicU64::new(0),
            connections: Map::default(),
            users: Map::default(),
            bearers: Bearers::default(),
            recently: Recently::default(),
            doubts: Notify::new(),
            size: AtomicUsize::new(0),
            changes: topics.changes.clone(),
            topics,
            asks,
            events,
            recent: Recent::default(),
            trace,
            metrics,
        }
    }

    /// The node whose map this is.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Whether every shard has let go of every socket: nothing waits to be written any more.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.shards.iter().all(ShardHandle::is_empty)
    }

    /// How many users are connected.
    #[must_use]
    pub fn user_count(&self) -> usize {
        self.users.len()
    }

    /// How many commands wait for their shards.
    #[must_use]
    pub fn waiting_commands(&self) -> usize {
        self.shards.iter().map(ShardHandle::waiting).sum()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happened here lately.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What the registry still has to write.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// What is told of connections.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The user's connections here.
    #[must_use]
    pub fn seats(&self, user: &UserId) -> Seats {
        self.users
            .get(user)
            .map(|seats| seats.clone())
            .unwrap_or_default()
    }

    /// Every user here. A snapshot: no lock is held while the caller works with it.
    #[must_use]
    pub fn users(&self) -> Vec<UserId> {
        self.users.iter().map(|entry| entry.key().clone()).collect()
    }

    /// Every user and topic here: whose row has something of this node. A snapshot.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        let users = self.users().into_iter().map(Subject::User);
        users
            .chain(self.topics.all().into_iter().map(Subject::Topic))
            .collect()
    }

    /// Lets a connection in under a new fd. From here on messages for it are kept by its shard,
    /// although its socket may still be in the handshake. The second part of the answer resolves
    /// once the registry knows.
    ///
    /// If it follows its topics' logs ([`Topics::keeps`]), the caller owes it a `Hub::follow_log`
    /// of each.
    pub async fn join(self: &Arc<Self>, newcomer: Newcomer) -> (Membership, Rows) {
        let Newcomer {
            user,
            dialect,
            device,
            address,
            inbox,
            grants,
            topics,
            expires,
            session,
            ordinal,
            watches,
        } = newcomer;
        let fd = Fd(self.last_fd.fetch_add(1, Ordering::Relaxed) + 1);
        let at = crate::clock::unix_ms();
        let (arrival, subscribed) = if grants.is_some() || !topics.is_empty() {
            let (done, subscribed) = oneshot::channel();
            let arrival = Arrival {
                grants,
                topics,
                watches,
                done,
            };
            (Some(Box::new(arrival)), Some(subscribed))
        } else {
            (None, None)
        };
        self.trace.connected(&user, fd, device.as_ref());
        // The shard hears of the fd before the map does, so that no message can overtake.
        self.shard(fd)
            .send(Command::Reserve {
                fd,
                user: user.clone(),
                dialect,
                inbox,
                arrival,
                expires,
            })
            .await;
        let traits = Traits {
            device,
            address,
            session,
            ordinal,
        };
        let traits = (traits != Traits::default()).then(|| Box::new(traits));
        self.users.entry(user.clone()).or_default().push(Seat {
            fd,
            at,
            dialect,
            traits,
        });
        if let Some(session) = session {
            self.bearers.add(session, fd);
        }
        self.connections.insert(fd, user.clone());
        self.size.fetch_add(1, Ordering::Relaxed);
        self.metrics.connects.inc();
        self.metrics.connections.inc();
        let mut rows = Rows::from(self.changes.joined(Subject::User(user.clone())));
        let membership = Membership::new(self.clone(), fd);
        if let Some(subscribed) = subscribed {
            // Nothing comes if the node is ending.
            let subscribed: Vec<Subscribed> = subscribed.await.unwrap_or_default();
            rows.extend(subscribed.into_iter().map(|one| one.row));
        }
        (membership, rows)
    }

    pub(crate) fn leave(&self, fd: Fd) {
        let Some((_, user)) = self.connections.remove(&fd) else {
            return;
        };
        // Under the entry's lock: no join can slip in between emptying and removing it.
        let mut session = None;
        self.users.remove_if_mut(&user, |_, seats| {
            seats.retain(|seat| {
                if seat.fd == fd {
                    session = seat.session();
                }
                seat.fd != fd
            });
            seats.is_empty()
        });
        if let Some(session) = session {
            self.bearers.remove(session, fd);
        }
        self.size.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
        self.changes.left(&user, fd);
    }

    /// Whose connection this is.
    #[must_use]
    pub fn user_of(&self, fd: Fd) -> Option<UserId> {
        self.connections.get(&fd).map(|user| user.clone())
    }

    /// Whether this connection is here.
    #[must_use]
    pub fn holds(&self, fd: Fd) -> bool {
        self.connections.contains_key(&fd)
    }

    /// Makes the connections of users look into their inbox, or of topics into the log.
    pub async fn look(&self, target: &Target) {
        match target {
            Target::Topic(topic) => return self.look_into(topic).await,
            Target::Topics(topics) => {
                for topic in topics {
                    self.look_into(topic).await;
                }
                return;
            }
            _ => {}
        }
        for (fd, _) in self.matching(target) {
            self.tell(fd, Command::Look { fd }).await;
        }
    }

    /// Gives a connection's shard something to do with it.
    pub async fn tell(&self, fd: Fd, command: Command) {
        self.shard(fd).send(command).await;
    }

    /// Gives every shard the same thing to do.
    pub async fn tell_all(&self, command: impl Fn() -> Command) {
        for shard in &self.shards {
            shard.send(command()).await;
        }
    }

    /// What waits in the queues of all connections, for whoever asks now and then: every shard
    /// counts, with its counters brought up to date. `None` if one has no time for that.
    pub async fn load(&self) -> Option<Load> {
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
    #[must_use]
    pub fn backlog(&self) -> (usize, usize) {
        let waiting = self.shards.iter().map(ShardHandle::waiting);
        (waiting.max().unwrap_or(0), shard::INBOX)
    }

    pub(crate) fn shard(&self, fd: Fd) -> &ShardHandle {
        &self.shards[self.shard_number(fd)]
    }

    pub(crate) fn shard_number(&self, fd: Fd) -> usize {
        fd.0 as usize % self.shards.len()
    }

    /// Every fd here, in the order in which they came.
    #[must_use]
    pub fn fds(&self) -> Vec<Fd> {
        let mut fds: Vec<Fd> = self.connections.iter().map(|entry| *entry.key()).collect();
        fds.sort_unstable();
        fds
    }

    /// The local connections a target names. A connection must match in node, boot, fd and,
    /// where one is named, user: nobody gets what was meant for whoever sat there before.
    pub(crate) fn matching(&self, target: &Target) -> SmallVec<[(Fd, UserId); 2]> {
        match target {
            Target::User(user) => self.fds_of(user).map(|fd| (fd, user.clone())).collect(),
            Target::Users(users) => users
                .iter()
                .flat_map(|user| self.fds_of(user).map(|fd| (fd, user.clone())))
                .collect(),
            Target::Connection(ConnectionId { node, fd }, user) if *node == self.node => {
                let seated = self.connections.get(fd).map(|seated| seated.clone());
                let seated =
                    seated.filter(|seated| user.as_ref().is_none_or(|user| user == seated));
                seated.map(|user| (*fd, user)).into_iter().collect()
            }
            _ => SmallVec::new(),
        }
    }

    fn fds_of(&self, user: &UserId) -> impl Iterator<Item = Fd> + use<> {
        let fds: SmallVec<[Fd; 4]> = self
            .users
            .get(user)
            .map(|seats| seats.iter().map(|seat| seat.fd).collect())
            .unwrap_or_default();
        fds.into_iter()
    }
}
