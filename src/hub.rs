//! The local map: who is connected here, and on which shard.
//!
//! Owns the fd counter and the two look-ups fd -> user and user -> seats. Joining gives a
//! [`Membership`]; dropping it leaves, whatever ended the connection. Leaving removes only its
//! own seat, so a late goodbye can not evict a fresh login. Nothing here waits for a socket or
//! for Redis; an inbox of a shard may make a caller wait for that shard's processor time, never
//! for a slow client.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::changes::Changes;
use crate::close::CloseReason;
use crate::inbox::Start;
use crate::metrics::Metrics;
use crate::names::{ConnectionId, Fd, NodeId, UserId};
use crate::protocol::{Dialect, Push, Target};
use crate::receipt::Receipt;
use crate::recent::Recent;
use crate::shard::{self, Command, Load, ShardHandle};
use crate::trace::{Outcome, Trace};

/// What a row in the registry says of a connection.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Its number.
    pub fd: Fd,
    /// When it came, in milliseconds since 1970, for people to read; no decision rests on it.
    pub at: u64,
    /// The device the client named.
    pub device: Option<Arc<str>>,
    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    pub address: Option<IpAddr>,
}

/// A user's connections on one node.
pub type Seats = SmallVec<[Seat; 1]>;
type Map<K, V> = DashMap<K, V, ahash::RandomState>;

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
    node: NodeId,
    shards: Box<[ShardHandle]>,
    last_fd: AtomicU64,
    connections: Map<Fd, UserId>,
    users: Map<UserId, Seats>,
    size: AtomicUsize,
    /// Which users' rows need writing. Taken by the registry writer of the backplane.
    changes: Changes,
    recent: Recent,
    trace: Arc<Trace>,
    metrics: Arc<Metrics>,
}

