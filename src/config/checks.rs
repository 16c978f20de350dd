//! The check of each setting: it turns the text into a value, or returns what is wrong with it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::address_header::AddressHeader;
use crate::config::auth::{AuthMode, SessionPolicy};
use crate::config::hosts::AllowedHosts;
use crate::config::origins::AllowedOrigins;
use crate::config::redis_url::RedisUrl;
use crate::config::trusted_proxies::TrustedProxies;
use crate::config::upstream_routes::UpstreamRoutes;
use crate::config::{EventKind, Listen, LogFormat, LogLevel};
use crate::protocol::ids::{NodeName, listed};
use crate::protocol::secret::Secret;
use crate::protocol::topic_pattern::TopicPatterns;

/// What stands before the address of a listener for proxies.
const PROXIED: &str = "proxy:";

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Listeners for senders and operators.
pub(super) fn listeners(text: &str) -> Result<Vec<Listen>, String> {
    if let Some(text) = list(text).find(|text| text.starts_with(PROXIED)) {
        return Err(format!(
            "has {text:?}: only PUSH_LISTEN and PUSH_TCP_LISTEN can have proxy: listeners"
        ));
    }
    listeners_for_clients(text)
}

pub(super) fn listeners_for_clients(text: &str) -> Result<Vec<Listen>, String> {
    list(text).map(listener).collect()
}

pub(super) fn listeners_required(text: &str) -> Result<Vec<Listen>, String> {
    let listeners = listeners_for_clients(text)?;
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
    // Names other than localhost are not resolved: the address of a name may change, and with it
    // whether the listener is on loopback.
    let (text_of_address, is_proxied) = match text.strip_prefix(PROXIED) {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let address = text_of_address.replace("localhost:", "127.0.0.1:");
    let address = address.parse().map_err(|_| {
        format!(
            "has {text:?}: must be an IP address and port, such as 127.0.0.1:8080 or [::1]:8080, \
            or unix:/path, or proxy:127.0.0.1:8080"
        )
    })?;
    Ok(match is_proxied {
        true => Listen::Proxied(address),
        false => Listen::Tcp(address),
    })
}

pub(super) fn redis_url(text: &str) -> Result<Option<RedisUrl>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    RedisUrl::parse(text).map(Some)
}

/// Any text; blanks around it are not part of it.
pub(super) fn secret(text: &str) -> Result<Option<Secret>, String> {
    Ok((!text.is_empty()).then(|| Secret::new(text.to_owned())))
}

pub(super) fn user_name(text: &str) -> Result<String, String> {
    if text.contains(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn prefix(text: &str) -> Result<String, String> {
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'));
    if clean && (1..=32).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 32 bytes of A-Z a-z 0-9 . _ : -".to_owned())
    }
}

pub(super) fn node_name(text: &str) -> Result<NodeName, String> {
    if !text.is_empty() {
        return text
            .parse()
            .map_err(|error| format!("has {text:?}: {error}"));
    }
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    host.parse().map_err(|_| {
        format!("is empty, and the host name {host:?} is not a valid node name; set one")
    })
}

pub(super) fn public_url(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        _ if text.is_empty() => Ok(String::new()),
        Ok(url) if matches!(url.scheme(), "ws" | "wss" | "http" | "https") => Ok(text.to_owned()),
        _ => Err(format!(
            "has {text:?}: must be a URL with ws, wss, http or https"
        )),
    }
}

pub(super) fn auth_mode(text: &str) -> Result<AuthMode, String> {
    AuthMode::parse(text).ok_or_else(|| {
        format!(
            "has {text:?}: must be none, or a list of jwt, session and hook, such as jwt,session"
        )
    })
}

/// Shortest secret: HS256 needs at least as many bits as its hash has (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Maximum number of secrets of the cluster: one replaces another.
const CLUSTER_SECRETS: usize = 2;

pub(crate) fn cluster_secrets(text: &str) -> Result<Vec<Secret>, String> {
    let secrets = jwt_secrets(text)?;
    if secrets.len() > CLUSTER_SECRETS {
        return Err(format!(
            "has {} secrets; {CLUSTER_SECRETS} at most",
            secrets.len()
        ));
    }
    Ok(secrets)
}

pub(crate) fn jwt_secrets(text: &str) -> Result<Vec<Secret>, String> {
    let secrets: Vec<&str> = list(text).collect();
    match secrets.iter().position(|one| one.len() < MIN_SECRET_BYTES) {
        Some(short) => Err(format!(
            "secret number {} is shorter than {MIN_SECRET_BYTES} bytes",
            short + 1
        )),
        None => Ok(secrets
            .into_iter()
            .map(|one| Secret::new(one.to_owned()))
            .collect()),
    }
}

