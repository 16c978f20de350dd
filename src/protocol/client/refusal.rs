//! What a client hears that is refused after its upgrade: the codes, and the frames.

use std::time::Duration;

use bytes::Bytes;

use crate::protocol::client::objects::refused_object;
use crate::protocol::client::websocket;

/// Why a client may not connect, as far as it decides what the client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// What it asks for is wrong, and would be the next time.
    BadRequest,
    /// It has no valid token.
    Unauthorized,
    /// It may not, or its user is banned.
    Forbidden,
    /// Its user has as many connections as may be.
    TooMany,
    /// Not here, or not now.
    Unavailable,
}

impl RefusalReason {
    /// The close code: 4000 and the status that the request would be answered.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 4400,
            Self::Unauthorized => 4401,
            Self::Forbidden => 4403,
            Self::TooMany => 4409,
            Self::Unavailable => 4503,
        }
    }

    /// The reason text in the close frame.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::BadRequest => "bad request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::TooMany => "too many connections",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether the same request may be granted a little later.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

/// `bye` and the close frame. `error` and `message` are the code and the words that a request would
/// be answered.
#[must_use]
pub fn refusal_frames(
    reason: RefusalReason,
    error: &str,
    message: &str,
    retry: Option<Duration>,
) -> [Bytes; 2] {
    let bye = refused_object(reason.code(), reason.text(), error, message, retry);
    let close = websocket::close(reason.code(), reason.text());
    [websocket::text(&[bye.as_bytes()]), close]
}
