//! What is published on channels: lines of JSON, in and out.
//!
//! Reading ignores unknown fields, so that nodes of two versions can share a Redis while one
//! replaces the other. [`push_line`] is written by hand, because every push to another node takes
//! this way. What must stay true: an envelope is one line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::bus::presence::{MAX_NAMES, PresenceLine, Told};
use crate::protocol::bus::question::{NodeAnswer, Question};
use crate::protocol::close::CloseReason;
use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{NodeId, Topic, UserId};
use crate::protocol::info::Infos;
use crate::protocol::json::{Names, ObjectOnly, Users, or_default, present, to_json};
use crate::protocol::message::{
    Author, Except, Kind, Message, Policy, Push, Target, check_event, check_id, write_target,
};
use crate::protocol::outcome::{DeliveryReport, ReceiptRequest, Status};
use crate::protocol::sender::plain_push::plain_push;
use crate::protocol::sender::push::{ExceptFields, NOT_KEPT, ToFields, check_policy};
use crate::protocol::sender::reply::reply_push;
use crate::protocol::session_id::SessionId;

/// The version in the header line of a node's payload.
pub const VERSION: u32 = 1;

/// The highest sequence number: a sender cannot get there.
const MAX_SEQUENCE: u64 = 1 << 53;

/// One line of a payload on a channel.
#[derive(Debug)]
pub enum Line {
    /// Opens a node's payload: who sends, and its sequence number on this channel.
    Header {
        /// The sending node.
        from: NodeId,
        /// Counted from 1 per sender and channel; a jump is a loss.
        seq: u64,
        /// Nothing follows: the sender repeats its last number, so that a loss of its last
        /// payload shows although no other comes.
        tail: bool,
    },
    /// A node is there, and whether Redis takes its rows. Stands alone.
    Announcement(Announcement),
    /// A push.
    Push(Push, Option<ReceiptRequest>),
    /// Something was put into the inboxes of these users or the logs of these topics.
    Look(Target),
    /// End these connections, for this reason.
    Kick(Target, CloseReason, Option<ReceiptRequest>),
    /// End the connections that rest on this session.
    Revoke(SessionId),
    /// Subscribe these connections to a topic.
    Subscribe(Target, Topic, Option<ReceiptRequest>),
    /// Take the subscription of these connections to a topic back.
    Unsubscribe(Target, Topic, Option<ReceiptRequest>),
    /// The node should leave.
    Drain,
    /// A node's question to itself whether its subscription works.
    Probe(u64),
    /// What became of a push.
    Receipt(DeliveryReport),
    /// A question, or what is wrong with it, and who wants the answer.
    Ask(Result<Question, InvalidInput>, ReceiptRequest),
    /// What a node says to our question.
    Answer(NodeAnswer),
    /// Who comes and goes in a topic, or who wants to hear of it.
    Presence(PresenceLine),
}

/// What a node says of itself when it is new, and whenever it changes. On the channel it is a tail
/// of number 0, which nodes of 0.1.0 ignore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The node.
    pub from: NodeId,
    /// Rises with each of them: an old one that is repeated does not count.
    pub n: u64,
    /// Why Redis refuses its rows.
    pub unwritten: Option<String>,
}

