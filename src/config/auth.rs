//! Settings of client authentication, and which of them require each other.

use crate::config::Config;
use crate::config::faults::Faults;

/// How clients authenticate: in none of these ways (`?user=` is trusted), or in several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuthMode {
    jwt: bool,
    session: bool,
    hook: bool,
}

impl AuthMode {
    /// Reads a list of ways, each of them once.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut mode = Self::default();
        if text == "none" {
            return Some(mode);
        }
        for way in text.split(',') {
            let way = match way.trim() {
                "jwt" => &mut mode.jwt,
                "session" => &mut mode.session,
                "hook" => &mut mode.hook,
                _ => return None,
            };
            if std::mem::replace(way, true) {
                return None;
            }
        }
        Some(mode)
    }

    /// Whether clients do not authenticate.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether clients may authenticate by a JSON Web Token.
    #[must_use]
    pub const fn takes_jwt(self) -> bool {
        self.jwt
    }

    /// Whether clients may authenticate by a session token.
    #[must_use]
    pub const fn takes_sessions(self) -> bool {
        self.session
    }

    /// Whether a hook is asked about clients.
    #[must_use]
    pub const fn takes_hook(self) -> bool {
        self.hook
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
        if !self.auth.is_none() && self.topics.is_empty() {
            lines.push(
                "clients may subscribe only to topics that their tokens list: PUSH_TOPICS is empty, \
                which is the default with PUSH_AUTH=jwt, session or hook (0.1: every topic)",
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

    /// Refuses hooks that pages of strangers, or strangers to the backend, could use.
    pub(super) fn check_hooks(&self, faults: &mut Faults) {
        let has_connect = !self.connect_hook.is_empty();
        match (self.auth.takes_hook(), has_connect) {
            (true, false) => faults.add("PUSH_AUTH", "with hook needs PUSH_CONNECT_HOOK"),
            (false, true) => {
                let words = "is set, but PUSH_AUTH does not include hook";
                faults.add("PUSH_CONNECT_HOOK", words);
            }
            _ => {}
        }
        let first = match has_connect {
            true => Some("PUSH_CONNECT_HOOK"),
            false if !self.subscribe_hook.is_empty() => Some("PUSH_SUBSCRIBE_HOOK"),
            false => (self.upstream_routes.hooks().next()).map(|_| "PUSH_UPSTREAM_ROUTES"),
        };
        match (first, self.hook_secret.is_empty()) {
            (Some(hook), true) => faults.add(
                hook,
                "has a hook, which needs PUSH_HOOK_SECRET: \
                without a signature a backend cannot tell this node from others",
            ),
            (None, false) => faults.add("PUSH_HOOK_SECRET", "is set, but there is no hook"),
            _ => {}
        }
        if !self.auth.takes_hook() {
            return;
        }
        if self.origins.is_empty() {
            faults.add(
                "PUSH_ORIGINS",
                "must list the pages that may connect if PUSH_AUTH includes hook: browsers send \
                cookies with the requests of any page",
            );
        }
        let secret = ["cookie", "authorization"];
        let mut passed = self.hook_headers.iter();
        if passed.any(|name| secret.contains(&&**name)) && self.origins.allow_strangers() {
            faults.add(
                "PUSH_ORIGINS",
                "must not have * or null while PUSH_HOOK_HEADERS has Cookie or Authorization: any \
                page could connect as the user who looks at it",
            );
        }
    }
}
