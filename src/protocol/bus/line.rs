//! What is published on channels: lines of JSON, in and out. Tolerant of fields it does not
//! know, so that nodes of two versions can share a Redis while one replaces the other.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::client::send::reply_push;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{NodeId, Topic, UserId};
use crate::protocol::sender::call::present;
use crate::protocol::sender::push::{ExceptFields, NOT_KEPT, ToFields, check_id, check_policy};
use crate::protocol::session_id::SessionId;
use crate::protocol::{
    Except, Fault, Kind, Message, NodeAnswer, Policy, PresenceLine, Push, Question, Receipt, Reply,
    Status, Target, Told, VERSION,
};

/// One line of a payload on a channel.
#[derive(Debug)]
pub enum Line {
    /// Opens a node's payload: who sends, and its how-manieth payload on this channel it is.
    Header {
        /// The sending node.
        from: NodeId,
        /// Counted from 1 per sender and channel; a jump is a loss.
        seq: u64,
        /// Nothing follows: the sender repeats its last number, so that a loss of its last
        /// payload shows although no other comes.
        tail: bool,
    },
    /// A push.
    Push(Push, Option<Reply>),
    /// Something was put into the inboxes of these users or the logs of these topics.
    Look(Target),
    /// End these connections, for this reason.
    Kick(Target, CloseReason, Option<Reply>),
    /// End the connections that rest on this session.
    Revoke(SessionId),
    /// Subscribe these connections to a topic.
    Subscribe(Target, Topic, Option<Reply>),
    /// Take the subscription of these connections to a topic back.
    Unsubscribe(Target, Topic, Option<Reply>),
    /// The node should leave.
    Drain,
    /// A node's question to itself whether its subscription works.
    Probe(u64),
    /// What became of a push.
    Receipt(Receipt),
    /// A question, or what is wrong with it, and who wants the answer.
    Ask(Result<Question, Fault>, Reply),
    /// What a node says to our question.
    Answer(NodeAnswer),
    /// Who comes and goes in a topic, or who wants to hear of it.
    Presence(PresenceLine),
}

/// All fields a line may have. Unknown ones are ignored, so that nodes of two versions can
/// share a Redis while one replaces the other.
#[derive(Deserialize)]
struct LineFields<'a> {
    #[serde(default, borrow)]
    to: Option<ToFields<'a>>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    except: Option<ExceptFields>,
    #[serde(default, borrow)]
    policy: Option<Cow<'a, str>>,
    #[serde(default)]
    keep: bool,
    #[serde(default, borrow)]
    seq_id: Option<Cow<'a, str>>,
    #[serde(default)]
    reply: Option<Reply>,
    #[serde(default, borrow)]
    cmd: Option<Cow<'a, str>>,
    #[serde(default)]
    topic: Option<Topic>,
    #[serde(default)]
    v: Option<u32>,
    #[serde(default)]
    from: Option<NodeId>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    tail: bool,
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
    #[serde(default)]
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
    #[serde(default)]
    here: Vec<UserId>,
    #[serde(default)]
    gone: Vec<UserId>,
    #[serde(default)]
    begin: bool,
    #[serde(default)]
    end: bool,
}

impl LineFields<'_> {
    /// The `ref` by which a node knows its own questions and pushes.
    fn text_reference(&self) -> Result<Option<String>, Fault> {
        let read = |json: &RawValue| serde_json::from_str(json.get());
        Ok(self.reference.map(read).transpose()?)
    }
}

