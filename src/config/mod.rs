//! Every setting: name, unit, default, check, in one table.
//!
//! Configuration comes from environment variables with the prefix `PUSH_`. It is loaded from pairs
//! of strings, so tests never touch the process environment. All faults are found in one pass and
//! reported together by variable name. An unknown `PUSH_` variable is a fault, because a misspelt
//! limit is worse than none. Secrets are masked in `Debug` and never quoted in a fault.

pub(crate) mod redis_url;

mod service_url;

pub(crate) mod upstream_routes;

pub(crate) mod trusted_proxies;

pub(crate) mod address_header;

pub(crate) mod hosts;

pub(crate) mod origins;

pub(crate) mod faults;

pub(crate) mod auth;

pub(crate) mod checks;

pub(crate) mod consistency;

pub(crate) mod env_file;

pub(crate) mod leaving;

mod listen;

pub(crate) mod load;

pub(crate) mod secret_files;

pub(crate) mod topic_rules;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::config::address_header::AddressHeader;
use crate::config::auth::{AuthMode, SessionPolicy};
use crate::config::checks::{
    address_header, allowed_hosts, api_keys, auth_mode, boolean, cluster_secrets, events,
    header_names, jwt_secrets, listeners, listeners_for_clients, listeners_required, log_format,
    log_level, milliseconds, node_name, number, optional_seconds, origins, path, prefix,
    public_keys, public_url, redis_url, seconds, secret, session_policy, topics, trusted_proxies,
    upstream_routes, uring, user_claim, user_name, words,
};
use crate::config::faults::Faults;
use crate::config::hosts::AllowedHosts;
pub use crate::config::listen::Listen;
use crate::config::origins::AllowedOrigins;
use crate::config::redis_url::RedisUrl;
use crate::config::service_url::service_url;
use crate::config::topic_rules::topic_rules;
use crate::config::trusted_proxies::TrustedProxies;
use crate::config::upstream_routes::UpstreamRoutes;
use crate::protocol::ids::NodeName;
use crate::protocol::secret::Secret;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::protocol::topic_rules::TopicRules;

/// The prefix of all variables.
pub(crate) const PREFIX: &str = "PUSH_";

/// One variable as `.env.example` and the README list it.
#[derive(Debug)]
pub struct Variable {
    /// Full name, `PUSH_...`.
    pub name: &'static str,
    /// The value when unset.
    pub default: &'static str,
    /// Its documentation: effect and unit, line by line.
    pub doc: &'static [&'static str],
}

