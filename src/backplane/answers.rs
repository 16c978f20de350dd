//! What the backplane answers: how many heard a line, what became of a message to keep, and why
//! nothing can be said.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::local::replay::page::Position;
use crate::protocol::ids::{ConnectionId, UserId};

/// The way is down: nothing can be said of the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub &'static str);

/// A line on its way: resolves to the number of subscribers that Redis handed it to.
#[derive(Debug)]
pub struct Published(pub(crate) oneshot::Receiver<Result<u32, Unavailable>>);

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

    pub(crate) fn now(answer: Result<u32, Unavailable>) -> Self {
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
