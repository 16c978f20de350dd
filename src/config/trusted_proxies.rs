//! Whose word counts for a client's address: proxies that stand between clients and nodes.
//!
//! `X-Forwarded-For` and its like can be written by any client. Each proxy appends whom it heard
//! from, so the list is read from its end, and only as far as those who wrote it are trusted; the
//! first address that is not a trusted proxy's is the client's.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use crate::config::address_header::HopForm;

/// Addresses of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    blocks: Vec<IpNet>,
    /// A client over a Unix socket counts as one, too.
    unix: bool,
}

/// Not an address or block of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBlock(String);

impl fmt::Display for BadBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "has {:?}: must be an address, a block such as 10.0.0.0/8, or unix",
            self.0
        )
    }
}

impl TrustedProxies {
    /// Reads a list.
    ///
    /// # Errors
    /// The first entry that is none.
    pub fn parse<'a>(list: impl Iterator<Item = &'a str>) -> Result<Self, BadBlock> {
        let mut proxies = Self::default();
        for text in list {
            match text {
                "unix" => proxies.unix = true,
                text => {
                    let block = block(text).ok_or_else(|| BadBlock(text.to_owned()))?;
                    proxies.blocks.push(block);
                }
            }
        }
        Ok(proxies)
    }

    /// Whether this is a proxy; none is a Unix socket.
    #[must_use]
    pub fn trusts(&self, address: Option<IpAddr>) -> bool {
        let Some(address) = address else {
            return self.unix;
        };
        let address = address.to_canonical();
        self.blocks.iter().any(|block| block.contains(&address))
    }

    /// Whether proxies that come over TCP are among them.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// The client's address, by the word of the proxy that this request comes from: `named` is
    /// what each `PUSH_ADDRESS_HEADER` says, in the order of the request. Where a trusted proxy
    /// names no address that can be read, its own counts.
    #[must_use]
    pub fn client<'a>(
        &self,
        proxy: Option<IpAddr>,
        form: HopForm,
        named: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let mut client = proxy;
        for hop in named.rev().flat_map(|value| form.hops(value)) {
            // The hops before one that names no address were written by an unknown sender.
            if !self.trusts(client) || hop.is_none() {
                return client;
            }
            client = hop;
        }
        client
    }
}

