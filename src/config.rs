//! Every setting: name, unit, default, check, in one table.
//!
//! Configuration comes from environment variables with the prefix `PUSH_`, by way of pairs of
//! strings, so tests never touch the process environment. All faults are found in one pass and
//! reported together by variable name; an unknown `PUSH_` variable is a fault, because a
//! misspelt limit is worse than none. Values that are secrets are masked in `Debug` and never
//! echoed in a fault.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::names::NodeName;

/// The prefix of all variables.
pub const PREFIX: &str = "PUSH_";

/// One variable as `.env.example` and the README list it.
#[derive(Debug)]
pub struct Variable {
    /// Full name, `PUSH_...`.
    pub name: &'static str,
    /// What it has when unset.
    pub default: &'static str,
    /// Its documentation: what it does, unit, effect. One line each.
    pub doc: &'static [&'static str],
}

/// Declares the settings once: the typed [`Config`], the strings envy reads, and the table of
/// [`VARIABLES`]. Each line is `field: Type = "default", check;` where `check` turns the text
/// into the type or says what is wrong with it.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident / $name:literal : $type:ty = $default:literal, $check:expr;)+) => {
        /// How a node is set up. See `.env.example` for the variable behind each field.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        /// All variables, in the order in which they are documented.
        pub const VARIABLES: &[Variable] = &[
            $(Variable { name: concat!("PUSH_", $name), default: $default, doc: &[$($doc),+] },)+
        ];

        /// The variables as text: envy stops at the first bad number, so every field is a
        /// string here and is checked below, where all faults can be gathered.
        #[derive(Deserialize)]
        struct Texts {
            $($field: Option<String>,)+
        }

        impl Texts {
            fn check(self, faults: &mut Faults) -> Option<Config> {
                $(let $field = faults.check(
                    concat!("PUSH_", $name),
                    self.$field.as_deref().unwrap_or($default).trim(),
                    $check,
                );)+
                Some(Config { $($field: $field?,)+ })
            }
        }
    };
}

