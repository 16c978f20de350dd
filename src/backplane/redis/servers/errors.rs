//! Why Redis is reachable and yet refuses what a node needs.
//!
//! A server that has become a replica, that cannot save its data, or whose access rules exclude
//! this node, answers at once and keeps every connection up. The beat of the lease meets that
//! first. Meanwhile the node is not ready. Every kind of refusal is logged once, then at intervals.

use std::borrow::Cow;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use parking_lot::RwLock;

use crate::backplane::redis::servers::vouch;
use crate::telemetry::throttle::ThrottleByKind;

/// The minimum time between two entries in the log about one kind of refusal.
const COMPLAINTS: Duration = Duration::from_secs(30);

/// The first words of such answers, and what `readyz` reports for them.
const REFUSALS: [(&str, &str); 13] = [
    ("READONLY", "Redis is read-only: a replica"),
    ("MASTERDOWN", "Redis has lost its master"),
    ("LOADING", "Redis is loading its data"),
    ("NOPERM", "Redis denies permission"),
    ("NOAUTH", "Redis wants a password"),
    ("WRONGPASS", "Redis refuses the password"),
    ("OOM", "Redis is out of memory"),
    ("CLUSTERDOWN", "the Redis cluster is down"),
    ("MISCONF", "Redis cannot save its data"),
    ("NOREPLICAS", "Redis has too few replicas"),
    ("BUSY", "Redis is busy with a script"),
    ("DENIED", "Redis is in protected mode"),
    ("WRONGTYPE", WRONG_TYPE),
];

/// What is reported for a key that another program has made.
pub(crate) const WRONG_TYPE: &str = "a key in Redis has another type";

/// What is reported for words that are not in the table.
const REFUSED: (&str, &str) = ("refused", "Redis refuses commands");

/// The word and the reason, if Redis has refused the command.
fn refusal(error: &Error) -> Option<(&'static str, &'static str)> {
    let word = error.details().split(' ').next().unwrap_or_default();
    if let Some(known) = REFUSALS.iter().find(|(known, _)| *known == word) {
        return Some(*known);
    }
    // What fred itself reports begins with no such word. ASK and MOVED lead elsewhere, and ERR is
    // an answer to one command.
    let is_word = word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_of_redis = is_word && word != "ERR" && *error.kind() == ErrorKind::Unknown;
    is_of_redis.then_some(REFUSED)
}

/// What keeps a connection from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    /// Whether that says more than that the connection broke.
    pub(crate) is_named: bool,
}

/// Words in errors of a connect, and what they mean.
const CAUSES: [(&str, &str); 10] = [
    (vouch::LEFT, vouch::LEFT),
    ("max number of clients", "Redis has too many clients"),
    ("lookup address", "the name of Redis cannot be resolved"),
    ("CertificateRequired", "Redis asks for a client certificate"),
    ("ertificate", "the certificate of Redis is refused"),
    ("UnknownIssuer", "the certificate of Redis is refused"),
    ("NotValidForName", "the certificate of Redis is refused"),
    ("HandshakeFailure", "the TLS handshake with Redis fails"),
    (
        "InvalidContentType",
        "Redis does not speak TLS on this port",
    ),
    ("refused", "Redis refuses connections"),
];

/// The cause of an error of a connection.
pub(crate) fn cause(error: &Error) -> Cause {
    let named = |reason| Cause {
        reason,
        is_named: true,
    };
    if let Some((_, reason)) = refusal(error) {
        return named(reason);
    }
    let text = redacted(error);
    if let Some((_, reason)) = CAUSES.iter().find(|(word, _)| text.contains(word)) {
        return named(reason);
    }
    match error.kind() {
        ErrorKind::Auth => named("Redis refuses the password"),
        ErrorKind::Tls => named("the TLS handshake with Redis fails"),
        ErrorKind::Timeout => Cause {
            reason: "Redis does not answer",
            is_named: false,
        },
        _ => Cause {
            reason: "the connection to Redis broke",
            is_named: false,
        },
    }
}

/// Why Redis refuses a command, as `readyz` says it; `None` if it is no refusal.
pub(crate) fn refusal_reason(error: &Error) -> Option<&'static str> {
    refusal(error).map(|(_, reason)| reason)
}

/// A reason that another node has told, as one of ours.
pub(crate) fn known_reason(told: &str) -> &'static str {
    let mut known = REFUSALS.iter().map(|(_, reason)| *reason);
    known.find(|reason| *reason == told).unwrap_or(REFUSED.1)
}

