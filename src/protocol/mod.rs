//! What is said on the bus, by senders and to clients: JSON in, typed values out, and back.
//!
//! The only file that knows field names. No I/O. A payload (`data`) is never re-serialised: it
//! passes through as the bytes it came in, except that line breaks between its tokens become
//! blanks, because on the bus a line is an envelope. Decoding is total: any bytes lead to a
//! value or to a [`Fault`] that names what is wrong.

pub mod ids;

pub mod session_id;

pub mod topic_pattern;

pub mod route;

pub mod secret;

pub mod position;

pub mod close;

pub mod client;

pub mod sender;

pub mod bus;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use crate::protocol::bus::event::*;
pub use crate::protocol::bus::line::*;
pub use crate::protocol::bus::presence::*;
pub use crate::protocol::bus::question::*;
use crate::protocol::client::dialect::Frames;
pub use crate::protocol::client::dialect::{Dialect, GOODBYE_ID};
pub use crate::protocol::client::objects::*;
pub use crate::protocol::client::send::*;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Subject, Topic, UserId};
use crate::protocol::position::Position;
pub use crate::protocol::sender::access::*;
pub use crate::protocol::sender::call::*;
pub use crate::protocol::sender::push::PushRequest;

/// The version in the header line of a node's payload.
pub const VERSION: u32 = 1;
/// Longest message id, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Most users in one push.
pub const MAX_USERS: usize = 1_000;
/// Most topics in one push.
pub const MAX_TOPICS: usize = 100;
/// How long a sender may wait for an answer.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a sender waits if it does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// Input that is not what it should be. The text names the field and is safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

impl Fault {
    /// A fault in these words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Fault {
    /// The fault without what it quotes of the input, for a log: that may be a part of a message.
    /// Our own texts quote nothing; those of serde_json end with a place, and quote before it.
    #[must_use]
    pub fn unquoted(&self) -> String {
        let Some((said, place)) = self.0.rsplit_once(" at line ") else {
            return self.0.clone();
        };
        let names_a_field = ["missing field", "duplicate field"];
        if names_a_field.iter().any(|start| said.starts_with(start)) {
            return self.0.clone();
        }
        let said = said.split(['"', '`']).next().unwrap_or_default();
        format!("{} at line {place}", said.trim_end())
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// Whom a push is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All connections of a user.
    User(UserId),
    /// All connections of several users.
    Users(Vec<UserId>),
    /// All connections that are subscribed to a topic.
    Topic(Topic),
    /// All connections that are subscribed to one of these; once for each topic.
    Topics(Vec<Topic>),
    /// One connection; delivered only if it is this user's, when a user is named.
    Connection(ConnectionId, Option<UserId>),
    /// Every connection in the cluster.
    All,
}

impl From<Subject> for Target {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::User(user) => Self::User(user),
            Subject::Topic(topic) => Self::Topic(topic),
        }
    }
}

/// Who is left out of a push.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Except {
    users: HashSet<UserId>,
    connections: HashSet<ConnectionId>,
}

impl Except {
    /// Whether this user is left out with all connections.
    #[must_use]
    pub fn has_user(&self, user: &UserId) -> bool {
        self.users.contains(user)
    }

    /// Whether this connection is left out, for itself or for its user.
    #[must_use]
    pub fn has(&self, node: &NodeId, fd: Fd, user: &UserId) -> bool {
        self.users.contains(user)
            || (!self.connections.is_empty()
                && self.connections.contains(&ConnectionId {
                    node: node.clone(),
                    fd,
                }))
    }
}

/// What to do when the receiver is slow and its queue full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Policy {
    /// Close the connection as slow.
    #[default]
    Close,
    /// Leave this message out, and count it.
    Drop,
    /// As `Drop`, and while waiting a newer message of the same key takes this one's place.
    Latest(Box<str>),
}

/// JSON as it came, but in one line: on the bus a line is an envelope.
fn one_line(json: &RawValue) -> Box<str> {
    let json = json.get();
    // Inside a JSON string a line break is always escaped, so these are between tokens.
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_some() {
        json.replace(['\n', '\r'], " ").into()
    } else {
        json.into()
    }
}

/// What a message is to a client that speaks in objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Kind {
    /// `message`.
    #[default]
    Push,
    /// `reply` to what the client sent to a service, under the `ref` it gave it.
    Reply {
        reference: Option<Box<str>>,
        /// The data are words why there is no answer.
        failed: bool,
    },
}

/// What is pushed. Encoded for each dialect at most once, whoever receives it.
#[derive(Debug)]
pub struct Message {
    id: Option<Box<str>>,
    data: Box<str>,
    policy: Policy,
    kind: Kind,
    /// The topic it was pushed to, if it was to one.
    topic: Option<Topic>,
    /// Where it lies in its user's inbox or its topic's log, if it is kept.
    position: Option<Position>,
    frames: Frames,
}

impl Message {
    fn new(id: Option<Box<str>>, data: &RawValue, policy: Policy) -> Self {
        Self {
            id,
            data: one_line(data),
            policy,
            topic: None,
            kind: Kind::Push,
            position: None,
            frames: Frames::default(),
        }
    }

    fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// A message as it lies in an inbox.
    ///
    /// # Errors
    /// When the data is not JSON: somebody else wrote it there.
    pub fn from_inbox(id: Option<String>, data: &str, position: Position) -> Result<Self, Fault> {
        let data: &RawValue = serde_json::from_str(data)?;
        let id = id.map(String::into_boxed_str);
        Ok(Self {
            position: Some(position),
            ..Self::new(id, data, Policy::Close)
        })
    }