settings! {
    /// Where clients connect: a comma-separated list of `host:port` and `unix:/path`.
    /// Port 0 takes a free port, shown at the start.
    listen / "LISTEN": Vec<Listen> = "127.0.0.1:8080", listeners_required;

    /// Where senders call (`/v1/...`). Empty: on the listeners of PUSH_LISTEN. Otherwise a list
    /// of the same form, and clients' listeners answer 404 to senders.
    api_listen / "API_LISTEN": Vec<Listen> = "", listeners;

    /// Where operators look: `/healthz`, `/readyz`, `/metrics`. A list of the same form.
    admin_listen / "ADMIN_LISTEN": Vec<Listen> = "127.0.0.1:8081", listeners;

    /// The Redis that all nodes share: `redis://`, `rediss://` (TLS) or `redis+unix://`, with
    /// user, password and database. REDIS_URL is read when this is unset. Empty: no Redis, one
    /// node by itself.
    redis_url / "REDIS_URL": Option<RedisUrl> = "", redis_url;

    /// What every key and channel in Redis begins with.
    prefix / "PREFIX": String = "pn:", prefix;

    /// The node's name: 1 to 64 bytes of A-Z a-z 0-9 . _ - and different on each node. Empty:
    /// the host name.
    node_name / "NODE_NAME": NodeName = "", node_name;

    /// The URL at which clients can reach this very node, shown by `GET /v1/nodes`. May be empty.
    public_url / "PUBLIC_URL": String = "", public_url;

    /// How many clients this node should hold compared to others (1 to 1000), shown by
    /// `GET /v1/nodes`.
    weight / "WEIGHT": u32 = "1", number(1, 1000);

    /// How clients say who they are. `none`: by `?user=`, believed as it stands, so only for
    /// loopback and Unix listeners.
    auth / "AUTH": AuthMode = "none", auth_mode;

    /// Accept PUSH_AUTH=none, and senders without a key, on listeners that others can reach.
    allow_insecure / "ALLOW_INSECURE": bool = "false", boolean;

    /// Keys of senders, comma-separated, each at least 16 bytes. Several are valid at once, so
    /// that a key can be replaced without a gap. Empty: senders need none, which is accepted on
    /// loopback and Unix listeners only.
    api_keys / "API_KEYS": Vec<Secret> = "", api_keys;

    /// Which web pages may connect, by exact `Origin`, comma-separated. Empty: pages of this
    /// host only. `*`: any. Clients that send no Origin (not browsers) always may.
    origins / "ORIGINS": Vec<String> = "", origins;

    /// Most clients at once. 0: nine tenths of the process's limit on open files.
    max_connections / "MAX_CONNECTIONS": usize = "0", number(0, 100_000_000);

    /// Most clients at once from one address. 0: no limit, right behind a proxy.
    max_connections_per_address / "MAX_CONNECTIONS_PER_ADDRESS": u32 = "0", number(0, 1_000_000);

    /// Seconds between two pings to a client.
    ping_seconds / "PING_SECONDS": Duration = "25", seconds(1, 3600);

    /// Seconds within which a client must show life after a ping.
    pong_seconds / "PONG_SECONDS": Duration = "8", seconds(1, 3600);

    /// Seconds for which a client may take no byte of what waits for it.
    write_seconds / "WRITE_SECONDS": Duration = "10", seconds(1, 3600);

    /// Bytes that may wait for one client before its push's policy decides.
    queue_bytes / "QUEUE_BYTES": usize = "262144", number(4096, 1_073_741_824);

    /// Largest message a client may send, in bytes.
    max_message_bytes / "MAX_MESSAGE_BYTES": usize = "65536", number(125, 1_073_741_824);

    /// Most messages, pings included, a client may send in one second. 0: no limit.
    client_rate / "CLIENT_RATE": u32 = "100", number(0, 1_000_000);

    /// Store each client's address in its row in Redis.
    store_address / "STORE_ADDRESS": bool = "false", boolean;

    /// Seconds over which a leaving node sends its clients away.
    drain_seconds / "DRAIN_SECONDS": Duration = "10", seconds(0, 3600);

    /// How much to log: off, error, warn, info, debug or trace.
    log / "LOG": LogLevel = "info", log_level;

    /// How to log, on standard error: text, or json (one object a line).
    log_format / "LOG_FORMAT": LogFormat = "text", log_format;
}

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and port; port 0 is any free one.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// They do not: `?user=` is believed.
    None,
}

/// Least severe level that is logged.
pub type LogLevel = tracing_subscriber::filter::LevelFilter;

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A Redis URL, shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(url::Url);

