//! What is said between a node and a client of the subprotocol `pushnode.v1`.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::close::CloseReason;
use crate::frame;
use crate::inbox::Position;
use crate::names::{ConnectionId, UserId};

/// The subprotocol's name in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "pushnode.v1";

/// `ready`: the connection is known to the cluster under this name.
///
/// `resume` is where its user's inbox was when it came; `recovered` tells a client that came back
/// whether it has missed nothing.
#[must_use]
pub fn ready_frame(
    id: &ConnectionId,
    user: &UserId,
    resume: Option<Position>,
    recovered: Option<bool>,
) -> Bytes {
    let ConnectionId { node, fd } = id;
    let mut text = format!(r#"{{"type":"ready","node":"{node}","fd":{fd},"user":"{user}""#);
    if let Some(resume) = resume {
        let _ = write!(text, r#","resume":"{resume}""#);
    }
    if let Some(recovered) = recovered {
        let _ = write!(text, r#","recovered":{recovered}"#);
    }
    text.push('}');
    down(&text)
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
