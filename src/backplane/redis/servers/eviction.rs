//! Whether Redis evicts keys: its policy, and how many keys went.
//!
//! Nodes need `noeviction`: with any other policy, rows, sessions, bans and kept messages may
//! vanish without an error. The policy is read from `INFO memory`, because managed servers deny
//! `CONFIG`. Evictions are watched as well, so that rows are verified at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use fred::prelude::{Client, ClientLike};
use fred::types::CustomCommand;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::{is_denied, redacted};
use crate::config::redis_url::Host;
use crate::telemetry::metrics::Metrics;

/// The time between two looks at the number of evicted keys.
const LOOK: Duration = Duration::from_secs(3);
/// The policy is read with every tenth look: an operator may change it.
const POLICY_EVERY: u64 = 10;
/// The time between two looks until the first that succeeds.
const FIRST: Duration = Duration::from_millis(200);

/// The policy under which Redis refuses writes instead of evicting keys.
const SAFE: &str = "noeviction";

macro_rules! warnings {
    ($($policy:literal),+) => {
        /// Policies that evict, and what `readyz` and the log say of each.
        const WARNINGS: &[(&str, &str)] = &[$((
            $policy,
            concat!("Redis may evict keys: maxmemory-policy is ", $policy, ", not noeviction"),
        )),+];
    };
}

warnings!(
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-lrm",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-lrm",
    "volatile-random",
    "volatile-ttl"
);

/// For a policy that is not in the list.
const UNKNOWN: &str = "Redis may evict keys: maxmemory-policy is not noeviction";

/// What is known of a server.
#[derive(Debug, Default)]
struct KnownServer {
    /// Keys evicted since it started.
    evicted: Option<u64>,
    warning: Option<&'static str>,
}

#[derive(Debug)]
pub(crate) struct EvictionWatch {
    servers: Servers,
    warning: RwLock<Option<&'static str>>,
    /// How many keys were evicted since this node watches.
    evicted: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl EvictionWatch {
    pub(crate) fn new(servers: Servers, metrics: Arc<Metrics>) -> Self {
        Self {
            servers,
            warning: RwLock::default(),
            evicted: watch::channel(0).0,
            metrics,
        }
    }

    /// Wakes when keys were evicted.
    pub(crate) fn evicted(&self) -> watch::Receiver<u64> {
        self.evicted.subscribe()
    }

    /// That Redis may evict keys, if so.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        *self.warning.read()
    }

    /// Looks until the node ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut seen: HashMap<Option<Host>, KnownServer> = HashMap::new();
        let mut looks = 0;
        let mut is_told = false;
        loop {
            let servers = self.servers.servers();
            // A server that left and comes back may have another policy.
            seen.retain(|host, _| servers.iter().any(|server| server.host == *host));
            let mut answered = false;
            for server in servers.iter().filter(|one| one.client.is_connected()) {
                let known = seen.entry(server.host.clone()).or_default();
                match self.look(&server.client, known, looks).await {
                    Ok(()) => answered = true,
                    Err(error) if !is_told && is_denied(&error) => {
                        is_told = true;
                        tracing::warn!(
                            error = %redacted(&error),
                            "cannot tell whether Redis evicts keys; allow INFO, \
                             and see that maxmemory-policy is noeviction"
                        );
                    }
                    Err(error) => {
                        tracing::debug!(error = %redacted(&error), "evictions not read");
                    }
                }
            }
            self.note(seen.values().find_map(|seen| seen.warning));
            looks += u64::from(answered);
            tokio::time::sleep(if looks == 0 { FIRST } else { LOOK }).await;
        }
    }

    async fn look(
        &self,
        client: &Client,
        known: &mut KnownServer,
        looks: u64,
    ) -> Result<(), Error> {
        if known.evicted.is_none() || looks.is_multiple_of(POLICY_EVERY) {
            known.warning = look_once(client).await?;
        }
        let stats = info(client, "stats").await?;
        let evicted = field(&stats, "evicted_keys").and_then(|count| count.parse().ok());
        // The number begins again when Redis restarts.
        let new = known.evicted.zip(evicted);
        let new = new.map_or(0, |(old, now): (u64, u64)| {
            now.checked_sub(old).unwrap_or(now)
        });
        if new > 0 {
            self.metrics.redis_evictions.inc_by(new);
            self.evicted.send_modify(|count| *count += new);
        }
        known.evicted = Some(evicted.unwrap_or(0));
        Ok(())
    }

    fn note(&self, warning: Option<&'static str>) {
        let mut old = self.warning.write();
        if *old == warning {
            return;
        }
        match warning {
            Some(words) => tracing::warn!("{words}; rows, bans and kept messages may vanish"),
            None => tracing::info!("Redis does not evict keys any more"),
        }
        self.metrics
            .redis_may_evict
            .set(i64::from(warning.is_some()));
        *old = warning;
    }
}

/// That this server may evict keys, if so.
pub(crate) async fn look_once(client: &Client) -> Result<Option<&'static str>, Error> {
    let policy = policy(client).await?;
    Ok((policy != SAFE).then(|| warning(&policy)))
}

fn warning(policy: &str) -> &'static str {
    let known = WARNINGS.iter().find(|(name, _)| *name == policy);
    known.map_or(UNKNOWN, |(_, words)| words)
}

/// The policy, by `INFO` or, where that lacks it, by `CONFIG GET`.
async fn policy(client: &Client) -> Result<String, Error> {
    let error = match info(client, "memory").await {
        Ok(memory) => match field(&memory, "maxmemory_policy") {
            Some(policy) => return Ok(policy.to_owned()),
            None => None,
        },
        Err(error) => Some(error),
    };
    let command = CustomCommand::new_static("CONFIG", None, false);
    let pair: Result<Vec<String>, Error> = client
        .custom(command, vec!["GET", "maxmemory-policy"])
        .await;
    match pair {
        Ok(pair) => Ok(pair.into_iter().nth(1).unwrap_or_else(|| SAFE.to_owned())),
        // What INFO said is the right that is easier to give.
        Err(denied) => Err(error.unwrap_or(denied)),
    }
}

/// A section of `INFO`.
pub(crate) async fn info(client: &Client, section: &'static str) -> Result<String, Error> {
    let command = CustomCommand::new_static("INFO", None, false);
    client.custom(command, vec![section]).await
}

/// A field of an answer to `INFO`.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_info_is_found_by_its_whole_name() {
        let said = "# Stats\r\nevicted_keys_x:7\r\nevicted_keys:42\r\n";
        assert_eq!(field(said, "evicted_keys"), Some("42"));
        assert_eq!(field(said, "evicted"), None);
    }

    #[test]
    fn each_policy_is_named() {
        assert!(warning("volatile-lru").contains("volatile-lru"));
        assert_eq!(warning("something-new"), UNKNOWN);
    }
}