impl RedisUrl {
    /// The whole URL with its password, for the one place that connects.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Cannot fail: a URL that had a password has a host.
            let _ = shown.set_password(Some("***"));
        }
        shown.set_query(None);
        shown.as_str().fmt(f)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// All that is wrong with the environment, one sentence a variable.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, variable: &str, what: impl fmt::Display) {
        self.0.push(format!("{variable} {what}"));
    }

    fn check<T>(
        &mut self,
        variable: &str,
        text: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        check(text).map_err(|what| self.add(variable, what)).ok()
    }

    /// The sentences.
    #[must_use]
    pub fn list(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 { "fault" } else { "faults" };
        write!(f, "{} {many} in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every fault in it.
    pub fn from_env() -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut pairs = Vec::new();
        // Not `std::env::vars`, which panics at a variable of another program that is not UTF-8.
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => pairs.push((name, value)),
                Err(_) if is_ours(&name) => faults.add(&name, "is not UTF-8"),
                Err(_) => {}
            }
        }
        Self::load(pairs, faults)
    }

    /// Reads pairs of variable and value.
    ///
    /// # Errors
    /// Every fault in them.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Faults> {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self::load(pairs.collect(), Faults::default())
    }

    fn load(mut pairs: Vec<(String, String)>, mut faults: Faults) -> Result<Self, Faults> {
        pairs.retain(|(name, _)| is_ours(name));
        if !pairs.iter().any(|(name, _)| name == "PUSH_REDIS_URL")
            && let Some(at) = pairs.iter().position(|(name, _)| name == "REDIS_URL")
        {
            "PUSH_REDIS_URL".clone_into(&mut pairs[at].0);
        }
        pairs.retain(|(name, _)| name != "REDIS_URL");
        for (name, _) in &pairs {
            if !VARIABLES.iter().any(|variable| variable.name == name) {
                match nearest(name) {
                    Some(known) => faults.add(name, format!("is not known; did you mean {known}?")),
                    None => faults.add(name, "is not known; .env.example lists all variables"),
                }
            }
        }

        let texts: Texts = envy::prefixed(PREFIX)
            .from_iter(pairs)
            .expect("every field is an optional string");
        let config = texts.check(&mut faults);
        if let Some(config) = &config {
            config.check_exposure(&mut faults);
        }
        match config {
            Some(config) if faults.0.is_empty() => Ok(config),
            _ => Err(faults),
        }
    }

    /// Refuses what would let strangers in unnoticed.
    fn check_exposure(&self, faults: &mut Faults) {
        if self.allow_insecure {
            return;
        }
        let open = |listeners: &[Listen]| listeners.iter().find(|l| !l.is_local()).cloned();
        if self.auth == AuthMode::None
            && let Some(listener) = open(&self.listen)
        {
            faults.add(
                "PUSH_AUTH",
                format!("=none believes any client, and {listener} can be reached by others; set PUSH_ALLOW_INSECURE=true if that is meant"),
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
                format!("is empty, and senders on {listener} ({variable}) can be anybody; set a key, or PUSH_ALLOW_INSECURE=true if that is meant"),
            );
        }
    }
}

/// Ours to judge. `REDIS_URL` is shared with other programs, the prefix is not.
fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name == "REDIS_URL"
}

/// The known variable that `name` was probably meant to be.
fn nearest(name: &str) -> Option<&'static str> {
    let known = VARIABLES.iter().map(|variable| variable.name);
    let (distance, nearest) = known.map(|known| (edits(name, known), known)).min()?;
    (distance <= 3).then_some(nearest)
}

/// Levenshtein's distance, in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn listeners(text: &str) -> Result<Vec<Listen>, String> {
    list(text).map(listener).collect()
}

fn listeners_required(text: &str) -> Result<Vec<Listen>, String> {
    let listeners = listeners(text)?;
    if listeners.is_empty() {
        return Err("must name at least one listener".to_owned());
    }
    Ok(listeners)
}

fn listener(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(format!("has {text:?}: the path is missing"));
        }
        return Ok(Listen::Unix(path.into()));
    }
    // Names other than localhost are not resolved: what a name means may change, and with it
    // whether the listener is on loopback.
    let address = text.replace("localhost:", "127.0.0.1:");
    let address = address.parse().map_err(|_| {
        format!("has {text:?}: must be an IP address and port, such as 127.0.0.1:8080 or [::1]:8080, or unix:/path")
    })?;
    Ok(Listen::Tcp(address))
}

fn redis_url(text: &str) -> Result<Option<RedisUrl>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    // The value may hold a password, so no fault echoes it.
    let url = url::Url::parse(text)
        .map_err(|error| format!("is not a URL ({error}); it looks like redis://host:6379"))?;
    match url.scheme() {
        "redis" | "rediss" | "valkey" | "valkeys" if url.host_str().is_none_or(str::is_empty) => {
            Err("has no host; it looks like redis://host:6379".to_owned())
        }
        "redis" | "rediss" | "valkey" | "valkeys" => {
            let database = url.path().trim_start_matches('/');
            if !database.is_empty() && database.parse::<u8>().is_err() {
                return Err("has a path that is not a database number (0 to 255)".to_owned());
            }
            Ok(Some(RedisUrl(url)))
        }
        "redis+unix" | "valkey+unix" if url.path().len() < 2 => {
            Err("has no path; it looks like redis+unix:///run/redis.sock".to_owned())
        }
        "redis+unix" | "valkey+unix" => Ok(Some(RedisUrl(url))),
        scheme => Err(format!(
            "has scheme {scheme:?}; this version speaks redis://, rediss:// and redis+unix://"
        )),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
    if clean && (1..=32).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 32 bytes of A-Z a-z 0-9 . _ : -".to_owned())
    }
}

