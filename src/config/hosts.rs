//! The names by which requests may call this node, in `Host`.
//!
//! A web page can have its own name resolved to this machine (DNS rebinding). Its requests then
//! count as same-origin with this node, and only `Host` tells. Such an attack takes a name in
//! public DNS. So names without a dot, addresses, and the names that the operator gave are enough
//! to tell it from everybody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Config;

/// A host and its port, as `Host` (RFC 9112, 3.2) and an origin have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// In any case; an IPv6 address keeps its brackets.
    pub(crate) name: &'a str,
    pub(crate) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `uri-host [ ":" port ]`; none if it is not one. An empty host is allowed there.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let name_ends = match text.starts_with('[') {
            true => text.find(']')? + 1,
            false => text.find(':').unwrap_or(text.len()),
        };
        let (name, rest) = text.split_at(name_ends);
        let is_host = match name.strip_prefix('[') {
            Some(address) => address.trim_end_matches(']').parse::<Ipv6Addr>().is_ok(),
            None => name.bytes().all(is_of_name),
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            // RFC 3986 allows a colon without digits: it says nothing.
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        is_host.then_some(Self { name, port })
    }

    /// The address, if it is one.
    fn address(&self) -> Option<IpAddr> {
        match self.name.strip_prefix('[') {
            Some(address) => address.trim_end_matches(']').parse().ok().map(IpAddr::V6),
            None => self.name.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }
}

/// Bytes of a `reg-name` (RFC 3986, 3.2.2).
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

/// The name of a host, or a wildcard for one label: `*.example.org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPattern {
    /// In small letters; of a wildcard the part after `*.`.
    name: String,
    is_wildcard: bool,
}

impl HostPattern {
    /// `name` without the wildcard.
    pub(super) fn new(name: &str, is_wildcard: bool) -> Self {
        Self {
            name: name.to_ascii_lowercase(),
            is_wildcard,
        }
    }

    pub(crate) fn fits(&self, name: &str) -> bool {
        if !self.is_wildcard {
            return name.eq_ignore_ascii_case(&self.name);
        }
        match name.split_once('.') {
            Some((label, rest)) => !label.is_empty() && rest.eq_ignore_ascii_case(&self.name),
            None => false,
        }
    }
}

/// `PUSH_ALLOWED_HOSTS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    any: bool,
    patterns: Vec<HostPattern>,
}

impl AllowedHosts {
    /// Reads a list.
    ///
    /// # Errors
    /// The first entry that is not a name.
    pub(super) fn parse<'a>(list: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut hosts = Self::default();
        for text in list {
            let (name, is_wildcard) = match text.strip_prefix("*.") {
                _ if text == "*" => {
                    hosts.any = true;
                    continue;
                }
                Some(rest) => (rest, true),
                None => (text, false),
            };
            let is_of_label = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_of_label);
            if !name.split('.').all(is_label) {
                return Err(format!(
                    "has {text:?}: must be a name such as push.example.org, without a port, \
                    *.example.org for one label, or *"
                ));
            }
            hosts.patterns.push(HostPattern::new(name, is_wildcard));
        }
        Ok(hosts)
    }

    /// Whether the operator gave no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.any && self.patterns.is_empty()
    }
}

/// The names of this node.
#[derive(Debug, Clone)]
pub(crate) struct OwnNames {
    allowed: AllowedHosts,
    /// That of the machine, and that of `PUSH_PUBLIC_URL`.
    names: Vec<String>,
}

impl OwnNames {
    pub(crate) fn new(config: &Config) -> Self {
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy().into_owned();
        let public = url::Url::parse(&config.public_url).ok();
        let public = public.and_then(|url| url.host_str().map(str::to_owned));
        Self {
            allowed: config.allowed_hosts.clone(),
            names: [machine].into_iter().chain(public).collect(),
        }
    }

    /// Whether no page of a stranger can have this name and be answered by this node.
    pub(crate) fn have(&self, host: Authority<'_>) -> bool {
        let name = host.name.strip_suffix('.').unwrap_or(host.name);
        let under_localhost = || {
            let at = name.len().checked_sub(".localhost".len());
            at.and_then(|at| name.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
        };
        // An address is not looked up, and public DNS has no address for a name without a dot.
        !name.contains('.')
            || host.address().is_some()
            || under_localhost()
            || self.allowed.any
            || self.allowed.patterns.iter().any(|one| one.fits(name))
            || self.names.iter().any(|one| one.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        let read = |text| Authority::parse(text).map(|one| (one.name, one.port));
        for (text, expected) in [
            ("push.example.org", ("push.example.org", None)),
            ("Push.Example.org:8443", ("Push.Example.org", Some(8443))),
            ("x:", ("x", None)),
            ("[::1]:80", ("[::1]", Some(80))),
            ("[::1]", ("[::1]", None)),
            ("", ("", None)),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for bad in [
            "a b", "a/b", "u@h", "h:x", "h:-1", "h:65536", "[::1", "::1", "[x]", "a,b:1:2", "h?x",
            "[::1]80",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_that_public_dns_could_give_away_must_be_listed() {
        let own = |settings: &[(&str, &str)], host| {
            let config = Config::from_pairs(settings.iter().copied()).unwrap();
            OwnNames::new(&config).have(Authority::parse(host).unwrap())
        };
        for host in [
            "localhost:8080",
            "LOCALHOST",
            "localhost.",
            "app.localhost",
            "127.0.0.1:1",
            "[::1]",
            "192.0.2.7:8081",
            "[2001:db8::1]:80",
            "pushnode",
            "",
        ] {
            assert!(own(&[], host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example.",
            "evillocalhost.org",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io:8080",
            "0x7f.1",
            "127.1",
        ] {
            assert!(!own(&[], host), "{host}");
        }
        let listed = [("PUSH_ALLOWED_HOSTS", "push.example.org, *.internal.example")];
        assert!(own(&listed, "PUSH.example.org:8080"));
        assert!(own(&listed, "a.internal.example"));
        assert!(!own(&listed, "a.b.internal.example"));
        assert!(!own(&listed, "internal.example"));
        assert!(own(&[("PUSH_ALLOWED_HOSTS", "*")], "evil.example"));
        let public = [("PUSH_PUBLIC_URL", "wss://push.example.org:8443/x")];
        assert!(own(&public, "push.example.org"));
    }
}