/// All fields a line may have. Unknown ones are ignored.
#[derive(Deserialize)]
struct LineFields<'a> {
    #[serde(default, borrow)]
    to: Option<ToFields<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(default)]
    except: Option<ObjectOnly<ExceptFields>>,
    #[serde(default, borrow)]
    policy: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "or_default")]
    keep: bool,
    #[serde(default, borrow)]
    seq_id: Option<Cow<'a, str>>,
    #[serde(default)]
    reply: Option<ReceiptRequest>,
    #[serde(default, borrow)]
    cmd: Option<Cow<'a, str>>,
    #[serde(default)]
    topic: Option<Topic>,
    #[serde(default)]
    member: Option<Author>,
    #[serde(default)]
    v: Option<u32>,
    #[serde(default)]
    from: Option<NodeId>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default, deserialize_with = "or_default")]
    tail: bool,
    #[serde(default, borrow)]
    unwritten: Option<Cow<'a, str>>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default, borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    node: Option<NodeId>,
    #[serde(default)]
    status: Option<Status>,
    #[serde(default, deserialize_with = "or_default")]
    connections: u32,
    #[serde(default, borrow)]
    what: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    args: Option<&'a RawValue>,
    #[serde(default, borrow)]
    body: Option<&'a RawValue>,
    #[serde(default, borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    session: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "or_default")]
    here: Vec<UserId>,
    #[serde(default, deserialize_with = "or_default")]
    info: Infos,
    #[serde(default, deserialize_with = "or_default")]
    gone: Vec<UserId>,
    #[serde(default, deserialize_with = "or_default")]
    begin: bool,
    #[serde(default, deserialize_with = "or_default")]
    end: bool,
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, InvalidInput> {
        let plain = plain_push(line).map(|push| Ok(Self::Push(push, None)));
        plain.unwrap_or_else(|| Self::parse_any(line))
    }

    /// As [`Line::parse`], without its short way for the usual push.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_any(line: &[u8]) -> Result<Self, InvalidInput> {
        let mut fields: LineFields<'_> = serde_json::from_slice(line)?;
        match (fields.cmd.take(), fields.v) {
            (Some(cmd), _) => fields.parse_command(&cmd),
            (None, Some(version)) => fields.parse_header(version),
            (None, None) => {
                // Only nodes say which member it was, and sign that.
                fields.member = None;
                fields.parse_push()
            }
        }
    }
}

