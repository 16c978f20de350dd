//! The objects of `pushnode.v1`: what a node says to a client, and what a client says to its node.
//!
//! `Object` is all that a node says beside messages; its variants are the values of `type`. What
//! must stay true: `type` stands first, because there an event stream finds the event's name.
//! [`ClientMessage`] is all that a client says. It is read from one set of fields and not as a
//! tagged enum, because serde cannot borrow `ref` as it came while it looks for a tag.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::client::send::{ClientAnswer, Send};
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Topic, UserId};
use crate::protocol::json::{self, members, raw, to_json};
use crate::protocol::position::{Position, Since};
use crate::protocol::secret::Secret;

/// The subprotocol's name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "pushnode.v1";

/// `resync`: messages may have been lost; the client fetches again what matters to it.
pub const RESYNC: &str = r#"{"type":"resync"}"#;
/// `degraded`: this node is cut off from the others for now.
pub const DEGRADED: &str = r#"{"type":"degraded","reason":"backplane unavailable"}"#;
/// `pong`, the answer to a client's `ping` object.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// What a node says to a client. Beside these there are [`RESYNC`], [`DEGRADED`] and [`PONG`],
/// `reply` (see [`reply_object`]), and the messages themselves.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(in crate::protocol) enum Object<'a> {
    Ready {
        node: &'a NodeId,
        fd: Fd,
        user: &'a UserId,
        #[serde(skip_serializing_if = "<[Topic]>::is_empty")]
        topics: &'a [Topic],
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<Position>,
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    Subscribed {
        topic: &'a Topic,
    },
    Unsubscribed {
        topic: &'a Topic,
    },
    Resync {
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<&'a Topic>,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<Position>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<usize>,
    },
    Expiring {
        in_ms: u128,
    },
    Bye {
        code: u16,
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u128>,
    },
    Error {
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<&'a RawValue>,
        code: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u128>,
    },
    Call {
        #[serde(rename = "ref")]
        reference: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        data: &'a RawValue,
    },
    Presence {
        topic: &'a Topic,
        #[serde(skip_serializing_if = "Option::is_none")]
        members: Option<&'a [UserId]>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        #[serde(skip_serializing_if = "<[UserId]>::is_empty")]
        join: &'a [UserId],
        #[serde(skip_serializing_if = "<[UserId]>::is_empty")]
        leave: &'a [UserId],
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
    },
}

/// `ready`: the connection is known to the cluster under this name.
///
/// `resume` is where the user's inbox was when the client connected; `recovered` tells a client
/// that reconnected whether it has missed nothing. `topics` are those of its connect request.
#[must_use]
pub fn ready_object(
    id: &ConnectionId,
    user: &UserId,
    topics: &[Topic],
    resume: Option<Position>,
    recovered: Option<bool>,
) -> String {
    to_json(&Object::Ready {
        node: &id.node,
        fd: id.fd,
        user,
        topics,
        resume,
        recovered,
    })
}

/// The members of a `reply` that say what a client is subscribed to now.
#[derive(Serialize)]
struct SubscriptionFields<'a> {
    topic: &'a Topic,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
}

/// What a client that subscribed reads in its reply. `degraded`: for now, pushes from other nodes
/// may not reach it.
#[must_use]
pub fn subscribed_fields(
    topic: &Topic,
    resume: Option<Position>,
    recovered: Option<bool>,
    degraded: bool,
) -> String {
    members(&SubscriptionFields {
        topic,
        status: "subscribed",
        resume,
        recovered,
        degraded,
    })
}

/// What a client that unsubscribed reads in its reply.
#[must_use]
pub fn unsubscribed_fields(topic: &Topic) -> String {
    members(&SubscriptionFields {
        topic,
        status: "unsubscribed",
        resume: None,
        recovered: None,
        degraded: false,
    })
}

/// `subscribed` or `unsubscribed`: the server has changed what this client is subscribed to.
#[must_use]
pub fn enrolled_object(topic: &Topic, joins: bool) -> String {
    to_json(&match joins {
        true => Object::Subscribed { topic },
        false => Object::Unsubscribed { topic },
    })
}

