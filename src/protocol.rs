//! What is said on the bus, by senders and to clients: JSON in, typed values out, and back.
//!
//! The only file that knows field names. No I/O. A payload (`data`) is never re-serialised: it
//! passes through as the bytes it came in, except that line breaks between its tokens become
//! blanks, because on the bus a line is an envelope. Decoding is total: any bytes lead to a
//! value or to a [`Fault`] that names what is wrong.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::close::CloseReason;
use crate::frame;
use crate::names::{ConnectionId, Fd, NodeId, UserId};

/// The version in the header line of a node's payload.
pub const VERSION: u32 = 1;
/// Longest message id, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// Most users in one push.
pub const MAX_USERS: usize = 1_000;
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
    /// One connection; delivered only if it is this user's, when a user is named.
    Connection(ConnectionId, Option<UserId>),
    /// Every connection in the cluster.
    All,
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

/// The dialect a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// No subprotocol: a frame is exactly `data`.
    Plain,
    /// `pushnode.v1`: objects with a `type`.
    V1,
}

/// What is pushed. Encoded for each dialect at most once, whoever receives it.
#[derive(Debug)]
pub struct Message {
    id: Option<Box<str>>,
    data: Box<str>,
    policy: Policy,
    plain: OnceLock<Bytes>,
    v1: OnceLock<Bytes>,
}

