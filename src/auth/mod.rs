//! Authentication of clients, access to topics, and the API keys of senders.

pub(crate) mod claims;
pub(crate) mod identity;
pub(crate) mod jwks;
pub(crate) mod jwt;
pub(crate) mod keyring;
pub(crate) mod keys;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(crate) use crate::auth::jwt::looks_like_one as looks_like_jwt;
use crate::protocol::ids::UserId;
use crate::protocol::secret::Secret;

/// The API keys of senders, kept as digests of equal length, so that comparing them leaks nothing.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    digests: RwLock<Vec<[u8; 32]>>,
    /// Counts the changes.
    version: AtomicU64,
}

impl ApiKeys {
    /// Takes the keys from the configuration. Without keys, any sender may send.
    pub(crate) fn new(keys: &[Secret]) -> Self {
        Self {
            digests: RwLock::new(digests(keys)),
            version: AtomicU64::new(0),
        }
    }

    /// Takes other keys in place of those before; none would open the node to everybody.
    pub(crate) fn replace(&self, keys: &[Secret]) {
        if !keys.is_empty() {
            *self.digests.write() = digests(keys);
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether any sender may send.
    pub(crate) fn is_empty(&self) -> bool {
        self.digests.read().is_empty()
    }

    /// What was allowed since this was read is allowed while it stays the same.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether an `Authorization` header admits its sender. Takes the same time for any key:
    /// it is compared with every valid one, in constant time.
    pub(crate) fn allow(&self, authorization: Option<&str>) -> bool {
        let all = self.digests.read();
        if all.is_empty() {
            return true;
        }
        let key = authorization.and_then(bearer).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(key).into();
        let matches = all.iter().map(|valid| valid.ct_eq(&digest));
        bool::from(matches.fold(subtle::Choice::from(0), |any, one| any | one))
    }
}

fn digests(keys: &[Secret]) -> Vec<[u8; 32]> {
    let digest = |key: &Secret| Sha256::digest(key.reveal()).into();
    keys.iter().map(digest).collect()
}

/// The token of a bearer authorization (RFC 6750, 2.1); the scheme's case does not matter.
pub(crate) fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Why a client is refused, or why its new token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The client sent no token.
    Missing,
    /// Its token is rejected. The reason is only for the log: it would help a forger.
    Invalid(&'static str),
    /// Its token is signed as it should be, and a claim is wrong. The text is for its bearer, who
    /// learns by it nothing that the token does not say.
    Claim(&'static str),
    /// Its token was valid and has expired.
    Expired,
    /// No fetch of the keys has succeeded yet.
    KeysUnavailable,
    /// Sessions cannot be looked up now.
    SessionsUnavailable,
    /// The token belongs to another user than the one it is presented for.
    WrongUser,
    /// The user is banned.
    Banned,
}

impl Denial {
    /// The code that programs read.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Invalid(_) | Self::Claim(_) => "token_invalid",
            Self::Expired => "token_expired",
            Self::KeysUnavailable => "keys_unavailable",
            Self::SessionsUnavailable => "unavailable",
            Self::WrongUser => "wrong_user",
            Self::Banned => "banned",
        }
    }

    /// What was wrong, for the log.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Invalid(what) => what,
            _ => self.message(),
        }
    }

    /// The text that people read.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Missing => {
                "a token is needed: Authorization: Bearer <token>, \
                 the WebSocket subprotocol bearer.<token>, or ?token="
            }
            Self::Invalid(_) => "the token is not valid",
            Self::Claim(what) => what,
            Self::Expired => "the token has expired",
            Self::KeysUnavailable => "the keys of tokens could not be fetched yet",
            Self::SessionsUnavailable => "sessions cannot be looked up now",
            Self::WrongUser => "the token is that of another user",
            Self::Banned => "this user is banned",
        }
    }
}

/// Reads the user that a client claims to be, under `PUSH_AUTH=none`.
///
/// # Errors
/// What is wrong, for the client to read.
pub(crate) fn claimed_user(user: Option<&str>) -> Result<UserId, String> {
    let user = user.ok_or("the user is missing")?;
    user.parse()
        .map_err(|error: crate::protocol::ids::BadName| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn keys(list: &str) -> ApiKeys {
        ApiKeys::new(
            &Config::from_pairs([("PUSH_API_KEYS", list)])
                .unwrap()
                .api_keys,
        )
    }

    #[test]
    fn any_of_the_keys_will_do_and_nothing_else() {
        let keys = keys("first-key-0123456789,second-key-0123456789");
        assert!(keys.allow(Some("Bearer first-key-0123456789")));
        assert!(keys.allow(Some("bearer second-key-0123456789")));
        for bad in [
            None,
            Some(""),
            Some("first-key-0123456789"),
            Some("Basic first-key-0123456789"),
            Some("Bearer "),
            Some("Bearer first-key-012345678"),
            Some("Bearer first-key-01234567890"),
        ] {
            assert!(!keys.allow(bad), "{bad:?}");
        }
        assert!(crate::auth::ApiKeys::new(&[]).allow(None));
    }
}
