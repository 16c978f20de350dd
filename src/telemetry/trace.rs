//! The trace: undelivered messages of this node's users with the reason, and their connects and
//! disconnects. It answers the question "why did this user not get it".
//!
//! A bounded ring in memory: `PUSH_TRACE` entries, the oldest are discarded first. Only deviations
//! are recorded (drops, losses, repeats, no recipient). A delivered push records nothing and costs
//! nothing here. The ring is divided into stripes by the user or topic of an entry, each with its
//! own lock. It holds ids, users, counts and words, never payloads or tokens. What must stay true:
//! nothing here decides anything.

pub(crate) mod verdict;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::shared_ms;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, NodeId, Subject, Topic, UserId};
use crate::protocol::message::Target;
use crate::protocol::outcome::Status;
pub(crate) use crate::telemetry::trace::verdict::verdict;

/// Parts of the ring; the first is for what concerns all users.
const STRIPES: usize = 16;
/// Most events in one answer, the newest: it must fit into a line between nodes.
const MOST_SHOWN: usize = 1_000;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TraceEvent {
    /// In milliseconds since 1970, by the clock of the node; for people to read.
    pub at: u64,
    pub node: NodeId,
    #[serde(flatten)]
    pub what: What,
}

/// What happened. `topic` or `all` is set if it was for more than this user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    /// A connection of the user was opened.
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
        /// What the client's close frame said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
    },
    /// A sender of this node was told that its push did not reach a connection, or not all of
    /// them.
    Pushed {
        /// The push's id, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// What the sender was told.
        status: Status,
        /// Why a part of it is not delivered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The topic it was for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        topic: Option<Topic>,
        /// It was for all connections.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// A push came to this node and reached no connection.
    Arrived {
        /// The push's id, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        outcome: TraceOutcome,
        /// The topic it was for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        topic: Option<Topic>,
        /// It was for all connections.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// A push was sent to a node where the user had been, and was not any more by its row.
    SentAstray {
        /// The push's id, if it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        to: NodeId,
    },
    /// Messages for one connection were dropped.
    Dropped {
        /// Its number.
        fd: u64,
        /// The message's id; none if it had none, or if these waited when the connection ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// As in `pushnode_drops_total`.
        reason: String,
        /// How many.
        messages: u64,
    },
    /// Messages may have been lost on the way to this node; its clients are told to resync.
    Lost {
        /// As in `pushnode_losses_total`.
        sign: String,
    },
    /// A connection of the user had fallen behind and received a page of the inbox.
    CaughtUp {
        /// Its number.
        fd: u64,
        /// How many messages.
        messages: u64,
        /// Whether nothing was missing before them.
        continuous: bool,
    },
    /// A hook gave no answer to a question about a connection of the user, or one of which a part
    /// could not be taken.
    HookFailed {
        /// Its number.
        fd: u64,
        /// What was asked.
        hook: String,
        /// As in `pushnode_hook_..._total`, or `too_many_topics`.
        reason: String,
    },
}

/// Why a push that came to a node reached no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TraceOutcome {
    /// Its id had been seen within a minute.
    Duplicate,
    /// `except` excluded all of the user's connections here.
    LeftOut,
    /// Its recipients had left this node.
    Stale,
}

/// What one node knows of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Older events may be missing, from before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The oldest first.
    pub events: Vec<TraceEvent>,
}

type Id = Option<Box<str>>;

/// The user or topic of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    Subject(Subject),
    Everybody,
    /// A connection whose user is not known any more.
    Unknown,
}

impl About {
    fn of(target: &Target) -> Option<Self> {
        Some(match target {
            Target::User(user) | Target::Connection(_, Some(user)) => Self::user(user),
            Target::Topic(topic) => Self::Subject(Subject::Topic(topic.clone())),
            Target::All => Self::Everybody,
            Target::Connection(_, None) => Self::Unknown,
            Target::Users(_) | Target::Topics(_) => return None,
        })
    }

    fn user(user: &UserId) -> Self {
        Self::Subject(Subject::User(user.clone()))
    }

    fn topic(&self) -> Option<Topic> {
        match self {
            Self::Subject(Subject::Topic(topic)) => Some(topic.clone()),
            _ => None,
        }
    }
}