fn node_name(text: &str) -> Result<NodeName, String> {
    if !text.is_empty() {
        return text
            .parse()
            .map_err(|error| format!("has {text:?}: {error}"));
    }
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    host.parse()
        .map_err(|_| format!("is empty and the host name {host:?} will not do; set a name"))
}

fn public_url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        _ if text.is_empty() => Ok(String::new()),
        Ok(url) if matches!(url.scheme(), "ws" | "wss" | "http" | "https") => Ok(text.to_owned()),
        _ => Err(format!(
            "has {text:?}: must be a URL with ws, wss, http or https"
        )),
    }
}

fn auth_mode(text: &str) -> Result<AuthMode, String> {
    match text {
        "none" => Ok(AuthMode::None),
        _ => Err(format!("has {text:?}: this version knows none")),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("has {text:?}: must be true or false")),
    }
}

/// Shortest API key: 16 bytes of a random base64 text are 96 bits.
const MIN_KEY_BYTES: usize = 16;

fn api_keys(text: &str) -> Result<Vec<Secret>, String> {
    let keys: Vec<&str> = list(text).collect();
    if let Some(short) = keys.iter().position(|key| key.len() < MIN_KEY_BYTES) {
        return Err(format!(
            "key number {} is shorter than {MIN_KEY_BYTES} bytes",
            short + 1
        ));
    }
    if let Some(odd) = keys
        .iter()
        .position(|key| !key.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err(format!(
            "key number {} has bytes that cannot stand in a header",
            odd + 1
        ));
    }
    Ok(keys.into_iter().map(|key| Secret(key.to_owned())).collect())
}

fn origins(text: &str) -> Result<Vec<String>, String> {
    let origin = |text: &str| match url::Url::parse(text) {
        _ if text == "*" => Ok(text.to_owned()),
        Ok(url) if url.origin().is_tuple() && url.origin().ascii_serialization() == text => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "has {text:?}: an origin looks like https://app.example.org, with nothing behind"
        )),
    };
    list(text).map(origin).collect()
}

fn number<T>(least: T, most: T) -> impl FnOnce(&str) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    move |text| match text.parse() {
        Ok(number) if least <= number && number <= most => Ok(number),
        _ => Err(format!(
            "has {text:?}: must be a whole number from {least} to {most}"
        )),
    }
}

