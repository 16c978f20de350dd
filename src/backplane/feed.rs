//! What a node receives, pulled by the one task that acts on it.
//!
//! What must stay true: events come in the order in which Redis handed them over, and each sign
//! of a possible loss has its place among them.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::backplane::redis::bus::subscriber::Subscriber;

/// The channel on which a payload was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// On this node's own channel.
    Own,
    /// On the channel of all nodes.
    Global,
}

/// One received event.
#[derive(Debug)]
pub enum FeedEvent {
    /// Lines. The permit is their share of the backlog, held until they are processed.
    Payload(Channel, Bytes, Option<OwnedSemaphorePermit>),
    /// Messages may have been lost here; the text names the sign.
    Lost(&'static str),
    /// Half a second has passed.
    Tick,
    /// The node leaves: no event follows.
    End,
}

/// The source of events.
pub enum Feed {
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
                Some(line) => FeedEvent::Payload(Channel::Own, line.into(), None),
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