/// An entry, small: most are never looked at.
#[derive(Debug)]
enum Note {
    Connected(Fd, Option<Arc<str>>),
    Closed(Fd, CloseReason, Option<u16>),
    Pushed(Id, Status, Option<&'static str>),
    Arrived(Id, TraceOutcome),
    SentAstray(Id, NodeId),
    Dropped(Fd, Id, &'static str, u64),
    Lost(&'static str),
    CaughtUp(Fd, u64, bool),
    HookFailed(Fd, &'static str, &'static str),
}

#[derive(Debug)]
struct TraceEntry {
    at: u64,
    about: About,
    note: Note,
}

/// The ring of one node.
#[derive(Debug)]
pub(crate) struct Trace {
    node: NodeId,
    /// Entries in one stripe; 0: nothing is traced.
    most: usize,
    hasher: ahash::RandomState,
    stripes: Box<[Mutex<VecDeque<TraceEntry>>]>,
}

impl Trace {
    /// A ring of about so many entries.
    pub(crate) fn new(node: NodeId, entries: usize) -> Self {
        Self {
            node,
            most: entries.div_ceil(STRIPES),
            hasher: ahash::RandomState::new(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether anything is traced.
    pub(crate) fn is_on(&self) -> bool {
        self.most > 0
    }

    /// A connection came.
    pub(crate) fn connected(&self, user: &UserId, fd: Fd, device: Option<&Arc<str>>) {
        let note = || Note::Connected(fd, device.cloned());
        self.note(|| About::user(user), note);
    }

    /// A connection ended. `code` is what the client's close frame said.
    pub(crate) fn closed(&self, user: &UserId, fd: Fd, reason: CloseReason, code: Option<u16>) {
        self.note(|| About::user(user), || Note::Closed(fd, reason, code));
    }

    /// A sender was answered about one part of its push. A delivered part is not recorded.
    pub(crate) fn pushed(
        &self,
        to: &Subject,
        id: Option<&str>,
        status: Status,
        why: Option<&'static str>,
    ) {
        if is_through(status) && why.is_none() {
            return;
        }
        let note = || Note::Pushed(id.map(Into::into), status, why);
        self.note(|| About::Subject(to.clone()), note);
    }

    /// As [`Trace::pushed`], for a push to a connection or to all connections.
    pub(crate) fn pushed_elsewhere(
        &self,
        to: &Target,
        id: Option<&str>,
        status: Status,
        why: Option<&'static str>,
    ) {
        if is_through(status) && why.is_none() {
            return;
        }
        if let Some(about) = About::of(to) {
            let note = || Note::Pushed(id.map(Into::into), status, why);
            self.note(|| about, note);
        }
    }

    /// A push came and was handed to no connection.
    pub(crate) fn arrived(&self, to: &Target, id: Option<&str>, outcome: TraceOutcome) {
        let note = || Note::Arrived(id.map(Into::into), outcome);
        match to {
            Target::Users(users) => {
                for user in users {
                    self.note(|| About::user(user), note);
                }
            }
            Target::Topics(topics) => {
                for topic in topics {
                    let about = || About::Subject(Subject::Topic(topic.clone()));
                    self.note(about, note);
                }
            }
            one => {
                if let Some(about) = About::of(one) {
                    self.note(|| about, note);
                }
            }
        }
    }

    /// A push went to a node where the user was no more.
    pub(crate) fn sent_astray(&self, of: &Subject, id: Option<&str>, to: &NodeId) {
        let note = || Note::SentAstray(id.map(Into::into), to.clone());
        self.note(|| About::Subject(of.clone()), note);
    }

    /// Messages for a connection were dropped. The user may not be known any more.
    pub(crate) fn dropped(
        &self,
        user: Option<&UserId>,
        fd: Fd,
        id: Option<&str>,
        reason: &'static str,
        messages: u64,
    ) {
        // An entry of which neither is known could not be found.
        if messages > 0 && (user.is_some() || id.is_some()) {
            let about = || user.map_or(About::Unknown, About::user);
            let note = || Note::Dropped(fd, id.map(Into::into), reason, messages);
            self.note(about, note);
        }
    }

    /// Something may have been lost on the way to this node.
    pub(crate) fn lost(&self, sign: &'static str) {
        self.note(|| About::Everybody, || Note::Lost(sign));
    }

    /// A connection got a page of its user's inbox; an empty one with nothing missing is no news.
    pub(crate) fn caught_up(&self, user: &UserId, fd: Fd, messages: u64, continuous: bool) {
        if messages > 0 || !continuous {
            let note = || Note::CaughtUp(fd, messages, continuous);
            self.note(|| About::user(user), note);
        }
    }

    /// A hook gave no answer to a question about a connection.
    pub(crate) fn hook_failed(
        &self,
        user: &UserId,
        fd: Fd,
        hook: &'static str,
        reason: &'static str,
    ) {
        self.note(|| About::user(user), || Note::HookFailed(fd, hook, reason));
    }

    /// What is known of a user, the newest thousand events. With an id, events of other messages
    /// are excluded, and events of this message on its way to topics are included.
    pub(crate) fn collect(&self, user: &UserId, id: Option<&str>) -> Known {
        let theirs = About::user(user);
        let own = [0, self.stripe(&theirs)];
        let (mut events, mut since) = (Vec::new(), None);
        for (place, stripe) in self.stripes.iter().enumerate() {
            if id.is_none() && !own.contains(&place) {
                continue;
            }
            let entries = stripe.lock();
            let chosen = |entry: &&TraceEntry| match (&entry.about, entry.note.is_about(id)) {
                (About::Everybody, about) => about || id.is_none(),
                // Shown only to those who ask for this very message: members of a topic change.
                (About::Subject(Subject::Topic(_)) | About::Unknown, about) => {
                    about && id.is_some()
                }
                (one, about) => *one == theirs && (about || id.is_none()),
            };
            let found = entries.iter().filter(chosen);
            events.extend(found.map(|entry| entry.event(&self.node)));
            if entries.len() >= self.most {
                since = since.max(entries.front().map(|entry| entry.at));
            }
        }
        events.sort_by_key(|event| event.at);
        let surplus = events.len().saturating_sub(MOST_SHOWN);
        events.drain(..surplus);
        if surplus > 0 {
            since = since.max(events.first().map(|event: &TraceEvent| event.at));
        }
        Known { since, events }
    }

    fn note(&self, about: impl FnOnce() -> About, note: impl FnOnce() -> Note) {
        if self.most == 0 {
            return;
        }
        let entry = TraceEntry {
            at: shared_ms(),
            about: about(),
            note: note(),
        };
        let mut entries = self.stripes[self.stripe(&entry.about)].lock();
        let oldest = if entries.len() >= self.most {
            entries.pop_front()
        } else {
            None
        };
        if entries.len() == entries.capacity() {
            // By itself it would take twice what it has, and much of that for nothing.
            let more = (self.most - entries.len()).min(64);
            entries.reserve_exact(more);
        }
        entries.push_back(entry);
        drop(entries);
        // Freed outside the lock.
        drop(oldest);
    }

    fn stripe(&self, about: &About) -> usize {
        match about {
            About::Everybody | About::Unknown => 0,
            About::Subject(subject) => 1 + self.hasher.hash_one(subject) as usize % (STRIPES - 1),
        }
    }
}

/// Whether all connections that it was for have it.
fn is_through(status: Status) -> bool {
    matches!(status, Status::Routed | Status::Written | Status::Acked)
}

impl Note {
    /// Whether it is about this message, or about the user's connections.
    fn is_about(&self, id: Option<&str>) -> bool {
        match self {
            Self::Pushed(theirs, ..) | Self::Arrived(theirs, _) | Self::SentAstray(theirs, _) => {
                theirs.as_deref() == id
            }
            Self::Dropped(_, theirs, ..) => theirs.is_none() || theirs.as_deref() == id,
            _ => true,
        }
    }
}

impl TraceEntry {
    fn event(&self, node: &NodeId) -> TraceEvent {
        let text = |id: &Id| id.as_deref().map(str::to_owned);
        let (topic, all) = (self.about.topic(), self.about == About::Everybody);
        let what = match &self.note {
            Note::Connected(fd, device) => What::Connected {
                fd: fd.0,
                device: device.as_deref().map(str::to_owned),
            },
            Note::Closed(fd, reason, code) => What::Closed {
                fd: fd.0,
                reason: reason.label().to_owned(),
                code: *code,
            },
            Note::Pushed(id, status, reason) => What::Pushed {
                id: text(id),
                status: *status,
                reason: reason.map(str::to_owned),
                topic,
                all,
            },
            Note::Arrived(id, outcome) => What::Arrived {
                id: text(id),
                outcome: *outcome,
                topic,
                all,
            },
            Note::SentAstray(id, to) => What::SentAstray {
                id: text(id),
                to: to.clone(),
            },
            Note::Dropped(fd, id, reason, messages) => What::Dropped {
                fd: fd.0,
                id: text(id),
                reason: (*reason).to_owned(),
                messages: *messages,
            },
            Note::Lost(sign) => What::Lost {
                sign: (*sign).to_owned(),
            },
            Note::CaughtUp(fd, messages, continuous) => What::CaughtUp {
                fd: fd.0,
                messages: *messages,
                continuous: *continuous,
            },
            Note::HookFailed(fd, hook, reason) => What::HookFailed {
                fd: fd.0,
                hook: (*hook).to_owned(),
                reason: (*reason).to_owned(),
            },
        };
        TraceEvent {
            at: self.at,
            node: node.clone(),
            what,
        }
    }
}

#[cfg(test)]
mod tests;
