//! Kept messages: positions in a user's inbox or a topic's log, and pages of it.
//!
//! An inbox or a log is a bounded stream of messages beside a counter. Each message gets the next
//! number and a stream entry in one step, so the numbers of two neighbours prove that nothing lies
//! between them. A [`Position`] is what a client hands back to go on where it was. What must
//! stay true: a client is told that nothing is missing only where the numbers prove it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::local::live_rules::LiveRules;
use crate::protocol::ids::{Fd, NodeId, Subject, Topic};
use crate::protocol::position::{
    EntryId, Position, Since, Unwritten, count_since_first, kept_between,
};
use crate::protocol::{InvalidInput, Message};
use crate::telemetry::throttle::Throttle;

/// Most messages in one page: what a slow client that comes back may have in memory at once.
pub(crate) const PAGE: usize = 32;

/// Bad messages in the log: a page may have many, and each client that resumes reads it.
static COMPLAINTS: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(Duration::from_secs(60)));

/// How long the id of a kept message is remembered.
pub(crate) const REPEAT: Duration = Duration::from_secs(60);

/// Whether two kept messages with one id are one that was stored twice, by the milliseconds of
/// their entries. After a minute the store takes the id again: it is another message.
pub(crate) const fn is_stored_twice(one_ms: u64, other_ms: u64) -> bool {
    one_ms.abs_diff(other_ms) < REPEAT.as_millis() as u64
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

impl Bounds {
    /// These, as far as the rule of a topic has no others.
    pub(crate) fn of(self, subject: &Subject, rules: &LiveRules) -> Self {
        let Subject::Topic(topic) = subject else {
            return self;
        };
        let keep = rules.find(topic).map(|rule| rule.keep).unwrap_or_default();
        Self {
            messages: keep.messages.unwrap_or(self.messages),
            bytes: keep.bytes.unwrap_or(self.bytes),
            age: keep.seconds.unwrap_or(self.age),
        }
    }
}

/// A message as it lies in an inbox.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) entry: EntryId,
    pub(crate) id: Option<String>,
    /// The name of its event, unchecked.
    pub(crate) event: Option<String>,
    /// The member that published it, as JSON, unchecked.
    pub(crate) from: Option<String>,
    pub(crate) data: String,
}

impl Entry {
    /// The message that lies at this position. None if another program wrote it, and not as
    /// agreed.
    fn read(self, position: Position) -> Option<Message> {
        let from = self.from.as_deref();
        let read = Message::from_inbox(self.id, self.event, from, &self.data, position);
        let complain = |fault: &InvalidInput| {
            if let Some(unlogged) = COMPLAINTS.pass() {
                let (entry, fault) = (self.entry, fault.unquoted());
                tracing::warn!(%entry, %fault, unlogged, "bad message in an inbox ignored");
            }
        };
        read.inspect_err(complain).ok()
    }
}

/// What holds of a whole inbox at the moment when a part of it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogExtent {
    /// The number of the newest message ever kept there. None if it has none: nothing was kept
    /// there yet, or all of it was forgotten.
    pub newest: Option<u64>,
    /// How many messages are there.
    pub length: u64,
    /// Whether the message at the position that is read from is there, unless it was thrown out.
    /// If not, another master gave its number to another message.
    pub holds: bool,
    /// Whether nothing was ever thrown out of it, as far as the store knows.
    pub is_untouched: bool,
    /// The newest of the messages that were taken out one by one; the default if none ever was.
    /// `None` if the store does not know, or was not asked.
    pub erased: Option<EntryId>,
    /// Where a reader stands who finds nothing.
    pub unwritten: Unwritten,
    /// For how many seconds that proves something: less than a number lasts.
    pub lasts: u64,
}

impl LogExtent {
    /// So many messages, the newest of this number.
    #[cfg(test)]
    pub(crate) fn of(newest: u64, length: u64) -> Self {
        Self {
            newest: Some(newest),
            length,
            holds: true,
            is_untouched: false,
            erased: None,
            unwritten: Unwritten::UNKNOWN,
            lasts: 0,
        }
    }

    /// Where a reader from `since` stands who found nothing. Its entry stays: where a master that
    /// came back empty gives way to one that has all, it must not get again what it was given.
    fn end_of_nothing(&self, since: &Since) -> Position {
        Position {
            entry: since.entry(),
            ..self.unwritten.position()
        }
    }

    /// Whether as many messages are there as were ever counted.
    pub(crate) const fn is_counted(&self) -> bool {
        match self.newest {
            Some(newest) => count_since_first(newest) == self.length,
            None => self.length == 0,
        }
    }

    /// Whether all that was ever kept is there. Where nothing is, nothing proves that.
    const fn is_complete(&self) -> bool {
        self.newest.is_some() && self.is_counted() && self.is_untouched
    }

    /// Whether these are the newest of all that were ever kept: as many as are wanted, or all.
    fn is_whole_from(&self, entries: &[Entry], wanted: u16) -> bool {
        match (entries.first(), self.erased) {
            (Some(oldest), Some(erased)) if entries.len() >= usize::from(wanted) => {
                self.newest.is_some() && erased < oldest.entry
            }
            _ => self.is_complete(),
        }
    }

    /// Whether nothing is missing that was kept since a reader found nothing.
    const fn is_whole_since(&self, then: Unwritten) -> bool {
        self.is_counted() && then.reaches(self.unwritten, self.lasts)
    }

