//! The URL of Redis: one server, Sentinels that know the master, or a cluster.
//!
//! The `url` crate does not support several hosts. So the list of hosts is taken out first, and the
//! rest is parsed with one host in its place. Invariant: no fault and no `Debug` output shows a
//! password.

use std::fmt;

use crate::protocol::secret::Secret;

const LOOKS: &str = "expected redis://host:6379";
const SENTINEL_LOOKS: &str = "expected redis-sentinel://host:26379,host:26379/0?master=mymaster";
const CLUSTER_LOOKS: &str = "expected redis-cluster://host:6379,host:6379";

/// Name and port of a server.
pub(crate) type Host = (String, u16);

/// How the servers of a URL are organised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server at one address.
    One,
    /// Sentinels, which name the current master.
    Sentinel {
        /// Addresses of all known Sentinels.
        sentinels: Vec<Host>,
        /// The name of the master in the Sentinels' configuration.
        master: String,
    },
    /// A Redis Cluster.
    Cluster {
        /// Addresses of some of its nodes; any of them is enough.
        seeds: Vec<Host>,
    },
}

/// A Redis URL; `Display` and `Debug` mask its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// With several hosts: the URL of the first one, with the scheme for a single server.
    url: url::Url,
    topology: Topology,
    /// Credentials for the Sentinels.
    sentinel_user: Option<String>,
    sentinel_password: Option<Secret>,
}

