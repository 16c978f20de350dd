//! Which connections are here: fd -> user, user -> connections, session -> fds.
//!
//! Only a `Membership` enters a connection and takes it
//! out. What must stay true: numbers of connections are never used twice within a boot; leaving
//! removes only the connection's own seat, so that a late goodbye cannot evict a fresh login; and
//! the row of a user is marked after the maps have changed, never before.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::Entry;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::local::dirty_rows::DirtyRows;
use crate::local::event_queue::Events;
use crate::local::map::Map;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Subject, UserId};
use crate::protocol::session_id::SessionId;
use crate::protocol::{Dialect, Target};
use crate::telemetry::metrics::Metrics;

/// Milliseconds since 1970, in 48 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment([u16; 3]);

impl Moment {
    fn of(ms: u64) -> Self {
        Self([ms as u16, (ms >> 16) as u16, (ms >> 32) as u16])
    }

    fn ms(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        low | middle << 16 | high << 32
    }
}

/// What a row in the registry says of a connection.
#[derive(Debug, Clone)]
pub(crate) struct LocalConnection {
    /// Its number.
    pub fd: Fd,
    came: Moment,
    /// What it speaks, and so over what kind of socket.
    pub dialect: Dialect,
    /// What many connections have nothing of: apart, so that those do not pay for it.
    traits: Option<Box<Traits>>,
}

/// What a connection may bring beside its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::local) struct Traits {
    pub(in crate::local) device: Option<Arc<str>>,
    pub(in crate::local) address: Option<IpAddr>,
    pub(in crate::local) session: Option<SessionId>,
    pub(in crate::local) ordinal: Option<u64>,
}

impl LocalConnection {
    /// Of a connection that comes now.
    pub(in crate::local) fn new(fd: Fd, dialect: Dialect, traits: Traits) -> Self {
        Self {
            fd,
            came: Moment::of(crate::clock::shared_ms()),
            dialect,
            traits: (traits != Traits::default()).then(|| Box::new(traits)),
        }
    }

    /// One that rests on nothing.
    #[cfg(test)]
    pub(crate) fn of_row(fd: Fd) -> Self {
        Self::new(fd, Dialect::V1, Traits::default())
    }

    /// When it came, in milliseconds since 1970, for people to read; no decision rests on it.
    pub(crate) fn at(&self) -> u64 {
        self.came.ms()
    }

