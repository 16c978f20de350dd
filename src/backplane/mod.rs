//! Where users are, and how a line gets to another node: one contract, two ways.
//!
//! [`Embedded`] serves nodes of one process, in memory; [`Redis`] serves many. Only this folder
//! knows how nodes find each other. What must stay true: lines handed over for one node leave
//! in that order; an answer of 0 receivers proves that nobody got it, an answer of 1 proves
//! nothing more than that somebody listens.

pub mod access;
pub mod redis;
pub mod standalone;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

pub use crate::backplane::access::{Ban, Session};
pub use crate::backplane::redis::{Fatal, Redis, RedisSettings};
pub use crate::backplane::standalone::{Embedded, Exchange};
use crate::local::hub::Seat;
use crate::local::replay::page::{Page, Position, Since};
use crate::protocol::Message;
use crate::protocol::ids::{ConnectionId, NodeId, Subject, Topic, UserId};
use crate::telemetry::metrics::Metrics;

/// The way is down: nothing can be said of the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub &'static str);

/// A node as the others see it: its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Full id.
    pub node: NodeId,
    /// The part of the id that outlives a restart.
    pub name: String,
    /// The part that does not.
    pub boot: String,
    /// Whether it takes new clients.
    pub state: NodeState,
    /// Its clients at the last beat.
    pub connections: usize,
    /// When it started, in milliseconds since 1970.
    pub started: u64,
    /// Its version of this program.
    pub version: String,
    /// Where clients can reach it, if it was told.
    pub url: String,
    /// How many clients it should hold compared to others.
    pub weight: u32,
}

/// Whether a node takes new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It does.
    Up,
    /// It is sending its clients away.
    Draining,
}

/// Whether this node can serve, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Subscribed, its lease held.
    Ready,
    /// Not (yet).
    Down(&'static str),
}

/// A connection as its row tells it.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The node that holds it.
    pub node: NodeId,
    /// Its number there.
    pub fd: u64,
    /// What the row says of it.
    #[serde(flatten)]
    pub about: About,
}

impl Row {
    /// What the row of a connection of this node says, whether it is written yet or not.
    #[must_use]
    pub fn of(node: &NodeId, seat: &Seat) -> Self {
        Self {
            node: node.clone(),
            fd: seat.fd.0,
            about: standalone::about(seat),
        }
    }
}

/// The value of a field in `pn:user:{<user>}`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct About {
    /// When it came, in milliseconds since 1970.
    #[serde(default)]
    pub at: u64,
    /// What kind of socket: `ws`, `sse` or `tcp`.
    #[serde(default)]
    pub transport: String,
    /// The device the client named.
    #[serde(default)]
    pub device: Option<String>,
    /// Its address, if `PUSH_STORE_ADDRESS` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Its place in the order of the user's connections, if these are limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Its node is sending its clients away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// A user's or topic's connections by node: where a push must go, and how many connections wait there.
pub type Locations = smallvec::SmallVec<[(NodeId, u32); 1]>;

/// The nodes in a topic's row, and whether clients of theirs watch it.
pub type Parties = Vec<(NodeId, bool)>;

/// How many connections of a node are in a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Population {
    /// The node.
    pub node: NodeId,
    /// How many.
    pub connections: u32,
}

/// A line on its way: resolves to the number of subscribers that Redis handed it to.
#[derive(Debug)]
pub struct Published(oneshot::Receiver<Result<u32, Unavailable>>);

impl Published {
    /// Waits for the answer, until the deadline at most.
    ///
    /// # Errors
    /// [`Unavailable`]: the line may or may not have been published.
    pub async fn receivers(self, deadline: Instant) -> Result<u32, Unavailable> {
        match tokio::time::timeout_at(deadline, self.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unavailable("the node is ending")),
            Err(_) => Err(Unavailable("no answer from Redis in time")),
        }
    }

    fn now(answer: Result<u32, Unavailable>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(answer);
        Self(receiver)
    }
}

