//! Every setting: name, unit, default, check, in one table.
//!
//! Configuration comes from environment variables with the prefix `PUSH_`, by way of pairs of
//! strings, so tests never touch the process environment. All faults are found in one pass and
//! reported together by variable name; an unknown `PUSH_` variable is a fault, because a
//! misspelt limit is worse than none. Values that are secrets are masked in `Debug` and never
//! echoed in a fault.

pub mod auth;
pub mod checks;
pub mod faults;
pub mod redis_url;
pub mod trusted_proxies;
pub mod upstream_routes;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::auth::Grants;
pub use crate::config::auth::{AuthMode, SessionPolicy};
use crate::config::checks::{
    api_keys, auth_mode, boolean, events, jwks_url, jwt_secrets, listeners, listeners_required,
    log_format, log_level, node_name, number, origins, path, prefix, public_keys, public_url,
    redis_url, seconds, session_policy, topics, trusted_proxies, upstream_routes, words,
};
pub use crate::config::faults::Faults;
use crate::config::faults::nearest;
pub use crate::config::redis_url::{Host, RedisUrl, Topology};
use crate::config::trusted_proxies::TrustedProxies;
pub use crate::config::upstream_routes::{MAX_ROUTE_BYTES, UpstreamRoutes, is_route};
use crate::protocol::ids::NodeName;
pub use crate::protocol::secret::Secret;

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

    /// Where clients connect by plain TCP, one JSON object a line. A list of the same form.
    tcp_listen / "TCP_LISTEN": Vec<Listen> = "", listeners;

    /// Where operators look: `/healthz`, `/readyz`, `/metrics`. A list of the same form.
    admin_listen / "ADMIN_LISTEN": Vec<Listen> = "127.0.0.1:8081", listeners;

    /// The Redis that all nodes share: `redis://`, `rediss://` (TLS) or `redis+unix://`, with
    /// user, password and database; `redis-sentinel://host:26379,host:26379/0?master=mymaster`
    /// or `redis-cluster://host:6379,host:6379`, with `rediss-` for TLS. REDIS_URL is read when
    /// this is unset. Empty: no Redis, one node by itself.
    redis_url / "REDIS_URL": Option<RedisUrl> = "", redis_url;

    /// What every key and channel in Redis begins with.
    prefix / "PREFIX": String = "pn:", prefix;

    /// The node's name: 1 to 64 bytes of A-Z a-z 0-9 . _ - and different on each node. Empty:
    /// the host name.
    node_name / "NODE_NAME": NodeName = "", node_name;

    /// The URL at which clients can reach this very node, for `GET /v1/route`. Empty: it is not
    /// named there.
    public_url / "PUBLIC_URL": String = "", public_url;

    /// How many clients this node should hold compared to others (1 to 1000), for `GET /v1/route`.
    weight / "WEIGHT": u32 = "1", number(1, 1000);

    /// How clients say who they are. `none`: by `?user=`, believed as it stands, so only for
    /// loopback and Unix listeners. `jwt`, `session` or `jwt,session`: by a token.
    auth / "AUTH": AuthMode = "none", auth_mode;

    /// Secrets of tokens signed with HS256, comma-separated, each at least 32 bytes. Several are
    /// valid at once, so that one can be replaced without a gap.
    jwt_secrets / "JWT_SECRETS": Vec<Secret> = "", jwt_secrets;

    /// Public keys of tokens signed with RS256, ES256 or EdDSA, as PEM; line breaks may be
    /// written as `\n`.
    jwt_keys / "JWT_KEYS": String = "", public_keys;

    /// A file with such keys, as PEM or as a JWKS. It is read again when it changes.
    jwt_keys_file / "JWT_KEYS_FILE": Option<PathBuf> = "", path;

    /// Where a JWKS is, `https://` or `http://`. The last good one stays valid when it cannot be had.
    jwks_url / "JWKS_URL": String = "", jwks_url;

    /// Seconds between two fetches of it. A token with an unknown key leads to one at once.
    jwks_seconds / "JWKS_SECONDS": Duration = "300", seconds(1, 86_400);

    /// Whom tokens must be meant for (`aud`): one of these, comma-separated. Empty: not checked.
    jwt_audience / "JWT_AUDIENCE": Vec<String> = "", words;

    /// Who must have issued tokens (`iss`): one of these, comma-separated. Empty: not checked.
    jwt_issuer / "JWT_ISSUER": Vec<String> = "", words;

    /// Seconds by which the clocks of issuer and node may differ.
    jwt_leeway_seconds / "JWT_LEEWAY_SECONDS": Duration = "10", seconds(0, 300);

    /// Accept PUSH_AUTH=none, and senders without a key, on listeners that others can reach.
    allow_insecure / "ALLOW_INSECURE": bool = "false", boolean;

    /// Keys of senders, comma-separated, each at least 16 bytes. Several are valid at once, so
    /// that a key can be replaced without a gap. Empty: senders need none, which is accepted on
    /// loopback and Unix listeners only.
    api_keys / "API_KEYS": Vec<Secret> = "", api_keys;

    /// Look whether a user is banned whenever one connects.
    bans / "BANS": bool = "true", boolean;

    /// Which web pages may connect, by exact `Origin`, comma-separated. Empty: pages of this
    /// host only. `*`: any. Clients that send no Origin (not browsers) always may.
    origins / "ORIGINS": Vec<String> = "", origins;

    /// Most clients at once. 0: nine tenths of the process's limit on open files.
    max_connections / "MAX_CONNECTIONS": usize = "0", number(0, 100_000_000);

    /// Most clients at once from one address. 0: no limit, right behind a proxy that is not in
    /// PUSH_TRUSTED_PROXIES.
    max_connections_per_address / "MAX_CONNECTIONS_PER_ADDRESS": u32 = "0", number(0, 1_000_000);

    /// Proxies whose `X-Forwarded-For` tells a client's address: a comma-separated list of
    /// addresses, blocks such as 10.0.0.0/8, and `unix` for whoever comes over a Unix socket.
    /// Empty: nobody's word counts.
    trusted_proxies / "TRUSTED_PROXIES": TrustedProxies = "", trusted_proxies;

    /// Most connections of one user, in the whole cluster. 0: no limit.
    max_connections_per_user / "MAX_CONNECTIONS_PER_USER": u32 = "0", number(0, 10_000);

    /// Most connections of one user that name the same device. 0: no limit.
    max_connections_per_device / "MAX_CONNECTIONS_PER_DEVICE": u32 = "0", number(0, 10_000);

    /// Who stays where a user has too many connections: the `newest`, and older ones are closed; or
    /// the `oldest`, and newcomers are refused.
    session_policy / "SESSION_POLICY": SessionPolicy = "newest", session_policy;

    /// Seconds between two pings to a client.
    ping_seconds / "PING_SECONDS": Duration = "25", seconds(1, 3600);

    /// Seconds between two comments to an SSE client, for proxies and for finding out who is gone.
    sse_beat_seconds / "SSE_BEAT_SECONDS": Duration = "15", seconds(1, 3600);

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

    /// Which service gets what clients send (`"type":"send"`): a comma-separated list of
    /// `pattern=service`, of which the first that fits the client's `route` counts; `*` in a pattern
    /// is any text. Such as `chat.*=chat,*=default`. Needs Redis. Empty: clients cannot send.
    upstream_routes / "UPSTREAM_ROUTES": UpstreamRoutes = "", upstream_routes;

    /// About how many entries the stream of a service holds before the oldest are thrown out.
    upstream_length / "UPSTREAM_LENGTH": u64 = "100000", number(2, 1_000_000_000);

    /// Most entries that may wait for a service, unread or unfinished; clients hear `busy` beyond.
    /// At most half of PUSH_UPSTREAM_LENGTH, and better a part of it for each node and one more.
    upstream_backlog / "UPSTREAM_BACKLOG": u64 = "10000", number(1, 1_000_000_000);

    /// Most messages a client may send to services in one second; more are refused. 0: no limit.
    send_rate / "SEND_RATE": u32 = "20", number(0, 1_000_000);

    /// Most messages kept for one user or topic (`"keep": true`). 0: none, and senders who ask for
    /// it are refused.
    keep_messages / "KEEP_MESSAGES": usize = "1000", number(0, 1_000_000);

    /// Seconds for which a message is kept.
    keep_seconds / "KEEP_SECONDS": Duration = "86400", seconds(1, 31_536_000);

    /// Bytes of Redis's memory (or the node's, without Redis) for what one user or topic keeps, about.
    keep_bytes / "KEEP_BYTES": usize = "1048576", number(4096, 1_073_741_824);

    /// Which topics clients may subscribe to: patterns, comma-separated, in which `*` stands for
    /// anything and `{user}` for the client's user. Empty: none.
    topics / "TOPICS": Arc<Grants> = "*", topics;

    /// Most topics that one client may be subscribed to.
    max_topics / "MAX_TOPICS": usize = "100", number(0, 10_000);

    /// Which events of connections are appended to the stream `pn:events`: any of connect,
    /// disconnect, subscribe, unsubscribe, comma-separated. Needs Redis. What becomes of nodes is
    /// told there in any case.
    events / "EVENTS": Vec<EventKind> = "", events;

    /// About how many events Redis keeps.
    events_length / "EVENTS_LENGTH": i64 = "10000", number(100, 1_000_000_000);

    /// Seconds after which a user who is gone from a topic is said to have left it. Who comes back
    /// before, to whatever node, makes no noise.
    presence_grace_seconds / "PRESENCE_GRACE_SECONDS": Duration = "5", seconds(0, 3600);

    /// Store each client's address in its row in Redis.
    store_address / "STORE_ADDRESS": bool = "false", boolean;

    /// Seconds over which a leaving node sends its clients away.
    drain_seconds / "DRAIN_SECONDS": Duration = "10", seconds(0, 3600);

    /// How many events of users and of messages that did not arrive to remember, for
    /// `GET /v1/users/{user}/trace`; about 150 bytes each. 0: none.
    trace / "TRACE": usize = "2000", number(0, 10_000_000);

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

