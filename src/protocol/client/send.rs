//! What clients send to services, and what services reply.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::route::is_route;
use crate::protocol::sender::call::present;
use crate::protocol::sender::push::{ToFields, check_id, check_timeout};
use crate::protocol::{
    Fault, Kind, Message, Policy, Push, PushRequest, Target, Wait, is_reference, one_line,
};

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

/// In the reply to a client: what it sent is in the stream of its service.
pub const ACCEPTED: &str = r#""status":"accepted""#;

/// A service's reply to one connection. Exactly one of `data` and `error` must be there.
pub(crate) fn reply_push(
    to: Target,
    reference: Option<&RawValue>,
    id: Option<Box<str>>,
    data: Option<&RawValue>,
    error: Option<&RawValue>,
) -> Result<Push, Fault> {
    if !matches!(to, Target::Connection(..)) {
        return Err(Fault::new("a reply goes to to.fd"));
    }
    let reference = match reference.map(RawValue::get) {
        None | Some("null") => None,
        Some(json) if is_reference(json) => Some(json.into()),
        Some(_) => {
            let words = "ref must be a string or a number of 64 bytes at most";
            return Err(Fault::new(words));
        }
    };
    let (data, failed) = match (data, error) {
        (Some(data), None) => (data, false),
        (None, Some(error)) if error.get().starts_with('"') => (error, true),
        (None, Some(_)) => return Err(Fault::new("error must be a text")),
        _ => return Err(Fault::new("a reply needs one of data or error")),
    };
    let message = Message::new(id, data, Policy::Close).of_kind(Kind::Reply { reference, failed });
    Ok(Push {
        to,
        except: None,
        message: message.into(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyBody<'a> {
    #[serde(borrow)]
    to: ToFields<'a>,
    #[serde(default, borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(default)]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    wait: Wait,
    #[serde(default)]
    timeout_ms: Option<f64>,
}

impl PushRequest {
    /// Reads a reply of a service, strictly: a push to one connection, in other words.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_reply(body: &[u8]) -> Result<Self, Fault> {
        let body: ReplyBody<'_> = serde_json::from_slice(body)?;
        let timeout = check_timeout(body.timeout_ms)?;
        let id = check_id(body.id)?;
        let push = reply_push(body.to.check()?, body.reference, id, body.data, body.error)?;
        Ok(Self {
            push,
            keep: false,
            wait: body.wait,
            timeout,
        })
    }
}
