//! Who may connect as whom, who may subscribe to what, and who may send.

mod grants;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use self::grants::{BadPattern, Grants};
use crate::config::Secret;
use crate::names::UserId;

/// The keys of senders, kept as digests: equal in length, so that comparing them tells nothing.
#[derive(Debug, Clone)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// Keys from the configuration; none means that any sender may send.
    #[must_use]
    pub fn new(keys: &[Secret]) -> Self {
        Self(
            keys.iter()
                .map(|key| Sha256::digest(key.reveal()).into())
                .collect(),
        )
    }

    /// Whether an `Authorization` header lets its sender in. Takes the same time for any key:
    /// every valid one is compared, in constant time.
    #[must_use]
    pub fn allow(&self, authorization: Option<&str>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let key = authorization.and_then(bearer).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(key).into();
        let matches = self.0.iter().map(|valid| valid.ct_eq(&digest));
        bool::from(matches.fold(subtle::Choice::from(0), |any, one| any | one))
    }
}

/// The token of a bearer authorization (RFC 6750, 2.1); the scheme's case does not matter.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Reads who a client says it is, under `PUSH_AUTH=none`.
///
/// # Errors
/// What is wrong, for the client to read.
pub fn claimed_user(user: Option<&str>) -> Result<UserId, String> {
    let user = user.ok_or("the user is missing: /ws?user=<user>")?;
    user.parse()
        .map_err(|error: crate::names::BadName| error.to_string())
}

/// Whether a page of this origin may connect to this host.
///
/// `allowed` is the exact list of the configuration. If it is empty, a page may connect to the
/// host it came from. No origin at all means that the client is no browser.
#[must_use]
pub fn allows_origin(allowed: &[String], origin: Option<&str>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    if allowed.is_empty() {
        let host_of_origin = origin.split_once("://").map(|(_, host)| host);
        return host_of_origin.is_some() && host_of_origin == host;
    }
    allowed.iter().any(|one| one == "*" || one == origin)
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
        assert!(super::ApiKeys::new(&[]).allow(None));
    }

    #[test]
    fn origins_are_compared_whole() {
        let allowed = ["https://app.example.org".to_owned()];
        assert!(allows_origin(
            &allowed,
            Some("https://app.example.org"),
            None
        ));
        assert!(allows_origin(&allowed, None, None));
        for bad in [
            "null",
            "https://app.example.org.evil.net",
            "http://app.example.org",
            "",
        ] {
            assert!(
                !allows_origin(&allowed, Some(bad), Some("app.example.org")),
                "{bad}"
            );
        }
        assert!(allows_origin(
            &[],
            Some("http://127.0.0.1:8080"),
            Some("127.0.0.1:8080")
        ));
        assert!(!allows_origin(
            &[],
            Some("http://evil.net"),
            Some("127.0.0.1:8080")
        ));
        assert!(!allows_origin(&[], Some("null"), Some("127.0.0.1:8080")));
        assert!(!allows_origin(&[], Some("null"), None));
    }
}
