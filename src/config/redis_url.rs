//! The URL of Redis: one server, Sentinels that know the master, or a cluster.
//!
//! The `url` crate does not support several hosts. So the list of hosts is taken out first, and the
//! rest is parsed with one host in its place. User, password and parameters are decoded here, by
//! one rule for all topologies: `%` escapes and nothing else, so that `+` is a plus. Invariant: no
//! fault and no `Debug` output shows a password, or a parameter's name, which may be part of one.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;

use crate::config::secret_files::{self, FileForm};
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
    /// Without parameters. With several hosts: the URL of the first one, with the scheme for a
    /// single server.
    url: url::Url,
    topology: Topology,
    database: u8,
    login: Option<Login>,
    /// Credentials for the Sentinels.
    sentinel_login: Option<Login>,
    login_file: Option<LoginFile>,
    sentinel_file: Option<LoginFile>,
    tls: TlsFiles,
}

/// How to authenticate to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// `None`: the user `default`.
    pub(crate) user: Option<String>,
    pub(crate) password: Secret,
}

/// A file from which the credentials for a server are read again at each dial. Clones share what was
/// read last.
#[derive(Debug, Clone)]
pub(crate) struct LoginFile {
    place: LoginPlace,
    last: Arc<Mutex<Option<Login>>>,
}

/// Which part of which file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LoginPlace {
    /// A file with a password, for this user.
    Password(PathBuf, Option<String>),
    /// A file with a URL, of which those for the servers count.
    Url(PathBuf),
    /// The same, for the Sentinels.
    SentinelUrl(PathBuf),
}

impl PartialEq for LoginFile {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for LoginFile {}

impl LoginFile {
    /// `login` is what was there at the start.
    fn new(place: LoginPlace, login: Option<Login>) -> Self {
        Self {
            place,
            last: Arc::new(Mutex::new(login)),
        }
    }

    /// The credentials that are there now; if the file cannot be read, those that any clone read
    /// last, and what is wrong with it, without any part of it.
    pub(crate) fn read(&self) -> (Option<Login>, Result<(), String>) {
        // Locked before the file is read: what an earlier reader found must not replace this.
        let mut last = self.last.lock();
        let read = self.place.read().map(|login| *last = login);
        (last.clone(), read)
    }
}

impl LoginPlace {
    fn read(&self) -> Result<Option<Login>, String> {
        let read_url = |path| RedisUrl::parse(&secret_files::read(path, FileForm::Line)?);
        Ok(match self {
            Self::Password(path, user) => Some(Login {
                user: user.clone(),
                password: Secret::new(secret_files::read(path, FileForm::Line)?),
            }),
            Self::Url(path) => read_url(path)?.login,
            Self::SentinelUrl(path) => read_url(path)?.sentinel_login,
        })
    }
}

/// The files by which node and Redis know each other over TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Certificates of authorities. `None`: those of the system.
    pub(crate) authorities: Option<PathBuf>,
    /// The node's certificate, and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
}

/// One server to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    /// Scheme, host and port, or the path of a Unix socket. Without credentials and database.
    pub(crate) url: String,
    /// Which address of the host to dial, if that is not left to the name.
    pub(crate) at: Option<IpAddr>,
    pub(crate) login: Option<Login>,
    pub(crate) login_file: Option<LoginFile>,
    pub(crate) tls: TlsFiles,
    pub(crate) database: u8,
}