/// The keys are parsed later, when they are read: then the fault names the key.
pub(super) fn public_keys(text: &str) -> Result<String, String> {
    let text = text.replace("\\n", "\n");
    if text.is_empty() || text.starts_with("-----BEGIN ") {
        Ok(text)
    } else {
        Err("must hold public keys as PEM: -----BEGIN PUBLIC KEY-----".to_owned())
    }
}

pub(super) fn path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.contains(char::is_control) {
        return Err(format!(
            "has {text:?}: must be a path without control characters"
        ));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

/// Names of headers, in small letters.
pub(super) fn header_names(text: &str) -> Result<Vec<String>, String> {
    // RFC 9110, 5.6.2.
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let name = |name: &str| match name.bytes().all(is_name) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err(format!("has {name:?}: must be names of headers")),
    };
    list(text).map(name).collect()
}

/// A list of values of token claims.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    if text.contains(char::is_control) {
        return Err(format!("has {text:?}: must not contain control characters"));
    }
    Ok(list(text).map(str::to_owned).collect())
}

/// Longest path of a claim, in bytes.
const MAX_CLAIM_BYTES: usize = 256;

pub(super) fn user_claim(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_CLAIM_BYTES).contains(&text.len());
    if !fits || text.contains(char::is_control) {
        return Err("must name a claim, such as sub, email or user.id".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("has {text:?}: must be true or false")),
    }
}

/// Shortest API key: 16 bytes of random base64 text are 96 bits.
const MIN_KEY_BYTES: usize = 16;

pub(crate) fn api_keys(text: &str) -> Result<Vec<Secret>, String> {
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
            "key number {} has bytes that an HTTP header cannot carry",
            odd + 1
        ));
    }
    Ok(keys
        .into_iter()
        .map(|key| Secret::new(key.to_owned()))
        .collect())
}

pub(super) fn origins(text: &str) -> Result<AllowedOrigins, String> {
    AllowedOrigins::parse(list(text))
}

pub(super) fn allowed_hosts(text: &str) -> Result<AllowedHosts, String> {
    AllowedHosts::parse(list(text))
}

pub(super) fn topics(text: &str) -> Result<Arc<TopicPatterns>, String> {
    let patterns: Vec<_> = list(text).flat_map(listed).collect();
    let grants = TopicPatterns::from_patterns(patterns.iter().map(|one| &**one));
    grants.map(Arc::new).map_err(|error| format!("has {error}"))
}

pub(super) fn events(text: &str) -> Result<Vec<EventKind>, String> {
    let kind = |text: &str| match text {
        "connect" => Ok(EventKind::Connect),
        "disconnect" => Ok(EventKind::Disconnect),
        "subscribe" => Ok(EventKind::Subscribe),
        "unsubscribe" => Ok(EventKind::Unsubscribe),
        _ => Err(format!(
            "has {text:?}: must be connect, disconnect, subscribe or unsubscribe"
        )),
    };
    list(text).map(kind).collect()
}

pub(super) fn upstream_routes(text: &str) -> Result<UpstreamRoutes, String> {
    UpstreamRoutes::parse(list(text))
}

pub(super) fn number<T>(least: T, most: T) -> impl FnOnce(&str) -> Result<T, String>
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

pub(super) fn seconds(least: u64, most: u64) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| number(least, most)(text).map(Duration::from_secs)
}

pub(super) fn milliseconds(least: u64, most: u64) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| number(least, most)(text).map(Duration::from_millis)
}

/// As [`seconds`]; empty where the default depends on other settings.
pub(super) fn optional_seconds(
    least: u64,
    most: u64,
) -> impl FnOnce(&str) -> Result<Option<Duration>, String> {
    move |text| match text {
        "" => Ok(None),
        text => seconds(least, most)(text).map(Some),
    }
}

pub(super) fn trusted_proxies(text: &str) -> Result<TrustedProxies, String> {
    TrustedProxies::parse(list(text)).map_err(|error| error.to_string())
}

pub(super) fn address_header(text: &str) -> Result<AddressHeader, String> {
    AddressHeader::parse(text)
}

pub(super) fn session_policy(text: &str) -> Result<SessionPolicy, String> {
    match text {
        "newest" => Ok(SessionPolicy::Newest),
        "oldest" => Ok(SessionPolicy::Oldest),
        _ => Err(format!("has {text:?}: must be newest or oldest")),
    }
}

pub(super) fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => {
            Ok(text.parse().expect("a level by name"))
        }
        _ => Err(format!(
            "has {text:?}: must be off, error, warn, info, debug or trace"
        )),
    }
}

pub(super) fn uring(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("has {text:?}: must be auto or off")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("has {text:?}: must be text or json")),
    }
}
