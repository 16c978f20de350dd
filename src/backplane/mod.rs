//! Where users are, and how a line reaches another node: one contract, two implementations.
//!
//! [`Standalone`] serves a single node, in memory; [`Redis`] serves many. Only this folder
//! knows how nodes find each other. What must stay true: lines handed over for one node leave
//! in that order. An answer of 0 receivers proves that no node received the line; an answer of 1
//! proves only that a subscriber listens.

pub(crate) mod answers;

pub(crate) mod nodes;

pub(crate) mod rows;

pub(crate) mod feed;

pub(crate) mod bookmarks;

pub(crate) mod history;

pub(crate) mod lanes;

pub(crate) mod look_up;

pub(crate) mod standalone;

pub(crate) mod redis;

pub(crate) mod access;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backplane::answers::{
    Kept, Published, ReplicaProof, Unavailable, Unsent, UpstreamBacklog, UpstreamEntry,
};
use crate::backplane::feed::{Channel, FeedEvent};
use crate::backplane::nodes::{Health, NodeRecord, Standing};
use crate::backplane::redis::Redis;
use crate::backplane::redis::bus::subscriber::Subscriber;
use crate::backplane::standalone::Standalone;
use crate::local::replay::page::Page;
use crate::protocol::ids::{NodeId, Subject, UserId};
use crate::protocol::position::{Position, Since};
use crate::protocol::{Announcement, DEFAULT_TIMEOUT, Message};
use crate::telemetry::metrics::Metrics;

/// Streams need Redis; the configuration is checked for that at the start.
const NO_STREAMS: Unavailable = Unavailable("this node has no Redis");

/// The connection to the other nodes.
#[derive(Debug)]
pub(crate) enum Backplane {
    /// One node, in memory.
    Standalone(Box<Standalone>),
    /// Many nodes, over Redis.
    Redis(Box<Redis>),
}