/// Whether another server, or the same one soon, may accept what this one refused.
pub(crate) fn is_passing(error: &Error) -> bool {
    ["READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "BUSY"]
        .iter()
        .any(|word| error.details().starts_with(word))
}

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
    if let Some((word, _)) = refusal(error) {
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

/// What fred 10.1 says of commands under way on a connection that we end because it is silent.
const DROPPED: &str = "channel closed";

/// Whether no answer came, so that the command may have been carried out.
pub(crate) fn is_broken_off(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Protocol => true,
        ErrorKind::Unknown => error.details() == DROPPED,
        _ => false,
    }
}

/// Whether the access rules of this node lack something.
pub(crate) fn is_denied(error: &Error) -> bool {
    error.details().starts_with("NOPERM")
}

/// Which refusals are logged. One for all commands of a node.
#[derive(Debug)]
pub(crate) struct Complaints(ThrottleByKind);

impl Default for Complaints {
    fn default() -> Self {
        Self(ThrottleByKind::new(COMPLAINTS))
    }
}

impl Complaints {
    /// Logs a refusal, unless that was done a moment ago.
    pub(crate) fn note(&self, error: &Error) {
        if let Some((_, reason)) = refusal(error)
            && let Some(unlogged) = self.0.pass(reason)
        {
            tracing::warn!(error = %redacted(error), unlogged, "{reason}; retrying");
        }
    }

    fn is_due(&self, what: &'static str) -> bool {
        self.0.pass(what).is_some()
    }
}

/// The current refusal, if there is one.
#[derive(Debug, Default)]
pub(crate) struct RedisHealth {
    reason: RwLock<Option<&'static str>>,
    complaints: Complaints,
}

impl RedisHealth {
    /// Notes why a beat failed.
    pub(crate) fn note(&self, error: &Error) {
        if let Some((_, reason)) = refusal(error) {
            self.set(Some(reason));
        }
    }

    /// Notes that a beat succeeded.
    pub(crate) fn clear(&self) {
        let was_refused = self.reason().is_some() && self.set(None).is_some();
        if was_refused && self.complaints.is_due("again") {
            tracing::info!("Redis serves this node again");
        }
    }

    /// Notes that the lease is missing; returns whether that should be logged.
    pub(crate) fn tells_forgotten(&self) -> bool {
        // While Redis refuses to write the lease, each beat finds it missing.
        self.reason().is_none() || self.complaints.is_due("forgotten")
    }

    /// Why the node cannot be ready.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        *self.reason.read()
    }

    fn set(&self, reason: Option<&'static str>) -> Option<&'static str> {
        std::mem::replace(&mut *self.reason.write(), reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

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

    #[test]
    fn a_command_may_have_been_carried_out_whose_connection_was_ended() {
        let (sender, answer) = tokio::sync::oneshot::channel::<()>();
        drop(sender);
        let dropped = Error::from(answer.blocking_recv().expect_err("no answer"));
        assert!(is_broken_off(&dropped), "{dropped:?}");
        let ours = Error::new(ErrorKind::Unknown, "a watched key has changed");
        assert!(!is_broken_off(&ours));
    }

    #[test]
    fn the_cause_of_a_refused_connection_is_named() {
        let of = |kind, details: &'static str| cause(&Error::new(kind, details));
        let named = |reason| Cause {
            reason,
            is_named: true,
        };
        for (kind, details, reason) in [
            (
                ErrorKind::Auth,
                "WRONGPASS invalid",
                "Redis refuses the password",
            ),
            (
                ErrorKind::Auth,
                "invalid password",
                "Redis refuses the password",
            ),
            (
                ErrorKind::Auth,
                "NOAUTH Authentication",
                "Redis wants a password",
            ),
            (
                ErrorKind::Unknown,
                "ERR max number of clients reached",
                "Redis has too many clients",
            ),
            (
                ErrorKind::IO,
                "failed to lookup address information: Name or service not known",
                "the name of Redis cannot be resolved",
            ),
            (
                ErrorKind::IO,
                "invalid peer certificate: UnknownIssuer",
                "the certificate of Redis is refused",
            ),
        ] {
            assert_eq!(of(kind, details), named(reason), "{details}");
        }
        assert!(!of(ErrorKind::IO, "Connection closed.").is_named);
        assert!(!of(ErrorKind::Timeout, "timed out").is_named);
    }

    #[test]
    fn every_refusal_has_a_word_and_a_reason() {
        let of_redis = |details: &'static str| Error::new(ErrorKind::Unknown, details);
        for (details, word) in [
            ("MISCONF Redis is configured to save", "MISCONF"),
            (
                "NOREPLICAS Not enough good replicas to write.",
                "NOREPLICAS",
            ),
            ("OOM command not allowed", "OOM"),
            ("BUSY Redis is busy", "BUSY"),
            ("BUSYGROUP Consumer Group name already exists", "refused"),
            ("SOMETHING new", "refused"),
            ("ERR unknown command", "other"),
            ("no answer to the pipeline", "other"),
        ] {
            assert_eq!(kind(&of_redis(details)), word, "{details}");
        }
        assert_eq!(kind(&Error::new(ErrorKind::IO, "EOF")), "io");
        let counted = Metrics::known_labels("redis_errors");
        for (word, _) in REFUSALS.iter().chain([&REFUSED]) {
            assert!(
                counted.contains(word),
                "{word} is not counted from the start"
            );
        }
        let health = RedisHealth::default();
        health.note(&of_redis("NOREPLICAS Not enough good replicas"));
        assert_eq!(health.reason(), Some("Redis has too few replicas"));
        health.note(&of_redis("SOMETHING new"));
        assert_eq!(health.reason(), Some("Redis refuses commands"));
        health.clear();
        assert_eq!(health.reason(), None);
    }
}