/// Not by the parser of `ipnet`: it reads 010.0.0.0 as 10.0.0.0, where other programs read octal.
fn block(text: &str) -> Option<IpNet> {
    let net = match text.split_once('/') {
        Some((first, bits)) => IpNet::new(first.parse().ok()?, bits.parse().ok()?).ok()?,
        None => text.parse().ok().map(IpAddr::into)?,
    };
    // Addresses are compared as IPv4 where they are IPv4 within IPv6.
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(first), Some(bits)) if net.addr().is_ipv6() => {
            Ipv4Net::new(first, bits).ok().map(IpNet::V4)
        }
        _ => Some(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, named: &[&[u8]]) -> String {
        client_in(HopForm::List, trusted, peer, named)
    }

    fn client_in(form: HopForm, trusted: &str, peer: &str, named: &[&[u8]]) -> String {
        let proxies = TrustedProxies::parse(trusted.split(',')).unwrap();
        let peer = peer.parse().ok();
        match proxies.client(peer, form, named.iter().copied()) {
            Some(address) => address.to_string(),
            None => "nobody".to_owned(),
        }
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients_or_else_the_proxys() {
        let trusted = "10.0.0.0/8,::1,192.0.2.7";
        for (peer, forwarded, expected) in [
            ("203.0.113.9", &[&b"1.1.1.1"[..]][..], "203.0.113.9"),
            ("10.1.2.3", &[b"1.1.1.1"], "1.1.1.1"),
            ("10.1.2.3", &[b"9.9.9.9, 1.1.1.1"], "1.1.1.1"),
            ("10.1.2.3", &[b"9.9.9.9, 1.1.1.1, 10.0.0.1"], "1.1.1.1"),
            ("10.1.2.3", &[b"9.9.9.9", b"1.1.1.1, 192.0.2.7"], "1.1.1.1"),
            ("::1", &[b"1.1.1.1:4711"], "1.1.1.1"),
            ("::1", &[b"[2001:db8::1]:80"], "2001:db8::1"),
            ("::1", &[b"2001:db8::1"], "2001:db8::1"),
            ("::1", &[b"[2001:db8::1]"], "2001:db8::1"),
            ("::1", &[b"\"[2001:db8::1]\""], "2001:db8::1"),
            ("::1", &[b"\"[2001:db8::1]:443\""], "2001:db8::1"),
            ("::1", &[b"2001:db8:0:0:0:0:0:1:443"], "2001:db8::1"),
            ("::1", &[b"fe80::1%eth0"], "fe80::1"),
            ("::1", &[b"[fe80::1%eth0]:80"], "fe80::1"),
            ("::1", &[b"::ffff:102:304"], "1.2.3.4"),
            ("::1", &[b"\t1.1.1.1 ,  10.0.0.1 "], "1.1.1.1"),
            ("::1", &[b"[2001:db8::1]x"], "::1"),
            ("::1", &[b"1.1.1.1:65536"], "::1"),
            ("::1", &[b"[1.1.1.1]"], "::1"),
            ("::1", &[b"\"1.1.1.1"], "::1"),
            ("::ffff:10.0.0.1", &[b"::ffff:1.1.1.1"], "1.1.1.1"),
            ("10.1.2.3", &[b"10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            ("10.1.2.3", &[b"1.1.1.1, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.1.2.3", &[b"1.1.1.1", b""], "10.1.2.3"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &[b"\xff"], "10.1.2.3"),
            ("10.1.2.3", &[b"unknown"], "10.1.2.3"),
            ("10.1.2.3", &[b"1.1.1.1, _hidden"], "10.1.2.3"),
            // What a client wrote does not spoil what the proxy appended.
            ("10.1.2.3", &[b"\xff, 1.1.1.1"], "1.1.1.1"),
        ] {
            assert_eq!(
                client(trusted, peer, forwarded),
                expected,
                "{peer} {forwarded:?}"
            );
        }
        assert_eq!(client("unix", "a Unix socket", &[b"1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("unix", "a Unix socket", &[b"unknown"]), "nobody");
        assert_eq!(client(trusted, "a Unix socket", &[b"1.1.1.1"]), "nobody");
    }

    #[test]
    fn elements_of_forwarded_are_read_from_the_end_too() {
        let trusted = "10.0.0.0/8";
        for (named, expected) in [
            (&[&b"for=1.1.1.1"[..]][..], "1.1.1.1"),
            (
                &[b"For=\"1.1.1.1:4711\";proto=https;by=10.0.0.9"],
                "1.1.1.1",
            ),
            (&[b"proto=https; for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (&[b"for=9.9.9.9, for=1.1.1.1, for=10.0.0.1"], "1.1.1.1"),
            (
                &[b"for=9.9.9.9", b"for=1.1.1.1;host=\"a,b\"", b"for=10.0.0.1"],
                "1.1.1.1",
            ),
            (&[b"for=\"1.1.1.1:_port\""], "1.1.1.1"),
            (&[b"for=unknown"], "10.1.2.3"),
            (&[b"for=_hidden"], "10.1.2.3"),
            (&[b"1.1.1.1"], "10.1.2.3"),
            (&[b"for=1.1.1.1;for=2.2.2.2"], "10.1.2.3"),
            (&[b"proto=https"], "10.1.2.3"),
            // A client's open quote.
            (&[b"for=\"9.9.9.9, for=1.1.1.1"], "1.1.1.1"),
            (&[b"for=\"9, for=\"[2001:db8::1]\""], "2001:db8::1"),
        ] {
            let seen = client_in(HopForm::Forwarded, trusted, "10.1.2.3", named);
            assert_eq!(seen, expected, "{named:?}");
        }
    }

    #[test]
    fn blocks_end_where_they_say() {
        let has = |block: &str, address: &str| {
            let proxies = TrustedProxies::parse([block].into_iter()).unwrap();
            proxies.trusts(Some(address.parse().unwrap()))
        };
        assert!(has("10.0.0.0/8", "10.255.255.255"));
        assert!(!has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("0.0.0.0/0", "203.0.113.9") && !has("0.0.0.0/0", "::1"));
        assert!(has("2001:db8::/33", "2001:db8:7fff::1"));
        assert!(!has("2001:db8::/33", "2001:db8:8000::1"));
        // IPv4 as sockets of IPv6 have it, on both sides.
        assert!(has("::ffff:10.0.0.1", "10.0.0.1") && has("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(has("::ffff:10.0.0.0/104", "10.255.0.1"));
        assert!(!has("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(has("::ffff:0:0/96", "192.0.2.1") && !has("::ffff:0:0/96", "2001:db8::1"));
        assert!(has("10.0.0.1", "10.0.0.1") && !has("10.0.0.1", "10.0.0.0"));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0/8",
            "localhost",
            "/8",
            "010.0.0.0/8",
        ] {
            let proxies = TrustedProxies::parse([bad].into_iter());
            assert!(proxies.is_err(), "{bad}");
        }
    }
}
