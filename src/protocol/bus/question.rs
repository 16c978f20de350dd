//! What nodes ask each other, and their answers: `stats`, `kick`, `drain`, `call`, `trace` and
//! `members`.
//!
//! A question goes to the channel of each node that is asked, the answer to the channel of the
//! node that asks:
//!
//! ```text
//! {"cmd":"ask","what":"kick","reply":{"node":"<asker>","ref":"7","timeout_ms":3000},
//!  "args":{"to":{"user":"42"}}}
//! {"cmd":"answer","ref":"7","node":"<asked>","body":{"connections":1}}
//! ```
//!
//! To add a question: a variant of [`Question`] with its arguments as types, its name in
//! `Question::name`, its arguments in `Question::parse` and in `Args`, and what a node does
//! about it in `Respond::answer` (`cluster/questions.rs`). `Survey::ask` (`cluster/survey.rs`) then
//! asks it, collects the answers and names the missing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{ConnectionId, NodeId, Topic, UserId};
use crate::protocol::json::{from_object, one_line, raw, to_json};
use crate::protocol::message::{MAX_USERS, Target, check_id};
use crate::protocol::outcome::ReceiptRequest;
use crate::protocol::sender::call::Call;
use crate::protocol::sender::push::{ToFields, check_timeout};

/// Largest answer of one node. A larger one is replaced by an error that says so.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What a node can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How it is: [`NodeStats`].
    Stats,
    /// To end its connections of this target; it answers how many.
    Kick(Target),
    /// To send its clients away and leave.
    Drain,
    /// To ask its clients something: [`Called`](crate::protocol::sender::call::Called).
    Call(Call),
    /// What did not get to this user, or only of the message with this id: `Known`
    /// (`telemetry/trace.rs`).
    Trace {
        /// Whose messages.
        user: UserId,
        /// Which message.
        id: Option<Box<str>>,
    },
    /// Which of its users are in a topic: [`NodeMembers`](super::presence::NodeMembers).
    Members(Topic),
}

impl Question {
    /// As in `what`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stats => "stats",
            Self::Kick(_) => "kick",
            Self::Drain => "drain",
            Self::Call(_) => "call",
            Self::Trace { .. } => "trace",
            Self::Members(_) => "members",
        }
    }

    /// Reads a question of the bus.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(what: &str, args: Option<&RawValue>) -> Result<Self, InvalidInput> {
        match what {
            "stats" => Ok(Self::Stats),
            "kick" => Ok(Self::Kick(read::<KickArgs<'_>>(args)?.to.check()?)),
            "drain" => Ok(Self::Drain),
            "call" => {
                let args = args.ok_or_else(|| InvalidInput::new("missing field `args`"))?;
                Call::parse(args.get().as_bytes()).map(Self::Call)
            }
            "trace" => {
                let TraceArgs { user, id } = read(args)?;
                let id = check_id(id)?;
                Ok(Self::Trace { user, id })
            }
            "members" => Ok(Self::Members(read::<MembersArgs>(args)?.topic)),
            _ => Err(InvalidInput::new("this node does not know this question")),
        }
    }

    fn args(&self) -> Option<Args<'_>> {
        match self {
            Self::Stats | Self::Drain => None,
            Self::Kick(to) => Some(Args::Kick { to }),
            Self::Call(call) => Some(Args::Call(call)),
            Self::Trace { user, id } => Some(Args::Trace {
                user,
                id: id.as_deref(),
            }),
            Self::Members(topic) => Some(Args::Members { topic }),
        }
    }
}

/// The arguments of a question as they are written.
#[derive(Serialize)]
#[serde(untagged)]
enum Args<'a> {
    Kick {
        to: &'a Target,
    },
    Call(&'a Call),
    Trace {
        user: &'a UserId,
        id: Option<&'a str>,
    },
    Members {
        topic: &'a Topic,
    },
}

#[derive(Deserialize)]
struct KickArgs<'a> {
    #[serde(borrow)]
    to: ToFields<'a>,
}

#[derive(Deserialize)]
struct TraceArgs<'a> {
    user: UserId,
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct MembersArgs {
    topic: Topic,
}

/// Reads arguments. Unknown fields are ignored: a newer node may say more than we know.
fn read<'a, T: Deserialize<'a>>(args: Option<&'a RawValue>) -> Result<T, InvalidInput> {
    let args = args.ok_or_else(|| InvalidInput::new("missing field `args`"))?;
    Ok(serde_json::from_str(args.get())?)
}

/// A question as a line for a channel.
#[must_use]
pub fn ask_line(question: &Question, reply: &ReceiptRequest) -> String {
    #[derive(Serialize)]
    struct ReplyTo<'a> {
        node: &'a NodeId,
        #[serde(rename = "ref")]
        reference: &'a str,
        timeout_ms: u64,
    }
    #[derive(Serialize)]
    struct Fields<'a> {
        cmd: &'static str,
        what: &'static str,
        reply: ReplyTo<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        args: Option<Args<'a>>,
    }
    to_json(&Fields {
        cmd: "ask",
        what: question.name(),
        reply: ReplyTo {
            node: &reply.node,
            reference: &reply.reference,
            timeout_ms: reply.timeout_ms,
        },
        args: question.args(),
    })
}

/// What a node says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAnswer {
    /// From the question's `reply`.
    pub reference: String,
    /// Who answers.
    pub node: NodeId,
    /// A JSON object in one line.
    pub body: Box<str>,
}

