//! Kept messages: positions in a user's inbox or a topic's log, and pages of it.
//!
//! An inbox or a log is a bounded stream of messages beside a counter. Each message gets the next
//! number and a stream entry in one step, so the numbers of two neighbours prove that nothing lies
//! between them. A [`Position`] is what a client hands back to go on where it was. What must
//! stay true: a client is told that nothing is missing only where the numbers prove it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::Message;
use crate::protocol::ids::Topic;
use crate::protocol::position::{EntryId, Position, Since};

/// Most messages in one page: what a slow client that comes back may have in memory at once.
pub(crate) const PAGE: usize = 32;

/// How long the id of a kept message is remembered.
pub(crate) const REPEAT: Duration = Duration::from_secs(60);

/// A number for a new inbox to begin with, which no other begins with. So small that it never
/// overflows.
pub(crate) fn first_number() -> u64 {
    fastrand::u64(..1 << 48)
}

/// How much an inbox holds; from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of messages, roughly: whole messages go, the oldest first.
    pub bytes: usize,
    /// How long a message is kept.
    pub age: Duration,
}

/// A message as it lies in an inbox.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) entry: EntryId,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

/// A part of an inbox.
#[derive(Debug)]
pub(crate) struct Page {
    /// Where it was read from.
    pub start: Position,
    /// In order.
    pub messages: Vec<Arc<Message>>,
    /// How many more there were that are no messages: another program wrote them.
    pub unreadable: u64,
    /// The position of a reader who has read these messages.
    pub end: Position,
    /// Whether there was no more after them.
    pub is_last: bool,
    /// Whether it is proven that nothing is missing before or within this page.
    pub is_continuous: bool,
}

impl Page {
    /// The page after `since`. `newest` is the number of the newest message, `length` how many
    /// there are; `entries` are those after `since`, one more than [`PAGE`] if there are so
    /// many. For [`Since::Now`] it is the newest entry alone.
    pub(crate) fn new(since: &Since, newest: u64, length: u64, mut entries: Vec<Entry>) -> Self {
        let oldest = newest.wrapping_sub(length);
        let (start, mut is_continuous) = match since {
            Since::Now => {
                let entry = entries.last().map(|entry| entry.entry).unwrap_or_default();
                let here = Position { n: newest, entry };
                return Self {
                    start: here,
                    messages: Vec::new(),
                    unreadable: 0,
                    end: here,
                    is_last: true,
                    is_continuous: true,
                };
            }
            Since::Beginning => {
                let entry = EntryId::default();
                (Position { n: oldest, entry }, false)
            }
            // Everything after it is still there: its number is one of those that are, or the
            // last before.
            Since::After(position) if newest.wrapping_sub(position.n) <= length => {
                (*position, true)
            }
            Since::After(Position { entry, .. }) => (
                Position {
                    n: oldest,
                    entry: *entry,
                },
                false,
            ),
        };
        let is_last = entries.len() <= PAGE;
        entries.truncate(PAGE);
        let mut end = start;
        let mut messages = Vec::with_capacity(entries.len());
        let mut ids = HashSet::new();
        let mut unreadable = 0;
        for Entry { entry, id, data } in entries {
            end = Position {
                n: end.n.wrapping_add(1),
                entry,
            };
            // A sender that repeated itself at two nodes at the same moment is stored twice.
            if id.as_ref().is_some_and(|id| !ids.insert(id.clone())) {
                continue;
            }
            match Message::from_inbox(id, &data, end) {
                Ok(message) => messages.push(Arc::new(message)),
                // Written by another program, and not as agreed.
                Err(fault) => {
                    unreadable += 1;
                    let fault = fault.unquoted();
                    tracing::warn!(%entry, %fault, "bad message in an inbox ignored");
                }
            }
        }
        if is_last && end.n != newest {
            is_continuous = false;
            end.n = newest;
        }
        Self {
            start,
            messages,
            unreadable,
            end,
            is_last,
            is_continuous,
        }
    }
}

impl Page {
    /// The page as one of this topic's log, whose messages name it.
    pub(crate) fn of_topic(self, topic: &Topic) -> Self {
        let messages = self.messages.iter();
        let messages = messages.map(|message| Arc::new(message.in_topic(topic)));
        Self {
            messages: messages.collect(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
