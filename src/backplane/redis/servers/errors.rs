//! Why Redis, though it can be reached, does not do what a node needs.
//!
//! A server that has become a replica, or rules that no longer let this node in, answer at once
//! and keep every connection up. The beat of the lease meets them first; the node is not ready
//! meanwhile and says so once in its log.

use std::sync::{PoisonError, RwLock};

use fred::error::{Error, ErrorKind};

/// What such answers begin with, and what `readyz` says of them.
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

/// An error as it may stand in the log. A server that does not know a command quotes what came
/// behind it, which may be a message, or the password of a HELLO.
pub(crate) fn redacted(error: &Error) -> String {
    let text = error.to_string();
    let (said, _) = text.split_once(", with args").unwrap_or((&text, ""));
    said.escape_debug().to_string()
}

/// What kind of failure it is, as a metric's label: by its first word where Redis refuses.
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
    /// Hears how a beat failed.
    pub(crate) fn note(&self, error: &Error) {
        let Some((_, reason)) = REFUSALS
            .iter()
            .find(|(word, _)| error.details().starts_with(word))
        else {
            return;
        };
        if self.set(Some(reason)) != Some(reason) {
            tracing::warn!(error = %redacted(error), "{reason}; trying on");
        }
    }

    /// Hears that a beat went well.
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
