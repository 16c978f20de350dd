//! The objects of `pushnode.v1`: what a client says to its node.
//!
//! [`ClientMessage`] is all of it. It is read from one set of fields and not as a tagged enum,
//! because serde cannot borrow `ref` as it came while it looks for a tag.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::client::send::{ClientAnswer, Publish, Send};
use crate::protocol::ids::Topic;
use crate::protocol::json;
use crate::protocol::position::{DEFAULT_READ, EntryId, Position, Since, count_of, entry_of};
use crate::protocol::secret::Secret;

/// Most topics in one request.
pub const MAX_TOPICS_AT_ONCE: usize = 256;

/// What a `pushnode.v1` client may say.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Asks for a `pong`: browsers cannot send a WebSocket ping.
    Ping,
    /// Shows life, as a client of lines does after our `ping`.
    Pong,
    /// Has this message.
    Ack(Cow<'a, str>),
    /// Has all that was kept for its user up to here; and maybe the message of this id.
    AckKept(Position, Option<Cow<'a, str>>),
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
    /// To get what is pushed to several topics; one answer tells of each.
    SubscribeAll(Vec<Result<WantedTopic, BadTopic>>),
    /// To get it no longer.
    UnsubscribeAll(Vec<Result<WantedTopic, BadTopic>>),
    /// To look back in what was kept of a topic.
    History {
        /// The topic.
        topic: Topic,
        /// Before which message; from the newest on if there is none.
        before: Option<EntryId>,
        /// At most so many messages.
        limit: u16,
    },
    /// To get this to a service.
    Send(Send),
    /// To get this to the members of a topic.
    Publish(Publish),
    /// To stay beyond the end of its token, by a new one.
    Auth(Secret),
}

/// One of several topics that a client wants.
#[derive(Debug, PartialEq, Eq)]
pub struct WantedTopic {
    /// The topic.
    pub topic: Topic,
    /// From where in its log to go on.
    pub since: Option<Since>,
    /// To hear who comes and goes, too.
    pub watches: bool,
}

/// One of several topics, which cannot be had. The others can.
#[derive(Debug, PartialEq, Eq)]
pub struct BadTopic {
    /// What the client calls it.
    pub topic: Box<str>,
    /// What is wrong with it.
    pub message: Box<str>,
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
        matches!(
            self,
            Self::Pong | Self::Ack(_) | Self::AckKept(..) | Self::Answer(_)
        )
    }

    /// Reads an object that came in a binary frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_bytes(bytes: &'a [u8]) -> Result<Self, ClientFault> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(_) => Err(bad(
                &None,
                "a binary frame must hold a JSON object in UTF-8",
            )),
        }
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
            Some("ack") => {
                let id = text_of(fields.id, "id must be a text")?;
                let resume = text_of(fields.resume, "resume must be a text")?;
                match (id, resume.as_deref().map(str::parse)) {
                    (id, Some(Ok(position))) => Ok(Self::AckKept(position, id)),
                    (_, Some(Err(_))) => Err(bad(&reference, "resume must be that of a message")),
                    (Some(id), None) => Ok(Self::Ack(id)),
                    (None, None) => Err(bad(&reference, "ack needs id or resume of a message")),
                }
            }
            Some("send") => match Send::parse(text) {
                Ok(send) => Ok(Self::Request(Request {
                    reference,
                    what: RequestKind::Send(send),
                })),
                Err(words) => Err(bad(&reference, words)),
            },
            Some("publish") => match Publish::parse(text) {
                Ok(publish) => Ok(Self::Request(Request {
                    reference,
                    what: RequestKind::Publish(publish),
                })),
                Err(words) => Err(bad(&reference, &words)),
            },
            Some("answer") => ClientAnswer::parse(text, reference.as_deref())
                .map(Self::Answer)
                .map_err(|words| bad(&reference, words)),
            Some(kind @ ("subscribe" | "unsubscribe")) => {
                let what = fields.subscription(kind == "subscribe");
                let what = what.map_err(|words| bad(&reference, &words))?;
                Ok(Self::Request(Request { reference, what }))
            }
            Some("history") => {
                let what = fields.history().map_err(|words| bad(&reference, &words))?;
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
                    "type must be ping, pong, ack, auth, subscribe, unsubscribe, history, publish, \
                     answer or send"
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
    last: Option<&'a RawValue>,
    #[serde(default, borrow)]
    before: Option<&'a RawValue>,
    #[serde(default, borrow)]
    limit: Option<&'a RawValue>,
    #[serde(default, borrow)]
    resume: Option<&'a RawValue>,
    #[serde(default, borrow)]
    token: Option<&'a RawValue>,
    #[serde(default, borrow)]
    presence: Option<&'a RawValue>,
    #[serde(default, borrow)]
    topics: Option<&'a RawValue>,
}

