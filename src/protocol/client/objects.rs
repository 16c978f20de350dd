//! The objects of `pushnode.v1`: what a node says to a client.
//!
//! `Object` is all that a node says beside messages; its variants are the values of `type`. What
//! must stay true: `type` stands first, because there an event stream finds the event's name.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, Topic, UserId};
use crate::protocol::info::{Info, Infos};
use crate::protocol::json::{members, raw, to_json};
use crate::protocol::position::Position;

/// The subprotocol's name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "pushnode.v1";

/// `resync`: messages may have been lost; the client fetches again what matters to it.
pub const RESYNC: &str = r#"{"type":"resync"}"#;
/// `degraded`: this node is cut off from the others for now.
pub const DEGRADED: &str = r#"{"type":"degraded","reason":"backplane unavailable"}"#;
/// `ping`: a heartbeat where there is none of the protocol, or none that the client's program sees.
pub const PING: &str = r#"{"type":"ping"}"#;
/// `pong`, the answer to a client's `ping` object.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// The values of `type`: all that a node says.
pub(in crate::protocol) const OBJECT_TYPES: [&str; 14] = [
    "message",
    "ready",
    "reply",
    "subscribed",
    "unsubscribed",
    "presence",
    "resync",
    "degraded",
    "bye",
    "call",
    "ping",
    "pong",
    "expiring",
    "error",
];

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
        #[serde(skip_serializing_if = "Option::is_none")]
        beat_ms: Option<u64>,
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
        error: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
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
        count: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        members: Option<ShownUsers<'a>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        more: bool,
        #[serde(skip_serializing_if = "ShownUsers::is_empty")]
        join: ShownUsers<'a>,
        #[serde(skip_serializing_if = "<[UserId]>::is_empty")]
        leave: &'a [UserId],
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
    },
}

/// Users by name or, those that show something of themselves, as `{"user":..., "info":...}`.
#[derive(Debug, Clone, Copy)]
pub(in crate::protocol) struct ShownUsers<'a>(&'a [UserId], &'a Infos);

impl ShownUsers<'_> {
    const NONE: ShownUsers<'static> = ShownUsers(&[], &Infos::new());

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for ShownUsers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum ShownUser<'a> {
            Name(&'a UserId),
            Info { user: &'a UserId, info: &'a Info },
        }
        serializer.collect_seq(self.0.iter().map(|user| match self.1.get(user) {
            None => ShownUser::Name(user),
            Some(info) => ShownUser::Info { user, info },
        }))
    }
}

/// `ready`: the connection is known to the cluster under this name.
///
/// `resume` is where the user's inbox was when the client connected; `recovered` tells a client
/// that reconnected whether it has missed nothing. `topics` are those of its connect request.
/// `beat_ms`: at the latest after so long without anything comes a heartbeat that it can see.
#[must_use]
pub fn ready_object(
    id: &ConnectionId,
    user: &UserId,
    topics: &[Topic],
    resume: Option<Position>,
    recovered: Option<bool>,
    beat_ms: Option<u64>,
) -> String {
    to_json(&Object::Ready {
        node: &id.node,
        fd: id.fd,
        user,
        topics,
        resume,
        recovered,
        beat_ms,
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

/// What a member that published reads in its reply; `resume` if the message is kept, and `reason`
/// if some members may not get it.
#[must_use]
pub fn published_fields(topic: &Topic, resume: Option<Position>, reason: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Published<'a> {
        topic: &'a Topic,
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        resume: Option<Position>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    members(&Published {
        topic,
        status: "published",
        resume,
        reason,
    })
}

/// Of one topic of several that a client asked for, by its own words: why it has it not.
#[must_use]
pub fn refused_fields(topic: &str, code: &str, message: &str) -> String {
    #[derive(Serialize)]
    struct Refused<'a> {
        topic: &'a str,
        status: &'static str,
        error: Why<'a>,
    }
    #[derive(Serialize)]
    struct Why<'a> {
        code: &'a str,
        message: &'a str,
    }
    members(&Refused {
        topic,
        status: "refused",
        error: Why { code, message },
    })
}

/// What a client that asked for several topics reads in its reply: an entry for each, of these
/// fields.
#[must_use]
pub fn topics_fields(entries: &[String]) -> String {
    format!(r#""topics":[{{{}}}]"#, entries.join("},{"))
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
        error: None,
        message: None,
        retry_ms: retry.map(|retry| retry.as_millis()),
    })
}

/// As [`bye_object`], for a client that is refused: `error` is for programs, `message` for people.
pub(in crate::protocol) fn refused_object(
    code: u16,
    reason: &'static str,
    error: &str,
    message: &str,
    retry: Option<Duration>,
) -> String {
    to_json(&Object::Bye {
        code,
        reason,
        error: Some(error),
        message: Some(message),
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
pub fn presence_members_object(
    topic: &Topic,
    members: &[UserId],
    infos: &Infos,
    more: bool,
) -> String {
    to_json(&Object::Presence {
        topic,
        count: None,
        members: Some(ShownUsers(members, infos)),
        more,
        join: ShownUsers::NONE,
        leave: &[],
        status: None,
    })
}

/// `presence`: which users have come, or show something else of themselves, and which have gone.
#[must_use]
pub fn presence_change_object(
    topic: &Topic,
    join: &[UserId],
    infos: &Infos,
    leave: &[UserId],
) -> String {
    to_json(&Object::Presence {
        topic,
        count: None,
        members: None,
        more: false,
        join: ShownUsers(join, infos),
        leave,
        status: None,
    })
}

/// `presence`: how many users are in a topic whose rule tells no more.
#[must_use]
pub fn presence_count_object(topic: &Topic, count: usize) -> String {
    to_json(&Object::Presence {
        topic,
        count: Some(count),
        members: None,
        more: false,
        join: ShownUsers::NONE,
        leave: &[],
        status: None,
    })
}

/// `presence`: the client read too slowly, and hears no more of this topic until it asks again.
#[must_use]
pub fn presence_lost_object(topic: &Topic) -> String {
    to_json(&Object::Presence {
        topic,
        count: None,
        members: None,
        more: false,
        join: ShownUsers::NONE,
        leave: &[],
        status: Some("lost"),
    })
}
