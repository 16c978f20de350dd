//! What a node hears, pulled by the one task that acts on it.
//!
//! What must stay true: events come in the order in which Redis handed them over, and each sign
//! that something may be missing is in its place among them.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::backplane::redis::bus::subscriber::Subscriber;

/// Where a payload was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// On this node's own channel.
    Own,
    /// On the channel of all nodes.
    Global,
}

/// One thing heard.
#[derive(Debug)]
pub enum FeedEvent {
    /// Lines. The permit is their share of what may wait, and is held until they are dealt with.
    Payload(Channel, Bytes, Option<OwnedSemaphorePermit>),
    /// Messages may be lost here; by this sign.
    Lost(&'static str),
    /// Half a second has passed.
    Tick,
    /// The node leaves: nothing follows.
    End,
}

/// Where events come from.
pub enum Feed {
    /// What a node without Redis says to itself.
    Standalone(mpsc::Receiver<String>),
    /// The subscription.
    Redis(Box<Subscriber>),
}

impl Feed {
    /// The next event. Dropping the future loses what it had begun; so it is awaited to its end.
    pub(crate) async fn next(&mut self) -> FeedEvent {
        match self {
            Self::Standalone(lines) => match lines.recv().await {
                Some(line) => FeedEvent::Payload(Channel::Own, line.into(), None),
                None => FeedEvent::End,
            },
            Self::Redis(subscriber) => subscriber.next().await,
        }
    }

    /// What was heard before the end is dealt with.
    pub(crate) fn finish(&self) {
        if let Self::Redis(subscriber) = self {
            subscriber.finish();
        }
    }
}