/// Declares the settings once: the typed [`Config`], the strings that envy reads, and the table of
/// [`VARIABLES`]. Each entry is `field / "NAME": Type = "default", check;`, where `check` turns the
/// text into the type or returns what is wrong with it.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident / $name:literal : $type:ty = $default:literal, $check:expr;
    )+) => {
        /// The settings of a node. See `.env.example` for the variable of each field.
        #[derive(Debug, Clone)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        /// All variables, in the order in which they are documented.
        pub const VARIABLES: &[Variable] = &[
            $(Variable { name: concat!("PUSH_", $name), default: $default, doc: &[$($doc),+] },)+
        ];

        /// The variables as text. envy stops at the first invalid number, so every field is a
        /// string here and is checked below, where all faults are collected.
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
    /// Listeners for clients: a comma-separated list of `host:port` and `unix:/path`. Port 0 takes
    /// a free port, which the node prints at the start. `proxy:host:port` for a TCP balancer that
    /// begins each connection with a PROXY header, version 1 or 2; needs PUSH_TRUSTED_PROXIES.
    listen / "LISTEN": Vec<Listen> = "127.0.0.1:8080", listeners_required;

    /// Listeners for senders (`/v1/...`), a list of the same form. Empty: senders use the listeners
    /// of PUSH_LISTEN. Otherwise those answer 404 to senders.
    api_listen / "API_LISTEN": Vec<Listen> = "", listeners;

    /// Listeners for clients over plain TCP, one JSON object per line. A list of the same form.
    /// Empty: none.
    tcp_listen / "TCP_LISTEN": Vec<Listen> = "", listeners_for_clients;

    /// Listeners for operators: `/healthz`, `/readyz`, `/metrics`. A list of the same form.
    admin_listen / "ADMIN_LISTEN": Vec<Listen> = "127.0.0.1:8081", listeners;

    /// URL of the Redis that all nodes share: `redis://`, `rediss://` (TLS) or `redis+unix://`,
    /// with user, password and database; `redis-sentinel://host:26379,host:26379/0?master=mymaster`
    /// or `redis-cluster://host:6379,host:6379`, with `rediss-` for TLS. Percent-encode odd
    /// characters. Channels carry the number of a database other than 0. If unset, REDIS_URL is
    /// used. Empty: a single node without Redis.
    redis_url / "REDIS_URL": Option<RedisUrl> = "", redis_url;

    /// File that holds this URL instead. Its user and password are read again at each dial, so that
    /// they can be replaced without a restart; all else of it counts at the start.
    redis_url_file / "REDIS_URL_FILE": Option<PathBuf> = "", path;

    /// User for Redis (ACL). Needs a password. Empty: the one of PUSH_REDIS_URL, or `default`.
    redis_username / "REDIS_USERNAME": String = "", user_name;

    /// Password for Redis as it is, without escapes; not for Sentinels. Empty: that of
    /// PUSH_REDIS_URL, which must not have one beside this.
    redis_password / "REDIS_PASSWORD": Option<Secret> = "", secret;

    /// File that holds this password instead. Read again at each dial, so that the password can be
    /// replaced without a restart.
    redis_password_file / "REDIS_PASSWORD_FILE": Option<PathBuf> = "", path;

    /// File with the certificates, as PEM, by which Redis is known. Needs a URL with TLS. Empty:
    /// those of the system, or in SSL_CERT_FILE.
    redis_tls_ca / "REDIS_TLS_CA": Option<PathBuf> = "", path;

    /// File with the certificate that this node shows Redis, as PEM, and those that lead to its
    /// authority. Read again at each dial.
    redis_tls_cert / "REDIS_TLS_CERT": Option<PathBuf> = "", path;

    /// File with the key of this certificate, as PEM. Read again at each dial.
    redis_tls_key / "REDIS_TLS_KEY": Option<PathBuf> = "", path;

    /// Whether `/readyz` answers 200 (`degraded`) while a node that has served works without Redis.
    /// A node that is known to be cut off alone answers 503 all the same. `false`: 503 whenever
    /// Redis does not serve the node, as before; a balancer may then have no node left.
    ready_without_redis / "READY_WITHOUT_REDIS": bool = "true", boolean;

    /// Prefix of every key and channel in Redis.
    prefix / "PREFIX": String = "pn:", prefix;

    /// Secret by which nodes know each other's lines on the channels of Redis, at least 32 bytes.
    /// Two, comma-separated, while one replaces the other: the first signs, both are valid. Needs
    /// Redis. Empty: every publisher in Redis can speak as a node.
    cluster_secret / "CLUSTER_SECRET": Vec<Secret> = "", cluster_secrets;

    /// File that holds these secrets instead, comma-separated or one on each line. The node reads
    /// it again when it changes.
    cluster_secret_file / "CLUSTER_SECRET_FILE": Option<PathBuf> = "", path;

    /// Name of the node: 1 to 64 bytes of A-Z a-z 0-9 . _ - and different on each node. Empty: the
    /// host name.
    node_name / "NODE_NAME": NodeName = "", node_name;

    /// URL at which clients reach this particular node, for `GET /v1/route`. Empty: the route does
    /// not return this node.
    public_url / "PUBLIC_URL": String = "", public_url;

    /// Share of clients for this node relative to other nodes, 1 to 1000, for `GET /v1/route`.
    weight / "WEIGHT": u32 = "1", number(1, 1000);

    /// How clients authenticate. `none`: by `?user=`, which is not verified, so only for loopback
    /// and Unix listeners. Otherwise a list of `jwt` and `session` (by a token) and `hook` (by
    /// PUSH_CONNECT_HOOK). With `jwt,hook` the hook is asked about clients without a token.
    auth / "AUTH": AuthMode = "none", auth_mode;

    /// URL, `https://` or `http://`, that a node asks who a client is. Needs PUSH_AUTH with `hook`,
    /// PUSH_HOOK_SECRET and PUSH_ORIGINS. Empty: none.
    connect_hook / "CONNECT_HOOK": String = "", service_url;

    /// Headers of a client's request that this hook gets, comma-separated. With Cookie or
    /// Authorization among them, PUSH_ORIGINS must name each page: neither `*` nor `null`.
    hook_headers / "HOOK_HEADERS": Vec<String> = "Cookie,Authorization,User-Agent,Accept-Language",
        header_names;

    /// URL, `https://` or `http://`, that a node asks whether a connection may have a topic whose
    /// rule says `"subscribe": "hook"` (PUSH_TOPIC_RULES). Needs PUSH_HOOK_SECRET. Empty: none.
    subscribe_hook / "SUBSCRIBE_HOOK": String = "", service_url;

    /// Secret that signs what hooks are sent (`Pushnode-Signature`), at least 32 bytes. Two,
    /// comma-separated, while one replaces the other: both sign.
    hook_secret / "HOOK_SECRET": Vec<Secret> = "", cluster_secrets;

    /// File that holds these secrets instead, comma-separated or one on each line. The node reads
    /// it again when it changes.
    hook_secret_file / "HOOK_SECRET_FILE": Option<PathBuf> = "", path;

    /// Milliseconds that a hook may take to answer.
    hook_timeout_ms / "HOOK_TIMEOUT_MS": Duration = "2000", milliseconds(10, 60_000);

    /// Maximum questions under way to one hook. 64 times as many may wait, 5 s each; further ones
    /// are refused.
    hook_concurrency / "HOOK_CONCURRENCY": usize = "64", number(1, 10_000);

    /// Secrets for tokens signed with HS256, comma-separated, at least 32 bytes each. All are valid
    /// at once, so that one can be replaced without downtime.
    jwt_secrets / "JWT_SECRETS": Vec<Secret> = "", jwt_secrets;

    /// File that holds these secrets instead, comma-separated or one on each line. The node reads
    /// it again when it changes.
    jwt_secrets_file / "JWT_SECRETS_FILE": Option<PathBuf> = "", path;

    /// Public keys for tokens signed with RS256, ES256 or EdDSA, as PEM. Line breaks may be written
    /// as `\n`.
    jwt_keys / "JWT_KEYS": String = "", public_keys;

    /// File with such keys, as PEM or as a JWKS. The node reads it again when it changes.
    jwt_keys_file / "JWT_KEYS_FILE": Option<PathBuf> = "", path;

    /// URL of a JWKS, `https://` or `http://`. While a fetch fails, the last good one stays valid;
    /// one without keys withdraws them. Redirects to another scheme, host or port are not followed.
    jwks_url / "JWKS_URL": String = "", service_url;

    /// Seconds between two fetches of the JWKS. A token with an unknown key causes a fetch at once.
    jwks_seconds / "JWKS_SECONDS": Duration = "300", seconds(1, 86_400);

    /// Accepted audiences of tokens (`aud`), comma-separated; one must match. Empty: not checked.
    jwt_audience / "JWT_AUDIENCE": Vec<String> = "", words;

    /// Accepted issuers of tokens (`iss`), comma-separated; one must match. Empty: not checked.
    jwt_issuer / "JWT_ISSUER": Vec<String> = "", words;

    /// Claim of a JSON Web Token that names the user: text, or a whole number. Dots lead into
    /// objects: `user.id`.
    jwt_user_claim / "JWT_USER_CLAIM": String = "sub", user_claim;

    /// Seconds by which the clocks of issuer and node may differ.
    jwt_leeway_seconds / "JWT_LEEWAY_SECONDS": Duration = "10", seconds(0, 300);

    /// Allow PUSH_AUTH=none, and senders without a key, on listeners that other machines can reach.
    allow_insecure / "ALLOW_INSECURE": bool = "false", boolean;

    /// API keys of senders, comma-separated, at least 16 bytes each. All are valid at once, so that
    /// one can be replaced without downtime. Empty: senders need no key, which is allowed on
    /// loopback and Unix listeners only.
    api_keys / "API_KEYS": Vec<Secret> = "", api_keys;

    /// File that holds these keys instead, comma-separated or one on each line. The node reads it
    /// again when it changes.
    api_keys_file / "API_KEYS_FILE": Option<PathBuf> = "", path;

    /// Check on every connect whether the user is banned.
    bans / "BANS": bool = "true", boolean;

    /// Web pages that may connect, by their origin, comma-separated: `https://app.example.org`,
    /// `https://*.example.org` for any one label there, `capacitor://localhost` for an app,
    /// `null` for pages without one. `*`: any. Pages of this host may always connect, and so may
    /// clients that are not browsers.
    origins / "ORIGINS": AllowedOrigins = "", origins;

    /// Further names of this node in `Host`, comma-separated, without a port: `push.example.org`,
    /// `*.example.org` for any one label there. `*`: any. Needed only without PUSH_API_KEYS, for
    /// `/metrics`, and with PUSH_AUTH=none. There, names with a dot are refused unless they are
    /// listed, against DNS rebinding; addresses, `*.localhost`, the host name and the host of
    /// PUSH_PUBLIC_URL pass.
    allowed_hosts / "ALLOWED_HOSTS": AllowedHosts = "", allowed_hosts;

    /// Maximum clients at once. 0: nine tenths of the process's limit on open files.
    max_connections / "MAX_CONNECTIONS": usize = "0", number(0, 100_000_000);

    /// Maximum clients at once from one address, or from one /64 of IPv6. 0: no limit, which is
    /// right if clients come through a proxy that is not in PUSH_TRUSTED_PROXIES.
    max_connections_per_address / "MAX_CONNECTIONS_PER_ADDRESS": u32 = "0", number(0, 1_000_000);

    /// Proxies whose PUSH_ADDRESS_HEADER gives a client's address: a comma-separated list of
    /// addresses, blocks such as 10.0.0.0/8, and `unix` for connections over a Unix socket. A
    /// request whose header is missing or unreadable counts for the proxy's own address. Empty: the
    /// header is ignored. A connection from one of them may also begin with a PROXY header.
    trusted_proxies / "TRUSTED_PROXIES": TrustedProxies = "", trusted_proxies;

    /// The header in which trusted proxies name their client: X-Forwarded-For, `Forwarded`
    /// (RFC 7239), or one with an address, such as CF-Connecting-IP. Each proxy must set it or
    /// append to it; clients can send any other.
    address_header / "ADDRESS_HEADER": AddressHeader = "X-Forwarded-For", address_header;

    /// Maximum connections of one user, across all nodes. 0: no limit.
    max_connections_per_user / "MAX_CONNECTIONS_PER_USER": u32 = "0", number(0, 10_000);

    /// Maximum connections of one user with the same device name. 0: no limit.
    max_connections_per_device / "MAX_CONNECTIONS_PER_DEVICE": u32 = "0", number(0, 10_000);

    /// Which connections stay when a user has too many. `newest`: older ones are closed. `oldest`:
    /// new ones are refused.
    session_policy / "SESSION_POLICY": SessionPolicy = "newest", session_policy;

    /// Seconds between two pings to a client.
    ping_seconds / "PING_SECONDS": Duration = "25", seconds(1, 3600);

    /// Seconds between two comments to an SSE client, which keep proxies from closing the stream
    /// and reveal clients that are gone.
    sse_beat_seconds / "SSE_BEAT_SECONDS": Duration = "15", seconds(1, 3600);

    /// Seconds allowed to answer a ping.
    pong_seconds / "PONG_SECONDS": Duration = "8", seconds(1, 3600);

    /// Seconds for which a client may accept no byte of its queue, or of an HTTP answer, before it
    /// is closed.
    write_seconds / "WRITE_SECONDS": Duration = "10", seconds(1, 3600);

    /// Seconds for which an HTTP connection stays open between two requests. Longer than proxies
    /// keep theirs (60 is common), so that they close first. Told in `Keep-Alive: timeout=`.
    keepalive_seconds / "KEEPALIVE_SECONDS": Duration = "75", seconds(1, 3600);

    /// Maximum bytes queued per client. Beyond that, the push's policy decides.
    queue_bytes / "QUEUE_BYTES": usize = "262144", number(4096, 1_073_741_824);

    /// Maximum bytes that wait for all clients together, of bodies that senders upload, and of lines
    /// that wait for Redis; one message for many counts once. Beyond that, clients that take nothing
    /// are closed as slow, the fullest first, and bodies over 16 KiB are refused. 0: six tenths of
    /// the memory that the node may use, by its control group, its limits or the machine.
    memory_bytes / "MEMORY_BYTES": usize = "0", number(0, 1_125_899_906_842_624);

    /// Maximum bytes of one message from a client.
    max_message_bytes / "MAX_MESSAGE_BYTES": usize = "65536", number(125, 1_073_741_824);

    /// Maximum frames per second from one client, pings included. `ack`, `answer` and `pong` do not
    /// count where they answer something. 0: no limit.
    client_rate / "CLIENT_RATE": u32 = "100", number(0, 1_000_000);

    /// Services that receive what clients send (`"type":"send"`): a comma-separated list of
    /// `pattern=service`, such as `chat.*=chat,*=default`. The first pattern that matches the
    /// client's `route` decides; `*` matches any text. A service is a stream, which needs Redis, or
    /// the URL of a hook, which needs PUSH_HOOK_SECRET. Empty: clients cannot send.
    upstream_routes / "UPSTREAM_ROUTES": UpstreamRoutes = "", upstream_routes;

    /// Approximate maximum of entries in a service's stream. Redis discards the oldest beyond it.
    upstream_length / "UPSTREAM_LENGTH": u64 = "100000", number(2, 1_000_000_000);

    /// Maximum entries unread or unfinished by a service; beyond that, clients are told `busy`. At
    /// most half of PUSH_UPSTREAM_LENGTH. Safer: PUSH_UPSTREAM_LENGTH divided by the number of
    /// nodes plus one.
    upstream_backlog / "UPSTREAM_BACKLOG": u64 = "10000", number(1, 1_000_000_000);

    /// Approximate maximum of bytes of a service's stream in Redis. What all groups of the service
    /// have acknowledged is trimmed; if the rest takes more, clients are told `busy`.
    upstream_bytes / "UPSTREAM_BYTES": u64 = "67108864", number(65_536, 1_099_511_627_776);

    /// Maximum messages per second from one client to services; more are refused. 0: no limit.
    send_rate / "SEND_RATE": u32 = "20", number(0, 1_000_000);

    /// Maximum messages kept per user and per topic (`"keep": true`). 0: none, and pushes with
    /// `keep` are refused.
    keep_messages / "KEEP_MESSAGES": usize = "1000", number(0, 1_000_000);

    /// Seconds for which a message is kept.
    keep_seconds / "KEEP_SECONDS": Duration = "86400", seconds(1, 31_536_000);

    /// Approximate maximum of bytes kept per user and per topic, in Redis (or in the node without
    /// Redis).
    keep_bytes / "KEEP_BYTES": usize = "1048576", number(4096, 1_073_741_824);

    /// How many Redis replicas must have a kept message before its sender is answered without
    /// `"replicated": false`; the node asks by `WAIT` until the push's timeout. 0: not asked.
    keep_replicas / "KEEP_REPLICAS": u32 = "0", number(0, 100);

    /// Topics that clients may subscribe to: comma-separated patterns. `*` matches any text between
    /// two of `.` and `:`, `**` at the end matches the rest, `*` alone every topic; `{user}` is the
    /// client's user. Empty: none. Unset: every topic with PUSH_AUTH=none, otherwise none.
    topics / "TOPICS": Arc<TopicPatterns> = "*", topics;

    /// Rules for topics: a JSON array of objects, each with `match`, a pattern as in PUSH_TOPICS. The
    /// first that matches a topic decides which clients may subscribe, publish, read the log and
    /// see members there, and what is kept. See docs/topics.md. The same on all nodes. Empty: none.
    topic_rules / "TOPIC_RULES": Arc<TopicRules> = "", topic_rules;

    /// File that holds these rules instead. The node reads it again when it changes, and at SIGHUP;
    /// a file with a fault changes nothing.
    topic_rules_file / "TOPIC_RULES_FILE": Option<PathBuf> = "", path;

    /// Maximum topics per client.
    max_topics / "MAX_TOPICS": usize = "100", number(0, 10_000);

    /// Connection events to append to the stream `pn:events`: any of connect, disconnect,
    /// subscribe, unsubscribe, comma-separated. Needs Redis. Node events are always appended.
    events / "EVENTS": Vec<EventKind> = "", events;

    /// Approximate maximum of events that Redis keeps.
    events_length / "EVENTS_LENGTH": i64 = "10000", number(100, 1_000_000_000);

    /// Approximate maximum of bytes of these events in Redis. The oldest are discarded.
    events_bytes / "EVENTS_BYTES": u64 = "16777216", number(65_536, 1_099_511_627_776);

    /// Seconds between the moment a user's last connection leaves a topic and the leave event. A
    /// user who returns before that, on any node, causes no event.
    presence_grace_seconds / "PRESENCE_GRACE_SECONDS": Duration = "5", seconds(0, 3600);

    /// Store each client's address in its row in Redis.
    store_address / "STORE_ADDRESS": bool = "false", boolean;

    /// Seconds for which a node that shuts down still serves everybody, new clients included, so
    /// that balancers see `/readyz` and stop sending. Answers say `Connection: close`. Empty: 6.5, or
    /// 0 without Redis.
    prestop_seconds / "PRESTOP_SECONDS": Option<Duration> = "", optional_seconds(0, 3600);

    /// Seconds over which it then closes its clients' connections. Empty: 10, or 0 without Redis,
    /// where no other node can take them.
    drain_seconds / "DRAIN_SECONDS": Option<Duration> = "", optional_seconds(0, 3600);

    /// Maximum events remembered for `GET /v1/users/{user}/trace`: connects, disconnects and
    /// messages that were not delivered; about 150 bytes each. 0: none.
    trace / "TRACE": usize = "2000", number(0, 10_000_000);

    /// Threads that serve clients and senders, 1 to 1024. 0: one for each processor that the node
    /// may use, 64 at most. The process has some more, which seldom run: allow 40 (`pids_limit`).
    threads / "THREADS": usize = "0", number(0, 1024);

    /// Whether messages for many sockets may be written by io_uring of Linux: auto (if the kernel
    /// allows it) or off.
    uring / "URING": bool = "auto", uring;

    /// Log level: off, error, warn, info, debug or trace.
    log / "LOG": LogLevel = "info", log_level;

    /// Format of the log on standard error: text, or json (one object per line).
    log_format / "LOG_FORMAT": LogFormat = "text", log_format;
}

/// An event of a connection, for the event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A client has connected.
    Connect,
    /// A connection has ended.
    Disconnect,
    /// A connection has subscribed to a topic.
    Subscribe,
    /// A connection has unsubscribed from a topic.
    Unsubscribe,
}

/// The least severe level that is logged.
pub(crate) type LogLevel = tracing_subscriber::filter::LevelFilter;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[cfg(test)]
mod tests;
