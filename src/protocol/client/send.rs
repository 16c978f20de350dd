//! What clients send beyond their node: messages to services and to members of their topics, and
//! answers to calls of senders.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::ids::Topic;
use crate::protocol::json::{one_line, or_default, present};
use crate::protocol::route::is_route;

/// Something a client sends to a service.
#[derive(Debug, PartialEq, Eq)]
pub struct Send {
    /// By which the service is found; may be empty.
    pub route: Box<str>,
    /// What it says: JSON in one line.
    pub data: Box<str>,
}

impl Send {
    /// Reads an object of the type `send`.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(default, borrow)]
            route: Option<Cow<'a, str>>,
            #[serde(default, borrow, deserialize_with = "present")]
            data: Option<&'a RawValue>,
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|_| "route must be a text")?;
        let route = fields.route.unwrap_or_default();
        if !is_route(&route) {
            return Err("route must be at most 128 bytes of A-Z a-z 0-9 . _ : / -");
        }
        Ok(Self {
            route: route.into(),
            data: one_line(fields.data.ok_or("send needs data")?),
        })
    }
}

/// What a member publishes to a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish {
    /// The topic.
    pub topic: Topic,
    /// The name of the event, unchecked.
    pub event: Option<Box<str>>,
    /// What it says: JSON in one line.
    pub data: Box<str>,
    /// Whether its own connection gets it, too.
    pub echo: bool,
}

impl Publish {
    /// Reads an object of the type `publish`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(default)]
            topic: Option<Topic>,
            #[serde(default, borrow)]
            event: Option<Cow<'a, str>>,
            #[serde(default, borrow, deserialize_with = "present")]
            data: Option<&'a RawValue>,
            #[serde(default, deserialize_with = "or_default")]
            echo: bool,
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| {
            let words = error.to_string();
            let words = words.split(" at line ").next().unwrap_or_default();
            format!("publish is not understood: {words}")
        })?;
        Ok(Self {
            topic: fields.topic.ok_or("a topic is needed")?,
            event: fields.event.map(Into::into),
            data: one_line(fields.data.ok_or("publish needs data")?),
            echo: fields.echo,
        })
    }
}

/// In the reply to a client: what it sent is in the stream of its service.
pub const ACCEPTED: &str = r#""status":"accepted""#;

/// A client's answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientAnswer {
    /// From the call.
    pub reference: Box<str>,
    /// What it says, or a text that says why it cannot; both as JSON in one line.
    pub result: Result<Box<str>, Box<str>>,
}

impl ClientAnswer {
    /// Reads an object of the type `answer`; `reference` is its `ref`, as JSON.
    pub(crate) fn parse(text: &str, reference: Option<&str>) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(default, borrow, deserialize_with = "present")]
            data: Option<&'a RawValue>,
            #[serde(default, borrow)]
            error: Option<&'a RawValue>,
        }
        let reference = reference.and_then(|json| serde_json::from_str::<String>(json).ok());
        let reference = reference.ok_or("answer needs the ref of the call, a string")?;
        let fields: Fields<'_> =
            serde_json::from_str(text).map_err(|_| "answer is not understood")?;
        let result = match (fields.data, fields.error) {
            (Some(data), None) => Ok(one_line(data)),
            (None, Some(error)) if error.get().starts_with('"') => Err(one_line(error)),
            (None, Some(_)) => return Err("the error of an answer must be a text"),
            _ => return Err("answer needs one of data or error"),
        };
        Ok(Self {
            reference: reference.into(),
            result,
        })
    }
}