impl Hub {
    /// An empty map of `node` over these shards.
    #[must_use]
    pub fn new(
        node: NodeId,
        shards: Vec<ShardHandle>,
        changes: Changes,
        trace: Arc<Trace>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            node,
            shards: shards.into(),
            last_fd: AtomicU64::new(0),
            connections: Map::default(),
            users: Map::default(),
            size: AtomicUsize::new(0),
            changes,
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

    /// Lets a connection in under a new fd. From here on messages for it are kept by its shard,
    /// although its socket may still be in the handshake. The second part of the answer resolves
    /// once the registry knows.
    ///
    /// `inbox` is for a connection that follows its user's inbox. It must have been read before:
    /// then whatever is kept later finds the connection, or leaves a gap that it can see.
    pub async fn join(
        self: &Arc<Self>,
        user: UserId,
        dialect: Dialect,
        device: Option<Arc<str>>,
        address: Option<IpAddr>,
        inbox: Option<Box<Start>>,
    ) -> (Membership, oneshot::Receiver<()>) {
        let fd = Fd(self.last_fd.fetch_add(1, Ordering::Relaxed) + 1);
        let at = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        self.trace.connected(&user, fd, device.as_ref());
        // The shard hears of the fd before the map does, so that no message can overtake.
        self.shard(fd)
            .send(Command::Reserve {
                fd,
                user: user.clone(),
                dialect,
                inbox,
            })
            .await;
        self.users.entry(user.clone()).or_default().push(Seat {
            fd,
            at,
            device,
            address,
        });
        self.connections.insert(fd, user.clone());
        self.size.fetch_add(1, Ordering::Relaxed);
        self.metrics.connects.inc();
        self.metrics.connections.inc();
        let row = self.changes.joined(&user);
        let membership = Membership {
            hub: self.clone(),
            fd,
            user,
        };
        (membership, row)
    }

    fn leave(&self, fd: Fd, user: &UserId) {
        self.connections.remove(&fd);
        // Under the entry's lock: no join can slip in between emptying and removing it.
        self.users.remove_if_mut(user, |_, seats| {
            seats.retain(|seat| seat.fd != fd);
            seats.is_empty()
        });
        self.size.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
        self.changes.left(user, fd);
    }

    /// Whether this connection is here.
    #[must_use]
    pub fn holds(&self, fd: Fd) -> bool {
        self.connections.contains_key(&fd)
    }

    /// Makes the connections of a user look into their inbox.
    pub async fn look(&self, user: &UserId) {
        for fd in self.fds_of(user) {
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
        let waiting = self.shards.iter().map(ShardHandle::backlog);
        (waiting.max().unwrap_or(0), shard::INBOX)
    }

    fn shard(&self, fd: Fd) -> &ShardHandle {
        &self.shards[fd.0 as usize % self.shards.len()]
    }

    /// Hands a push to the local connections it is for.
    pub async fn deliver(&self, push: &Push, receipt: Option<&Receipt>) -> Delivered {
        self.deliver_to(&push.to, push, receipt).await
    }

    /// As [`Hub::deliver`], for a part of the push's targets.
    pub async fn deliver_to(
        &self,
        to: &Target,
        push: &Push,
        receipt: Option<&Receipt>,
    ) -> Delivered {
        let fds = match to {
            Target::All => return self.broadcast(push, receipt).await,
            to => self.matching(to),
        };
        let is_wanted = |(fd, user): &(Fd, UserId)| {
            push.except
                .as_ref()
                .is_none_or(|except| !except.has(&self.node, *fd, user))
        };
        let matched = fds.len();
        let wanted: SmallVec<[(Fd, UserId); 2]> = fds.into_iter().filter(is_wanted).collect();
        if wanted.is_empty() {
            // Left out on purpose is not the same as not here.
            match matched {
                0 => self.metrics.arrivals_unmatched.inc(),
                _ => {
                    self.trace.arrived(to, push.message.id(), Outcome::LeftOut);
                    self.metrics.arrivals_left_out.inc()
                }
            };
            return Delivered::To(0);
        }
        if self.is_repeat(to, push) {
            if push.message.position().is_some() {
                // Stored twice: who follows the inbox must not wait for the second one.
                for (fd, _) in wanted {
                    let message = push.message.clone();
                    self.tell(fd, Command::Pass { fd, message }).await;
                }
            }
            return Delivered::Duplicate;
        }
        self.metrics.arrivals_matched.inc();
        let count = wanted.len() as u32;
        let mut handing = self.trace.handing(push.message.id(), receipt);
        for (fd, user) in wanted {
            let (message, receipt) = (push.message.clone(), handing.receipt(&user));
            self.shard(fd)
                .send(Command::Deliver {
                    fd,
                    message,
                    receipt,
                })
                .await;
            // Here and not in the shard: so what is lost between the two is missed.
            self.metrics.offered.inc();
        }
        Delivered::To(count)
    }

    async fn broadcast(&self, push: &Push, receipt: Option<&Receipt>) -> Delivered {
        if self.is_repeat(&push.to, push) {
            return Delivered::Duplicate;
        }
        self.metrics.arrivals_matched.inc();
        self.trace
            .arrived(&push.to, push.message.id(), Outcome::Handed);
        self.tell_all(|| Command::Broadcast {
            message: push.message.clone(),
            except: push.except.clone(),
            receipt: receipt.cloned(),
        })
        .await;
        Delivered::To(self.len() as u32)
    }

    fn is_repeat(&self, to: &Target, push: &Push) -> bool {
        let repeat = push
            .message
            .id()
            .is_some_and(|id| self.recent.is_repeat(id, to));
        if repeat {
            self.metrics.duplicates.inc();
            self.trace
                .arrived(to, push.message.id(), Outcome::Duplicate);
        }
        repeat
    }

    /// Ends the local connections of `target`; answers how many. Their receipts are written
    /// once the close is under way.
    pub async fn kick(&self, target: &Target, receipt: Option<&Receipt>) -> u32 {
        let fds = match target {
            Target::All => self
                .connections
                .iter()
                .map(|e| (*e.key(), e.value().clone()))
                .collect(),
            other => self.matching(other),
        };
        for (fd, _) in &fds {
            self.close(*fd, CloseReason::Kicked, receipt).await;
        }
        fds.len() as u32
    }

    /// Ends one connection.
    pub async fn close(&self, fd: Fd, reason: CloseReason, receipt: Option<&Receipt>) {
        self.tell(
            fd,
            Command::Close {
                fd,
                reason,
                receipt: receipt.cloned(),
            },
        )
        .await;
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
    fn matching(&self, target: &Target) -> SmallVec<[(Fd, UserId); 2]> {
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
            Target::Connection(..) | Target::All => SmallVec::new(),
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

/// Being in the map. Held by the handshake, then by the shard's connection; dropping it leaves.
#[derive(Debug)]
pub struct Membership {
    hub: Arc<Hub>,
    fd: Fd,
    user: UserId,
}

impl Membership {
    /// The connection's number.
    #[must_use]
    pub fn fd(&self) -> Fd {
        self.fd
    }

    /// The connection's user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.leave(self.fd, &self.user);
    }
}