    /// Whether nothing is missing that was kept after this position.
    fn is_whole_after(&self, position: &Position) -> bool {
        match (Unwritten::of(position), self.newest) {
            (Some(then), _) => self.is_whole_since(then),
            (None, Some(newest)) => match kept_between(position.n, newest) {
                Some((later, erasures)) => self.has_all(position.entry, later, erasures),
                None => false,
            },
            (None, None) => false,
        }
    }

    /// Whether all that was kept after this entry is still there: its number is one of those that
    /// are, or the last before.
    fn has_all(&self, entry: EntryId, later: u64, erasures: u64) -> bool {
        // Something was: a stream that knows of nothing is not the one it was taken out of.
        let known = self.erased.filter(|erased| *erased != EntryId::default());
        if erasures > 0 && known.is_none_or(|erased| erased > entry) {
            return false;
        }
        // One that was erased itself is not there, and yet no other has its number.
        let is_known = self.holds || (erasures > 0 && self.erased == Some(entry));
        later == self.length || (later < self.length && is_known)
    }

    /// Whether a message was erased after a reader was there, which only the store can tell of.
    pub(crate) fn was_erased_since(&self, position: &Position) -> bool {
        let newest = self.newest.filter(|_| Unwritten::of(position).is_none());
        let passed = newest.and_then(|newest| kept_between(position.n, newest));
        passed.is_some_and(|(_, erasures)| erasures > 0)
    }
}

/// A part of an inbox.
#[derive(Debug, Clone)]
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
    /// Whether that would be proven but for the number of its messages: there are fewer than the
    /// number it was read from says.
    pub is_short: bool,
}

impl Page {
    /// The page after `since` of an inbox of this extent. `entries` are those after `since`, one
    /// more than [`PAGE`] if there are so many. For [`Since::Now`] it is the newest entry alone,
    /// and for [`Since::Last`] all of those and the one before: a later page might come too late
    /// for a short log.
    pub(crate) fn new(since: &Since, extent: &LogExtent, mut entries: Vec<Entry>) -> Self {
        let LogExtent { newest, length, .. } = *extent;
        // From there it can be shown later that nothing is missing.
        let before = match since {
            Since::Last(wanted) if entries.len() > usize::from(*wanted) => entries.remove(0).entry,
            Since::Last(_) => (entries.first()).map_or(since.entry(), |one| one.entry.before()),
            since => since.entry(),
        };
        let mut is_continuous = match since {
            Since::Now => true,
            Since::Beginning => extent.is_complete(),
            Since::Last(wanted) => extent.is_whole_from(&entries, *wanted),
            Since::After(position) => extent.is_whole_after(position),
        };
        if newest.is_none() && entries.is_empty() {
            return Self::empty(extent.end_of_nothing(since), is_continuous);
        }
        // Without a number of their own: another program wrote them, or it was lost.
        let newest = newest.unwrap_or(length);
        if *since == Since::Now {
            let entry = entries.last().map(|entry| entry.entry).unwrap_or_default();
            return Self::empty(Position { n: newest, entry }, true);
        }
        let most = match since {
            Since::Last(_) => entries.len(),
            _ => PAGE,
        };
        let is_last = entries.len() <= most;
        // How many were kept after the place where it begins.
        let later = match since {
            // For a reader who found nothing: all, or the end below does not meet the newest.
            Since::After(position) if is_continuous && Unwritten::of(position).is_some() => length,
            Since::After(position) if is_continuous => {
                kept_between(position.n, newest).map_or(length, |(later, _)| later)
            }
            _ if is_last => entries.len() as u64,
            _ => length,
        };
        let start = Position {
            n: newest.wrapping_sub(later),
            entry: before,
        };
        entries.truncate(most);
        let mut end = start;
        let mut messages = Vec::with_capacity(entries.len());
        let mut ids = HashMap::new();
        let mut unreadable = 0;
        for one in entries {
            end = Position {
                n: end.n.wrapping_add(1),
                entry: one.entry,
            };
            // A sender that repeated itself at two nodes at the same moment is stored twice.
            let before = one.id.clone().and_then(|id| ids.insert(id, one.entry.ms));
            if before.is_some_and(|before| is_stored_twice(before, one.entry.ms)) {
                continue;
            }
            match one.read(end) {
                Some(message) => messages.push(Arc::new(message)),
                None => unreadable += 1,
            }
        }
        let mut is_short = false;
        if is_last && end.n != newest {
            is_short = is_continuous;
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
            is_short,
        }
    }
}

impl Page {
    /// Nothing, for a reader who stands here.
    const fn empty(here: Position, is_continuous: bool) -> Self {
        Self {
            start: here,
            messages: Vec::new(),
            unreadable: 0,
            end: here,
            is_last: true,
            is_continuous,
            is_short: false,
        }
    }

    /// The page without what this connection sent itself; none if there is nothing of it.
    pub(crate) fn without(&self, node: &NodeId, fd: Fd) -> Option<Self> {
        let is_own = |message: &Arc<Message>| {
            let sender = message.left_out();
            sender.is_some_and(|sender| sender.fd == fd && sender.node == *node)
        };
        if !self.messages.iter().any(is_own) {
            return None;
        }
        let mut page = self.clone();
        page.messages.retain(|message| !is_own(message));
        Some(page)
    }

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