    /// The device the client named.
    pub(crate) fn device(&self) -> Option<&str> {
        self.traits.as_ref()?.device.as_deref()
    }

    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.traits.as_ref()?.address
    }

    /// The session it rests on, if it does.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.traits.as_ref()?.session
    }

    /// Its place in the order of its user's connections, if these are limited.
    pub(crate) fn ordinal(&self) -> Option<u64> {
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

/// A user's connections on one node.
pub(crate) type LocalConnections = SmallVec<[LocalConnection; 1]>;

/// As [`LocalConnections`], as the directory holds them: most users have one, and its table has
/// free places of the same size.
#[derive(Debug)]
// A pointer, so that the many who have one connection do not pay for the vector's length.
#[allow(clippy::box_collection)]
enum Seats {
    One(LocalConnection),
    Many(Box<Vec<LocalConnection>>),
}

impl Seats {
    fn add(&mut self, seat: LocalConnection) {
        match self {
            Self::Many(seats) => seats.push(seat),
            Self::One(first) => {
                *self = Self::Many(Box::new(vec![first.clone(), seat]));
            }
        }
    }

    fn as_slice(&self) -> &[LocalConnection] {
        match self {
            Self::One(seat) => std::slice::from_ref(seat),
            Self::Many(seats) => seats,
        }
    }

    fn find(&mut self, fd: Fd) -> Option<&mut LocalConnection> {
        let seats = match self {
            Self::One(seat) => std::slice::from_mut(seat),
            Self::Many(seats) => seats,
        };
        seats.iter_mut().find(|seat| seat.fd == fd)
    }

    /// Takes a connection out; answers whether none is left.
    fn remove(&mut self, fd: Fd) -> bool {
        match self {
            Self::One(seat) => seat.fd == fd,
            Self::Many(seats) => {
                seats.retain(|seat| seat.fd != fd);
                if let [seat] = &seats[..] {
                    *self = Self::One(seat.clone());
                }
                self.as_slice().is_empty()
            }
        }
    }
}

/// Sessions that have connections here.
#[derive(Debug, Default)]
struct SessionIndex(Map<SessionId, SmallVec<[Fd; 1]>>);

impl SessionIndex {
    fn add(&self, session: SessionId, fd: Fd) {
        self.0.entry(session).or_default().push(fd);
    }

    fn remove(&self, session: SessionId, fd: Fd) {
        // Under the entry's lock, as in `Directory::leave`.
        self.0.remove_if_mut(&session, |_, fds| {
            fds.retain(|one| *one != fd);
            fds.is_empty()
        });
    }

    fn of(&self, session: SessionId) -> SmallVec<[Fd; 1]> {
        let fds = self.0.get(&session);
        fds.map(|fds| fds.clone()).unwrap_or_default()
    }
}

/// Which connections are here, and who is told when they change.
#[derive(Debug)]
pub(in crate::local) struct Directory {
    pub(in crate::local) node: NodeId,
    last_fd: AtomicU64,
    connections: Map<Fd, UserId>,
    users: Map<UserId, Seats>,
    /// Those that are not known to have been in a row yet: few, and none without a registry. The
    /// registry alone takes them out, so that it never takes one that it has not written for written.
    unwritten: Map<Fd, ()>,
    sessions: SessionIndex,
    size: AtomicUsize,
    /// Which rows need writing. Taken by the registry writer of the backplane.
    pub(in crate::local) changes: Arc<DirtyRows>,
    /// What is told of connections. Taken by the backplane too.
    pub(in crate::local) events: Events,
    metrics: Arc<Metrics>,
}

impl Directory {
    pub(in crate::local) fn new(
        node: NodeId,
        changes: Arc<DirtyRows>,
        events: Events,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            node,
            last_fd: AtomicU64::new(0),
            connections: Map::default(),
            users: Map::default(),
            unwritten: Map::default(),
            sessions: SessionIndex::default(),
            size: AtomicUsize::new(0),
            changes,
            events,
            metrics,
        }
    }

    /// A number for the next connection.
    pub(in crate::local) fn next_fd(&self) -> Fd {
        Fd(self.last_fd.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A connection is here from now on. Resolves once its user's row says so.
    pub(in crate::local) fn enter(
        &self,
        user: UserId,
        seat: LocalConnection,
    ) -> oneshot::Receiver<()> {
        let (fd, session) = (seat.fd, seat.session());
        if self.changes.are_tracked() {
            self.unwritten.insert(fd, ());
        }
        match self.users.entry(user.clone()) {
            Entry::Occupied(mut seats) => seats.get_mut().add(seat),
            Entry::Vacant(place) => drop(place.insert(Seats::One(seat))),
        }
        if let Some(session) = session {
            self.sessions.add(session, fd);
        }
        self.connections.insert(fd, user.clone());
        self.size.fetch_add(1, Ordering::Relaxed);
        self.metrics.connects.inc();
        self.metrics.connections.inc();
        self.changes.joined(Subject::User(user))
    }

    /// It is here no longer. Nothing happens if it was not.
    pub(in crate::local) fn leave(&self, fd: Fd) {
        let Some((_, user)) = self.connections.remove(&fd) else {
            return;
        };
        // Under the entry's lock: no join can slip in between emptying and removing it.
        let mut session = None;
        self.users.remove_if_mut(&user, |_, seats| {
            session = seats.find(fd).and_then(|seat| seat.session());
            seats.remove(fd)
        });
        if let Some(session) = session {
            self.sessions.remove(session, fd);
        }
        self.size.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
        self.changes.left(&user, fd);
    }

    /// A connection rests on this session from now on, or on none; answers whether it is here.
    pub(in crate::local) fn rest_on(
        &self,
        fd: Fd,
        user: &UserId,
        session: Option<SessionId>,
    ) -> bool {
        // Under the user's lock, so that a leave cannot slip in between and leave the session
        // in the map.
        let Some(mut seats) = self.users.get_mut(user) else {
            return false;
        };
        let Some(seat) = seats.find(fd) else {
            return false;
        };
        if let Some(old) = seat.rest_on(session) {
            self.sessions.remove(old, fd);
        }
        if let Some(new) = session {
            self.sessions.add(new, fd);
        }
        true
    }

    /// Gives a connection its place in the order of its user's connections, and has the row
    /// written that says so. Nothing if it has left.
    pub(in crate::local) fn order(
        &self,
        fd: Fd,
        user: &UserId,
        ordinal: u64,
    ) -> Option<oneshot::Receiver<()>> {
        let mut seats = self.users.get_mut(user)?;
        let seat = seats.find(fd)?;
        seat.traits.get_or_insert_default().ordinal = Some(ordinal);
        drop(seats);
        Some(self.changes.joined(Subject::User(user.clone())))
    }

    /// Whether a connection is known to have been in its user's row.
    pub(in crate::local) fn is_written(&self, fd: Fd) -> bool {
        !self.unwritten.contains_key(&fd)
    }

    /// Rows have been written with these connections, or without them.
    pub(in crate::local) fn note_written(&self, fds: impl IntoIterator<Item = Fd>) {
        for fd in fds {
            self.unwritten.remove(&fd);
        }
    }

    pub(in crate::local) fn len(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    pub(in crate::local) fn user_count(&self) -> usize {
        self.users.len()
    }

    pub(in crate::local) fn user_of(&self, fd: Fd) -> Option<UserId> {
        self.connections.get(&fd).map(|user| user.clone())
    }

    pub(in crate::local) fn holds(&self, fd: Fd) -> bool {
        self.connections.contains_key(&fd)
    }

    pub(in crate::local) fn seats(&self, user: &UserId) -> LocalConnections {
        self.users
            .get(user)
            .map(|seats| seats.as_slice().iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Every user here. A snapshot: no lock is held while the caller works with it.
    pub(in crate::local) fn users(&self) -> Vec<UserId> {
        self.users.iter().map(|entry| entry.key().clone()).collect()
    }

    /// Every fd here, in the order in which they came.
    pub(in crate::local) fn fds(&self) -> Vec<Fd> {
        let mut fds: Vec<Fd> = self.connections.iter().map(|entry| *entry.key()).collect();
        fds.sort_unstable();
        fds
    }

    /// Every connection here and its user. A snapshot.
    pub(in crate::local) fn everyone(&self) -> SmallVec<[(Fd, UserId); 2]> {
        let all = self.connections.iter();
        all.map(|entry| (*entry.key(), entry.value().clone()))
            .collect()
    }

    /// The sessions that have connections here. A snapshot.
    pub(in crate::local) fn sessions(&self) -> Vec<SessionId> {
        self.sessions.0.iter().map(|entry| *entry.key()).collect()
    }

    /// The connections that rest on this session.
    pub(in crate::local) fn bearers(&self, session: SessionId) -> SmallVec<[Fd; 1]> {
        self.sessions.of(session)
    }

    /// The local connections a target names. A connection must match in node, boot, fd and,
    /// where one is named, user: no client gets what was meant for an earlier owner of the fd.
    pub(in crate::local) fn matching(&self, target: &Target) -> SmallVec<[(Fd, UserId); 2]> {
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
            .map(|seats| seats.as_slice().iter().map(|seat| seat.fd).collect())
            .unwrap_or_default();
        fds.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(fd: u64) -> LocalConnection {
        LocalConnection::new(Fd(fd), Dialect::V1, Traits::default())
    }

    #[test]
    fn a_user_s_connections_come_and_go() {
        let mut seats = Seats::One(seat(1));
        seats.add(seat(2));
        seats.add(seat(3));
        let fds = |seats: &Seats| seats.as_slice().iter().map(|s| s.fd.0).collect::<Vec<_>>();
        assert_eq!(fds(&seats), [1, 2, 3]);
        assert!(!seats.remove(Fd(1)) && !seats.remove(Fd(4)));
        assert_eq!(fds(&seats), [2, 3]);
        assert!(seats.find(Fd(3)).is_some() && seats.find(Fd(1)).is_none());
        assert!(!seats.remove(Fd(2)));
        assert_eq!((fds(&seats), size_of::<Seats>()), (vec![3], 24));
        assert!(!seats.remove(Fd(2)) && seats.remove(Fd(3)));
    }

    #[test]
    fn a_moment_is_kept_to_the_millisecond() {
        for ms in [0, 1_795_000_000_123, (1 << 48) - 1] {
            assert_eq!(Moment::of(ms).ms(), ms);
        }
    }

    #[test]
    fn sessions_forget_connections_that_left() {
        let bearers = SessionIndex::default();
        let session = SessionId::of("token");
        bearers.add(session, Fd(1));
        bearers.add(session, Fd(2));
        bearers.remove(session, Fd(1));
        assert_eq!(bearers.of(session)[..], [Fd(2)]);
        bearers.remove(session, Fd(2));
        assert!(bearers.of(session).is_empty() && bearers.0.is_empty());
    }
}
