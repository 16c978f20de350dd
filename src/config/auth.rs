//! Settings of who may come in, and which of them go together.

use crate::config::{Config, Faults};

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// They do not: `?user=` is believed.
    None,
    /// By a JSON Web Token.
    Jwt,
    /// By the token of a session in the backplane.
    Session,
    /// By either.
    JwtOrSession,
}

impl AuthMode {
    /// Whether a JSON Web Token lets a client in.
    #[must_use]
    pub const fn takes_jwt(self) -> bool {
        matches!(self, Self::Jwt | Self::JwtOrSession)
    }

    /// Whether the token of a session does.
    #[must_use]
    pub const fn takes_sessions(self) -> bool {
        matches!(self, Self::Session | Self::JwtOrSession)
    }
}

/// Who stays where a user has too many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    /// Those that came last.
    Newest,
    /// Those that came first.
    Oldest,
}

impl Config {
    /// Tokens need keys, and keys need tokens: one without the other was meant otherwise.
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
                "=jwt needs keys: set PUSH_JWT_SECRETS, PUSH_JWT_KEYS, PUSH_JWT_KEYS_FILE or PUSH_JWKS_URL",
            );
        }
        if !self.auth.takes_jwt() {
            set.for_each(|(name, _)| faults.add(name, "is set, and PUSH_AUTH does not have jwt"));
        }
    }
}
