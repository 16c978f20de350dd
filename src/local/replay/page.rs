//! Kept messages: positions in a user's inbox or a topic's log, and pages of it.
//!
//! An inbox or a log is a bounded stream of messages beside a counter. Each message gets the next
//! number and a stream entry in one step, so the numbers of two neighbours prove that nothing lies
//! between them. A [`Position`] is what a client hands back to go on where it was. What must
//! stay true: a client is told that nothing is missing only where the numbers prove it.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use crate::local::replay::follower::Start;
use crate::protocol::Message;
use crate::protocol::ids::Topic;

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
pub struct Bounds {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of messages, roughly: whole messages go, the oldest first.
    pub bytes: usize,
    /// How long a message is kept.
    pub age: Duration,
}

/// The name of an entry in a stream: Redis's milliseconds and a counter within them
/// (<https://redis.io/docs/latest/develop/data-types/streams/#entry-ids>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, by the clock of Redis.
    pub ms: u64,
    /// Counted from 0 within a millisecond.
    pub seq: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Not a position of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 0 or the `resume` of a frame from here")]
pub struct BadPosition;

impl FromStr for EntryId {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let (ms, seq) = text.split_once('-').ok_or(BadPosition)?;
        Ok(Self {
            ms: digits(ms)?,
            seq: digits(seq)?,
        })
    }
}

/// Digits and nothing else: `u64::from_str` would take a plus sign.
fn digits(text: &str) -> Result<u64, BadPosition> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| BadPosition)
    } else {
        Err(BadPosition)
    }
}

/// How far somebody has read an inbox. As text it is the client's resume token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The message's number. The first number of an inbox is chosen at random, so that a
    /// position of an inbox that was lost fits into no other.
    pub n: u64,
    /// The message's entry.
    pub entry: EntryId,
}

impl Position {
    /// A position from which this message is the first to be read.
    #[must_use]
    pub fn before(&self) -> Self {
        let EntryId { ms, seq } = self.entry;
        Self {
            n: self.n.wrapping_sub(1),
            entry: match seq.checked_sub(1) {
                Some(seq) => EntryId { ms, seq },
                None => EntryId {
                    ms: ms.saturating_sub(1),
                    seq: u64::MAX,
                },
            },
        }
    }

    /// Whether `self` is the very next message behind `other`.
    #[must_use]
    pub fn follows(&self, other: &Self) -> bool {
        self.n == other.n.wrapping_add(1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.n, self.entry)
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let (n, entry) = text.split_once('.').ok_or(BadPosition)?;
        Ok(Self {
            n: digits(n)?,
            entry: entry.parse()?,
        })
    }
}

/// From where an inbox is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Since {
    /// Nothing that is there already.
    Now,
    /// Everything that is still there.
    Beginning,
    /// What came behind this.
    After(Position),
}

impl Since {
    /// The entry behind which to read.
    #[must_use]
    pub fn entry(&self) -> EntryId {
        match self {
            Self::Now | Self::Beginning => EntryId::default(),
            Self::After(position) => position.entry,
        }
    }
}

impl FromStr for Since {
    type Err = BadPosition;

    /// Reads the `since` of a client: `0` or a resume token.
    fn from_str(text: &str) -> Result<Self, BadPosition> {
        match text {
            "0" => Ok(Self::Beginning),
            token => token.parse().map(Self::After),
        }
    }
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
pub struct Page {
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
    #[must_use]
    pub fn of_topic(self, topic: &Topic) -> Self {
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