impl Backplane {
    /// Whether a node is certainly dead: [it seems so](Backplane::standing), and Redis has not just
    /// forgotten everything.
    ///
    /// # Errors
    /// When that cannot be determined.
    pub(crate) async fn is_gone(&self, node: &NodeId) -> Result<bool, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.standing(node) == Standing::Dead),
            Self::Redis(redis) => redis.is_gone(node).await,
        }
    }

    /// Whether other nodes can exist at all; if not, no user need be located.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Standalone(_) => false,
            Self::Redis(_) => true,
        }
    }

    /// Hands over a line for a node. Lines for one node keep their order.
    pub(crate) async fn publish(
        &self,
        node: &NodeId,
        line: String,
        deadline: Instant,
    ) -> Published {
        match self {
            Self::Standalone(standalone) => standalone.publish(node, line),
            Self::Redis(redis) => redis.publish(node, line, deadline).await,
        }
    }

    /// As [`Backplane::publish`], for lines, each with its deadline, of which the node gets all or
    /// none. Answers in the order of the lines.
    pub(crate) async fn publish_together(
        &self,
        node: &NodeId,
        lines: Vec<(String, Instant)>,
    ) -> Vec<Published> {
        match self {
            Self::Standalone(standalone) => {
                let lines = lines.into_iter();
                let published = lines.map(|(line, _)| standalone.publish(node, line));
                published.collect()
            }
            Self::Redis(redis) => redis.publish_together(node, lines).await,
        }
    }

    /// Publishes a line to a node. If it cannot be sent, the asker's deadline passes without an
    /// answer.
    pub(crate) async fn send(&self, node: &NodeId, line: String) {
        let deadline = Instant::now() + DEFAULT_TIMEOUT;
        drop(self.publish(node, line, deadline).await);
    }

    /// Hands over a line for all nodes. This node ignores its own line there; the answer
    /// still counts it.
    pub(crate) async fn publish_all(&self, line: String, deadline: Instant) -> Published {
        match self {
            Self::Standalone(_) => Standalone::publish_all(),
            Self::Redis(redis) => redis.publish_all(line, deadline).await,
        }
    }

    /// Puts a message into its user's inbox or its topic's log.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be there.
    pub(crate) async fn keep(
        &self,
        subject: &Subject,
        message: &Message,
        deadline: Instant,
    ) -> Result<(Kept, ReplicaProof), Unavailable> {
        match self {
            Self::Standalone(standalone) => {
                Ok((standalone.keep(subject, message), ReplicaProof::default()))
            }
            Self::Redis(redis) => redis.kept.keep(subject, message, deadline).await,
        }
    }

    /// Reads a page of a user's inbox or a topic's log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn read_inbox(
        &self,
        subject: &Subject,
        since: Since,
    ) -> Result<Page, Unavailable> {
        let page = match self {
            Self::Standalone(standalone) => standalone.read_log(subject, since),
            Self::Redis(redis) => Box::pin(redis.kept.read(subject, since)).await?,
        };
        Ok(match subject {
            Subject::User(_) => page,
            Subject::Topic(topic) => page.of_topic(topic),
        })
    }

    /// Where a user's device has read its inbox to, if that is known.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn read_bookmark(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Option<Position>, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.bookmarks().read(user, device)),
            Self::Redis(redis) => Box::pin(redis.kept.bookmarks.read(user, device)).await,
        }
    }

    /// Saves where a user's device has read its inbox to.
    ///
    /// # Errors
    /// When it is not known to be saved.
    pub(crate) async fn save_bookmark(
        &self,
        user: &UserId,
        device: &str,
        position: Position,
    ) -> Result<(), Unavailable> {
        match self {
            Self::Standalone(standalone) => {
                standalone.bookmarks().save(user, device, position);
                Ok(())
            }
            Self::Redis(redis) => redis.kept.bookmarks.save(user, device, position).await,
        }
    }

    /// Adds an entry to the stream of a service.
    ///
    /// # Errors
    /// When the entry is not known to be added.
    pub(crate) async fn add_upstream(
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

    /// What of a service's stream is unread or unfinished; counts to `most` entries at most.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub(crate) async fn upstream_backlog(
        &self,
        service: &str,
        most: u64,
    ) -> Result<UpstreamBacklog, Unavailable> {
        match self {
            Self::Standalone(_) => Err(NO_STREAMS),
            Self::Redis(redis) => redis.streams.backlog(service, most).await,
        }
    }

    /// What is to be believed of a node; asked after an answer of 0 receivers. Its lease is read
    /// now, because a lease that is there disproves death.
    ///
    /// # Errors
    /// When the lease cannot be read.
    pub(crate) async fn standing(&self, node: &NodeId) -> Result<Standing, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.standing(node)),
            Self::Redis(redis) => redis.standing(node).await,
        }
    }

    /// Whether a sender may wait until a suspect node listens again. Only the first one does.
    pub(crate) fn may_wait(&self, node: &NodeId) -> bool {
        match self {
            Self::Standalone(_) => false,
            Self::Redis(redis) => redis.may_wait(node),
        }
    }

    /// A node has replied, so it listens.
    pub(crate) fn note_reply(&self, node: &NodeId) {
        if let Self::Redis(redis) = self {
            redis.note_reply(node);
        }
    }

    /// Whether a line cannot reach a node now: its channel has no subscriber. The node may be
    /// about to subscribe again.
    ///
    /// # Errors
    /// When the backplane cannot be reached.
    pub(crate) async fn is_deaf(&self, node: &NodeId) -> Result<bool, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.standing(node) == Standing::Dead),
            Self::Redis(redis) => redis.is_deaf(node).await,
        }
    }

    /// Removes a node's fields from a row, if it is still dead then.
    pub(crate) async fn forget(&self, subject: &Subject, node: &NodeId) {
        if let Self::Redis(redis) = self {
            redis.forget(subject, node).await;
        }
    }

    /// The live nodes, as of the last beat.
    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        match self {
            Self::Standalone(standalone) => standalone.nodes(),
            Self::Redis(redis) => redis.nodes(),
        }
    }

    /// The names of this node's channel and of that of all nodes, as signatures have them.
    pub(crate) fn channels(&self) -> [String; 2] {
        match self {
            // There is no other to say anything.
            Self::Standalone(_) => [String::new(), String::new()],
            Self::Redis(redis) => redis.channels(),
        }
    }

    /// Whether all nodes sign, so that an unsigned line is not theirs.
    pub(crate) fn requires_signatures(&self) -> bool {
        match self {
            Self::Standalone(_) => false,
            Self::Redis(redis) => redis.requires_signatures(),
        }
    }

    /// A node is heard for the first time, or again after its death: if it is not in the table, the
    /// table is read again soon.
    pub(crate) fn note_stranger(&self, node: &NodeId) {
        if let Self::Redis(redis) = self {
            redis.note_stranger(node);
        }
    }

    /// A node says whether Redis takes its rows.
    pub(crate) fn note_announced(&self, said: &Announcement) {
        if let Self::Redis(redis) = self {
            redis.note_announced(said);
        }
    }

    /// Whether a node is remembered as dead; a line from it may be news.
    pub(crate) fn is_believed_dead(&self, node: &NodeId) -> bool {
        match self {
            Self::Standalone(_) => false,
            Self::Redis(redis) => redis.is_believed_dead(node),
        }
    }

    /// How many lines for other nodes Redis has not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        match self {
            Self::Standalone(_) => 0,
            Self::Redis(redis) => redis.unanswered(),
        }
    }

    /// Whether this node can serve; changes wake the receiver.
    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        match self {
            Self::Standalone(standalone) => standalone.health(),
            Self::Redis(redis) => redis.health(),
        }
    }

    /// Whether clients may be sent to this node while it is not ready: not while it starts, nor
    /// if it is cut off alone.
    pub(crate) fn may_take_clients(&self) -> bool {
        match self {
            Self::Standalone(_) => true,
            Self::Redis(redis) => redis.may_take_clients(),
        }
    }

    /// What an operator should mend although this node can serve.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        match self {
            Self::Standalone(_) => None,
            Self::Redis(redis) => redis.warning(),
        }
    }

    /// Sets the gauges of the queues to and from other nodes.
    pub(crate) fn gauge(&self, metrics: &Metrics) {
        match self {
            Self::Standalone(standalone) => standalone.gauge(metrics),
            Self::Redis(redis) => redis.gauge(metrics),
        }
    }

    /// Marks this node as draining in its lease and in its clients' rows, so that it takes no new
    /// clients. Returns whether that was done within `patience`.
    pub(crate) async fn announce_draining(&self, patience: Duration) -> bool {
        match self {
            Self::Standalone(standalone) => {
                standalone.announce_draining();
                true
            }
            Self::Redis(redis) => redis.announce_draining(patience).await,
        }
    }

    /// Writes the last rows, gives up the lease, stops listening, and processes everything
    /// received by then, within `patience`.
    pub(crate) async fn leave(&self, patience: Duration) {
        match self {
            Self::Standalone(_) => {}
            Self::Redis(redis) => redis.leave(patience).await,
        }
    }
}

/// The source of events.
pub(crate) enum Feed {
    /// The lines that a node without Redis sends to itself.
    Standalone(mpsc::Receiver<String>),
    /// The subscription to Redis.
    Redis(Box<Subscriber>),
}

impl Feed {
    /// The next event. Dropping the future loses work in progress, so always await it to its end.
    pub(crate) async fn next(&mut self) -> FeedEvent {
        match self {
            Self::Standalone(lines) => match lines.recv().await {
                Some(line) => FeedEvent::Payload(Channel::Own, line.into()),
                None => FeedEvent::End,
            },
            Self::Redis(subscriber) => subscriber.next().await,
        }
    }

    /// Everything received before the end has been processed.
    pub(crate) fn finish(&self) {
        if let Self::Redis(subscriber) = self {
            subscriber.finish();
        }
    }
}
