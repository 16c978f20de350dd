//! What a client sends, as events: WebSocket frames, lines, or nothing that we would read.

use crate::protocol::client::dialect::Dialect;
use crate::protocol::client::lines;
use crate::protocol::client::websocket;
use crate::protocol::client::websocket::{Event, Limits, Violation};

/// Where one connection is in reading what its client sends.
#[derive(Debug)]
pub(crate) enum Input {
    Frames(websocket::FrameReader),
    Lines(lines::LineReader),
    /// An SSE client has said all it can say in its request. Whatever still comes counts as a
    /// message, so that it cannot keep a shard busy, and is dropped.
    Nothing,
}

impl Input {
    pub(crate) fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Plain | Dialect::V1 => Self::Frames(websocket::FrameReader::default()),
            Dialect::Lines => Self::Lines(lines::LineReader::default()),
            Dialect::Sse(_) => Self::Nothing,
        }
    }

    /// Whether the client is between two messages, so that nothing has to be remembered.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Frames(reader) => reader.is_idle(),
            Self::Lines(reader) => reader.is_idle(),
            Self::Nothing => true,
        }
    }

    /// Takes the next bytes from the socket and calls `each` for what is whole, in order, as long
    /// as it answers to go on.
    pub(crate) fn feed(
        &mut self,
        bytes: &mut [u8],
        limits: &Limits,
        each: &mut impl FnMut(Event<'_>) -> bool,
    ) -> Result<(), Violation> {
        match self {
            Self::Frames(reader) => reader.feed(bytes, limits, each),
            Self::Lines(reader) => reader.feed(bytes, limits.message_bytes, &mut |line| {
                each(Event::Text(line))
            }),
            Self::Nothing => {
                each(Event::Binary(bytes));
                Ok(())
            }
        }
    }
}
