//! Which settings contradict each other, or would let strangers in unnoticed.

use crate::config::auth::AuthMode;
use crate::config::faults::Faults;
use crate::config::{Config, Listen};

impl Config {
    /// Refuses streams without Redis, and limits by which accepted messages could be lost.
    pub(super) fn check_streams(&self, faults: &mut Faults) {
        if self.redis_url.is_none() && !self.upstream_routes.is_empty() {
            faults.add("PUSH_UPSTREAM_ROUTES", "needs PUSH_REDIS_URL");
        }
        if self.redis_url.is_none() && !self.cluster_secret.is_empty() {
            faults.add("PUSH_CLUSTER_SECRET", "needs PUSH_REDIS_URL");
        }
        if self.redis_url.is_none() && !self.events.is_empty() {
            faults.add("PUSH_EVENTS", "needs PUSH_REDIS_URL");
        }
        if self.redis_url.is_none() && self.keep_replicas > 0 {
            faults.add("PUSH_KEEP_REPLICAS", "needs PUSH_REDIS_URL");
        }
        if self.upstream_backlog > self.upstream_length / 2 {
            faults.add(
                "PUSH_UPSTREAM_BACKLOG",
                format!(
                    "is {}, over half of PUSH_UPSTREAM_LENGTH ({}): \
                    Redis could discard entries that no service has read",
                    self.upstream_backlog, self.upstream_length
                ),
            );
        }
    }

    /// Refuses listeners on which no proxy would be believed.
    pub(super) fn check_proxies(&self, faults: &mut Faults) {
        let is_proxied = |listen: &&Listen| matches!(listen, Listen::Proxied(_));
        let mut listeners = self.listen.iter().chain(&self.tcp_listen);
        if let Some(listener) = listeners.find(is_proxied)
            && !self.trusted_proxies.has_addresses()
        {
            faults.add(
                "PUSH_TRUSTED_PROXIES",
                format!("must list the proxies that connect to {listener}"),
            );
        }
    }

    /// Refuses settings that would let strangers in unnoticed.
    pub(super) fn check_exposure(&self, faults: &mut Faults) {
        if self.allow_insecure {
            return;
        }
        let open = |listeners: &[Listen]| listeners.iter().find(|l| !l.is_local()).cloned();
        if self.auth == AuthMode::None
            && let Some(listener) = open(&self.listen).or_else(|| open(&self.tcp_listen))
        {
            faults.add(
                "PUSH_AUTH",
                format!(
                    "=none trusts any client, and other machines can reach {listener}; \
                    set PUSH_AUTH=jwt or session, or PUSH_ALLOW_INSECURE=true to allow this"
                ),
            );
        }
        let (variable, senders) = if self.api_listen.is_empty() {
            ("PUSH_LISTEN", &self.listen)
        } else {
            ("PUSH_API_LISTEN", &self.api_listen)
        };
        if self.api_keys.is_empty()
            && let Some(listener) = open(senders)
        {
            faults.add(
                "PUSH_API_KEYS",
                format!(
                    "is empty, so anyone who reaches {listener} ({variable}) can push; \
                    set a key, or PUSH_ALLOW_INSECURE=true to allow this"
                ),
            );
        }
    }
}
