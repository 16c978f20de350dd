//! Why a connection ends: the one table of reasons.
//!
//! Owns the close code (RFC 6455, 7.4), the text the client sees, whether it should come back,
//! and the label in `pushnode_closes_total`. Every accepted connection ends with exactly one
//! of these. What a peer sees is decided here, never by reading an error's text.

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client said goodbye with a close frame.
    ByClient,
    /// The client vanished: end of stream or an error on the socket.
    Gone,
    /// The client broke the framing rules (RFC 6455, 5).
    Protocol,
    /// A text message that is not UTF-8 (RFC 6455, 8.1).
    InvalidText,
    /// A message over `PUSH_MAX_MESSAGE_BYTES`, or in too many pieces.
    TooBig,
    /// More frames in a second than `PUSH_CLIENT_RATE`.
    TooFast,
    /// A sender asked for it (`DELETE /v1/users/...`, `DELETE /v1/connections/...`).
    Kicked,
    /// More unsent bytes than `PUSH_QUEUE_BYTES`, or none taken for `PUSH_WRITE_SECONDS`.
    Slow,
    /// No answer within `PUSH_PONG_SECONDS` of a ping.
    Heartbeat,
    /// The node is leaving; others are there.
    Drain,
    /// The client's token or session has ended, or its session was revoked.
    TokenExpired,
    /// A newer connection of the same user took its place, as `PUSH_SESSION_POLICY` says.
    Replaced,
    /// The user is banned.
    Banned,
    /// The socket never came after the handshake was granted.
    NeverAttached,
}

/// One row of the table.
struct ReasonRow {
    code: Option<u16>,
    text: &'static str,
    label: &'static str,
}

impl CloseReason {
    /// Every reason, for the metrics and for tests of the documents.
    pub const ALL: [Self; 14] = [
        Self::ByClient,
        Self::Gone,
        Self::Protocol,
        Self::InvalidText,
        Self::TooBig,
        Self::TooFast,
        Self::Kicked,
        Self::Slow,
        Self::Heartbeat,
        Self::Drain,
        Self::TokenExpired,
        Self::Replaced,
        Self::Banned,
        Self::NeverAttached,
    ];

    const fn row(self) -> ReasonRow {
        let (code, text, label) = match self {
            Self::ByClient => (Some(1000), "goodbye", "by_client"),
            Self::Gone => (None, "connection lost", "gone"),
            Self::Protocol => (Some(1002), "protocol error", "protocol"),
            Self::InvalidText => (Some(1007), "text is not UTF-8", "invalid_text"),
            Self::TooBig => (Some(1009), "message too big", "too_big"),
            Self::TooFast => (Some(1008), "too many messages", "too_fast"),
            Self::Kicked => (Some(4001), "kicked", "kicked"),
            Self::Slow => (Some(4002), "slow consumer", "slow"),
            Self::Heartbeat => (Some(4003), "heartbeat timeout", "heartbeat"),
            Self::Drain => (Some(1012), "drain", "drain"),
            Self::TokenExpired => (Some(4004), "token expired", "token_expired"),
            Self::Replaced => (Some(4005), "replaced", "replaced"),
            Self::Banned => (Some(4006), "banned", "banned"),
            Self::NeverAttached => (None, "handshake not completed", "never_attached"),
        };
        ReasonRow { code, text, label }
    }

    /// The close code sent, or `None` where no client is left to read it.
    #[must_use]
    pub const fn code(self) -> Option<u16> {
        self.row().code
    }

    /// The reason text in the close frame.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.row().text
    }

    /// The `reason` label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// Whether the client is asked to go, and may answer. Otherwise it has said goodbye, is gone,
    /// or would not understand.
    #[must_use]
    pub const fn asks_to_go(self) -> bool {
        matches!(
            self,
            Self::Drain
                | Self::Kicked
                | Self::Slow
                | Self::Heartbeat
                | Self::TokenExpired
                | Self::Replaced
                | Self::Banned
        )
    }

    /// Whether it tells the client not to come back, not even with a new token.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Protocol
                | Self::InvalidText
                | Self::TooBig
                | Self::TooFast
                | Self::Kicked
                | Self::Replaced
                | Self::Banned
        )
    }

    /// Whether a client that comes back at once may expect a better end. Sent as `retry_ms`.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(
            self,
            Self::Gone | Self::Slow | Self::Heartbeat | Self::Drain | Self::NeverAttached
        )
    }
}

/// Whether a client that closes with this code says that something was wrong. It is well if it just
/// goes: its program ends, or its page is left.
#[must_use]
pub const fn is_complaint(code: u16) -> bool {
    !matches!(code, 1000 | 1001)
}

/// May this code stand in a close frame that a client sends (RFC 6455, 7.4)?
#[must_use]
pub const fn is_valid_from_client(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_unique_and_codes_legal() {
        let labels: HashSet<_> = CloseReason::ALL
            .iter()
            .map(|reason| reason.label())
            .collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            assert!(reason.code().is_none_or(is_valid_from_client), "{reason:?}");
            assert!(
                reason.text().len() <= 123,
                "{reason:?}: a close reason has 123 bytes at most"
            );
        }
    }

    #[test]
    fn what_is_for_good_has_no_time_to_come_back() {
        for reason in CloseReason::ALL {
            assert!(!(reason.is_final() && reason.retry()), "{reason:?}");
        }
    }

    #[test]
    fn codes_reserved_for_local_use_are_refused() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            assert!(!is_valid_from_client(code), "{code}");
        }
    }
}
