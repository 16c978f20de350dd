//! A client's proven identity, and how long it lasts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::auth::Grants;
use crate::protocol::ids::UserId;

/// A client's identity: from its token or, under `PUSH_AUTH=none`, as the client claims it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user id.
    pub user: UserId,
    /// The topics it may subscribe to, if its token lists them. Otherwise the settings decide.
    pub grants: Option<Arc<Grants>>,
    /// The device class that its token names, if any. It overrides the one that the client names.
    pub device: Option<Arc<str>>,
    /// When this identity expires, by this process's own clock.
    pub expires: Option<Instant>,
    /// The session that this identity rests on, if any.
    pub session: Option<SessionId>,
}

impl Identity {
    /// The identity of a user that the client claims without proof.
    #[must_use]
    pub fn claimed(user: UserId) -> Self {
        Self {
            user,
            grants: None,
            device: None,
            expires: None,
            session: None,
        }
    }
}

/// A session, named by the SHA-256 of its token: the name is of no use to a reader who wants in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// The session that belongs to this token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text does not name a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session is named by 64 hexadecimal digits: the SHA-256 of its token")]
pub struct BadSessionId;

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, BadSessionId> {
        let mut id = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadSessionId);
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| BadSessionId)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadSessionId)?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_by_the_digest_of_its_token() {
        let id = SessionId::of("abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(id.to_string(), hex);
        assert_eq!(hex.parse(), Ok(id));
        assert_eq!(hex.to_uppercase().parse(), Ok(id));
        for bad in [
            "",
            "abc",
            &hex[1..],
            &hex.replace('b', "g"),
            &hex.replace("ba", "é"),
        ] {
            assert_eq!(bad.parse::<SessionId>(), Err(BadSessionId), "{bad}");
        }
    }
}
