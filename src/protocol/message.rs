//! A push: its target, the users and connections that it leaves out, and the message itself.
//!
//! A message is encoded for each dialect at most once, however many connections receive it; that
//! and `write_target` are written by hand, because every push takes this way. What must stay
//! true: `data` goes out as the bytes it came in (see `json`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::protocol::client::dialect::{Dialect, Frames};
use crate::protocol::client::event_id::StreamPosition;
use crate::protocol::client::send::Publish;
use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Subject, Topic, UserId};
use crate::protocol::json::{Names, Quoted, Users, one_line, raw, to_json};
use crate::protocol::position::Position;
use crate::protocol::topic_rules::PolicyRule;

/// Longest message id, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Longest event name, in bytes.
pub const MAX_EVENT_BYTES: usize = 200;
/// Most users in one push.
pub const MAX_USERS: usize = 1_000;
/// Most topics in one push.
pub const MAX_TOPICS: usize = 100;

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

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(&push_target_key(self)).serialize(serializer)
    }
}

/// Appends a target as JSON.
pub(super) fn write_target(out: &mut String, to: &Target) {
    let _ = match to {
        Target::User(user) => {
            // Not formatted: most pushes have it.
            out.push_str(r#"{"user":"#);
            let written = Quoted(user).write(out);
            out.push('}');
            written
        }
        Target::Users(users) => write!(out, r#"{{"users":{}}}"#, Users(users.iter())),
        Target::Topic(topic) => write!(out, r#"{{"topic":"{topic}"}}"#),
        Target::Topics(topics) => write!(out, r#"{{"topics":{}}}"#, Names(topics.iter())),
        Target::Connection(id, None) => write!(out, r#"{{"fd":"{id}"}}"#),
        Target::Connection(id, Some(user)) => {
            write!(out, r#"{{"fd":"{id}","user":{}}}"#, Quoted(user))
        }
        Target::All => write!(out, r#"{{"all":true}}"#),
    };
}

/// A target as the text it has on the bus, to tell targets apart.
#[must_use]
pub fn push_target_key(to: &Target) -> String {
    let mut key = String::new();
    write_target(&mut key, to);
    key
}

/// The users and connections that a push leaves out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Except {
    pub(super) users: HashSet<UserId>,
    pub(super) connections: HashSet<ConnectionId>,
}

impl Except {
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

/// The member of a topic that published a message. Set by its node, never by the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Its user.
    pub user: UserId,
    /// Its connection.
    pub connection: ConnectionId,
    /// Whether that gets the message, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub echo: bool,
}

/// The member that published a message, as it stands in a log.
#[must_use]
pub fn author_text(author: &Author) -> String {
    to_json(author)
}

/// What a message is to a client that speaks in objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Kind {
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

pub(super) fn check_id(id: Option<Cow<'_, str>>) -> Result<Option<Box<str>>, InvalidInput> {
    match id {
        Some(id)
            if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) =>
        {
            Err(InvalidInput::new(
                "id must be 1 to 128 bytes without control characters",
            ))
        }
        id => Ok(id.map(|id| id.into())),
    }
}

/// The name of an event. Without control characters, because it stands in a line of its own in an
/// event stream.
pub(super) fn check_event(event: Option<Cow<'_, str>>) -> Result<Option<Box<str>>, InvalidInput> {
    match event {
        Some(event)
            if event.is_empty()
                || event.len() > MAX_EVENT_BYTES
                || event.chars().any(char::is_control) =>
        {
            Err(InvalidInput::new(
                "event must be 1 to 200 bytes without control characters",
            ))
        }
        event => Ok(event.map(|event| event.into())),
    }
}

/// What is pushed. Encoded for each dialect at most once, however many receive it.
#[derive(Debug)]
pub struct Message {
    id: Option<Box<str>>,
    /// The name by which clients choose what to do with it.
    event: Option<Box<str>>,
    data: Box<str>,
    /// None: what the topic's rule says, or else `close`.
    policy: Option<Policy>,
    /// The member that published it, if it was one.
    author: Option<Box<Author>>,
    pub(super) kind: Kind,
    /// The topic it was pushed to, if it was to one.
    topic: Option<Topic>,
    /// Where it lies in its user's inbox or its topic's log, if it is kept.
    position: Option<Position>,
    frames: Frames,
}

impl Message {
    pub(super) fn new(id: Option<Box<str>>, data: &RawValue, policy: Option<Policy>) -> Self {
        Self {
            id,
            event: None,
            data: one_line(data),
            policy,
            author: None,
            topic: None,
            kind: Kind::Push,
            position: None,
            frames: Frames::default(),
        }
    }

    pub(super) fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub(super) fn named(self, event: Option<Box<str>>) -> Self {
        Self { event, ..self }
    }

    /// What a member publishes to a topic.
    ///
    /// # Errors
    /// When the event's name is none.
    pub fn of_member(publish: &Publish, author: Author) -> Result<Self, InvalidInput> {
        let event = publish.event.as_deref().map(Cow::Borrowed);
        Ok(Self {
            event: check_event(event)?,
            topic: Some(publish.topic.clone()),
            author: Some(Box::new(author)),
            ..Self::new(None, raw(&publish.data), None)
        })
    }

    /// A message as it lies in an inbox.
    ///
    /// # Errors
    /// When the data is not JSON, or the event's name none: another program wrote it there.
    pub fn from_inbox(
        id: Option<String>,
        event: Option<String>,
        from: Option<&str>,
        data: &str,
        position: Position,
    ) -> Result<Self, InvalidInput> {
        let author = from.map(serde_json::from_str).transpose()?;
        let data: &RawValue = serde_json::from_str(data)?;
        let id = id.map(String::into_boxed_str);
        Ok(Self {
            position: Some(position),
            author,
            event: check_event(event.map(Cow::Owned))?,
            ..Self::new(id, data, None)
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

    /// The same message as one that is not kept.
    #[must_use]
    pub fn unkept(&self) -> Self {
        Self {
            position: None,
            ..self.unencoded()
        }
    }

    /// The same message under what its topic's rule says of slow receivers.
    #[must_use]
    pub fn under(&self, policy: PolicyRule) -> Self {
        Self {
            policy: Some(match policy {
                PolicyRule::Close => Policy::Close,
                PolicyRule::Drop => Policy::Drop,
                PolicyRule::Latest => Policy::Latest(self.replaces()),
            }),
            ..self.unencoded()
        }
    }

    /// The same message, published by this member.
    #[must_use]
    pub fn by(self, author: Author) -> Self {
        Self {
            author: Some(Box::new(author)),
            ..self
        }
    }

    /// The key of older messages whose place it may take: of its topic, event and author.
    fn replaces(&self) -> Box<str> {
        let mut key = String::new();
        if let Some(topic) = &self.topic {
            key.push_str(topic.as_str());
        }
        if let Some(author) = &self.author {
            let _ = write!(key, " {}", author.connection);
        }
        if let Some(event) = &self.event {
            key.extend([" ", event]);
        }
        key.into()
    }

    fn unencoded(&self) -> Self {
        Self {
            id: self.id.clone(),
            event: self.event.clone(),
            data: self.data.clone(),
            policy: self.policy.clone(),
            author: self.author.clone(),
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

    /// The name of the event, if its sender gave one.
    #[must_use]
    pub fn event_name(&self) -> Option<&str> {
        self.event.as_deref()
    }

    /// What to do where the receiver is slow.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.policy.as_ref().unwrap_or(&Policy::Close)
    }

    /// Whether its sender said what to do where the receiver is slow.
    #[must_use]
    pub fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// The member that published it, if it was one.
    #[must_use]
    pub fn author(&self) -> Option<&Author> {
        self.author.as_deref()
    }

    /// The connection that does not get it, for it sent it.
    #[must_use]
    pub fn left_out(&self) -> Option<&ConnectionId> {
        let author = self.author.as_deref().filter(|author| !author.echo)?;
        Some(&author.connection)
    }

    /// All the bytes that go to a client of this dialect.
    #[must_use]
    pub fn frame(&self, dialect: Dialect) -> Bytes {
        self.frames.get(dialect, || {
            // An event stream whose topics' logs can be resumed is not encoded here.
            let place = self.position.filter(|_| self.topic.is_none());
            dialect.message(|| self.head(), self.event_name(), &self.data, place)
        })
    }

    /// The bytes that go to the client of an event stream that stands there after it.
    #[must_use]
    pub fn event(&self, dialect: Dialect, at: &StreamPosition) -> Bytes {
        dialect.message(|| self.head(), self.event_name(), &self.data, Some(at))
    }

    /// The object it comes in, up to its data.
    fn head(&self) -> String {
        let mut head = String::new();
        match &self.kind {
            Kind::Push => {
                head.push_str(r#"{"type":"message","#);
                self.write_names(&mut head);
                if let Some(topic) = &self.topic {
                    let _ = write!(head, r#""topic":"{topic}","#);
                }
                if let Some(author) = &self.author {
                    let (user, connection) = (Quoted(&author.user), &author.connection);
                    let from = format_args!(r#"{{"user":{user},"connection":"{connection}"}}"#);
                    let _ = write!(head, r#""from":{from},"#);
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

    /// Its id, and the name of its event.
    pub(super) fn write_names(&self, out: &mut String) {
        self.write_id(out);
        if let Some(event) = &self.event {
            let event = to_json(event);
            let _ = write!(out, r#""event":{event},"#);
        }
    }

    fn write_id(&self, out: &mut String) {
        if let Some(id) = &self.id {
            let id = to_json(id);
            let _ = write!(out, r#""id":{id},"#);
        }
    }
}

/// One push: its target, what it leaves out, and the message.
#[derive(Debug, Clone)]
pub struct Push {
    /// Whom it is for.
    pub to: Target,
    /// The users and connections that it leaves out.
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
