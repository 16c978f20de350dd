//! Who may connect, as senders say it: sessions and bans. Read strictly.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::UserId;
use crate::protocol::json::{from_object, or_default, to_json};
use crate::protocol::session_id::SessionId;

/// Longest session or ban: ten years.
const MAX_SECONDS: u64 = 10 * 365 * 86_400;
/// Longest reason of a ban, in bytes.
const MAX_REASON_BYTES: usize = 256;

/// How JSON begins. A session's value that begins so is no plain user id: an application that
/// wrote a JSON text or list by mistake would let its bearer in as another user.
pub const JSON_BEGINS: [char; 3] = ['{', '[', '"'];

/// To JSON 60.0 is the same number as 60, and some languages print it so.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = f64::deserialize(from)?;
    // What is above all bounds is refused by them; nothing below is cut.
    if number >= 0.0 && number.fract() == 0.0 {
        Ok(number as u64)
    } else {
        Err(D::Error::custom("seconds must be a whole number"))
    }
}

/// A session as a sender wants it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// Who its bearer is.
    pub user: UserId,
    /// Patterns of the topics that the bearer may subscribe to.
    #[serde(default)]
    pub topics: Option<Vec<Box<str>>>,
    /// The class of its device.
    #[serde(default)]
    pub device: Option<String>,
    /// For how long.
    #[serde(deserialize_with = "whole")]
    pub ttl_seconds: u64,
}

impl SessionRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        let request: Self = from_object(body)?;
        check_seconds("ttl_seconds", request.ttl_seconds)?;
        Ok(request)
    }

    /// What is stored of it: a user id, or claims as JSON.
    #[must_use]
    pub fn claims(&self) -> String {
        #[derive(Serialize)]
        struct Claims<'a> {
            sub: &'a UserId,
            #[serde(skip_serializing_if = "Option::is_none")]
            topics: Option<&'a [Box<str>]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            device: Option<&'a str>,
        }
        let claims = Claims {
            sub: &self.user,
            topics: self.topics.as_deref(),
            device: self.device.as_deref(),
        };
        // As plain text only what is read back as it was: neither JSON nor trimmed.
        let user = self.user.as_str();
        let is_plain = !user.starts_with(JSON_BEGINS) && user.trim() == user;
        if is_plain && claims.topics.is_none() && claims.device.is_none() {
            return self.user.to_string();
        }
        to_json(&claims)
    }

    /// For how long.
    #[must_use]
    pub const fn lasts(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds)
    }
}

/// The session that a sender ends, by its token or its name.
///
/// # Errors
/// What is wrong with the body of the request.
pub fn session_to_end(body: &[u8]) -> Result<SessionId, InvalidInput> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        session: Option<String>,
    }
    let body: Body = from_object(body)?;
    match (body.token, body.session) {
        (Some(token), None) => Ok(SessionId::of(&token)),
        (None, Some(name)) => {
            let bad = |error| InvalidInput::new(format!("session: {error}"));
            name.parse().map_err(bad)
        }
        _ => Err(InvalidInput::new("one of token and session is needed")),
    }
}

/// A ban as a sender wants it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// For how long.
    #[serde(deserialize_with = "whole")]
    pub seconds: u64,
    /// Why, for operators.
    #[serde(default, deserialize_with = "or_default")]
    pub reason: String,
}

impl BanRequest {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        let request: Self = from_object(body)?;
        check_seconds("seconds", request.seconds)?;
        if request.reason.len() > MAX_REASON_BYTES {
            return Err(InvalidInput::new("reason has over 256 bytes"));
        }
        Ok(request)
    }
}

fn check_seconds(field: &str, seconds: u64) -> Result<(), InvalidInput> {
    if (1..=MAX_SECONDS).contains(&seconds) {
        return Ok(());
    }
    Err(InvalidInput::new(format!(
        "{field} must be from 1 to {MAX_SECONDS}"
    )))
}
