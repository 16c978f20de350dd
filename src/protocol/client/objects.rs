//! What is said between a node and a client that speaks in objects (`pushnode.v1`).

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::bus::line::Names;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Topic, UserId};
use crate::protocol::position::{Position, Since};
use crate::protocol::secret::Secret;
use crate::protocol::{ClientAnswer, Send};

/// The subprotocol's name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "pushnode.v1";

/// `ready`: the connection is known to the cluster under this name.
///
/// `resume` is where its user's inbox was when it came; `recovered` tells a client that came back
/// whether it has missed nothing. `topics` are those that it named when it came.
#[must_use]
pub fn ready_object(
    id: &ConnectionId,
    user: &UserId,
    topics: &[Topic],
    resume: Option<Position>,
    recovered: Option<bool>,
) -> String {
    let ConnectionId { node, fd } = id;
    let mut text = format!(r#"{{"type":"ready","node":"{node}","fd":{fd},"user":"{user}""#);
    if !topics.is_empty() {
        let _ = write!(text, r#","topics":{}"#, Names(topics.iter()));
    }
    write_start(&mut text, resume, recovered);
    text.push('}');
    text
}

/// Where somebody stands who begins to follow an inbox or a log.
fn write_start(out: &mut String, resume: Option<Position>, recovered: Option<bool>) {
    if let Some(resume) = resume {
        let _ = write!(out, r#","resume":"{resume}""#);
    }
    if let Some(recovered) = recovered {
        let _ = write!(out, r#","recovered":{recovered}"#);
    }
}

/// What a client that subscribed reads in its reply. `degraded`: pushes from other nodes may pass
/// it by for now.
#[must_use]
pub fn subscribed_fields(
    topic: &Topic,
    resume: Option<Position>,
    recovered: Option<bool>,
    degraded: bool,
) -> String {
    let mut text = format!(r#""topic":"{topic}","status":"subscribed""#);
    write_start(&mut text, resume, recovered);
    if degraded {
        text.push_str(r#","degraded":true"#);
    }
    text
}

/// What a client that unsubscribed reads in its reply.
#[must_use]
pub fn unsubscribed_fields(topic: &Topic) -> String {
    format!(r#""topic":"{topic}","status":"unsubscribed""#)
}

/// `subscribed` or `unsubscribed`: the server has changed what this client is subscribed to.
#[must_use]
pub fn enrolled_object(topic: &Topic, joins: bool) -> String {
    let kind = if joins { "subscribed" } else { "unsubscribed" };
    format!(r#"{{"type":"{kind}","topic":"{topic}"}}"#)
}

/// `resync`: messages may have been lost; fetch what matters anew.
pub const RESYNC: &str = r#"{"type":"resync"}"#;

/// [`RESYNC`] for what was pushed to one topic.
#[must_use]
pub fn resync_object(topic: &Topic) -> String {
    format!(r#"{{"type":"resync","topic":"{topic}"}}"#)
}

/// `degraded`: this node is cut off from the others for now.
pub const DEGRADED: &str = r#"{"type":"degraded","reason":"backplane unavailable"}"#;

/// `pong`, the answer to a client's `ping` object.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// `expiring`: the client's token ends in this time; a new one can be shown by `auth`.
#[must_use]
pub fn expiring_object(left: Duration) -> String {
    format!(r#"{{"type":"expiring","in_ms":{}}}"#, left.as_millis())
}

/// `bye`: sent before a close frame; `retry_ms` tells when to come back, if at all.
#[must_use]
pub fn bye_object(reason: CloseReason, retry: Option<Duration>) -> String {
    let code = reason.code().unwrap_or(1006);
    let mut text = format!(
        r#"{{"type":"bye","code":{code},"reason":"{}""#,
        reason.text()
    );
    if let Some(retry) = retry {
        let _ = write!(text, r#","retry_ms":{}"#, retry.as_millis());
    }
    text.push('}');
    text
}

/// `error`: what the client sent was not understood, or is refused. `reference` is the `ref` that
/// the client gave its request, as JSON.
#[must_use]
pub fn error_object(reference: Option<&str>, code: &str, message: &str) -> String {
    let message = serde_json::to_string(message).expect("text becomes JSON");
    let mut text = String::from(r#"{"type":"error","#);
    if let Some(reference) = reference {
        let _ = write!(text, r#""ref":{reference},"#);
    }
    let _ = write!(text, r#""code":"{code}","message":{message}}}"#);
    text
}

/// As [`error_object`], for a client that may try again after this time.
#[must_use]
pub fn later_object(reference: Option<&str>, code: &str, message: &str, retry: Duration) -> String {
    let mut text = error_object(reference, code, message);
    text.pop();
    let _ = write!(text, r#","retry_ms":{}}}"#, retry.as_millis());
    text
}

/// `reply`: the client's request is done. `fields` are further members of the object, as JSON
/// without the braces; may be empty.
#[must_use]
pub fn reply_object(reference: Option<&str>, fields: &str) -> String {
    let mut text = String::from(r#"{"type":"reply""#);
    if let Some(reference) = reference {
        let _ = write!(text, r#","ref":{reference}"#);
    }
    if !fields.is_empty() {
        let _ = write!(text, ",{fields}");
    }
    text.push('}');
    text
}

/// Longest `ref` of a client's request, in bytes of JSON.
const MAX_REFERENCE_BYTES: usize = 64;

/// What a `pushnode.v1` client may say.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Asks for a `pong`: browsers cannot send a WebSocket ping.
    Ping,
    /// Shows life, as a client of lines does after our `ping`.
    Pong,
    /// Has this message.
    Ack(Cow<'a, str>),
    /// Answers a call.
    Answer(ClientAnswer),
    /// Asks something of the node; gets a `reply` or an `error` with the same `ref`.
    Request(Request),
}

/// What a client asks of its node, with the `ref` by which it knows the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The `ref`: a JSON string or number, sent back as it came.
    pub reference: Option<Box<str>>,
    /// What is asked.
    pub what: Wanted,
}

/// What a client can ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To get what is pushed to a topic.
    Subscribe {
        /// The topic.
        topic: Topic,
        /// From where in its log to go on.
        since: Option<Since>,
        /// To hear who comes and goes, too.
        watches: bool,
    },
    /// To get it no longer.
    Unsubscribe {
        /// The topic.
        topic: Topic,
    },
    /// To get this to a service.
    Send(Send),
    /// To stay beyond the end of its token, by a new one.
    Auth(Secret),
}

/// What is wrong with an object of a client.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFault {
    /// The `ref` that stood in it, if that could be read.
    pub reference: Option<Box<str>>,
    /// `bad_message` or `unknown_type`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl<'a> ClientMessage<'a> {
    /// Reads an object of a client.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, ClientFault> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            r#type: Cow<'a, str>,
            #[serde(default, borrow, rename = "ref")]
            reference: Option<&'a RawValue>,
            #[serde(default, borrow)]
            id: Option<Cow<'a, str>>,
            #[serde(default, borrow)]
            topic: Option<Cow<'a, str>>,
            #[serde(default, borrow)]
            since: Option<Cow<'a, str>>,
            #[serde(default, borrow)]
            token: Option<Cow<'a, str>>,
            presence: Option<&'a RawValue>,
        }
        let bad = |reference: &Option<Box<str>>, message: &str| ClientFault {
            reference: reference.clone(),
            code: "bad_message",
            message: message.to_owned(),
        };
        let fields: Fields<'a> = serde_json::from_str(text)
            .map_err(|_| bad(&None, "must be a JSON object with a type"))?;
        let reference = match fields.reference.map(RawValue::get) {
            None | Some("null") => None,
            Some(json) if is_reference(json) => Some(json.into()),
            Some(_) => {
                let words = "ref must be a string or a number of 64 bytes at most";
                return Err(bad(&None, words));
            }
        };
        match (&*fields.r#type, fields.id) {
            ("ping", _) => Ok(Self::Ping),
            ("pong", _) => Ok(Self::Pong),
            ("ack", Some(id)) => Ok(Self::Ack(id)),
            ("send", _) => match Send::parse(text) {
                Ok(send) => Ok(Self::Request(Request {
                    reference,
                    what: Wanted::Send(send),
                })),
                Err(words) => Err(bad(&reference, words)),
            },
            ("answer", _) => ClientAnswer::parse(text, reference.as_deref())
                .map(Self::Answer)
                .map_err(|words| bad(&reference, words)),
            ("ack", None) => Err(bad(&reference, "ack needs the id of the message")),
            ("subscribe" | "unsubscribe", _) => {
                let joins = fields.r#type == "subscribe";
                let watches = match fields.presence.map(RawValue::get) {
                    None | Some("null" | "false") => false,
                    Some("true") => true,
                    Some(_) => return Err(bad(&reference, "presence must be true or false")),
                };
                let (topic, since) = (fields.topic.as_deref(), fields.since.as_deref());
                let what = subscription(joins, topic, since, watches);
                let what = what.map_err(|words| bad(&reference, &words))?;
                Ok(Self::Request(Request { reference, what }))
            }
            ("auth", _) => match fields.token {
                Some(token) => Ok(Self::Request(Request {
                    reference,
                    what: Wanted::Auth(Secret::new(token.into_owned())),
                })),
                None => Err(bad(&reference, "auth needs the token")),
            },
            _ => Err(ClientFault {
                reference,
                code: "unknown_type",
                message:
                    "type must be ping, pong, ack, auth, subscribe, unsubscribe, answer or send"
                        .to_owned(),
            }),
        }
    }
}

fn subscription(
    joins: bool,
    topic: Option<&str>,
    since: Option<&str>,
    watches: bool,
) -> Result<Wanted, String> {
    let topic = topic.ok_or("a topic is needed")?;
    let topic = topic.parse().map_err(|error| format!("{error}"))?;
    if !joins {
        return Ok(Wanted::Unsubscribe { topic });
    }
    let since = since.map(str::parse).transpose();
    let since = since.map_err(|error| format!("since {error}"))?;
    Ok(Wanted::Subscribe {
        topic,
        since,
        watches,
    })
}

/// Whether this JSON may be sent back as a `ref`.
pub(crate) fn is_reference(json: &str) -> bool {
    json.len() <= MAX_REFERENCE_BYTES
        && json.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}
