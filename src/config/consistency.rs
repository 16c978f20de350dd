//! Which settings contradict each other, or would let strangers in unnoticed.

use crate::config::faults::Faults;
use crate::config::redis_url::TlsFiles;
use crate::config::{Config, Listen};

impl Config {
    /// Refuses streams without Redis, and limits by which accepted messages could be lost.
    pub(super) fn check_streams(&self, faults: &mut Faults) {
        if self.redis_url.is_none() && self.upstream_routes.has_services() {
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

    /// Refuses credentials for Redis that contradict each other, or that nothing uses.
    pub(super) fn check_redis(&self, faults: &mut Faults) {
        let (password, file) = ("PUSH_REDIS_PASSWORD", "PUSH_REDIS_PASSWORD_FILE");
        let password = match self.redis_password_file {
            Some(_) => file,
            None => password,
        };
        let tls = [
            ("PUSH_REDIS_TLS_CA", &self.redis_tls_ca),
            ("PUSH_REDIS_TLS_CERT", &self.redis_tls_cert),
            ("PUSH_REDIS_TLS_KEY", &self.redis_tls_key),
        ];
        let has_password = self.redis_password.is_some();
        if !self.redis_username.is_empty() && !has_password {
            let words = "needs PUSH_REDIS_PASSWORD or PUSH_REDIS_PASSWORD_FILE";
            faults.add("PUSH_REDIS_USERNAME", words);
        }
        if self.redis_tls_cert.is_some() != self.redis_tls_key.is_some() {
            faults.add(
                "PUSH_REDIS_TLS_CERT",
                "and PUSH_REDIS_TLS_KEY need each other",
            );
        }
        let set = tls.iter().filter(|(_, path)| path.is_some());
        match &self.redis_url {
            None => {
                for (name, _) in set {
                    faults.add(name, "needs PUSH_REDIS_URL");
                }
                if has_password {
                    faults.add(password, "needs PUSH_REDIS_URL");
                }
            }
            Some(url) => {
                for (name, _) in set.filter(|_| !url.is_tls()) {
                    let words = "needs a PUSH_REDIS_URL with TLS, such as rediss://";
                    faults.add(name, words);
                }
                if has_password && url.has_login() {
                    let words = "is set, and PUSH_REDIS_URL has a password too; set one of them";
                    faults.add(password, words);
                }
            }
        }
    }

    /// Gives the URL of Redis what other variables say of it.
    pub(super) fn complete_redis_url(&mut self) {
        let Some(url) = &mut self.redis_url else {
            return;
        };
        url.set_files(
            self.redis_url_file.clone(),
            TlsFiles {
                authorities: self.redis_tls_ca.clone(),
                certificate: self.redis_tls_cert.clone().zip(self.redis_tls_key.clone()),
            },
        );
        if let Some(password) = &self.redis_password {
            let user = Some(self.redis_username.clone()).filter(|user| !user.is_empty());
            let file = self.redis_password_file.clone();
            url.set_login(user, password.clone(), file);
        }
    }

    /// Refuses settings that would let strangers in unnoticed.
    pub(super) fn check_exposure(&self, faults: &mut Faults) {
        if self.allow_insecure {
            return;
        }
        let open = |listeners: &[Listen]| listeners.iter().find(|l| !l.is_local()).cloned();
        if self.auth.is_none()
            && let Some(listener) = open(&self.listen).or_else(|| open(&self.tcp_listen))
        {
            faults.add(
                "PUSH_AUTH",
                format!(
                    "=none trusts any client, and other machines can reach {listener}; \
                    set PUSH_AUTH=jwt, session or hook, or PUSH_ALLOW_INSECURE=true to allow this"
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
