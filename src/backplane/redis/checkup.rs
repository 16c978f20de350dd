//! A look at Redis before nodes use it, for `pushnode check`: whether it answers, its version, the
//! rights of the nodes' user, and whether it evicts keys.
//!
//! What must stay true: it changes nothing. Each server is asked over a connection of its own, and
//! rights are tried in transactions that are given up (`rights`).

pub(crate) mod rights;

use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use fred::prelude::Client;

use crate::backplane::redis::checkup::rights::Features;
use crate::backplane::redis::follow_servers;
use crate::backplane::redis::servers::errors::{cause, redacted};
use crate::backplane::redis::servers::exclusive::open_primary;
use crate::backplane::redis::servers::{Servers, eviction};
use crate::config::redis_url::{RedisUrl, ServerUrl, Topology};
use crate::telemetry::metrics::Metrics;

/// How long Sentinels or a cluster may take to say which servers there are.
const FIND: Duration = Duration::from_secs(5);
/// The oldest Redis that nodes work with, as major and minor version.
const OLDEST: (u32, u32) = (6, 2);
/// The oldest one for a cluster: `SPUBLISH` and `SSUBSCRIBE`.
const OLDEST_OF_CLUSTERS: (u32, u32) = (7, 0);

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gravity {
    Fine,
    /// Nodes work; an operator should know.
    Warning,
    /// Nodes do not work, or not all that is configured.
    Fault,
}

/// What one look at one server found.
#[derive(Debug)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) about: &'static str,
    /// The server, without credentials.
    pub(crate) server: String,
    pub(crate) gravity: Gravity,
    pub(crate) text: String,
    /// Commands that the user may not send, or that the server does not know.
    pub(crate) missing: Vec<String>,
}

/// Looks at all servers that nodes with these settings would use.
pub(crate) async fn examine(url: &RedisUrl, features: &Features) -> Vec<Finding> {
    let servers = match servers_of(url).await {
        Ok(servers) => servers,
        Err(text) => return vec![finding("redis", &url.to_string(), Gravity::Fault, text)],
    };
    let mut findings = Vec::new();
    for (name, server) in servers {
        findings.extend(examine_server(&name, &server, features).await);
    }
    findings
}

fn finding(about: &'static str, server: &str, gravity: Gravity, text: String) -> Finding {
    Finding {
        about,
        server: server.to_owned(),
        gravity,
        text,
        missing: Vec::new(),
    }
}

/// The servers and their names: the only one, the master, or all masters of a cluster.
async fn servers_of(url: &RedisUrl) -> Result<Vec<(String, ServerUrl)>, String> {
    let silent = match url.topology() {
        Topology::One => return Ok(vec![(url.to_string(), url.one())]),
        Topology::Sentinel { master, .. } => format!("no Sentinel names a master {master:?}"),
        Topology::Cluster { .. } => "no server tells which servers the cluster has".to_owned(),
    };
    // It only follows who serves what, so its channels are those of no node.
    let (own, global) = (String::new(), String::new());
    let servers = Servers::new(url, own, global, Arc::new(Metrics::new()));
    let servers = servers.map_err(|error| error.to_string())?;
    let mut turns = servers.turns();
    let follower = follow_servers(url, &servers);
    let found = tokio::time::timeout(FIND, turns.wait_for(|turns| *turns > 0)).await;
    follower.abort();
    if found.is_err() {
        return Err(match servers.link_fault() {
            Some(reason) => format!("{silent}: {reason}"),
            None => silent,
        });
    }
    let hosts = servers.servers();
    let hosts = hosts.iter().filter_map(|server| server.host.as_ref());
    let named = hosts.map(|host| Some((format!("{}:{}", host.0, host.1), url.server(host)?)));
    Ok(named.flatten().collect())
}

async fn examine_server(name: &str, server: &ServerUrl, features: &Features) -> Vec<Finding> {
    let connection = match open_primary(&server.clone().into()).await {
        Ok(connection) => connection,
        Err(error) => {
            return vec![finding("redis", name, Gravity::Fault, reason(&error))];
        }
    };
    let client = connection.client();
    let (gravity, text) = look_at_version(client, features).await;
    let redis = finding("redis", name, gravity, text);
    let (gravity, text) = match eviction::look_once(client).await {
        Ok(None) => (Gravity::Fine, "noeviction".to_owned()),
        Ok(Some(warning)) => (Gravity::Warning, warning.to_owned()),
        Err(error) => (
            Gravity::Warning,
            format!("maxmemory-policy cannot be read: {}", reason(&error)),
        ),
    };
    let eviction = finding("eviction", name, gravity, text);
    // Last: where DISCARD is denied, the connection stays in a transaction until it is closed.
    let rights = look_at_rights(name, client, features).await;
    vec![redis, rights, eviction]
}

/// Why something failed, in the words of `/readyz`; with those of the error where they say more.
fn reason(error: &Error) -> String {
    let cause = cause(error);
    if cause.is_named {
        return cause.reason.to_owned();
    }
    format!("{} ({})", cause.reason, redacted(error))
}

async fn look_at_version(client: &Client, features: &Features) -> (Gravity, String) {
    let info = match eviction::info(client, "server").await {
        Ok(info) => info,
        Err(error) => {
            let text = format!("its version cannot be read: {}", reason(&error));
            return (Gravity::Warning, text);
        }
    };
    let Some(version) = eviction::field(&info, "redis_version") else {
        return (Gravity::Warning, "it does not tell its version".to_owned());
    };
    let shown = match eviction::field(&info, "valkey_version") {
        Some(valkey) => format!("Valkey {valkey}, as Redis {version}"),
        None => format!("Redis {version}"),
    };
    let (oldest, whose) = if features.cluster {
        (OLDEST_OF_CLUSTERS, "a cluster needs")
    } else {
        (OLDEST, "nodes need")
    };
    match major_and_minor(version) {
        Some(found) if found < oldest => {
            let text = format!("{shown} is too old: {whose} {}.{}", oldest.0, oldest.1);
            (Gravity::Fault, text)
        }
        Some(_) => (Gravity::Fine, shown),
        None => (Gravity::Warning, format!("{shown}: not a known version")),
    }
}

fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

async fn look_at_rights(name: &str, client: &Client, features: &Features) -> Finding {
    match rights::missing(client, features).await {
        Ok(missing) if missing.is_empty() => {
            let text = "all that nodes need".to_owned();
            finding("rights", name, Gravity::Fine, text)
        }
        Ok(missing) => {
            let text = "lacks rights of nodes; see deploy/redis.acl";
            Finding {
                missing,
                ..finding("rights", name, Gravity::Fault, text.to_owned())
            }
        }
        Err(error) => {
            let text = format!("cannot be looked at: {}", reason(&error));
            finding("rights", name, Gravity::Fault, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(major_and_minor("6.2.14"), Some((6, 2)));
        assert_eq!(major_and_minor("10.0"), Some((10, 0)));
        assert!(major_and_minor("10.0.1") > Some(OLDEST));
        assert!(major_and_minor("6.0.16") < Some(OLDEST));
        assert_eq!(major_and_minor("255.255.255"), Some((255, 255)));
        assert_eq!(major_and_minor("unstable"), None);
    }
}