/// [`RESYNC`] for what was pushed to one topic.
#[must_use]
pub fn resync_object(topic: &Topic) -> String {
    to_json(&Object::Resync {
        topic: Some(topic),
        id: None,
        resume: None,
        bytes: None,
    })
}

/// [`RESYNC`] for one kept message that the client does not get, as its connects ended there:
/// the topic and the id it has, its position, and the bytes of its data.
#[must_use]
pub fn passed_object(
    topic: Option<&Topic>,
    id: Option<&str>,
    resume: Option<Position>,
    bytes: usize,
) -> String {
    to_json(&Object::Resync {
        topic,
        id,
        resume,
        bytes: Some(bytes),
    })
}

/// `expiring`: the client's token ends in this time; a new one can be shown by `auth`.
#[must_use]
pub fn expiring_object(left: Duration) -> String {
    let in_ms = left.as_millis();
    to_json(&Object::Expiring { in_ms })
}

/// `bye`: sent before a close frame; `retry_ms` tells when to come back, if at all.
#[must_use]
pub fn bye_object(reason: CloseReason, retry: Option<Duration>) -> String {
    to_json(&Object::Bye {
        code: reason.code().unwrap_or(1006),
        reason: reason.text(),
        retry_ms: retry.map(|retry| retry.as_millis()),
    })
}

/// `error`: what the client sent was not understood, or is refused. `reference` is the `ref` that
/// the client gave its request, as JSON.
#[must_use]
pub fn error_object(reference: Option<&str>, code: &str, message: &str) -> String {
    refusal(reference, code, message, None)
}

/// As [`error_object`], for a client that may try again after this time.
#[must_use]
pub fn later_object(reference: Option<&str>, code: &str, message: &str, retry: Duration) -> String {
    refusal(reference, code, message, Some(retry))
}

fn refusal(reference: Option<&str>, code: &str, message: &str, retry: Option<Duration>) -> String {
    to_json(&Object::Error {
        reference: reference.map(raw),
        code,
        message,
        retry_ms: retry.map(|retry| retry.as_millis()),
    })
}

/// `reply`: the client's request is done. `fields` are further members of the object, as JSON
/// without the braces; may be empty.
#[must_use]
pub fn reply_object(reference: Option<&str>, fields: &str) -> String {
    let mut text = String::from(r#"{"type":"reply""#);
    if let Some(reference) = reference {
        text.extend([r#","ref":"#, reference]);
    }
    if !fields.is_empty() {
        text.extend([",", fields]);
    }
    text.push('}');
    text
}

/// `presence`: the members of a topic that the client watches from now on. `more`: not all.
#[must_use]
pub fn presence_members_object(topic: &Topic, members: &[UserId], more: bool) -> String {
    to_json(&Object::Presence {
        topic,
        members: Some(members),
        more,
        join: &[],
        leave: &[],
        status: None,
    })
}

/// `presence`: which users have come and which have gone.
#[must_use]
pub fn presence_change_object(topic: &Topic, join: &[UserId], leave: &[UserId]) -> String {
    to_json(&Object::Presence {
        topic,
        members: None,
        more: false,
        join,
        leave,
        status: None,
    })
}

/// `presence`: the client read too slowly, and hears no more of this topic until it asks again.
#[must_use]
pub fn presence_lost_object(topic: &Topic) -> String {
    to_json(&Object::Presence {
        topic,
        members: None,
        more: false,
        join: &[],
        leave: &[],
        status: Some("lost"),
    })
}

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
    pub what: RequestKind,
}

/// What a client can ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestKind {
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
    /// Whether it is the answer to something that a node sends.
    #[must_use]
    pub const fn is_answer(&self) -> bool {
        matches!(self, Self::Pong | Self::Ack(_) | Self::Answer(_))
    }

    /// Reads an object of a client.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, ClientFault> {
        let fields: ClientFields<'a> = serde_json::from_str(text).map_err(|_| ClientFault {
            reference: reference_of(text),
            ..bad(&None, "must be a JSON object with a type")
        })?;
        let reference = json::reference(fields.reference).map_err(|words| bad(&None, words))?;
        let text_of = |field: Option<&'a RawValue>, words: &str| {
            member_text(field).ok_or_else(|| bad(&reference, words))
        };
        let kind = text_of(fields.r#type, "type must be a text")?;
        match kind.as_deref() {
            Some("ping") => Ok(Self::Ping),
            Some("pong") => Ok(Self::Pong),
            Some("ack") => match text_of(fields.id, "id must be a text")? {
                Some(id) => Ok(Self::Ack(id)),
                None => Err(bad(&reference, "ack needs the id of the message")),
            },
            Some("send") => match Send::parse(text) {
                Ok(send) => Ok(Self::Request(Request {
                    reference,
                    what: RequestKind::Send(send),
                })),
                Err(words) => Err(bad(&reference, words)),
            },
            Some("answer") => ClientAnswer::parse(text, reference.as_deref())
                .map(Self::Answer)
                .map_err(|words| bad(&reference, words)),
            Some(kind @ ("subscribe" | "unsubscribe")) => {
                let topic = text_of(fields.topic, "topic must be a text")?;
                let since = text_of(fields.since, "since must be a text")?;
                let watches = match fields.presence.map(RawValue::get) {
                    None | Some("null" | "false") => false,
                    Some("true") => true,
                    Some(_) => return Err(bad(&reference, "presence must be true or false")),
                };
                let joins = kind == "subscribe";
                let what = subscription(joins, topic.as_deref(), since.as_deref(), watches);
                let what = what.map_err(|words| bad(&reference, &words))?;
                Ok(Self::Request(Request { reference, what }))
            }
            Some("auth") => match text_of(fields.token, "token must be a text")? {
                Some(token) => Ok(Self::Request(Request {
                    reference,
                    what: RequestKind::Auth(Secret::new(token.into_owned())),
                })),
                None => Err(bad(&reference, "auth needs the token")),
            },
            None => Err(bad(&reference, "must be a JSON object with a type")),
            Some(_) => Err(ClientFault {
                reference,
                code: "unknown_type",
                message:
                    "type must be ping, pong, ack, auth, subscribe, unsubscribe, answer or send"
                        .to_owned(),
            }),
        }
    }
}