/// What may be told of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A client is connected.
    Connect,
    /// A connection has ended.
    Disconnect,
    /// A connection gets what is sent to a topic.
    Subscribe,
    /// It does no more.
    Unsubscribe,
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
            config.check_streams(&mut faults);
            config.check_keys(&mut faults);
        }
        match config {
            Some(config) if faults.list().is_empty() => Ok(config),
            _ => Err(faults),
        }
    }

    /// Refuses what would do nothing, or lose what clients were told is accepted.
    fn check_streams(&self, faults: &mut Faults) {
        if self.redis_url.is_none() && !self.upstream_routes.is_empty() {
            faults.add("PUSH_UPSTREAM_ROUTES", "needs PUSH_REDIS_URL");
        }
        if self.redis_url.is_none() && !self.events.is_empty() {
            faults.add("PUSH_EVENTS", "needs PUSH_REDIS_URL");
        }
        if self.upstream_backlog > self.upstream_length / 2 {
            faults.add(
                "PUSH_UPSTREAM_BACKLOG",
                format!(
                    "is {}: over half of PUSH_UPSTREAM_LENGTH ({}), entries could be thrown out unread",
                    self.upstream_backlog, self.upstream_length
                ),
            );
        }
    }

    /// Refuses what would let strangers in unnoticed.
    fn check_exposure(&self, faults: &mut Faults) {
        if self.allow_insecure {
            return;
        }
        let open = |listeners: &[Listen]| listeners.iter().find(|l| !l.is_local()).cloned();
        if self.auth == AuthMode::None
            && let Some(listener) = open(&self.listen).or_else(|| open(&self.tcp_listen))
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

#[cfg(test)]
mod tests;