/// Why connections may be ended from outside.
fn kick_reason(reason: &str) -> Result<CloseReason, Fault> {
    [
        CloseReason::Kicked,
        CloseReason::Banned,
        CloseReason::Replaced,
    ]
    .into_iter()
    .find(|known| known.label() == reason)
    .ok_or_else(|| Fault::new("reason must be kicked, banned or replaced"))
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, Fault> {
        let fields: LineFields<'_> = serde_json::from_slice(line)?;
        match fields.cmd.as_deref() {
            None => {}
            Some("probe") => {
                let n = fields.n.ok_or_else(|| Fault::new("probe without n"))?;
                return Ok(Self::Probe(n));
            }
            Some("drain") => return Ok(Self::Drain),
            Some("kick") => {
                let to = fields
                    .to
                    .ok_or_else(|| Fault::new("kick without to"))?
                    .check()?;
                let reason = fields
                    .reason
                    .as_deref()
                    .map_or(Ok(CloseReason::Kicked), kick_reason)?;
                return Ok(Self::Kick(to, reason, fields.reply));
            }
            Some("revoke") => {
                let session = fields
                    .session
                    .ok_or_else(|| Fault::new("revoke without session"))?;
                let session = session
                    .parse()
                    .map_err(|error| Fault::new(format!("{error}")))?;
                return Ok(Self::Revoke(session));
            }
            Some(cmd @ ("subscribe" | "unsubscribe")) => {
                let (Some(to), Some(topic)) = (fields.to, fields.topic) else {
                    return Err(Fault::new(format!("{cmd} without to or topic")));
                };
                let to = to.check()?;
                if !matches!(
                    to,
                    Target::User(_) | Target::Users(_) | Target::Connection(..)
                ) {
                    return Err(Fault::new(format!(
                        "{cmd} needs to.user, to.users or to.fd"
                    )));
                }
                return Ok(match cmd {
                    "subscribe" => Self::Subscribe(to, topic, fields.reply),
                    _ => Self::Unsubscribe(to, topic, fields.reply),
                });
            }
            Some("receipt") => {
                let (Some(reference), Some(node), Some(status)) =
                    (fields.text_reference()?, fields.node, fields.status)
                else {
                    return Err(Fault::new("receipt without ref, node or status"));
                };
                let connections = fields.connections;
                return Ok(Self::Receipt(Receipt {
                    reference,
                    node,
                    status,
                    connections,
                }));
            }
            Some("reply") => {
                let to = fields
                    .to
                    .ok_or_else(|| Fault::new("reply without to"))?
                    .check()?;
                let id = check_id(fields.id)?;
                let push = reply_push(to, fields.reference, id, fields.data, fields.error)?;
                return Ok(Self::Push(push, fields.reply));
            }
            Some("ask") => {
                let (Some(what), Some(reply)) = (fields.what, fields.reply) else {
                    return Err(Fault::new("ask without what or reply"));
                };
                return Ok(Self::Ask(Question::parse(&what, fields.args), reply));
            }
            Some("answer") => {
                let (Some(reference), Some(node), Some(body)) =
                    (fields.text_reference()?, fields.node, fields.body)
                else {
                    return Err(Fault::new("answer without ref, node or body"));
                };
                return NodeAnswer::new(reference, node, body).map(Self::Answer);
            }
            Some(cmd @ ("watch" | "presence")) => {
                let (Some(topic), Some(node)) = (fields.topic, fields.node) else {
                    return Err(Fault::new(format!("{cmd} without topic or node")));
                };
                let told = Told {
                    topic,
                    node,
                    begin: fields.begin,
                    end: fields.end,
                    here: fields.here,
                    gone: fields.gone,
                };
                return Ok(Self::Presence(match cmd {
                    "watch" => PresenceLine::Watch(told.into()),
                    _ => PresenceLine::Told(told),
                }));
            }
            Some(_) => return Err(Fault::new("unknown cmd")),
        }
        if let Some(version) = fields.v {
            if version != VERSION {
                return Err(Fault::new(format!("version {version} is not known")));
            }
            let (Some(from), Some(seq)) = (fields.from, fields.seq) else {
                return Err(Fault::new("header without from or seq"));
            };
            let tail = fields.tail;
            return Ok(Self::Header { from, seq, tail });
        }
        let to = fields
            .to
            .ok_or_else(|| Fault::new("missing field `to`"))?
            .check()?;
        let position = match (fields.keep, fields.seq_id) {
            (false, _) => None,
            (true, None) => {
                return match to {
                    Target::Connection(..) | Target::All => Err(Fault::new(NOT_KEPT)),
                    to => Ok(Self::Look(to)),
                };
            }
            (true, Some(position)) if matches!(to, Target::User(_) | Target::Topic(_)) => {
                let bad = |error| Fault::new(format!("seq_id {error}"));
                Some(position.parse().map_err(bad)?)
            }
            (true, Some(_)) => return Err(Fault::new("seq_id needs to.user or to.topic")),
        };
        let data = fields
            .data
            .ok_or_else(|| Fault::new("missing field `data`"))?;
        let except = fields.except.map_or(Ok(None), ExceptFields::check)?;
        let message = Message::new(
            check_id(fields.id)?,
            data,
            check_policy(fields.policy.as_deref())?,
        );
        let message = match &to {
            Target::Topic(topic) => message.in_topic(topic),
            _ => message,
        };
        let message = match position {
            Some(position) => message.kept_at(position),
            None => message,
        };
        Ok(Self::Push(
            Push {
                to,
                except,
                message: Arc::new(message),
            },
            fields.reply,
        ))
    }
}