/// The members of an object of a client. Their types are looked at one by one, after the `ref`: a
/// wrong one is told under it.
#[derive(Deserialize)]
struct ClientFields<'a> {
    #[serde(default, borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(default, borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    topic: Option<&'a RawValue>,
    #[serde(default, borrow)]
    since: Option<&'a RawValue>,
    #[serde(default, borrow)]
    token: Option<&'a RawValue>,
    #[serde(default, borrow)]
    presence: Option<&'a RawValue>,
}

fn bad(reference: &Option<Box<str>>, message: &str) -> ClientFault {
    ClientFault {
        reference: reference.clone(),
        code: "bad_message",
        message: message.to_owned(),
    }
}

/// The `ref` of an object that cannot be read otherwise, such as one with a member twice.
fn reference_of(text: &str) -> Option<Box<str>> {
    #[derive(Deserialize)]
    struct Only<'a> {
        #[serde(borrow, rename = "ref")]
        reference: &'a RawValue,
    }
    let only: Only<'_> = serde_json::from_str(text).ok()?;
    json::reference(Some(only.reference)).ok().flatten()
}

/// The text of a member; `null` is as good as being absent. Nothing if it is no text.
fn member_text(field: Option<&RawValue>) -> Option<Option<Cow<'_, str>>> {
    match field.map(RawValue::get) {
        None | Some("null") => Some(None),
        // Nearly every text is without escapes, and is taken as it stands.
        Some(json) if json.starts_with('"') && !json.contains('\\') => {
            Some(Some(Cow::Borrowed(&json[1..json.len() - 1])))
        }
        Some(json) => serde_json::from_str(json)
            .ok()
            .map(|text| Some(Cow::Owned(text))),
    }
}

fn subscription(
    joins: bool,
    topic: Option<&str>,
    since: Option<&str>,
    watches: bool,
) -> Result<RequestKind, String> {
    let topic = topic.ok_or("a topic is needed")?;
    let topic = topic.parse().map_err(|error| format!("{error}"))?;
    if !joins {
        return Ok(RequestKind::Unsubscribe { topic });
    }
    let since = since.map(str::parse).transpose();
    let since = since.map_err(|error| format!("since {error}"))?;
    Ok(RequestKind::Subscribe {
        topic,
        since,
        watches,
    })
}