impl RedisUrl {
    /// Parses and checks.
    ///
    /// # Errors
    /// The fault, without any part of the text that could be secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        match scheme.rsplit_once('-') {
            Some(("redis" | "rediss", "sentinel")) => Self::parse_sentinel(text),
            Some(("redis" | "rediss", "cluster")) => Self::parse_cluster(text),
            _ => Self::parse_one(text),
        }
    }

    fn parse_one(text: &str) -> Result<Self, String> {
        let url =
            url::Url::parse(text).map_err(|error| format!("is not a URL ({error}); {LOOKS}"))?;
        match url.scheme() {
            "redis" | "rediss" | "valkey" | "valkeys"
                if url.host_str().is_none_or(str::is_empty) =>
            {
                return Err(format!("has no host; {LOOKS}"));
            }
            "redis" | "rediss" | "valkey" | "valkeys" => check_database(&url)?,
            "redis+unix" | "valkey+unix" if url.path().len() < 2 => {
                return Err("has no path; expected redis+unix:///run/redis.sock".to_owned());
            }
            "redis+unix" | "valkey+unix" => {}
            scheme => {
                return Err(format!(
                    "has scheme {scheme:?}; supported are redis://, rediss://, redis+unix://, \
                    redis-sentinel:// and redis-cluster:// \
                    (with TLS rediss-sentinel:// and rediss-cluster://)"
                ));
            }
        }
        Ok(Self::of(url, Topology::One))
    }

    fn parse_sentinel(text: &str) -> Result<Self, String> {
        let (mut url, sentinels) = several(text, 26379, SENTINEL_LOOKS)?;
        check_database(&url)?;
        let (mut master, mut user, mut password) = (None, None, None);
        for (name, value) in url.query_pairs() {
            let place = match &*name {
                "master" => &mut master,
                "sentinel_user" => &mut user,
                "sentinel_password" => &mut password,
                _ => {
                    return Err(
                        "has a parameter other than master, sentinel_user and sentinel_password"
                            .to_owned(),
                    );
                }
            };
            *place = Some(value.into_owned()).filter(|value| !value.is_empty());
        }
        if user.is_some() && password.is_none() {
            return Err("has a sentinel_user without a sentinel_password".to_owned());
        }
        let master = master.ok_or_else(|| format!("does not name the master; {SENTINEL_LOOKS}"))?;
        url.set_query(None);
        Ok(Self {
            sentinel_user: user,
            sentinel_password: password.map(Secret::new),
            ..Self::of(url, Topology::Sentinel { sentinels, master })
        })
    }

    fn parse_cluster(text: &str) -> Result<Self, String> {
        let (url, seeds) = several(text, 6379, CLUSTER_LOOKS)?;
        if !matches!(url.path(), "" | "/" | "/0") {
            return Err("names a database; a cluster has only database 0".to_owned());
        }
        if url.query().is_some() {
            return Err(format!("has a parameter; {CLUSTER_LOOKS}"));
        }
        Ok(Self::of(url, Topology::Cluster { seeds }))
    }

    fn of(url: url::Url, topology: Topology) -> Self {
        Self {
            url,
            topology,
            sentinel_user: None,
            sentinel_password: None,
        }
    }

    /// How the servers are organised.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The whole URL of a single server, with its password.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.url.as_str()
    }

    /// The whole URL of one of several servers, with its password. `None` if a URL cannot contain
    /// the host's name.
    #[must_use]
    pub fn reveal_server(&self, (host, port): &Host) -> Option<String> {
        let mut url = self.url.clone();
        url.set_host(Some(&bracketed(host))).ok()?;
        url.set_port(Some(*port)).ok()?;
        Some(url.into())
    }

    /// As [`RedisUrl::reveal_server`], for a Sentinel.
    #[must_use]
    pub fn reveal_sentinel(&self, (host, port): &Host) -> Option<String> {
        let mut url = self.url.clone();
        url.set_path("");
        url.set_host(Some(&bracketed(host))).ok()?;
        url.set_port(Some(*port)).ok()?;
        let password = self.sentinel_password.as_ref().map(Secret::reveal);
        url.set_username(self.sentinel_user.as_deref().unwrap_or_default())
            .ok()?;
        url.set_password(password).ok()?;
        Some(url.into())
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        if shown.password().is_some() {
            // Cannot fail: a URL that had a password has a host.
            let _ = shown.set_password(Some("***"));
        }
        shown.set_query(None);
        let (kind, hosts, end) = match &self.topology {
            Topology::One => return shown.as_str().fmt(f),
            Topology::Sentinel { sentinels, master } => {
                ("sentinel", sentinels, format!("?master={master}"))
            }
            Topology::Cluster { seeds } => ("cluster", seeds, String::new()),
        };
        write!(f, "{}-{kind}://", shown.scheme())?;
        match (shown.username(), shown.password()) {
            ("", None) => {}
            (user, None) => write!(f, "{user}@")?,
            (user, Some(_)) => write!(f, "{user}:***@")?,
        }
        let hosts: Vec<String> = hosts
            .iter()
            .map(|(host, port)| format!("{host}:{port}"))
            .collect();
        write!(f, "{}{}{end}", hosts.join(","), shown.path())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Servers announce IPv6 addresses without the brackets that a URL needs.
fn bracketed(host: &str) -> std::borrow::Cow<'_, str> {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]").into()
    } else {
        host.into()
    }
}

fn check_database(url: &url::Url) -> Result<(), String> {
    let database = url.path().trim_start_matches('/');
    if !database.is_empty() && database.parse::<u8>().is_err() {
        return Err("has a path that is not a database number (0 to 255)".to_owned());
    }
    Ok(())
}

/// Splits `scheme-kind://[user:password@]host[:port],...[/path][?query]` into the URL of one server
/// and the list of hosts.
fn several(text: &str, default_port: u16, looks: &str) -> Result<(url::Url, Vec<Host>), String> {
    let malformed = || format!("is not a URL; {looks}");
    let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
    let (scheme, _) = scheme.rsplit_once('-').ok_or_else(malformed)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    let host = |text: &str| {
        let url = url::Url::parse(&format!("redis://{text}")).ok()?;
        let host = url.host_str().filter(|host| !host.is_empty())?.to_owned();
        Some((host, url.port().unwrap_or(default_port)))
    };
    let hosts: Vec<Host> = hosts
        .split(',')
        .map(|text| host(text.trim()))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("has an invalid host; {looks}"))?;
    let (first, port) = &hosts[0];
    let url = url::Url::parse(&format!("{scheme}://{login}{first}:{port}{tail}"))
        .map_err(|error| format!("is not a URL ({error}); {looks}"))?;
    Ok((url, hosts))
}
