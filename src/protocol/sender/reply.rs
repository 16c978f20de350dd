//! What a service replies to one connection, over HTTP or through Redis.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::json::{self, ObjectOnly, from_object, or_default, present};
use crate::protocol::message::{Kind, Message, Push, Target, check_id};
use crate::protocol::outcome::Wait;
use crate::protocol::sender::push::{PushRequest, ToFields, check_timeout};

/// A service's reply to one connection. Exactly one of `data` and `error` must be there.
pub(crate) fn reply_push(
    to: Target,
    reference: Option<&RawValue>,
    id: Option<Box<str>>,
    data: Option<&RawValue>,
    error: Option<&RawValue>,
) -> Result<Push, InvalidInput> {
    if !matches!(to, Target::Connection(..)) {
        return Err(InvalidInput::new("a reply goes to to.fd"));
    }
    let reference = json::reference(reference).map_err(InvalidInput::new)?;
    let (data, failed) = match (data, error) {
        (Some(data), None) => (data, false),
        (None, Some(error)) if error.get().starts_with('"') => (error, true),
        (None, Some(_)) => return Err(InvalidInput::new("error must be a text")),
        _ => return Err(InvalidInput::new("a reply needs one of data or error")),
    };
    let message = Message::new(id, data, None).of_kind(Kind::Reply { reference, failed });
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
    to: ObjectOnly<ToFields<'a>>,
    #[serde(default, borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(default)]
    id: Option<Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "or_default")]
    wait: Wait,
    #[serde(default)]
    timeout_ms: Option<f64>,
}

impl PushRequest {
    /// Reads a reply of a service, strictly: a push to one connection, in other words.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_reply(body: &[u8]) -> Result<Self, InvalidInput> {
        let body: ReplyBody<'_> = from_object(body)?;
        let timeout = check_timeout(body.timeout_ms)?;
        let id = check_id(body.id)?;
        let push = reply_push(
            body.to.0.check()?,
            body.reference,
            id,
            body.data,
            body.error,
        )?;
        Ok(Self {
            push,
            keep: false,
            wait: body.wait,
            timeout,
        })
    }
}