impl LineFields<'_> {
    fn parse_header(self, version: u32) -> Result<Line, InvalidInput> {
        if version != VERSION {
            return Err(InvalidInput::new(format!("version {version} is not known")));
        }
        match (self.from, self.seq, self.tail) {
            (Some(_), Some(seq), _) if seq > MAX_SEQUENCE => {
                Err(InvalidInput::new("seq is out of range"))
            }
            (Some(from), Some(0), true) => Ok(Line::Announcement(Announcement {
                from,
                n: self.n.unwrap_or_default(),
                unwritten: self.unwritten.map(Cow::into_owned),
            })),
            (Some(from), Some(seq), tail) => Ok(Line::Header { from, seq, tail }),
            _ => Err(InvalidInput::new("header without from or seq")),
        }
    }

    fn parse_push(self) -> Result<Line, InvalidInput> {
        let to = target(self.to, "missing field `to`")?;
        let position = match (self.keep, self.seq_id) {
            (false, _) => None,
            (true, None) => {
                return match to {
                    Target::Connection(..) | Target::All => Err(InvalidInput::new(NOT_KEPT)),
                    to => Ok(Line::Look(to)),
                };
            }
            (true, Some(position)) if matches!(to, Target::User(_) | Target::Topic(_)) => {
                let bad = |error| InvalidInput::new(format!("seq_id {error}"));
                Some(position.parse().map_err(bad)?)
            }
            (true, Some(_)) => {
                return Err(InvalidInput::new("seq_id needs to.user or to.topic"));
            }
        };
        let data = self
            .data
            .ok_or_else(|| InvalidInput::new("missing field `data`"))?;
        let except = self.except.map_or(Ok(None), |except| except.0.check())?;
        let (id, policy) = (check_id(self.id)?, check_policy(self.policy.as_deref())?);
        let message = Message::new(id, data, policy).named(check_event(self.event)?);
        let message = match &to {
            Target::Topic(topic) => message.in_topic(topic),
            _ => message,
        };
        let message = match position {
            Some(position) => message.kept_at(position),
            None => message,
        };
        let message = match self.member {
            Some(member) => message.by(member),
            None => message,
        };
        let push = Push {
            to,
            except,
            message: Arc::new(message),
        };
        Ok(Line::Push(push, self.reply))
    }

    fn parse_command(self, cmd: &str) -> Result<Line, InvalidInput> {
        match cmd {
            "probe" => match self.n {
                Some(n) => Ok(Line::Probe(n)),
                None => Err(InvalidInput::new("probe without n")),
            },
            "drain" => Ok(Line::Drain),
            "publish" => match (&self.member, self.seq_id.is_some() == self.keep) {
                (Some(_), true) => self.parse_push(),
                _ => Err(InvalidInput::new(
                    "publish without member, or keep without seq_id",
                )),
            },
            "kick" => self.parse_kick(),
            "revoke" => match self.session.as_deref().map(str::parse::<SessionId>) {
                Some(Ok(session)) => Ok(Line::Revoke(session)),
                Some(Err(error)) => Err(InvalidInput::new(format!("{error}"))),
                None => Err(InvalidInput::new("revoke without session")),
            },
            "subscribe" | "unsubscribe" => self.parse_subscription(cmd),
            "receipt" => self.parse_receipt(),
            "reply" => self.parse_reply(),
            "ask" => match (self.what, self.reply) {
                (Some(what), Some(by)) => Ok(Line::Ask(Question::parse(&what, self.args), by)),
                _ => Err(InvalidInput::new("ask without what or reply")),
            },
            "answer" => match (self.text_reference()?, self.node, self.body) {
                (Some(reference), Some(node), Some(body)) => {
                    NodeAnswer::new(reference, node, body).map(Line::Answer)
                }
                _ => Err(InvalidInput::new("answer without ref, node or body")),
            },
            "watch" | "presence" => self.parse_presence(cmd),
            _ => Err(InvalidInput::new("unknown cmd")),
        }
    }

    fn parse_kick(self) -> Result<Line, InvalidInput> {
        let to = target(self.to, "kick without to")?;
        let reason = self.reason.as_deref();
        let reason = reason.map_or(Ok(CloseReason::Kicked), kick_reason)?;
        Ok(Line::Kick(to, reason, self.reply))
    }

    fn parse_subscription(self, cmd: &str) -> Result<Line, InvalidInput> {
        let (Some(to), Some(topic)) = (self.to, self.topic) else {
            return Err(InvalidInput::new(format!("{cmd} without to or topic")));
        };
        let to = to.check()?;
        if !matches!(
            to,
            Target::User(_) | Target::Users(_) | Target::Connection(..)
        ) {
            let words = format!("{cmd} needs to.user, to.users or to.fd");
            return Err(InvalidInput::new(words));
        }
        Ok(match cmd {
            "subscribe" => Line::Subscribe(to, topic, self.reply),
            _ => Line::Unsubscribe(to, topic, self.reply),
        })
    }

    fn parse_receipt(self) -> Result<Line, InvalidInput> {
        let (Some(reference), Some(node), Some(status)) =
            (self.text_reference()?, self.node, self.status)
        else {
            return Err(InvalidInput::new("receipt without ref, node or status"));
        };
        Ok(Line::Receipt(DeliveryReport {
            reference,
            node,
            status,
            connections: self.connections,
        }))
    }

    fn parse_reply(self) -> Result<Line, InvalidInput> {
        let to = target(self.to, "reply without to")?;
        let id = check_id(self.id)?;
        let push = reply_push(to, self.reference, id, self.data, self.error)?;
        Ok(Line::Push(push, self.reply))
    }

    fn parse_presence(self, cmd: &str) -> Result<Line, InvalidInput> {
        let (Some(topic), Some(node)) = (self.topic, self.node) else {
            return Err(InvalidInput::new(format!("{cmd} without topic or node")));
        };
        if self.here.len() + self.gone.len() > MAX_NAMES {
            return Err(InvalidInput::new(format!(
                "{cmd} names over {MAX_NAMES} users"
            )));
        }
        let told = Told {
            topic,
            node,
            begin: self.begin,
            end: self.end,
            here: self.here,
            info: self.info,
            gone: self.gone,
        };
        Ok(Line::Presence(match cmd {
            "watch" => PresenceLine::Watch(told.into()),
            _ => PresenceLine::Told(told),
        }))
    }

    /// The `ref` by which a node knows its own questions and pushes.
    fn text_reference(&self) -> Result<Option<String>, InvalidInput> {
        let read = |json: &RawValue| serde_json::from_str(json.get());
        Ok(self.reference.map(read).transpose()?)
    }
}

fn target(to: Option<ToFields<'_>>, missing: &'static str) -> Result<Target, InvalidInput> {
    to.ok_or_else(|| InvalidInput::new(missing))?.check()
}