impl RedisUrl {
    /// Parses and checks.
    ///
    /// # Errors
    /// The fault, without any part of the text that could be secret.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        let url = match scheme.rsplit_once('-') {
            Some(("redis" | "rediss", "sentinel")) => Self::parse_sentinel(text),
            Some(("redis" | "rediss", "cluster")) => Self::parse_cluster(text),
            _ => Self::parse_one(text),
        }?;
        if url.url.fragment().is_some() {
            return Err("has a `#`; write it as %23 in a user or password".to_owned());
        }
        Ok(url)
    }

    fn parse_one(text: &str) -> Result<Self, String> {
        let url =
            url::Url::parse(text).map_err(|error| format!("is not a URL ({error}); {LOOKS}"))?;
        let is_socket = match url.scheme() {
            "redis" | "rediss" | "valkey" | "valkeys"
                if url.host_str().is_none_or(str::is_empty) =>
            {
                return Err(format!("has no host; {LOOKS}"));
            }
            "redis" | "rediss" | "valkey" | "valkeys" => false,
            "redis+unix" | "valkey+unix" if url.path().len() < 2 => {
                return Err("has no path; expected redis+unix:///run/redis.sock".to_owned());
            }
            "redis+unix" | "valkey+unix" => true,
            scheme => {
                return Err(format!(
                    "has scheme {scheme:?}; supported are redis://, rediss://, redis+unix://, \
                    redis-sentinel:// and redis-cluster:// \
                    (with TLS rediss-sentinel:// and rediss-cluster://)"
                ));
            }
        };
        let [database] = parameters(&url, ["db"])?;
        let path = if is_socket { "" } else { url.path() };
        let database = check_database(path, database.as_deref())?;
        Self::of(url, Topology::One, database)
    }

    fn parse_sentinel(text: &str) -> Result<Self, String> {
        let (url, sentinels) = several(text, 26379, SENTINEL_LOOKS)?;
        let names = ["master", "sentinel_user", "sentinel_password", "db"];
        let [master, user, password, database] = parameters(&url, names)?;
        let database = check_database(url.path(), database.as_deref())?;
        let sentinel_login = match (user, password) {
            (Some(_), None) => {
                return Err("has a sentinel_user without a sentinel_password".to_owned());
            }
            (user, password) => password.map(|password| Login {
                user,
                password: Secret::new(password),
            }),
        };
        let master = master.ok_or_else(|| format!("does not name the master; {SENTINEL_LOOKS}"))?;
        Ok(Self {
            sentinel_login,
            ..Self::of(url, Topology::Sentinel { sentinels, master }, database)?
        })
    }

    fn parse_cluster(text: &str) -> Result<Self, String> {
        let (url, seeds) = several(text, 6379, CLUSTER_LOOKS)?;
        let [database] = parameters(&url, ["db"])?;
        if check_database(url.path(), database.as_deref())? != 0 {
            return Err("names a database; a cluster has only database 0".to_owned());
        }
        Self::of(url, Topology::Cluster { seeds }, 0)
    }

    fn of(mut url: url::Url, topology: Topology, database: u8) -> Result<Self, String> {
        url.set_query(None);
        let user = Some(decoded(url.username(), "user")?).filter(|user| !user.is_empty());
        let password = decoded(url.password().unwrap_or_default(), "password")?;
        let login = match (user, password) {
            (None, password) if password.is_empty() => None,
            (Some(_), password) if password.is_empty() => {
                return Err(
                    "has a user without a password; a password alone is written :password@"
                        .to_owned(),
                );
            }
            (user, password) => Some(Login {
                user,
                password: Secret::new(password),
            }),
        };
        Ok(Self {
            url,
            topology,
            database,
            login,
            sentinel_login: None,
            login_file: None,
            sentinel_file: None,
            tls: TlsFiles::default(),
        })
    }

    /// The file that this URL is in, and those for TLS.
    pub(super) fn set_files(&mut self, url: Option<PathBuf>, tls: TlsFiles) {
        let file = |place, login: &Option<Login>| LoginFile::new(place, login.clone());
        self.login_file = (url.clone()).map(|path| file(LoginPlace::Url(path), &self.login));
        let place = url.map(LoginPlace::SentinelUrl);
        self.sentinel_file = place.map(|place| file(place, &self.sentinel_login));
        self.tls = tls;
    }

    /// Credentials that are not in the URL; the password may be in a file.
    pub(super) fn set_login(
        &mut self,
        user: Option<String>,
        password: Secret,
        file: Option<PathBuf>,
    ) {
        let place = file.map(|path| LoginPlace::Password(path, user.clone()));
        self.login = Some(Login { user, password });
        self.login_file = place.map(|place| LoginFile::new(place, self.login.clone()));
    }

    pub(super) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.url.scheme(), "rediss" | "valkeys")
    }

    /// How the servers are organised.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The number of the database.
    #[must_use]
    pub fn database(&self) -> u8 {
        self.database
    }

    /// The only server.
    pub(crate) fn one(&self) -> ServerUrl {
        let mut url = self.url.clone();
        // Both fail only for a URL that has neither.
        let _ = (url.set_username(""), url.set_password(None));
        if !url.scheme().ends_with("+unix") {
            url.set_path("");
        }
        ServerUrl {
            url: url.into(),
            at: None,
            login: self.login.clone(),
            login_file: self.login_file.clone(),
            tls: self.tls.clone(),
            database: self.database,
        }
    }

    /// One of several servers. `None` if a URL cannot contain the host's name.
    pub(crate) fn server(&self, (host, port): &Host) -> Option<ServerUrl> {
        let mut server = self.one();
        let mut url = url::Url::parse(&server.url).ok()?;
        url.set_host(Some(&bracketed(host))).ok()?;
        url.set_port(Some(*port)).ok()?;
        server.url = url.into();
        Some(server)
    }

    /// As [`RedisUrl::server`], for a Sentinel.
    pub(crate) fn sentinel(&self, host: &Host) -> Option<ServerUrl> {
        Some(ServerUrl {
            login: self.sentinel_login.clone(),
            login_file: self.sentinel_file.clone(),
            database: 0,
            ..self.server(host)?
        })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.url.clone();
        if shown.password().is_some() {
            // Cannot fail: a URL that had a password has a host.
            let _ = shown.set_password(Some("***"));
        }
        if self.database != 0 && !shown.scheme().ends_with("+unix") {
            shown.set_path(&self.database.to_string());
        }
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

/// The number of the database, in the path or as `?db=`.
fn check_database(path: &str, parameter: Option<&str>) -> Result<u8, String> {
    let path = Some(path.trim_start_matches('/')).filter(|path| !path.is_empty());
    let number = |text: &str, place| {
        let odd = || format!("has {place} that is not a database number (0 to 255)");
        text.parse::<u8>().map_err(|_| odd())
    };
    let path = path.map(|text| number(text, "a path")).transpose()?;
    let parameter = parameter.map(|text| number(text, "a `db`")).transpose()?;
    match (path, parameter) {
        (Some(path), Some(parameter)) if path != parameter => {
            Err(format!("names two databases: {path} and {parameter}"))
        }
        (path, parameter) => Ok(path.or(parameter).unwrap_or(0)),
    }
}

/// The values of these parameters, in their order; no other may be there.
fn parameters<const N: usize>(
    url: &url::Url,
    names: [&str; N],
) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    let pairs = url.query().unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = names.iter().position(|known| *known == name) else {
            // Its name may be the rest of a password with a `?`.
            return Err(format!(
                "has a parameter other than {}; write a `?` in a password as %3F",
                names.join(", ")
            ));
        };
        if values[at].is_some() {
            return Err(format!("has the parameter {} twice", names[at]));
        }
        values[at] = Some(decoded(value, names[at])?).filter(|value| !value.is_empty());
    }
    Ok(values)
}

fn decoded(text: &str, what: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(format!("has a {what} that is not UTF-8")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_share_the_password_that_was_read_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("old");
        let mut url = RedisUrl::parse("redis://127.0.0.1").expect("a URL");
        url.set_login(None, Secret::new("old".to_owned()), Some(path.clone()));
        let [one, other] = [(); 2].map(|()| url.one().login_file.expect("a file"));
        let password = |login: Option<Login>| login.map(|login| login.password.reveal().to_owned());
        write("new");
        assert_eq!(password(one.read().0).as_deref(), Some("new"));
        // Another connection that was slower finds no file any more.
        std::fs::remove_file(&path).expect("removed");
        let (login, read) = other.read();
        assert!(read.is_err());
        assert_eq!(password(login).as_deref(), Some("new"));
    }
}
