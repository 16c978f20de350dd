//! Whose word counts for a client's address: proxies that stand between clients and nodes.
//!
//! `X-Forwarded-For` can be written by any client. Each proxy appends whom it heard from, so the
//! list is read from its end, and only as far as those who wrote it are trusted; the first address
//! that is not a trusted proxy's is the client's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

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

    /// The client's address, by the word of the proxy that this request comes from: `forwarded`
    /// is what each `X-Forwarded-For` header says, in the order of the request. Where a trusted
    /// proxy names no address that can be read, its own counts.
    #[must_use]
    pub fn client<'a>(
        &self,
        proxy: Option<IpAddr>,
        forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let mut client = proxy;
        let hops = |value: &'a [u8]| value.rsplit(|byte| *byte == b',');
        for hop in forwarded.rev().flat_map(hops) {
            if !self.trusts(client) {
                return client;
            }
            match std::str::from_utf8(hop).ok().and_then(address) {
                Some(address) => client = Some(address),
                // The hops before it were written by an unknown sender.
                None => return client,
            }
        }
        client
    }
}

/// Not by the parser of `ipnet`: it reads 010.0.0.0 as 10.0.0.0, where other programs read octal.
fn block(text: &str) -> Option<IpNet> {
    match text.split_once('/') {
        Some((first, bits)) => IpNet::new(first.parse().ok()?, bits.parse().ok()?).ok(),
        None => text.parse().ok().map(IpAddr::into),
    }
}

/// Some proxies write the port as well.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop
        .parse()
        .or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| hop.trim_matches(['[', ']']).parse());
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&[u8]]) -> String {
        let proxies = TrustedProxies::parse(trusted.split(',')).unwrap();
        let peer = peer.parse().ok();
        match proxies.client(peer, forwarded.iter().copied()) {
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