/// Why connections may be ended from outside.
fn kick_reason(reason: &str) -> Result<CloseReason, InvalidInput> {
    [
        CloseReason::Kicked,
        CloseReason::Banned,
        CloseReason::Replaced,
    ]
    .into_iter()
    .find(|known| known.label() == reason)
    .ok_or_else(|| InvalidInput::new("reason must be kicked, banned or replaced"))
}

/// A push as a line for a channel, without line break.
#[must_use]
pub fn push_line(
    to: &Target,
    except: Option<&Except>,
    message: &Message,
    reply: Option<&ReceiptRequest>,
) -> String {
    let mut out = String::with_capacity(message.data().len() + 96);
    match message.author() {
        None => out.push_str(r#"{"to":"#),
        Some(member) => {
            let member = to_json(member);
            let _ = write!(out, r#"{{"cmd":"publish","member":{member},"to":"#);
        }
    }
    write_target(&mut out, to);
    out.push(',');
    message.write_names(&mut out);
    let mut data = "data";
    if let Kind::Reply { reference, failed } = &message.kind {
        out.push_str(r#""cmd":"reply","#);
        if let Some(reference) = reference {
            let _ = write!(out, r#""ref":{reference},"#);
        }
        data = if *failed { "error" } else { data };
    }
    if let Some(except) = except {
        let users = Users(except.users.iter());
        let fds = Names(except.connections.iter());
        let _ = write!(out, r#""except":{{"users":{users},"fds":{fds}}},"#);
    }
    match message.policy() {
        Policy::Close if !message.has_policy() => {}
        Policy::Close => out.push_str(r#""policy":"close","#),
        Policy::Drop => out.push_str(r#""policy":"drop","#),
        Policy::Latest(key) => {
            let policy = to_json(&format!("latest:{key}"));
            let _ = write!(out, r#""policy":{policy},"#);
        }
    }
    if let Some(position) = message.position() {
        let _ = write!(out, r#""keep":true,"seq_id":"{position}","#);
    }
    write_reply(&mut out, reply);
    out.extend(["\"", data, "\":", message.data(), "}"]);
    out
}

/// A kick as a line for a channel.
#[must_use]
pub fn kick_line(to: &Target, reason: CloseReason, reply: Option<&ReceiptRequest>) -> String {
    let mut out = String::from(r#"{"cmd":"kick","#);
    if reason != CloseReason::Kicked {
        let _ = write!(out, r#""reason":"{}","#, reason.label());
    }
    addressed(out, to, reply)
}

/// A subscription by the server as a line for a channel, or its end.
#[must_use]
pub fn subscribe_line(
    to: &Target,
    topic: &Topic,
    joins: bool,
    reply: Option<&ReceiptRequest>,
) -> String {
    let cmd = if joins { "subscribe" } else { "unsubscribe" };
    let out = format!(r#"{{"cmd":"{cmd}","topic":"{topic}","#);
    addressed(out, to, reply)
}

/// The word that there is something in these inboxes or logs, as a line for a channel.
#[must_use]
pub fn look_line(to: &Target) -> String {
    addressed(r#"{"keep":true,"#.to_owned(), to, None)
}

/// Ends a line with whom it is for, and who wants to hear of it.
fn addressed(mut out: String, to: &Target, reply: Option<&ReceiptRequest>) -> String {
    write_reply(&mut out, reply);
    out.push_str(r#""to":"#);
    write_target(&mut out, to);
    out.push('}');
    out
}

/// A push to all connections as a line for the channel of all nodes, except for those nodes that
/// have received it on their own channels.
#[must_use]
pub fn line_but(line: &str, nodes: &[NodeId]) -> String {
    format!(r#"{{"but":{},{}"#, Names(nodes.iter()), &line[1..])
}

/// Whether a line leaves this node out. Cheap for lines that leave out no node.
#[must_use]
pub fn leaves_out(line: &[u8], node: &NodeId) -> bool {
    #[derive(Deserialize)]
    struct Fields {
        but: Vec<NodeId>,
    }
    line.starts_with(br#"{"but":["#)
        && serde_json::from_slice::<Fields>(line).is_ok_and(|fields| fields.but.contains(node))
}

fn write_reply(out: &mut String, reply: Option<&ReceiptRequest>) {
    if let Some(reply) = reply {
        let reply = to_json(reply);
        let _ = write!(out, r#""reply":{reply},"#);
    }
}
