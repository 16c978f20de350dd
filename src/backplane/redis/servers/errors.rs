//! Why Redis is reachable and yet refuses what a node needs.
//!
//! A server that has become a replica, or access rules that exclude this node, answer at once
//! and keep every connection up. The beat of the lease meets them first. Meanwhile the node is
//! not ready, and logs the refusal once.

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use fred::error::{Error, ErrorKind};

/// How such answers begin, and what `readyz` reports for them.
const REFUSALS: [(&str, &str); 8] = [
    ("READONLY", "Redis is read-only: a replica"),
    ("MASTERDOWN", "Redis has lost its master"),
    ("LOADING", "Redis is loading its data"),
    ("NOPERM", "Redis denies permission"),
    ("NOAUTH", "Redis wants a password"),
    ("WRONGPASS", "Redis refuses the password"),
    ("OOM", "Redis is out of memory"),
    ("CLUSTERDOWN", "the Redis cluster is down"),
];

/// An error as it may appear in the log. A server that does not know a command quotes its
/// arguments, which may be a message, or the password of a HELLO.
pub(crate) fn redacted(error: &Error) -> String {
    let text = error.to_string();
    let (said, _) = text.split_once(", with args").unwrap_or((&text, ""));
    in_words(said).escape_debug().to_string()
}

/// fred has the system's errors in the form for programmers: `IO Error: Os { code: 111, kind:
/// ConnectionRefused, message: "Connection refused" }`. Of that only the message is for people.
fn in_words(text: &str) -> Cow<'_, str> {
    for (open, key) in [(" Os {", "message: "), (" Custom {", "error: ")] {
        if let Some((kind, inside)) = text.split_once(open)
            && let Some((_, said)) = inside.split_once(key)
        {
            let said = said.trim_end_matches([' ', '}']).trim_matches('"');
            return Cow::Owned(format!("{kind} {said}"));
        }
    }
    Cow::Borrowed(text)
}

/// The kind of failure, as a metric's label: the first word of a refusal by Redis.
pub(crate) fn kind(error: &Error) -> &'static str {
    let refusal = REFUSALS
        .iter()
        .find(|(word, _)| error.details().starts_with(word));
    if let Some((word, _)) = refusal {
        return word;
    }
    match error.kind() {
        ErrorKind::IO => "io",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Canceled => "canceled",
        ErrorKind::Cluster => "cluster",
        ErrorKind::Auth => "auth",
        ErrorKind::Backpressure => "backpressure",
        ErrorKind::Protocol | ErrorKind::Parse => "protocol",
        _ => "other",
    }
}

/// The current refusal, if there is one.
#[derive(Debug, Default)]
pub(crate) struct RedisHealth(RwLock<Option<&'static str>>);

impl RedisHealth {
    /// Notes why a beat failed.
    pub(crate) fn note(&self, error: &Error) {
        let Some((_, reason)) = REFUSALS
            .iter()
            .find(|(word, _)| error.details().starts_with(word))
        else {
            return;
        };
        if self.set(Some(reason)) != Some(reason) {
            tracing::warn!(error = %redacted(error), "{reason}; retrying");
        }
    }

    /// Notes that a beat succeeded.
    pub(crate) fn clear(&self) {
        if self.reason().is_some() && self.set(None).is_some() {
            tracing::info!("Redis serves this node again");
        }
    }

    /// Why the node cannot be ready.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, reason: Option<&'static str>) -> Option<&'static str> {
        std::mem::replace(
            &mut *self.0.write().unwrap_or_else(PoisonError::into_inner),
            reason,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_told_in_words() {
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(
            redacted(&Error::from(refused)),
            "IO Error: Connection refused"
        );
        let inner = std::io::Error::new(std::io::ErrorKind::InvalidData, "bad certificate");
        assert_eq!(redacted(&Error::from(inner)), "IO Error: bad certificate");
        let other = Error::new(ErrorKind::Auth, "WRONGPASS no");
        assert!(redacted(&other).ends_with("WRONGPASS no"));
    }
}