    /// The same message, kept at this position.
    #[must_use]
    pub fn kept_at(&self, position: Position) -> Self {
        Self {
            position: Some(position),
            ..self.unencoded()
        }
    }

    /// The same message, pushed to this topic.
    #[must_use]
    pub fn in_topic(&self, topic: &Topic) -> Self {
        Self {
            topic: Some(topic.clone()),
            ..self.unencoded()
        }
    }

    fn unencoded(&self) -> Self {
        Self {
            id: self.id.clone(),
            data: self.data.clone(),
            policy: self.policy.clone(),
            kind: self.kind.clone(),
            topic: self.topic.clone(),
            position: self.position,
            frames: Frames::default(),
        }
    }

    /// What it says, as JSON.
    #[must_use]
    pub fn data(&self) -> &str {
        &self.data
    }

    /// The topic it was pushed to, if it was to one.
    #[must_use]
    pub fn topic(&self) -> Option<&Topic> {
        self.topic.as_ref()
    }

    /// Where it lies in its user's inbox or its topic's log, if it is kept.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The id its sender gave it.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What to do where the receiver is slow.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// All the bytes that go to a client of this dialect.
    #[must_use]
    pub fn frame(&self, dialect: Dialect) -> Bytes {
        self.frames.get(dialect, || {
            // Where an event stream goes on is a place in its inbox, never one in a topic's log.
            let place = self.position.filter(|_| self.topic.is_none());
            dialect.message(|| self.head(), &self.data, place)
        })
    }

    /// The object it comes in, up to its data.
    fn head(&self) -> String {
        let mut head = String::new();
        match &self.kind {
            Kind::Push => {
                head.push_str(r#"{"type":"message","#);
                self.write_id(&mut head);
                if let Some(topic) = &self.topic {
                    let _ = write!(head, r#""topic":"{topic}","#);
                }
                if let Some(position) = self.position {
                    let _ = write!(head, r#""resume":"{position}","#);
                }
                head.push_str(r#""data":"#);
            }
            Kind::Reply { reference, failed } => {
                head.push_str(r#"{"type":"reply","#);
                self.write_id(&mut head);
                if let Some(reference) = reference {
                    let _ = write!(head, r#""ref":{reference},"#);
                }
                head.push_str(if *failed {
                    r#""status":"failed","error":"#
                } else {
                    r#""status":"answered","data":"#
                });
            }
        }
        head
    }

    fn write_id(&self, out: &mut String) {
        if let Some(id) = &self.id {
            let id = serde_json::to_string(id).expect("text becomes JSON");
            let _ = write!(out, r#""id":{id},"#);
        }
    }
}

/// One push: whom it is for, who is left out, what it says.
#[derive(Debug, Clone)]
pub struct Push {
    /// Whom it is for.
    pub to: Target,
    /// Who is left out.
    pub except: Option<Arc<Except>>,
    /// What it says.
    pub message: Arc<Message>,
}

impl Push {
    /// A push to several topics as one to each, whose message names it.
    #[must_use]
    pub fn to_each(&self, topics: &[Topic]) -> Vec<Self> {
        let to = |topic: &Topic| Self {
            to: Target::Topic(topic.clone()),
            except: self.except.clone(),
            message: Arc::new(self.message.in_topic(topic)),
        };
        topics.iter().map(to).collect()
    }
}

/// Where a node reports what became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whose channel gets the receipt.
    pub node: NodeId,
    /// Comes back in the receipt.
    #[serde(rename = "ref")]
    pub reference: String,
    /// What the receipt should wait for.
    #[serde(default = "written")]
    pub wait: Wait,
    /// And for how long, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

const fn written() -> Wait {
    Wait::Written
}

const fn default_timeout_ms() -> u64 {
    DEFAULT_TIMEOUT.as_millis() as u64
}

/// How far a message must get before its sender is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// A node has taken it for its connections.
    #[default]
    Routed,
    /// It has been written to the sockets.
    Written,
    /// The clients have said that they have it (`pushnode.v1` only).
    Acked,
}

/// What became of a push, or of the part of it for one user or one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A node took it for the user's connections.
    Routed,
    /// Written to sockets.
    Written,
    /// Acknowledged by clients.
    Acked,
    /// In the user's inbox; no connection has got it yet, as far as is known.
    Stored,
    /// The user has no connection.
    Offline,
    /// A node has seen this id for this target within the last minute, and dropped it.
    Duplicate,
    /// The node no longer holds such a connection.
    Stale,
    /// Nobody can tell: the way to the user's node is down.
    Unrouted,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Routed,
        Self::Written,
        Self::Acked,
        Self::Stored,
        Self::Offline,
        Self::Duplicate,
        Self::Stale,
        Self::Unrouted,
    ];

    /// As in answers, receipts and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Written => "written",
            Self::Acked => "acked",
            Self::Stored => "stored",
            Self::Offline => "offline",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Unrouted => "unrouted",
        }
    }
}

/// A node's report on a push that asked for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// From the push's `reply`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Who reports.
    pub node: NodeId,
    /// `written`, `acked`, `stale` or `duplicate`; `routed` if less happened in time.
    pub status: Status,
    /// On how many connections.
    pub connections: u32,
}

#[cfg(test)]
mod tests;
