//! How a connection follows its user's inbox or a topic's log. No I/O.
//!
//! Pushed messages are taken as long as each is the next one. Whatever else comes, the inbox
//! itself is read from where the connection stands, a page at a time and only when the client
//! has taken what it was given. So a message that was lost on the way, came too early or found
//! the client's queue full is not lost for it, and none comes twice.

use std::sync::Arc;

use crate::local::replay::page::Page;
use crate::local::replay::stumbles::{KeptReader, Stumbles, Tryout};
use crate::protocol::position::{EntryId, Position, Since, Unwritten, kept_between};

/// For so long after a message, by the clocks of Redis and of this node, Redis may turn out to have
/// lost everything just before it.
const RECENT_MS: u64 = 15_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All that is in the inbox has been given to the client, as far as we know.
    Live,
    /// There is something to read, once the client has taken what it has.
    Behind,
    /// A page has been asked for.
    Asking,
}

/// A page that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageAsk {
    /// From where.
    pub(crate) since: Since,
    /// By which of the followers that a connection had of this log, one after the other: a page for
    /// one that has ended is not for the next. 0 for an inbox, and in a handshake.
    pub(crate) number: u32,
}

impl PageAsk {
    /// By the first follower of a connection.
    pub(crate) fn first(since: Since) -> Self {
        Self { since, number: 0 }
    }
}

#[derive(Debug)]
pub(crate) struct Follower {
    number: u32,
    since: Since,
    /// Where an earlier subscription of the connection was in this log.
    before: Option<Box<Position>>,
    state: State,
    /// The newest entry that was pushed to us while we could not take it.
    seen: EntryId,
    /// What that was when the page under way was asked for.
    sought: EntryId,
    /// The page under way may have been read too early.
    must_ask_again: bool,
    /// From where the page under way was asked for.
    asked: Since,
    /// Of two messages with the number of `since`, the older one, if the client has had both.
    twin: Option<EntryId>,
    /// The client has heard that something may be missing before the next page.
    is_told: bool,
    /// When a first message was taken although nothing had been read, by its own time; 0 if none
    /// was. If Redis lost all it had just before, others may be missing.
    trusted_ms: u64,
    /// Redis may have lost all it had since nothing was read.
    is_doubtful: bool,
    /// It has heard so before a page that was not the last: the number of where it stands is a
    /// guess, as what is missing was not counted.
    is_guess: bool,
}

/// What to do with a pushed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Give it to the client.
    Take,
    /// The client has it.
    Old,
    /// It comes with a page.
    Later,
}

impl Follower {
    /// The client gets this page.
    pub(crate) fn behind(page: &Page) -> Self {
        let mut follower = Self::unread(Since::After(page.end));
        follower.take_page(page);
        follower
    }

    /// Nothing has been read yet.
    pub(crate) fn unread(since: Since) -> Self {
        Self {
            number: 0,
            since,
            before: None,
            state: State::Behind,
            seen: EntryId::default(),
            sought: EntryId::default(),
            must_ask_again: false,
            asked: since,
            twin: None,
            is_told: false,
            trusted_ms: 0,
            is_doubtful: false,
            is_guess: false,
        }
    }

    /// The first page is being read, and another will hand it on.
    pub(crate) fn asking(since: Since) -> Self {
        Self {
            state: State::Asking,
            ..Self::unread(since)
        }
    }

    /// As [`Follower::asking`], after an earlier subscription that was there.
    pub(crate) fn asking_again(ask: PageAsk, before: Option<Position>) -> Self {
        Self {
            number: ask.number,
            before: before.map(Box::new),
            ..Self::asking(ask.since)
        }
    }

    /// How far in the log the connection is known to have been.
    pub(crate) fn reached(&self) -> Option<Position> {
        self.position().or(self.before.as_deref().copied())
    }

    /// Whether an earlier subscription was past this message: its line is late.
    fn was_past(&self, position: Position) -> bool {
        let Some(before) = self.before.as_deref() else {
            return false;
        };
        // Another log, after Redis lost this one, may have earlier entries. And of two messages with
        // one number the client may have had the other one.
        let is_older = position.entry < before.entry
            && position.n != before.n
            && kept_between(position.n, before.n).is_some();
        is_older || position == *before
    }

    /// The newest entry that the connection has had of this log or, where it is `here` because none
    /// was found any more, of the one that Redis lost.
    fn newest_had(&self, here: &Position) -> EntryId {
        let before = self.before.as_deref().map(|before| before.entry);
        here.entry.max(before.unwrap_or_default())
    }

    /// Whether this page was asked for and has not come.
    pub(crate) fn awaits(&self, ask: PageAsk) -> bool {
        self.is_asking() && self.asked == ask.since && self.number == ask.number
    }

    /// Whether a page was asked for and has not come.
    pub(crate) fn is_asking(&self) -> bool {
        self.state == State::Asking
    }

    /// Up to where the client has been given it, if that is known.
    const fn position(&self) -> Option<Position> {
        match self.since {
            Since::After(position) => Some(position),
            Since::Now | Since::Beginning | Since::Last(_) => None,
        }
    }