impl Message {
    fn new(id: Option<Box<str>>, data: &RawValue, policy: Policy) -> Self {
        // Inside a JSON string a line break is always escaped, so these are between tokens.
        let data = data.get();
        let data = if memchr::memchr2(b'\n', b'\r', data.as_bytes()).is_some() {
            data.replace(['\n', '\r'], " ").into()
        } else {
            data.into()
        };
        Self {
            id,
            data,
            policy,
            plain: OnceLock::new(),
            v1: OnceLock::new(),
        }
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

    /// The whole WebSocket frame for a client of this dialect.
    #[must_use]
    pub fn frame(&self, dialect: Dialect) -> Bytes {
        match dialect {
            Dialect::Plain => self
                .plain
                .get_or_init(|| frame::text(&[self.data.as_bytes()])),
            Dialect::V1 => self.v1.get_or_init(|| {
                let mut head = String::from(r#"{"type":"message","#);
                self.write_id(&mut head);
                head.push_str(r#""data":"#);
                frame::text(&[head.as_bytes(), self.data.as_bytes(), b"}"])
            }),
        }
        .clone()
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
    /// As in answers, receipts and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Written => "written",
            Self::Acked => "acked",
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

// ---------------------------------------------------------------- senders (HTTP)

/// A push as a sender asks for it.
#[derive(Debug)]
pub struct PushRequest {
    /// The push.
    pub push: Push,
    /// When to answer.
    pub wait: Wait,
    /// When to answer at the latest.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushBody<'a> {
    #[serde(borrow)]
    to: ToFields<'a>,
    data: &'a RawValue,
    #[serde(default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    except: Option<ExceptFields>,
    #[serde(default)]
    policy: Option<Cow<'a, str>>,
    #[serde(default)]
    wait: Wait,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToFields<'a> {
    #[serde(default)]
    user: Option<UserId>,
    #[serde(default)]
    users: Option<Vec<UserId>>,
    #[serde(default)]
    fd: Option<ConnectionId>,
    #[serde(default, borrow)]
    all: Option<&'a RawValue>,
}

impl ToFields<'_> {
    fn check(self) -> Result<Target, Fault> {
        let all = match self.all.map(RawValue::get) {
            None | Some("null") => false,
            Some("true") => true,
            Some(_) => return Err(Fault::new("to.all must be true, or absent")),
        };
        match (self.user, self.users, self.fd, all) {
            (user, None, Some(id), false) => Ok(Target::Connection(id, user)),
            (Some(user), None, None, false) => Ok(Target::User(user)),
            (None, Some(users), None, false) if users.is_empty() => {
                Err(Fault::new("to.users must not be empty"))
            }
            (None, Some(users), None, false) if users.len() > MAX_USERS => Err(Fault::new(
                format!("to.users has {} users; {MAX_USERS} at most", users.len()),
            )),
            (None, Some(users), None, false) => Ok(Target::Users(without_repeats(users))),
            (None, None, None, true) => Ok(Target::All),
            (None, None, None, false) => {
                Err(Fault::new("to must have one of user, users, fd or all"))
            }
            _ => Err(Fault::new(
                "to must have only one of user, users, fd or all",
            )),
        }
    }
}

/// A user named twice gets a message once.
fn without_repeats(mut users: Vec<UserId>) -> Vec<UserId> {
    let mut seen = HashSet::with_capacity(users.len());
    users.retain(|user| seen.insert(user.clone()));
    users
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExceptFields {
    #[serde(default)]
    users: Vec<UserId>,
    #[serde(default)]
    fds: Vec<ConnectionId>,
}

impl ExceptFields {
    fn check(self) -> Result<Option<Arc<Except>>, Fault> {
        let Self { users, fds } = self;
        if users.len() + fds.len() > MAX_USERS {
            return Err(Fault::new(format!("except names over {MAX_USERS}")));
        }
        if users.is_empty() && fds.is_empty() {
            return Ok(None);
        }
        let (users, connections) = (users.into_iter().collect(), fds.into_iter().collect());
        Ok(Some(Arc::new(Except { users, connections })))
    }
}

fn check_id(id: Option<Cow<'_, str>>) -> Result<Option<Box<str>>, Fault> {
    match id {
        Some(id)
            if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) =>
        {
            Err(Fault::new(
                "id must be 1 to 128 bytes without control characters",
            ))
        }
        id => Ok(id.map(|id| id.into())),
    }
}

fn check_policy(policy: Option<&str>) -> Result<Policy, Fault> {
    match policy {
        None | Some("close") => Ok(Policy::Close),
        Some("drop") => Ok(Policy::Drop),
        Some(other) => match other.strip_prefix("latest:") {
            Some(key) if (1..=MAX_ID_BYTES).contains(&key.len()) => Ok(Policy::Latest(key.into())),
            _ => Err(Fault::new("policy must be close, drop or latest:<key>")),
        },
    }
}

impl PushRequest {
    /// Reads one push of a sender, strictly: an unknown field is a fault, not a surprise.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        let body: PushBody<'_> = serde_json::from_slice(body)?;
        let timeout = body
            .timeout_ms
            .map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            return Err(Fault::new("timeout_ms must be from 1 to 30000"));
        }
        let push = Push {
            to: body.to.check()?,
            except: body.except.map_or(Ok(None), ExceptFields::check)?,
            message: Arc::new(Message::new(
                check_id(body.id)?,
                body.data,
                check_policy(body.policy.as_deref())?,
            )),
        };
        Ok(Self {
            push,
            wait: body.wait,
            timeout,
        })
    }
}

// ---------------------------------------------------------------- the bus

/// One line of a payload on a channel.
#[derive(Debug)]
pub enum Line {
    /// Opens a node's payload: who sends, and its how-manieth payload on this channel it is.
    Header {
        /// The sending node.
        from: NodeId,
        /// Counted from 1 per sender and channel; a jump is a loss.
        seq: u64,
    },
    /// A push.
    Push(Push, Option<Reply>),
    /// End these connections.
    Kick(Target, Option<Reply>),
    /// The node should leave.
    Drain,
    /// A node's question to itself whether its subscription works.
    Probe(u64),
    /// What became of a push.
    Receipt(Receipt),
}

/// All fields a line may have. Unknown ones are ignored, so that nodes of two versions can
/// share a Redis while one replaces the other.
#[derive(Deserialize)]
struct LineFields<'a> {
    #[serde(default, borrow)]
    to: Option<ToFields<'a>>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    except: Option<ExceptFields>,
    #[serde(default, borrow)]
    policy: Option<Cow<'a, str>>,
    #[serde(default)]
    reply: Option<Reply>,
    #[serde(default, borrow)]
    cmd: Option<Cow<'a, str>>,
    #[serde(default)]
    v: Option<u32>,
    #[serde(default)]
    from: Option<NodeId>,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(default, rename = "ref")]
    reference: Option<String>,
    #[serde(default)]
    node: Option<NodeId>,
    #[serde(default)]
    status: Option<Status>,
    #[serde(default)]
    connections: u32,
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
                return Ok(Self::Kick(to, fields.reply));
            }
            Some("receipt") => {
                let (Some(reference), Some(node), Some(status)) =
                    (fields.reference, fields.node, fields.status)
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
            Some(_) => return Err(Fault::new("unknown cmd")),
        }
        if let Some(version) = fields.v {
            if version != VERSION {
                return Err(Fault::new(format!("version {version} is not known")));
            }
            let (Some(from), Some(seq)) = (fields.from, fields.seq) else {
                return Err(Fault::new("header without from or seq"));
            };
            return Ok(Self::Header { from, seq });
        }
        let to = fields
            .to
            .ok_or_else(|| Fault::new("missing field `to`"))?
            .check()?;
        let data = fields
            .data
            .ok_or_else(|| Fault::new("missing field `data`"))?;
        let except = fields.except.map_or(Ok(None), ExceptFields::check)?;
        let message = Message::new(
            check_id(fields.id)?,
            data,
            check_policy(fields.policy.as_deref())?,
        );
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
    write_reply(&mut out, reply);
    let _ = write!(out, r#""data":{}}}"#, message.data);
    out
}

