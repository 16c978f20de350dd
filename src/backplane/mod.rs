//! Where users are, and how a line gets to another node: one contract, two ways.
//!
//! [`Standalone`] serves one node by itself, in memory; [`Redis`] serves many. Only this folder
//! knows how nodes find each other. What must stay true: lines handed over for one node leave
//! in that order; an answer of 0 receivers proves that nobody got it, an answer of 1 proves
//! nothing more than that somebody listens.

pub mod answers;

pub mod nodes;

pub mod rows;

pub mod feed;

pub mod standalone;

pub mod redis;

pub mod access;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

pub use crate::backplane::access::{Ban, Session};
pub use crate::backplane::answers::{Kept, Published, Unavailable, Unsent, UpstreamEntry};
pub use crate::backplane::nodes::{Health, NodeRecord, NodeState};
pub use crate::backplane::redis::{Fatal, Redis, RedisSettings};
pub use crate::backplane::rows::{Locations, Parties, Population, Row, RowValue as About};
use crate::backplane::standalone::Standalone;
use crate::local::replay::page::{Page, Since};
use crate::protocol::ids::{NodeId, Subject, Topic, UserId};
use crate::protocol::{DEFAULT_TIMEOUT, Message};
use crate::telemetry::metrics::Metrics;

/// Streams need Redis; the configuration says so at the start.
const NO_STREAMS: Unavailable = Unavailable("this node has no Redis");

/// The way to the other nodes.
#[derive(Debug)]
pub enum Backplane {
    /// In memory.
    Standalone(Standalone),
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
            Self::Standalone(_) => Ok(vec![Some(Locations::new()); subjects.len()]),
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
            Self::Standalone(standalone) => Ok(topics
                .iter()
                .map(|topic| standalone.members(topic))
                .collect()),
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
            Self::Standalone(_) => Ok(vec![Parties::new(); topics.len()]),
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
            Self::Standalone(standalone) => Ok(standalone.is_dead(node)),
            Self::Redis(redis) => redis.is_gone(node).await,
        }
    }

    /// Whether other nodes can exist at all; if not, nobody need be located.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Standalone(_) => false,
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
            Self::Standalone(standalone) => {
                Ok(users.iter().map(|user| standalone.rows(user)).collect())
            }
            Self::Redis(redis) => redis.rows(users).await,
        }
    }

    /// Hands over a line for a node. Lines for one node keep their order.
    pub async fn publish(&self, node: &NodeId, line: String, deadline: Instant) -> Published {
        match self {
            Self::Standalone(standalone) => standalone.publish(node, line),
            Self::Redis(redis) => redis.publish(node, line, deadline).await,
        }
    }

    /// Publishes a line to a node. What cannot be sent is missed by its asker's deadline.
    pub async fn send(&self, node: &NodeId, line: String) {
        let deadline = Instant::now() + DEFAULT_TIMEOUT;
        drop(self.publish(node, line, deadline).await);
    }

    /// Hands over a line for all nodes. This one ignores what it hears of itself there; the
    /// answer counts it all the same.
    pub async fn publish_all(&self, line: String, deadline: Instant) -> Published {
        match self {
            Self::Standalone(_) => Standalone::publish_all(),
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
            Self::Standalone(standalone) => Ok(standalone.keep(subject, message)),
            Self::Redis(redis) => redis.kept.keep(subject, message, deadline).await,
        }
    }

    /// Reads a page of a user's inbox or a topic's log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read_inbox(&self, subject: &Subject, since: Since) -> Result<Page, Unavailable> {
        let page = match self {
            Self::Standalone(standalone) => standalone.read_log(subject, since),
            Self::Redis(redis) => redis.kept.read(subject, since).await?,
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
            Self::Standalone(_) => Err(Unsent::Refused(NO_STREAMS)),
            Self::Redis(redis) => redis.streams.add(service, entry, deadline).await,
        }
    }

    /// How many entries of a service's stream wait to be read or finished; `most` is enough to know.
    ///
    /// # Errors
    /// When nobody can tell.
    pub async fn upstream_backlog(&self, service: &str, most: u64) -> Result<u64, Unavailable> {
        match self {
            Self::Standalone(_) => Err(NO_STREAMS),
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
            Self::Standalone(standalone) => Ok(standalone.is_dead(node)),
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
            Self::Standalone(standalone) => Ok(standalone.is_dead(node)),
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
            Self::Standalone(standalone) => standalone.nodes(),
            Self::Redis(redis) => redis.nodes(),
        }
    }

    /// How many lines for other nodes Redis has not answered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        match self {
            Self::Standalone(_) => 0,
            Self::Redis(redis) => redis.unanswered(),
        }
    }

    /// Whether this node can serve; changes wake the receiver.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        match self {
            Self::Standalone(standalone) => standalone.health(),
            Self::Redis(redis) => redis.health(),
        }
    }

    /// Sets the gauges of what waits on the way to other nodes and back.
    pub fn gauge(&self, metrics: &Metrics) {
        match self {
            Self::Standalone(standalone) => standalone.gauge(metrics),
            Self::Redis(redis) => redis.gauge(metrics),
        }
    }

    /// Says that this node takes no new clients, in its lease and in its clients' rows; bounded
    /// in time.
    pub async fn announce_draining(&self) {
        match self {
            Self::Standalone(standalone) => standalone.announce_draining(),
            Self::Redis(redis) => redis.announce_draining().await,
        }
    }

    /// Writes the last rows, gives up the lease, stops listening and does what had been heard by
    /// then; bounded in time.
    pub async fn leave(&self) {
        match self {
            Self::Standalone(_) => {}
            Self::Redis(redis) => redis.leave().await,
        }
    }
}
