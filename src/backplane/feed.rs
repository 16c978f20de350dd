//! What a node receives, pulled by the one task that acts on it.
//!
//! What must stay true: events come in the order in which Redis handed them over, and each sign
//! of a possible loss has its place among them.

use bytes::Bytes;

/// The channel on which a payload was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// On this node's own channel.
    Own,
    /// On the channel of all nodes.
    Global,
}

/// One received event.
#[derive(Debug)]
pub(crate) enum FeedEvent {
    /// Lines.
    Payload(Channel, Bytes),
    /// Messages may have been lost here; the text names the sign.
    Lost(&'static str),
    /// Half a second has passed.
    Tick,
    /// The node leaves: no event follows.
    End,
}
