//! The label values that counters have from the start, with 0: otherwise the first event is also
//! the first sample, and `increase()` in an alert does not see it.
//!
//! What must stay true: every value that code counts is listed. The tests check each answer of
//! `/metrics` for that.

use crate::protocol::CallStatus;
use crate::protocol::close::CloseReason;
use crate::protocol::outcome::Status;

/// A counter, and all values of its label.
type LabelValues = (&'static str, &'static [&'static str]);

/// What comes of a question to a hook.
const HOOK_OUTCOMES: &[&str] = &[
    "answered",
    "refused",
    "failed",
    "invalid",
    "timeout",
    "unreachable",
    "broken",
    "full",
    "open",
];

/// Counters whose values stand here. Those of the others are in [`of`].
const KNOWN: [LabelValues; 16] = [
    (
        "handshakes_refused",
        &[
            "bad_request",
            "banned",
            "draining",
            "forbidden",
            "full",
            "host",
            "keys_unavailable",
            "method_not_allowed",
            "origin",
            "timeout",
            "token_expired",
            "token_invalid",
            "token_missing",
            "too_big",
            "too_many_connections",
            "too_many_topics",
            "unauthorized",
            "unavailable",
            "upgrade_required",
            "wrong_user",
        ],
    ),
    (
        "accepts_refused",
        &["node_full", "address_full", "proxy_header"],
    ),
    (
        "requests_refused",
        &[
            "bad_item",
            "bad_request",
            "bans_off",
            "content_type",
            "full",
            "host",
            "keys_unavailable",
            "method_not_allowed",
            "not_found",
            "offline",
            "origin",
            "sessions_off",
            "timeout",
            "too_large",
            "too_many",
            "unauthorized",
            "unavailable",
        ],
    ),
    (
        "upstream",
        &[
            "accepted",
            "answered",
            "busy",
            "failed",
            "no_route",
            "no_upstream",
            "unavailable",
            "unknown",
        ],
    ),
    ("hook_connect", HOOK_OUTCOMES),
    ("hook_subscribe", HOOK_OUTCOMES),
    ("hook_send", HOOK_OUTCOMES),
    ("share_outcomes", &["abandoned"]),
    ("line_outcomes", &["taken", "nobody", "failed"]),
    ("drops", &["unreadable", "passed_over"]),
    (
        "member_publishes",
        &[
            "published",
            "forbidden",
            "too_large",
            "rate_limited",
            "bad_message",
            "unavailable",
        ],
    ),
    ("topic_rules_read", &["taken", "refused"]),
    ("left_to_inbox", &["old", "later"]),
    (
        "losses",
        &[
            "lag",
            "reconnect",
            "resubscribed",
            "sequence",
            "forgotten",
            "late_row",
            "lost_row",
        ],
    ),
    (
        "redis_errors",
        &[
            "READONLY",
            "MASTERDOWN",
            "LOADING",
            "NOPERM",
            "NOAUTH",
            "WRONGPASS",
            "OOM",
            "CLUSTERDOWN",
            "MISCONF",
            "NOREPLICAS",
            "BUSY",
            "DENIED",
            "WRONGTYPE",
            "refused",
            "io",
            "timeout",
            "canceled",
            "cluster",
            "auth",
            "backpressure",
            "protocol",
            "other",
        ],
    ),
    (
        "lines_refused",
        &["unsigned", "signature", "place", "range", "probe", "full"],
    ),
];

/// All values of the label of a counter, by its name in the table.
pub(super) fn of(name: &str) -> Vec<&'static str> {
    let listed = KNOWN.iter().find(|(known, _)| *known == name);
    let mut words: Vec<&'static str> = listed.map_or_else(Vec::new, |(_, words)| words.to_vec());
    match name {
        "closes" | "drops" => words.extend(CloseReason::ALL.map(CloseReason::label)),
        "pushes" | "share_outcomes" => words.extend(Status::ALL.map(Status::as_str)),
        "calls" => words.extend(CallStatus::ALL.map(CallStatus::as_str)),
        _ => {}
    }
    words
}