impl ClientFields<'_> {
    /// What a `subscribe` asks for, or an `unsubscribe`.
    fn subscription(&self, joins: bool) -> Result<RequestKind, String> {
        if self.topics.is_none_or(|json| json.get() == "null") {
            let from = start(self.since, self.last)?;
            let wanted = wanted(self.topic, from, self.presence)?;
            let WantedTopic {
                topic,
                since,
                watches,
            } = wanted;
            return Ok(match joins {
                true => RequestKind::Subscribe {
                    topic,
                    since,
                    watches,
                },
                false => RequestKind::Unsubscribe { topic },
            });
        }
        if self.topic.is_some() || self.since.is_some() || self.last.is_some() {
            return Err("topic, since and last stand in the entries of topics".to_owned());
        }
        let entries = self.topics.map_or("[]", RawValue::get);
        let entries: Vec<&RawValue> =
            serde_json::from_str(entries).map_err(|_| "topics must be a list")?;
        if !(1..=MAX_TOPICS_AT_ONCE).contains(&entries.len()) {
            return Err(format!(
                "topics must have 1 to {MAX_TOPICS_AT_ONCE} entries"
            ));
        }
        // What holds of all of them is wrong before any.
        wishes_presence(self.presence)?;
        let entries = entries.into_iter().map(|entry| self.entry(entry));
        let entries = entries.collect::<Result<_, String>>()?;
        Ok(match joins {
            true => RequestKind::SubscribeAll(entries),
            false => RequestKind::UnsubscribeAll(entries),
        })
    }

    /// What a `history` asks for.
    fn history(&self) -> Result<RequestKind, String> {
        let topic = wanted(self.topic, None, None)?.topic;
        let before = member_text(self.before).ok_or("before must be a text")?;
        let before = before.as_deref().map(entry_of).transpose();
        let limit = match self.limit.map(RawValue::get) {
            None | Some("null") => Ok(DEFAULT_READ),
            Some(json) => count_of(json),
        };
        Ok(RequestKind::History {
            topic,
            before: before.map_err(|error| format!("before {error}"))?,
            limit: limit.map_err(|error| format!("limit {error}"))?,
        })
    }

    /// One of several topics: its name, or an object.
    fn entry(&self, json: &RawValue) -> Result<Result<WantedTopic, BadTopic>, String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Entry<'a> {
            #[serde(borrow)]
            topic: Option<&'a RawValue>,
            #[serde(borrow)]
            since: Option<&'a RawValue>,
            #[serde(borrow)]
            last: Option<&'a RawValue>,
            #[serde(borrow)]
            presence: Option<&'a RawValue>,
        }
        let entry = match json.get().as_bytes().first() {
            Some(b'"') => Entry {
                topic: Some(json),
                ..Entry::default()
            },
            Some(b'{') => serde_json::from_str(json.get()).map_err(|error| error.to_string())?,
            _ => return Err("an entry of topics must be a text or an object".to_owned()),
        };
        let Some(Some(name)) = member_text(entry.topic) else {
            return Err("an entry of topics needs a topic, a text".to_owned());
        };
        let presence = entry.presence.or(self.presence);
        let wanted =
            start(entry.since, entry.last).and_then(|since| wanted(entry.topic, since, presence));
        Ok(wanted.map_err(|message| BadTopic {
            topic: name.into(),
            message: message.into(),
        }))
    }
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

/// From where in a topic's log to go on. One that was there before says so, and may say as well
/// what it wants if it was not.
fn start(since: Option<&RawValue>, last: Option<&RawValue>) -> Result<Option<Since>, String> {
    let since = member_text(since).ok_or("since must be a text")?;
    let last = match last.map(RawValue::get) {
        None | Some("null") => None,
        Some(json) => Some(Since::last_of(json).map_err(|error| format!("last {error}"))?),
    };
    let since = since.as_deref().map(str::parse).transpose();
    let since = since.map_err(|error| format!("since {error}"))?;
    Ok(since.or(last))
}

fn wanted(
    topic: Option<&RawValue>,
    since: Option<Since>,
    presence: Option<&RawValue>,
) -> Result<WantedTopic, String> {
    let topic = member_text(topic).ok_or("topic must be a text")?;
    let watches = wishes_presence(presence)?;
    let topic = topic.ok_or("a topic is needed")?;
    let topic = topic.parse().map_err(|error| format!("{error}"))?;
    Ok(WantedTopic {
        topic,
        since,
        watches,
    })
}

fn wishes_presence(json: Option<&RawValue>) -> Result<bool, String> {
    match json.map(RawValue::get) {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err("presence must be true or false".to_owned()),
    }
}