impl NodeAnswer {
    pub(crate) fn new(
        reference: String,
        node: NodeId,
        body: &RawValue,
    ) -> Result<Self, InvalidInput> {
        if !body.get().starts_with('{') {
            return Err(InvalidInput::new("the body of an answer must be an object"));
        }
        let body = one_line(body);
        Ok(Self {
            reference,
            node,
            body,
        })
    }
}

/// A node's answer as a line for a channel.
#[must_use]
pub fn answer_line(answer: &NodeAnswer) -> String {
    #[derive(Serialize)]
    struct Fields<'a> {
        cmd: &'static str,
        #[serde(rename = "ref")]
        reference: &'a str,
        node: &'a NodeId,
        body: &'a RawValue,
    }
    to_json(&Fields {
        cmd: "answer",
        reference: &answer.reference,
        node: &answer.node,
        body: raw(&answer.body),
    })
}

/// An answer that says why there is none.
#[must_use]
pub fn error_body(code: &str, message: &str) -> String {
    #[derive(Serialize)]
    struct Words<'a> {
        code: &'a str,
        message: &'a str,
    }
    #[derive(Serialize)]
    struct Fields<'a> {
        error: Words<'a>,
    }
    let error = Words { code, message };
    to_json(&Fields { error })
}

/// The answer to a kick.
#[must_use]
pub fn kicked_body(connections: u32) -> String {
    #[derive(Serialize)]
    struct Fields {
        connections: u32,
    }
    to_json(&Fields { connections })
}

/// The answer of a node that is about to leave.
pub const DRAINING_BODY: &str = r#"{"state":"draining"}"#;

/// The answers of nodes as a sender gets them: each body with `node` in front.
#[must_use]
pub fn collected_body(answers: &[(NodeId, Box<str>)], missing: &[String]) -> String {
    let mut out = String::from(r#"{"answers":["#);
    for (i, (node, body)) in answers.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let inside = body.trim().trim_start_matches('{').trim_start();
        let between = if inside == "}" { "" } else { "," };
        let _ = write!(out, r#"{comma}{{"node":"{node}"{between}{inside}"#);
    }
    let missing = to_json(&missing);
    let _ = write!(out, r#"],"missing":{missing}}}"#);
    out
}

/// How a node is.
#[derive(Debug, Serialize)]
pub struct NodeStats<'a> {
    /// Its version of this program.
    pub version: &'static str,
    /// `up` or `draining`.
    pub state: &'static str,
    /// For how long it has run.
    pub uptime_ms: u64,
    /// Clients connected now.
    pub connections: usize,
    /// Users they are.
    pub users: usize,
    /// Whether it can serve, and if not, why.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// `redis`, or `embedded` for one node by itself.
    pub backplane: &'static str,
    /// What waits inside it.
    pub queues: QueueStats,
    /// Counted since its start.
    pub totals: TotalStats,
}

/// What waits inside a node.
#[derive(Debug, Serialize)]
pub struct QueueStats {
    /// Commands that wait for shards.
    pub shards: usize,
    /// Lines for other nodes that Redis has not answered.
    pub outbox: usize,
    /// Users whose row is still to be written.
    pub rows: usize,
    /// Calls that wait for an answer of a client here.
    pub calls: usize,
}

/// What a node has counted since its start.
#[derive(Debug, Serialize)]
pub struct TotalStats {
    /// Clients let in.
    pub connects: u64,
    /// Messages accepted into the queues of connections.
    pub deliveries: u64,
    /// Messages written to sockets.
    pub written: u64,
    /// Messages from clients.
    pub received: u64,
    /// Envelopes taken from the bus.
    pub envelopes: u64,
}

/// A command to nodes as a sender asks for it.
#[derive(Debug)]
pub struct CommandRequest {
    /// What is asked of each node.
    pub question: Question,
    /// Names or full ids of the nodes; none: all.
    pub nodes: Option<Vec<String>>,
    /// When to answer at the latest.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandBody {
    cmd: String,
    #[serde(default)]
    nodes: Option<Vec<String>>,
    #[serde(default)]
    user: Option<UserId>,
    #[serde(default)]
    fd: Option<ConnectionId>,
    #[serde(default)]
    timeout_ms: Option<f64>,
}

impl CommandRequest {
    /// Reads a command, strictly.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        let body: CommandBody = from_object(body)?;
        let mut nodes = body.nodes;
        match &nodes {
            Some(nodes) if nodes.is_empty() => {
                return Err(InvalidInput::new("nodes must not be empty"));
            }
            Some(nodes) if nodes.len() > MAX_USERS => {
                return Err(InvalidInput::new(format!("nodes names over {MAX_USERS}")));
            }
            _ => {}
        }
        let question = match (&*body.cmd, body.user, body.fd) {
            ("kick", Some(user), None) => Question::Kick(Target::User(user)),
            ("kick", user, Some(id)) => {
                // No other node can have it.
                nodes.get_or_insert_with(|| vec![id.node.to_string()]);
                Question::Kick(Target::Connection(id, user))
            }
            ("kick", None, None) => return Err(InvalidInput::new("kick needs user or fd")),
            ("stats" | "drain", Some(_), _) | ("stats" | "drain", _, Some(_)) => {
                return Err(InvalidInput::new("only kick goes with user or fd"));
            }
            ("stats", ..) => Question::Stats,
            ("drain", ..) if nodes.is_none() => {
                return Err(InvalidInput::new(
                    "drain needs nodes: all of them must be meant",
                ));
            }
            ("drain", ..) => Question::Drain,
            _ => return Err(InvalidInput::new("cmd must be stats, kick or drain")),
        };
        Ok(Self {
            question,
            nodes,
            timeout: check_timeout(body.timeout_ms)?,
        })
    }
}