    /// A message was pushed; `fits` if the client's queue has room for it.
    pub(crate) fn hear(&mut self, position: Position, fits: bool) -> Verdict {
        if self.since == Since::Now {
            if self.was_past(position) {
                return Verdict::Old;
            }
            // Where the inbox stood when the client came is not known yet. Then it begins with
            // this message; a page that is under way may have been read after it.
            self.since = Since::After(position.before());
        }
        if let Since::After(here) = self.since {
            // Two masters gave one number to two messages: the client has only had the other one.
            let is_other = position.entry != here.entry && self.twin != Some(position.entry);
            let is_twin = position.n == here.n && is_other;
            let is_found_empty = Unwritten::of(&here).is_some();
            let had = self.newest_had(&here);
            // The first message of any log fits where none was found. One that is no newer than what
            // was had may be a late line of the log that Redis lost: a page tells.
            let is_suspect = self.is_doubtful || is_found_empty && position.entry <= had;
            let is_next = position.follows(&here) && !is_suspect || is_twin;
            if is_next && fits && self.state == State::Live {
                if is_found_empty {
                    self.trusted_ms = position.entry.ms;
                }
                self.twin = is_twin.then(|| position.entry.min(here.entry));
                self.since = Since::After(Position {
                    n: position.n,
                    // So that the twin is not read again.
                    entry: position.entry.max(here.entry),
                });
                return Verdict::Take;
            }
            let is_old = match is_found_empty {
                // An older name may be of a log that began by a clock that went back.
                true => position.entry == had,
                false => position.entry <= here.entry,
            };
            if is_old {
                return Verdict::Old;
            }
        }
        self.seen = self.seen.max(position.entry);
        if self.state == State::Live {
            self.state = State::Behind;
        }
        Verdict::Later
    }

    /// Something may have been lost on the way to us: the inbox must be looked at.
    pub(crate) fn distrust(&mut self) {
        match self.state {
            State::Live => self.state = State::Behind,
            State::Behind => {}
            // The page under way may have been read before.
            State::Asking => self.must_ask_again = true,
        }
    }

    /// Redis may have lost all that it had. Where nothing has been read, the first message from now
    /// on is looked for in a page, which tells. Answers whether one was taken a moment ago on trust:
    /// then the client must hear of the loss, once, as its next connection could prove to have
    /// missed nothing.
    pub(crate) fn doubt(&mut self, now_ms: u64) -> bool {
        let Some(here) = self.position() else {
            return false;
        };
        self.is_doubtful = Unwritten::of(&here).is_some();
        if self.is_doubtful && self.state == State::Asking {
            // The page under way may have been read before.
            self.must_ask_again = true;
        }
        let trusted = std::mem::take(&mut self.trusted_ms);
        !self.is_doubtful && trusted > 0 && trusted.saturating_add(RECENT_MS) > now_ms
    }

    /// The client hears that something may be missing. If a page is due or under way, it need not
    /// say so again.
    pub(crate) fn note_told(&mut self) {
        self.is_told = self.state != State::Live;
    }

    /// Whether the client has heard it of the page that has come. A number that was guessed when it
    /// was told says nothing more; that a page lacks where it was read from does.
    pub(crate) fn take_told(&mut self, page: &Page) -> bool {
        std::mem::take(&mut self.is_told) || self.is_guess && page.is_short
    }

    /// From where to read, if that is due. To be asked when the client has taken all it was
    /// given; the caller that gets an answer owes a [`Follower::take_page`].
    pub(crate) fn ask(&mut self) -> Option<PageAsk> {
        (self.state == State::Behind).then(|| {
            self.state = State::Asking;
            self.sought = self.seen;
            self.must_ask_again = false;
            self.asked = self.since;
            PageAsk {
                since: self.since,
                number: self.number,
            }
        })
    }

    /// The client gets this page, if the answer is yes; else it is of no use any more.
    pub(crate) fn take_page(&mut self, page: &Page) -> bool {
        if self.asked != self.since {
            self.state = State::Behind;
            return false;
        }
        if !page.messages.is_empty() {
            self.twin = None;
        }
        self.since = Since::After(page.end);
        self.is_doubtful = false;
        self.is_guess = !page.is_last && (self.is_guess || !page.is_continuous);
        // What was pushed before we asked and is not there was thrown out again, or never there:
        // looking for it once more would not bring it back.
        let in_vain = page.messages.is_empty() && self.seen == self.sought;
        let all = self.seen <= page.end.entry || in_vain;
        self.state = if page.is_last && all && !self.must_ask_again {
            self.seen = EntryId::default();
            State::Live
        } else {
            State::Behind
        };
        true
    }
}

/// What a connection starts with that follows its user's inbox.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) follower: Follower,
    pub(crate) page: Option<Page>,
    /// What a client that came back is told: whether it has missed nothing.
    pub(crate) recovered: Option<bool>,
    /// What it could not take before.
    pub(crate) tryout: Tryout,
}

impl Start {
    /// `page` is the first after `since`; none if it could not be read yet.
    pub(crate) fn new(since: Since, page: Option<Page>) -> Self {
        let proven = page.as_ref().is_some_and(|page| page.is_continuous);
        Self {
            follower: match &page {
                Some(page) => Follower::behind(page),
                None => Follower::unread(since),
            },
            page,
            recovered: (since != Since::Now).then_some(proven),
            tryout: Tryout::default(),
        }
    }

    /// Leaves out what this reader, who came back, could not take.
    pub(crate) fn judge(&mut self, stumbles: &Arc<Stumbles>, reader: KeptReader) {
        if let Some(page) = &mut self.page {
            self.tryout = stumbles.judge(reader, page);
        }
        if !self.tryout.passed.is_empty() {
            self.recovered = Some(false);
        }
    }

    /// Where the client stands before it is given the page.
    pub(crate) fn position(&self) -> Option<Position> {
        match &self.page {
            Some(page) => Some(page.start),
            None => self.follower.position(),
        }
    }

    /// Whether it is proven that nothing is missing since the client was here.
    pub(crate) fn is_recovered(&self) -> bool {
        self.recovered == Some(true)
    }
}

#[cfg(test)]
mod tests;