/// The header line of a node's payload, line break included.
#[must_use]
pub fn header_line(from: &NodeId, seq: u64) -> String {
    format!("{{\"v\":{VERSION},\"from\":\"{from}\",\"seq\":{seq}}}\n")
}

/// A payload that holds nothing but the number of the one before it.
#[must_use]
pub fn tail_payload(from: &NodeId, seq: u64) -> String {
    format!("{{\"v\":{VERSION},\"from\":\"{from}\",\"seq\":{seq},\"tail\":true}}")
}

/// A push as a line for a channel, without line break.
#[must_use]
pub fn push_line(
    to: &Target,
    except: Option<&Except>,
    message: &Message,
    reply: Option<&Reply>,
) -> String {
    let mut out = String::with_capacity(message.data.len() + 96);
    out.push_str(r#"{"to":"#);
    write_target(&mut out, to);
    out.push(',');
    message.write_id(&mut out);
    let mut data = "data";
    if let Kind::Reply { reference, failed } = &message.kind {
        out.push_str(r#""cmd":"reply","#);
        if let Some(reference) = reference {
            let _ = write!(out, r#""ref":{reference},"#);
        }
        data = if *failed { "error" } else { data };
    }
    if let Some(except) = except {
        let users = Names(except.users.iter());
        let fds = Names(except.connections.iter());
        let _ = write!(out, r#""except":{{"users":{users},"fds":{fds}}},"#);
    }
    match &message.policy {
        Policy::Close => {}
        Policy::Drop => out.push_str(r#""policy":"drop","#),
        Policy::Latest(key) => {
            let policy = serde_json::to_string(&format!("latest:{key}")).expect("text");
            let _ = write!(out, r#""policy":{policy},"#);
        }
    }
    if let Some(position) = message.position {
        let _ = write!(out, r#""keep":true,"seq_id":"{position}","#);
    }
    write_reply(&mut out, reply);
    let _ = write!(out, r#""{data}":{}}}"#, message.data);
    out
}

/// A kick as a line for a channel.
#[must_use]
pub fn kick_line(to: &Target, reason: CloseReason, reply: Option<&Reply>) -> String {
    let mut out = String::from(r#"{"cmd":"kick","#);
    if reason != CloseReason::Kicked {
        let _ = write!(out, r#""reason":"{}","#, reason.label());
    }
    addressed(out, to, reply)
}

/// A subscription by the server as a line for a channel, or its end.
#[must_use]
pub fn subscribe_line(to: &Target, topic: &Topic, joins: bool, reply: Option<&Reply>) -> String {
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
fn addressed(mut out: String, to: &Target, reply: Option<&Reply>) -> String {
    write_reply(&mut out, reply);
    out.push_str(r#""to":"#);
    write_target(&mut out, to);
    out.push('}');
    out
}

/// A push to everybody as a line for the channel of all nodes, but for those of them that have got
/// it on their own.
#[must_use]
pub fn line_but(line: &str, nodes: &[NodeId]) -> String {
    format!(r#"{{"but":{},{}"#, Names(nodes.iter()), &line[1..])
}

/// Whether a line leaves this node out. Cheap for lines that leave out nobody.
#[must_use]
pub fn leaves_out(line: &[u8], node: &NodeId) -> bool {
    #[derive(Deserialize)]
    struct Fields {
        but: Vec<NodeId>,
    }
    line.starts_with(br#"{"but":["#)
        && serde_json::from_slice::<Fields>(line).is_ok_and(|fields| fields.but.contains(node))
}

/// The end of a session, as a line for a channel.
#[must_use]
pub fn revoke_line(session: SessionId) -> String {
    format!(r#"{{"cmd":"revoke","session":"{session}"}}"#)
}

/// A command to leave, as a line for a channel.
#[must_use]
pub fn drain_line() -> String {
    r#"{"cmd":"drain"}"#.to_owned()
}

/// A probe as a line for a channel.
#[must_use]
pub fn probe_line(n: u64) -> String {
    format!(r#"{{"cmd":"probe","n":{n}}}"#)
}

/// The number of a probe, if the payload is one and nothing else. Cheap for all others.
#[must_use]
pub fn as_probe(payload: &[u8]) -> Option<u64> {
    if !payload.starts_with(br#"{"cmd":"probe""#) {
        return None;
    }
    match Line::parse(payload) {
        Ok(Line::Probe(n)) => Some(n),
        _ => None,
    }
}

/// A receipt as a line for a channel.
#[must_use]
pub fn receipt_line(receipt: &Receipt) -> String {
    #[derive(Serialize)]
    struct Command<'a> {
        cmd: &'static str,
        #[serde(flatten)]
        receipt: &'a Receipt,
    }
    serde_json::to_string(&Command {
        cmd: "receipt",
        receipt,
    })
    .expect("plain fields")
}

/// Names need no escaping: their grammar has no quote and no backslash.
pub(crate) struct Names<I>(pub(crate) I);

impl<T: std::fmt::Display, I: Iterator<Item = T> + Clone> std::fmt::Display for Names<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('[')?;
        for (i, name) in self.0.clone().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}\"{name}\"")?;
        }
        f.write_char(']')
    }
}

pub(crate) fn write_target(out: &mut String, to: &Target) {
    let _ = match to {
        Target::User(user) => write!(out, r#"{{"user":"{user}"}}"#),
        Target::Users(users) => write!(out, r#"{{"users":{}}}"#, Names(users.iter())),
        Target::Topic(topic) => write!(out, r#"{{"topic":"{topic}"}}"#),
        Target::Topics(topics) => write!(out, r#"{{"topics":{}}}"#, Names(topics.iter())),
        Target::Connection(id, None) => write!(out, r#"{{"fd":"{id}"}}"#),
        Target::Connection(id, Some(user)) => write!(out, r#"{{"fd":"{id}","user":"{user}"}}"#),
        Target::All => write!(out, r#"{{"all":true}}"#),
    };
}

fn write_reply(out: &mut String, reply: Option<&Reply>) {
    if let Some(reply) = reply {
        let reply = serde_json::to_string(reply).expect("plain fields");
        let _ = write!(out, r#""reply":{reply},"#);
    }
}

/// A target as the text it has on the bus, to tell targets apart.
#[must_use]
pub fn push_target_key(to: &Target) -> String {
    let mut key = String::new();
    write_target(&mut key, to);
    key
}