fn seconds(least: u64, most: u64) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| number(least, most)(text).map(Duration::from_secs)
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => {
            Ok(text.parse().expect("a level by name"))
        }
        _ => Err(format!(
            "has {text:?}: must be off, error, warn, info, debug or trace"
        )),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("has {text:?}: must be text or json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults<const N: usize>(pairs: [(&str, &str); N]) -> Vec<String> {
        Config::from_pairs(pairs).expect_err("has faults").0
    }

    #[test]
    fn nothing_set_is_a_whole_configuration() {
        let config = Config::from_pairs([]).unwrap();
        assert_eq!(
            config.listen,
            [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]
        );
        assert_eq!(config.ping_seconds, Duration::from_secs(25));
        assert_eq!(config.redis_url, None);
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let faults = faults([
            ("PUSH_PING_SECONDS", "soon"),
            ("PUSH_LISTNE", "127.0.0.1:1"),
            ("PUSH_LISTEN", "example.org:80"),
            ("PUSH_QUEUE_BYTES", "-1"),
            ("PUSH_NOT_A_THING_AT_ALL", "1"),
        ]);
        assert_eq!(faults.len(), 5, "{faults:#?}");
        assert!(
            faults
                .iter()
                .any(|f| f.starts_with("PUSH_PING_SECONDS has \"soon\""))
        );
        assert!(
            faults
                .iter()
                .any(|f| f == "PUSH_LISTNE is not known; did you mean PUSH_LISTEN?")
        );
    }

    #[test]
    fn every_variable_reaches_its_check() {
        // A key is too short, a number no number, a name no name: nothing takes this text.
        let bad = "\u{1}";
        for variable in VARIABLES {
            let faults = Config::from_pairs([(variable.name, bad)])
                .expect_err(variable.name)
                .0;
            assert!(faults[0].starts_with(variable.name), "{faults:?}");
        }
    }

    #[test]
    fn another_programs_variables_do_not_matter() {
        assert!(
            Config::from_pairs([("PUSHER_KEY", "x"), ("PATH", "/"), ("push_listen", "x")]).is_ok()
        );
    }

    #[test]
    fn redis_url_is_a_fallback() {
        let config = Config::from_pairs([("REDIS_URL", "redis://a")]).unwrap();
        assert_eq!(config.redis_url.unwrap().reveal(), "redis://a");
        let both = [("REDIS_URL", "redis://a"), ("PUSH_REDIS_URL", "redis://b")];
        assert_eq!(
            Config::from_pairs(both)
                .unwrap()
                .redis_url
                .unwrap()
                .reveal(),
            "redis://b"
        );
        let off = [("REDIS_URL", "redis://a"), ("PUSH_REDIS_URL", "")];
        assert_eq!(Config::from_pairs(off).unwrap().redis_url, None);
    }

    #[test]
    fn malformed_redis_urls_are_faults_that_do_not_echo_the_password() {
        for bad in [
            "6379",
            "http://user:hunter2@x",
            "redis://",
            "redis://:hunter2@x/no",
            "redis+unix://",
        ] {
            let faults = faults([("PUSH_REDIS_URL", bad)]);
            assert!(!faults[0].contains("hunter2"), "{faults:?}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        let config = Config::from_pairs([
            ("PUSH_API_KEYS", "0123456789abcdef, fedcba9876543210"),
            ("PUSH_REDIS_URL", "redis://u:hunter2@h:6379/1"),
        ])
        .unwrap();
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("0123456789abcdef"),
            "{shown}"
        );
        assert!(shown.contains("redis://u:***@h:6379/1"), "{shown}");
        assert_eq!(config.api_keys.len(), 2);
        let short = faults([("PUSH_API_KEYS", "0123456789abcdef,hunter2")]);
        assert_eq!(
            short,
            ["PUSH_API_KEYS key number 2 is shorter than 16 bytes"]
        );
    }

    #[test]
    fn strangers_are_not_let_in_unnoticed() {
        let faults = faults([("PUSH_LISTEN", "0.0.0.0:8080")]);
        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(faults[0].starts_with("PUSH_AUTH =none") || faults[0].starts_with("PUSH_AUTH"));
        assert!(faults[1].starts_with("PUSH_API_KEYS is empty"));
        let meant = [
            ("PUSH_LISTEN", "0.0.0.0:8080"),
            ("PUSH_ALLOW_INSECURE", "true"),
        ];
        assert!(Config::from_pairs(meant).is_ok());
        assert!(Config::from_pairs([("PUSH_LISTEN", "unix:/tmp/a.sock,[::1]:0")]).is_ok());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(Config::from_pairs([("PUSH_ORIGINS", "https://a.org, http://b:81")]).is_ok());
        for bad in ["a.org", "https://a.org/", "https://a.org/x", "null"] {
            assert!(
                Config::from_pairs([("PUSH_ORIGINS", bad)]).is_err(),
                "{bad}"
            );
        }
    }
}
