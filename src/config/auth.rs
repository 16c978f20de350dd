//! Settings of client authentication, and which of them require each other.

use crate::config::Config;
use crate::config::faults::Faults;

/// How clients authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Not at all: `?user=` is trusted.
    None,
    /// By a JSON Web Token.
    Jwt,
    /// By the token of a session in Redis.
    Session,
    /// By either of them.
    JwtOrSession,
}

impl AuthMode {
    /// Whether clients may authenticate by a JSON Web Token.
    #[must_use]
    pub const fn takes_jwt(self) -> bool {
        matches!(self, Self::Jwt | Self::JwtOrSession)
    }

    /// Whether clients may authenticate by a session token.
    #[must_use]
    pub const fn takes_sessions(self) -> bool {
        matches!(self, Self::Session | Self::JwtOrSession)
    }
}

/// Which connections stay when a user has too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    /// The newest; older ones are closed.
    Newest,
    /// The oldest; new ones are refused.
    Oldest,
}

impl Config {
    /// What a configuration of version 0.1 means no longer; a line each, for the log at the start.
    #[must_use]
    pub fn changed_meanings(&self) -> Vec<&'static str> {
        let mut lines = Vec::new();
        if self.auth != AuthMode::None && self.topics.is_empty() {
            lines.push(
                "clients may subscribe only to topics that their tokens list: PUSH_TOPICS is empty, \
                which is the default with PUSH_AUTH=jwt or session (0.1: every topic)",
            );
        }
        if self.topics.has_segment_star() {
            lines.push(
                "in PUSH_TOPICS a * stands for text between two of . and : (0.1: for any text); \
                ** at the end stands for the rest",
            );
        }
        lines
    }

    /// Refuses `jwt` without keys, and keys without `jwt`: either is a mistake.
    pub(super) fn check_keys(&self, faults: &mut Faults) {
        let sources = [
            ("PUSH_JWT_SECRETS", !self.jwt_secrets.is_empty()),
            ("PUSH_JWT_KEYS", !self.jwt_keys.is_empty()),
            ("PUSH_JWT_KEYS_FILE", self.jwt_keys_file.is_some()),
            ("PUSH_JWKS_URL", !self.jwks_url.is_empty()),
        ];
        let mut set = sources.iter().filter(|(_, is_set)| *is_set).peekable();
        if self.auth.takes_jwt() && set.peek().is_none() {
            faults.add(
                "PUSH_AUTH",
                "=jwt needs keys: set PUSH_JWT_SECRETS, PUSH_JWT_KEYS, PUSH_JWT_KEYS_FILE \
                or PUSH_JWKS_URL",
            );
        }
        if !self.auth.takes_jwt() {
            for (name, _) in set {
                faults.add(name, "is set, but PUSH_AUTH does not include jwt");
            }
            if self.jwt_user_claim != "sub" {
                let words = "is set, but PUSH_AUTH does not include jwt";
                faults.add("PUSH_JWT_USER_CLAIM", words);
            }
        }
    }
}
