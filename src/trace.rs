//! What happened to users and their messages lately on this node, for the question "why did
//! this user not get it".
//!
//! A bounded ring in memory: `PUSH_TRACE` entries, the oldest go first. It is cut into stripes by
//! user, so that an entry costs a short lock that few others want. No payloads and no tokens
//! are here: ids, users, counts and words. A push to everybody is one entry and never one for
//! each connection. What must stay true: nothing here decides anything.

mod verdict;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub use self::verdict::verdict;
use crate::close::CloseReason;
use crate::names::{Fd, NodeId, UserId};
use crate::protocol::{Status, Target};
use crate::receipt::{Counts, Fates, Receipt};

/// Parts of the ring; the first is for what concerns everybody.
const STRIPES: usize = 16;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970, by the clock of the node; for people to read.
    pub at: u64,
    /// Where.
    pub node: NodeId,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// A connection of the user came.
    Connected {
        /// Its number.
        fd: u64,
        /// The device it named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// A connection of the user ended.
    Closed {
        /// Its number.
        fd: u64,
        /// As in `pushnode_closes_total`.
        reason: String,
    },
    /// A sender of this node pushed to the user, or to everybody, and was answered.
    Pushed {
        /// The push's id, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// What it was answered.
        status: Status,
        /// On how many connections.
        connections: u32,
        /// The nodes that took it.
        nodes: Vec<NodeId>,
        /// Why not all of it is through.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// It was for everybody.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// A push came to the connections of this node.
    Arrived {
        /// The push's id, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// What was done with it.
        outcome: Outcome,
        /// What became of it by now on each connection; not known of a push to everybody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fates: Option<Fates>,
        /// It was for everybody.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// Messages may have been lost on the way to this node; its clients are told to resync.
    Lost {
        /// As in `pushnode_losses_total`.
        sign: String,
    },
    /// A connection of the user was behind and got a page of the inbox.
    CaughtUp {
        /// Its number.
        fd: u64,
        /// How many messages.
        messages: u64,
        /// Whether nothing was missing before them.
        continuous: bool,
    },
}

/// What a node did with a push that came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was handed to connections.
    Handed,
    /// Its id had been seen within a minute.
    Duplicate,
    /// All of the user's connections here were left out.
    LeftOut,
    /// The user was no longer here.
    Stale,
}

type Id = Option<Box<str>>;

/// An entry, small: most are never looked at.
#[derive(Debug)]
enum Note {
    Connected(Fd, Option<Arc<str>>),
    Closed(Fd, CloseReason),
    Pushed(Box<Pushed>),
    Arrived(Id, Outcome, Option<Arc<Counts>>),
    Lost(&'static str),
    CaughtUp(Fd, u64, bool),
}

/// What a sender was answered.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The push's id, if it had one.
    pub id: Id,
    /// The answer's status.
    pub status: Status,
    /// On how many connections.
    pub connections: u32,
    /// The nodes that took it.
    pub nodes: SmallVec<[NodeId; 1]>,
    /// Why not all of it is through.
    pub reason: Option<&'static str>,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    /// None: everybody.
    user: Option<UserId>,
    note: Note,
}

/// The ring of one node.
#[derive(Debug)]
pub struct Trace {
    node: NodeId,
    /// Entries in one stripe; 0: nothing is traced.
    most: usize,
    hasher: ahash::RandomState,
    stripes: Box<[Mutex<VecDeque<Entry>>]>,
}

impl Trace {
    /// A ring of about so many entries.
    #[must_use]
    pub fn new(node: NodeId, entries: usize) -> Self {
        Self {
            node,
            most: entries.div_ceil(STRIPES),
            hasher: ahash::RandomState::new(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether anything is traced.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.most > 0
    }

    /// A connection came.
    pub fn connected(&self, user: &UserId, fd: Fd, device: Option<&Arc<str>>) {
        self.note(Some(user), || Note::Connected(fd, device.cloned()));
    }

    /// A connection ended.
    pub fn closed(&self, user: &UserId, fd: Fd, reason: CloseReason) {
        self.note(Some(user), || Note::Closed(fd, reason));
    }

    /// A sender was answered; `None`: the push was for everybody.
    pub fn pushed(&self, user: Option<&UserId>, pushed: impl FnOnce() -> Pushed) {
        self.note(user, || Note::Pushed(Box::new(pushed())));
    }

    /// A push came and was not handed to anybody, or to everybody.
    pub fn arrived(&self, to: &Target, id: Option<&str>, outcome: Outcome) {
        let note = || Note::Arrived(id.map(Into::into), outcome, None);
        match to {
            Target::User(user) | Target::Connection(_, Some(user)) => self.note(Some(user), note),
            Target::Users(users) => users.iter().for_each(|user| self.note(Some(user), note)),
            Target::All => self.note(None, note),
            Target::Connection(_, None) => {}
        }
    }

    /// A push came that is handed to connections one by one.
    #[must_use]
    pub fn handing<'a>(&'a self, id: Option<&'a str>, asked: Option<&'a Receipt>) -> Handing<'a> {
        Handing {
            trace: self,
            id,
            asked,
            last: None,
        }
    }

    /// Something may have been lost on the way to this node.
    pub fn lost(&self, sign: &'static str) {
        self.note(None, || Note::Lost(sign));
    }

    /// A connection got a page of its user's inbox.
    pub fn caught_up(&self, user: &UserId, fd: Fd, messages: u64, continuous: bool) {
        self.note(Some(user), || Note::CaughtUp(fd, messages, continuous));
    }

    /// What is known of a user, the oldest first. With an id, other messages are left out.
    #[must_use]
    pub fn collect(&self, user: &UserId, id: Option<&str>) -> Vec<Event> {
        let mut events = Vec::new();
        for stripe in [self.stripe(None), self.stripe(Some(user))] {
            let entries = lock(stripe);
            let theirs = entries
                .iter()
                .filter(|entry| entry.user.as_ref().is_none_or(|one| one == user))
                .filter(|entry| id.is_none() || entry.note.is_about(id));
            events.extend(theirs.map(|entry| entry.event(&self.node)));
        }
        events.sort_by_key(|event| event.at);
        events
    }

    /// Nothing is missing from here on: when the oldest entry of the user's stripe was written, or
    /// none as long as nothing had to go.
    #[must_use]
    pub fn since(&self, user: &UserId) -> Option<u64> {
        let stripes = [self.stripe(None), self.stripe(Some(user))];
        let full = stripes.into_iter().filter_map(|stripe| {
            let entries = lock(stripe);
            let is_full = entries.len() >= self.most;
            entries.front().filter(|_| is_full).map(|entry| entry.at)
        });
        full.max()
    }

    fn note(&self, user: Option<&UserId>, note: impl FnOnce() -> Note) {
        if self.most == 0 {
            return;
        }
        let entry = Entry {
            at: now(),
            user: user.cloned(),
            note: note(),
        };
        let mut entries = lock(self.stripe(user));
        let oldest = if entries.len() >= self.most {
            entries.pop_front()
        } else {
            None
        };
        entries.push_back(entry);
        drop(entries);
        // Freed outside the lock.
        drop(oldest);
    }

    fn stripe(&self, user: Option<&UserId>) -> &Mutex<VecDeque<Entry>> {
        let place = user.map_or(0, |user| {
            1 + self.hasher.hash_one(user) as usize % (STRIPES - 1)
        });
        &self.stripes[place]
    }
}

/// A push on its way to connections of this node, user by user.
#[derive(Debug)]
pub struct Handing<'a> {
    trace: &'a Trace,
    id: Option<&'a str>,
    asked: Option<&'a Receipt>,
    last: Option<(UserId, Receipt)>,
}