/// A kick as a line for a channel.
#[must_use]
pub fn kick_line(to: &Target, reply: Option<&Reply>) -> String {
    let mut out = String::from(r#"{"cmd":"kick","#);
    write_reply(&mut out, reply);
    out.push_str(r#""to":"#);
    write_target(&mut out, to);
    out.push('}');
    out
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
struct Names<I>(I);

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

fn write_target(out: &mut String, to: &Target) {
    let _ = match to {
        Target::User(user) => write!(out, r#"{{"user":"{user}"}}"#),
        Target::Users(users) => write!(out, r#"{{"users":{}}}"#, Names(users.iter())),
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

// ---------------------------------------------------------------- clients (pushnode.v1)

/// The subprotocol's name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "pushnode.v1";

/// `ready`: the connection is known to the cluster under this name.
#[must_use]
pub fn ready_frame(id: &ConnectionId, user: &UserId) -> Bytes {
    let ConnectionId { node, fd } = id;
    down(&format!(
        r#"{{"type":"ready","node":"{node}","fd":{fd},"user":"{user}"}}"#
    ))
}

/// `resync`: messages may have been lost; fetch what matters anew.
#[must_use]
pub fn resync_frame() -> Bytes {
    down(r#"{"type":"resync"}"#)
}

/// `degraded`: this node is cut off from the others for now.
#[must_use]
pub fn degraded_frame() -> Bytes {
    down(r#"{"type":"degraded","reason":"backplane unavailable"}"#)
}

/// `pong`, the answer to a client's `ping` object.
#[must_use]
pub fn pong_frame() -> Bytes {
    down(r#"{"type":"pong"}"#)
}

/// `bye`: sent before a close frame; `retry_ms` tells when to come back, if at all.
#[must_use]
pub fn bye_frame(reason: CloseReason, retry: Option<Duration>) -> Bytes {
    let code = reason.code().unwrap_or(1006);
    let mut text = format!(
        r#"{{"type":"bye","code":{code},"reason":"{}""#,
        reason.text()
    );
    if let Some(retry) = retry {
        let _ = write!(text, r#","retry_ms":{}"#, retry.as_millis());
    }
    text.push('}');
    down(&text)
}

/// `error`: what the client sent was not understood.
#[must_use]
pub fn error_frame(code: &str, message: &str) -> Bytes {
    down(&format!(
        r#"{{"type":"error","code":"{code}","message":"{message}"}}"#
    ))
}

fn down(text: &str) -> Bytes {
    frame::text(&[text.as_bytes()])
}

/// What a `pushnode.v1` client may say.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Asks for a `pong`: browsers cannot send a WebSocket ping.
    Ping,
    /// Has this message.
    Ack(Cow<'a, str>),
}

impl<'a> ClientMessage<'a> {
    /// Reads a text message of a client.
    ///
    /// # Errors
    /// The error frame's code: `bad_message` or `unknown_type`.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            #[serde(default, borrow)]
            id: Option<Cow<'a, str>>,
        }
        let fields: Fields<'a> = serde_json::from_str(text).map_err(|_| "bad_message")?;
        match (&*fields.r#type, fields.id) {
            ("ping", _) => Ok(Self::Ping),
            ("ack", Some(id)) => Ok(Self::Ack(id)),
            ("ack", None) => Err("bad_message"),
            _ => Err("unknown_type"),
        }
    }
}

#[cfg(test)]
mod tests;