/// What became of a message that was to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is in the inbox or log, here.
    At(Position),
    /// One with its id was put there within the last minute.
    Before,
}

/// What a client sends, as it stands in the stream of a service.
#[derive(Debug)]
pub struct UpstreamEntry<'a> {
    /// By which the service was found.
    pub route: &'a str,
    /// Who sends.
    pub user: &'a UserId,
    /// From where.
    pub from: &'a ConnectionId,
    /// The client's `ref`, as JSON.
    pub reference: Option<&'a str>,
    /// What it says, as JSON.
    pub data: &'a str,
}

/// Why an entry is not known to be in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// It is not there.
    Refused(Unavailable),
    /// It may be there.
    Unknown,
}

/// Streams need Redis; the configuration says so at the start.
const NO_STREAMS: Unavailable = Unavailable("this node has no Redis");

/// The way to the other nodes.
#[derive(Debug)]
pub enum Backplane {
    /// In memory.
    Embedded(Embedded),
    /// Over Redis.
    Redis(Redis),
}

impl Backplane {
    /// The nodes that hold connections of each of these users and topics, this one left out. Nodes may be
    /// dead: a row outlives its node for a while. `None` where nobody can tell, because the
    /// registry is being rebuilt.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn locate(
        &self,
        subjects: &[Subject],
    ) -> Result<Vec<Option<Locations>>, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.locate(subjects)),
            Self::Redis(redis) => redis.locate(subjects).await,
        }
    }

    /// For each of these topics, how many connections of each live node are in it, this one
    /// included.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn members(&self, topics: &[Topic]) -> Result<Vec<Vec<Population>>, Unavailable> {
        match self {
            Self::Embedded(embedded) => {
                Ok(topics.iter().map(|topic| embedded.members(topic)).collect())
            }
            Self::Redis(redis) => redis.members(topics).await,
        }
    }

    /// For each of these topics, the other nodes that have members and whether clients of
    /// theirs watch it; as the rows say, which may name dead nodes and lack live ones.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn parties(&self, topics: &[Topic]) -> Result<Vec<Parties>, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.parties_of(topics)),
            Self::Redis(redis) => redis.parties(topics).await,
        }
    }

    /// Whether a node is dead beyond doubt: [so it seems](Backplane::is_dead), Redis has not just
    /// forgotten everything, and nobody listens on the node's channel.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn is_gone(&self, node: &NodeId) -> Result<bool, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.is_dead(node)),
            Self::Redis(redis) => redis.is_gone(node).await,
        }
    }

    /// Whether other nodes can exist at all; if not, nobody need be located.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Embedded(embedded) => embedded.is_shared(),
            Self::Redis(_) => true,
        }
    }

    /// The user's connections on live nodes, this one included.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn rows(&self, user: &UserId) -> Result<Vec<Row>, Unavailable> {
        let rows = self.rows_of(std::slice::from_ref(user)).await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// The same for each of these users.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn rows_of(&self, users: &[UserId]) -> Result<Vec<Vec<Row>>, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(users.iter().map(|user| embedded.rows(user)).collect()),
            Self::Redis(redis) => redis.rows(users).await,
        }
    }

    /// Hands over a line for a node. Lines for one node keep their order.
    pub async fn publish(&self, node: &NodeId, line: String, deadline: Instant) -> Published {
        match self {
            Self::Embedded(embedded) => embedded.publish(node, line).await,
            Self::Redis(redis) => redis.publish(node, line, deadline).await,
        }
    }

    /// Hands over a line for all nodes. This one ignores what it hears of itself there; the
    /// answer counts it all the same.
    pub async fn publish_all(&self, line: String, deadline: Instant) -> Published {
        match self {
            Self::Embedded(embedded) => embedded.publish_all(line).await,
            Self::Redis(redis) => redis.publish_all(line, deadline).await,
        }
    }

    /// Puts a message into its user's inbox or its topic's log.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be there.
    pub async fn keep(
        &self,
        subject: &Subject,
        message: &Message,
        deadline: Instant,
    ) -> Result<Kept, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.keep(subject, message)),
            Self::Redis(redis) => redis.inboxes.keep(subject, message, deadline).await,
        }
    }

    /// Reads a page of a user's inbox or a topic's log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read_inbox(&self, subject: &Subject, since: Since) -> Result<Page, Unavailable> {
        let page = match self {
            Self::Embedded(embedded) => embedded.read_inbox(subject, since),
            Self::Redis(redis) => redis.inboxes.read(subject, since).await?,
        };
        Ok(match subject {
            Subject::User(_) => page,
            Subject::Topic(topic) => page.of_topic(topic),
        })
    }

    /// Adds an entry to the stream of a service.
    ///
    /// # Errors
    /// When that is not known to be done.
    pub async fn add_upstream(
        &self,
        service: &str,
        entry: &UpstreamEntry<'_>,
        deadline: Instant,
    ) -> Result<(), Unsent> {
        match self {
            Self::Embedded(_) => Err(Unsent::Refused(NO_STREAMS)),
            Self::Redis(redis) => redis.streams.add(service, entry, deadline).await,
        }
    }

    /// How many entries of a service's stream wait to be read or finished; `most` is enough to know.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn upstream_backlog(&self, service: &str, most: u64) -> Result<u64, Unavailable> {
        match self {
            Self::Embedded(_) => Err(NO_STREAMS),
            Self::Redis(redis) => redis.streams.backlog(service, most).await,
        }
    }

    /// Whether nobody will ever listen on this node's channel again: its name has a new boot, or
    /// its lease has been gone for two beats. Asked after an answer of 0 receivers.
    ///
    /// # Errors
    /// When the lease cannot be read.
    pub async fn is_dead(&self, node: &NodeId) -> Result<bool, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.is_dead(node)),
            Self::Redis(redis) => redis.is_dead(node).await,
        }
    }

    /// Whether nothing can reach a node now: nobody listens on its channel. It may be subscribing
    /// again.
    ///
    /// # Errors
    /// When the way there is down.
    pub async fn is_deaf(&self, node: &NodeId) -> Result<bool, Unavailable> {
        match self {
            Self::Embedded(embedded) => Ok(embedded.is_dead(node)),
            Self::Redis(redis) => redis.is_deaf(node).await,
        }
    }

    /// Takes a dead node's fields out of a row.
    pub async fn forget(&self, subject: &Subject, node: &NodeId) {
        if let Self::Redis(redis) = self {
            redis.forget(subject, node).await;
        }
    }

    /// The live nodes, as of the last beat.
    #[must_use]
    pub fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        match self {
            Self::Embedded(embedded) => embedded.nodes(),
            Self::Redis(redis) => redis.nodes(),
        }
    }

    /// How many lines for other nodes Redis has not answered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        match self {
            Self::Embedded(_) => 0,
            Self::Redis(redis) => redis.unanswered(),
        }
    }

    /// Whether this node can serve; changes wake the receiver.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        match self {
            Self::Embedded(embedded) => embedded.health(),
            Self::Redis(redis) => redis.health(),
        }
    }

    /// Sets the gauges of what waits on the way to other nodes and back.
    pub fn gauge(&self, metrics: &Metrics) {
        match self {
            Self::Embedded(embedded) => embedded.gauge(metrics),
            Self::Redis(redis) => redis.gauge(metrics),
        }
    }

    /// Says that this node takes no new clients, in its lease and in its clients' rows; bounded
    /// in time.
    pub async fn announce_draining(&self) {
        match self {
            Self::Embedded(embedded) => embedded.announce_draining(),
            Self::Redis(redis) => redis.announce_draining().await,
        }
    }

    /// Writes the last rows, gives up the lease, stops listening and does what had been heard by
    /// then; bounded in time.
    pub async fn leave(&self) {
        match self {
            Self::Embedded(embedded) => embedded.leave(),
            Self::Redis(redis) => redis.leave().await,
        }
    }
}

/// Parses a row's field name.
fn parse_field(field: &str) -> Option<ConnectionId> {
    field.parse().ok()
}