impl Handing<'_> {
    /// The receipt for the next connection: that of whoever asked for one, else one that only
    /// counts for the trace.
    pub fn receipt(&mut self, user: &UserId) -> Option<Receipt> {
        if !self.trace.is_on() {
            return self.asked.cloned();
        }
        match &self.last {
            Some((last, receipt)) if last == user => {
                receipt.handed();
                return Some(receipt.clone());
            }
            _ => {}
        }
        let receipt = self.asked.cloned().unwrap_or_else(Receipt::counting);
        receipt.handed();
        let counts = receipt.counts();
        self.trace.note(Some(user), || {
            Note::Arrived(self.id.map(Into::into), Outcome::Handed, Some(counts))
        });
        self.last = Some((user.clone(), receipt.clone()));
        Some(receipt)
    }
}

impl Note {
    /// Whether it is about this message or about none.
    fn is_about(&self, id: Option<&str>) -> bool {
        match self {
            Self::Pushed(pushed) => pushed.id.as_deref() == id,
            Self::Arrived(theirs, ..) => theirs.as_deref() == id,
            _ => true,
        }
    }
}

impl Entry {
    fn event(&self, node: &NodeId) -> Event {
        let all = self.user.is_none();
        let what = match &self.note {
            Note::Connected(fd, device) => What::Connected {
                fd: fd.0,
                device: device.as_deref().map(str::to_owned),
            },
            Note::Closed(fd, reason) => What::Closed {
                fd: fd.0,
                reason: reason.label().to_owned(),
            },
            Note::Pushed(pushed) => What::Pushed {
                id: pushed.id.as_deref().map(str::to_owned),
                status: pushed.status,
                connections: pushed.connections,
                nodes: pushed.nodes.to_vec(),
                reason: pushed.reason.map(str::to_owned),
                all,
            },
            Note::Arrived(id, outcome, counts) => What::Arrived {
                id: id.as_deref().map(str::to_owned),
                outcome: *outcome,
                fates: counts.as_deref().map(Counts::fates),
                all,
            },
            Note::Lost(sign) => What::Lost {
                sign: (*sign).to_owned(),
            },
            Note::CaughtUp(fd, messages, continuous) => What::CaughtUp {
                fd: fd.0,
                messages: *messages,
                continuous: *continuous,
            },
        };
        Event {
            at: self.at,
            node: node.clone(),
            what,
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A poisoned lock still guards whole entries.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
