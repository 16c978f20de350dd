//! Where a reader stands in a bounded stream: a user's inbox or a topic's log.
//!
//! Each kept message has a number and the id of its stream entry; both together are a
//! [`Position`]. What must stay true: two neighbours have consecutive numbers, so a position
//! proves whether a message is missing between them.

use std::fmt;
use std::str::FromStr;

/// The name of an entry in a stream: Redis's milliseconds and a counter within them
/// (<https://redis.io/docs/latest/develop/data-types/streams/#entry-ids>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, by the clock of Redis.
    pub ms: u64,
    /// Counted from 0 within a millisecond.
    pub seq: u64,
}

impl EntryId {
    /// The greatest name below this one.
    #[must_use]
    pub fn before(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self { seq, ..self },
            None => Self {
                ms: self.ms.saturating_sub(1),
                seq: u64::MAX,
            },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// The text is no position that a node has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 0 or new, or the `resume` of a frame from here")]
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

/// How far a reader has read an inbox or a log. As text it is the client's resume token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The message's number. The first number of an inbox is chosen at random, so that a
    /// position of an inbox that was lost fits into no other. See also [`Unwritten`].
    pub n: u64,
    /// The message's entry.
    pub entry: EntryId,
}

impl Position {
    /// A position from which this message is the first to be read.
    #[must_use]
    pub fn before(&self) -> Self {
        Self {
            n: self.n.wrapping_sub(1),
            entry: self.entry.before(),
        }
    }

    /// Whether `self` is the very next message after `other`.
    #[must_use]
    pub fn follows(&self, other: &Self) -> bool {
        match Unwritten::of(other) {
            Some(_) => count_since_first(self.n) == 1,
            // What was erased between them does not matter to one who has had it.
            None => matches!(kept_between(other.n, self.n), Some((1, _))),
        }
    }
}

/// The bits of a number that count the messages since the first one of the inbox. The bits above
/// are chosen at random for each new inbox.
const COUNT_BITS: u32 = 36;
/// Set in the number of a position where nothing was ever kept. Redis's numbers have 63 bits.
const UNWRITTEN: u64 = 1 << 63;
/// The bits of an epoch: so few that such a number has no more digits than others.
const EPOCH_BITS: u32 = 27;

/// By so much an erased message raises the number of the newest one, so that a position from before
/// does not pass for one with nothing missing after it.
pub const ERASURE: u64 = 1 << 21;

/// How many messages were kept after the first of two numbers up to the second, and how many were
/// erased in that time. None if they are not of one inbox, or the second is the older one.
#[must_use]
pub const fn kept_between(from: u64, to: u64) -> Option<(u64, u64)> {
    let passed = to.wrapping_sub(from);
    match passed >> COUNT_BITS {
        0 => Some((passed % ERASURE, passed / ERASURE)),
        _ => None,
    }
}

/// A number for a new inbox to begin with, which no other begins with. So small that it never
/// overflows.
#[must_use]
pub fn first_number() -> u64 {
    fastrand::u64(1..1 << 26) << COUNT_BITS
}

/// A number for a new epoch, which is not 0.
#[must_use]
pub fn new_epoch() -> u32 {
    fastrand::u32(1..1 << EPOCH_BITS)
}

/// How many messages were kept up to this number, if the inbox began with a [`first_number`].
#[must_use]
pub const fn count_since_first(n: u64) -> u64 {
    n & ((1 << COUNT_BITS) - 1)
}

/// Where a reader stands who found nothing, not even a number: reading creates none. The position
/// proves something only as long as it is certain that nothing was kept and forgotten since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritten {
    /// A random number that is lost when the store loses all it has, see [`new_epoch`]; 0 if it
    /// is unknown, which proves nothing.
    pub epoch: u32,
    /// When that was, in seconds by the clock of Redis.
    pub seconds: u32,
}

impl Unwritten {
    /// Proves nothing.
    pub const UNKNOWN: Self = Self {
        epoch: 0,
        seconds: 0,
    };

    /// What a position says, if it is one of these.
    #[must_use]
    pub const fn of(position: &Position) -> Option<Self> {
        if position.n & UNWRITTEN == 0 {
            return None;
        }
        Some(Self {
            epoch: (position.n >> 32) as u32 & (u32::MAX >> 1),
            seconds: position.n as u32,
        })
    }

    /// The position of such a reader.
    #[must_use]
    pub const fn position(self) -> Position {
        let epoch = (self.epoch & ((1 << EPOCH_BITS) - 1)) as u64;
        Position {
            n: UNWRITTEN | epoch << 32 | self.seconds as u64,
            entry: EntryId { ms: 0, seq: 0 },
        }
    }

    /// Whether whatever was kept since then is still known of `now`, if that is at most `lasts`
    /// seconds later.
    #[must_use]
    pub const fn reaches(self, now: Self, lasts: u64) -> bool {
        let passed = now.seconds.wrapping_sub(self.seconds);
        self.epoch != 0 && self.epoch == now.epoch && (passed as u64) <= lasts
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.n, self.entry)
    }
}

impl serde::Serialize for EntryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text names no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the entry or the resume of a kept message")]
pub struct BadEntry;

/// The message that a reader names: by its entry, or by its `resume`.
///
/// # Errors
/// When it is neither.
pub fn entry_of(text: &str) -> Result<EntryId, BadEntry> {
    match text.parse::<Position>() {
        Ok(position) => Ok(position.entry),
        Err(BadPosition) => text.parse().map_err(|BadPosition| BadEntry),
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

/// Most messages that a reader may ask for at once.
pub const MAX_READ: u16 = 100;
/// How many a reader gets that does not say how many.
pub const DEFAULT_READ: u16 = 50;

/// A number of messages that may not be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 1 to {MAX_READ}")]
pub struct BadCount;

/// How many messages a reader asks for.
///
/// # Errors
/// When that is no number, or may not be asked for.
pub fn count_of(text: &str) -> Result<u16, BadCount> {
    let count = digits(text)
        .ok()
        .and_then(|count| u16::try_from(count).ok());
    count
        .filter(|count| (1..=MAX_READ).contains(count))
        .ok_or(BadCount)
}

/// From where an inbox or a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Since {
    /// Nothing that is there already.
    Now,
    /// Everything that is still there.
    Beginning,
    /// So many of the newest, and what comes after them.
    Last(u16),
    /// What came after this.
    After(Position),
}

impl Since {
    /// The entry after which to read.
    #[must_use]
    pub fn entry(&self) -> EntryId {
        match self {
            Self::Now | Self::Beginning | Self::Last(_) => EntryId::default(),
            Self::After(position) => position.entry,
        }
    }
}

impl Since {
    /// The newest messages, as many as a client says in its `last`.
    ///
    /// # Errors
    /// When it is no number, or may not be asked for.
    pub fn last_of(text: &str) -> Result<Self, BadCount> {
        count_of(text).map(Self::Last)
    }
}

impl FromStr for Since {
    type Err = BadPosition;

    /// Reads the `since` of a client: `new`, `0` or a resume token.
    fn from_str(text: &str) -> Result<Self, BadPosition> {
        match text {
            "new" => Ok(Self::Now),
            "0" => Ok(Self::Beginning),
            token => token.parse().map(Self::After),
        }
    }
}
