//! What the backplane answers: how many subscribers received a line, the outcome of keeping a
//! message, and why an outcome is unknown.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::protocol::ids::{ConnectionId, Fd, NodeId, UserId};
use crate::protocol::position::Position;

/// A deadline passed before Redis answered. Where there was an earlier try, its reason says more.
pub(crate) const LATE: &str = "no answer from Redis in time";

/// The backplane cannot be reached: nothing is known of the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unavailable(pub &'static str);

/// A line on its way; resolves to the number of subscribers that Redis handed it to.
#[derive(Debug)]
pub(crate) struct Published(pub(crate) oneshot::Receiver<Result<u32, Unavailable>>);

impl Published {
    /// Waits for the answer, until `deadline` at most.
    ///
    /// # Errors
    /// [`Unavailable`]: the line may or may not have been published.
    pub(crate) async fn receivers(self, deadline: Instant) -> Result<u32, Unavailable> {
        match tokio::time::timeout_at(deadline, self.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unavailable("the node is ending")),
            Err(_) => Err(Unavailable(LATE)),
        }
    }

    pub(crate) fn now(answer: Result<u32, Unavailable>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(answer);
        Self(receiver)
    }
}

/// A line for the node where its user was when the row was last read, sent before the row is known
/// now.
#[derive(Debug)]
pub(crate) struct SentAhead {
    pub(crate) node: NodeId,
    /// The user's oldest connection there at that time.
    pub(crate) oldest: Fd,
    pub(crate) published: Published,
}

/// The outcome of keeping a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The message is in the inbox or log, at this position.
    At(Position),
    /// A message with the same id was put there within the last minute.
    Before,
}

/// Whether enough replicas have a kept message; known later than that it is kept. The default is
/// for a message that need not be replicated.
#[derive(Debug, Default)]
pub(crate) struct ReplicaProof(Option<oneshot::Receiver<bool>>);

impl ReplicaProof {
    pub(crate) fn awaited(proof: oneshot::Receiver<bool>) -> Self {
        Self(Some(proof))
    }

    /// `false` if that is not proven by the deadline.
    pub(crate) async fn replicated_by(self, deadline: Instant) -> bool {
        match self.0 {
            None => true,
            Some(proof) => matches!(tokio::time::timeout_at(deadline, proof).await, Ok(Ok(true))),
        }
    }
}

/// A client's message as an entry in the stream of a service.
#[derive(Debug)]
pub(crate) struct UpstreamEntry<'a> {
    /// The route that selected the service.
    pub route: &'a str,
    /// The user who sends it.
    pub user: &'a UserId,
    /// The connection that sends it.
    pub from: &'a ConnectionId,
    /// The client's `ref`, as JSON.
    pub reference: Option<&'a str>,
    /// The message, as JSON.
    pub data: &'a str,
}

/// What a service has still to read or to finish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UpstreamBacklog {
    pub entries: u64,
    /// Of its whole stream in Redis; 0 if that is not known.
    pub bytes: u64,
}

/// Why an entry is not known to be in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The entry is not in the stream.
    Refused(Unavailable),
    /// The entry may be in the stream.
    Unknown,
}
