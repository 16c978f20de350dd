//! In which header proxies name their client, and how such a header is read.
//!
//! Only one header counts. A proxy sets one, or appends to it, and passes on all others as its
//! client sent them: two would let any client choose its address.

use std::net::{IpAddr, Ipv6Addr};

/// `PUSH_ADDRESS_HEADER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressHeader {
    /// In small letters.
    name: String,
}

/// How a header lists the hops of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HopForm {
    /// Addresses, comma-separated; also a single one.
    List,
    /// Elements with `for=` (RFC 7239).
    Forwarded,
}

impl AddressHeader {
    /// Reads a name.
    ///
    /// # Errors
    /// When no header can have this name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // RFC 9110, 5.6.2.
        let is_of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_of_token) {
            return Err(format!(
                "has {text:?}: must be the name of a header, such as X-Forwarded-For"
            ));
        }
        let name = text.to_ascii_lowercase();
        Ok(Self { name })
    }

    /// In small letters.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is read.
    #[must_use]
    pub fn form(&self) -> HopForm {
        match self.name.as_str() {
            "forwarded" => HopForm::Forwarded,
            _ => HopForm::List,
        }
    }
}

impl HopForm {
    /// The hops in a header, the last one first: those who wrote it last are known best. None
    /// where no address can be read.
    pub(super) fn hops<'a>(self, value: &'a [u8]) -> impl Iterator<Item = Option<IpAddr>> + 'a {
        Hops {
            left: Some(value),
            form: self,
        }
    }

    fn address(self, hop: &[u8]) -> Option<IpAddr> {
        let hop = std::str::from_utf8(hop).ok()?.trim();
        match self {
            Self::List => address(hop),
            Self::Forwarded => address(for_node(hop)?),
        }
    }
}

/// The elements of a list from its end.
struct Hops<'a> {
    left: Option<&'a [u8]>,
    form: HopForm,
}

impl Iterator for Hops<'_> {
    type Item = Option<IpAddr>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left?;
        // From the end: a quote that a client left open must not hide what its proxy wrote.
        let mut is_quoted = false;
        let comma = left.iter().rposition(|byte| {
            is_quoted ^= *byte == b'"';
            *byte == b',' && !is_quoted
        });
        let (rest, hop) = match comma {
            Some(at) => (Some(&left[..at]), &left[at + 1..]),
            None => (None, left),
        };
        self.left = rest;
        Some(self.form.address(hop))
    }
}

/// The value of `for` in an element of `Forwarded`.
fn for_node(element: &str) -> Option<&str> {
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    let node = nodes.next()?;
    // Two are not allowed, and which would count?
    nodes.next().is_none().then_some(node)
}

/// An address as proxies write it: also with a port, in brackets, in quotes, with a zone.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let hop = match hop.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => hop,
    };
    let address = match hop.strip_prefix('[') {
        Some(rest) => {
            let (inside, port) = rest.split_once(']')?;
            if !port.is_empty() {
                port.strip_prefix(':').filter(|port| is_port(port))?;
            }
            IpAddr::V6(without_zone(inside).parse::<Ipv6Addr>().ok()?)
        }
        None => match without_zone(hop).parse() {
            Ok(address) => address,
            // Azure and IIS write even IPv6 so, in full.
            Err(_) => {
                let (host, port) = hop.rsplit_once(':')?;
                is_port(port).then(|| host.parse().ok())??
            }
        },
    };
    Some(address.to_canonical())
}

/// A number, or a name in its place (RFC 7239, 6).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty(),
        None => text.parse::<u16>().is_ok(),
    }
}

/// A zone (`%eth0`) means something on the machine that wrote it only.
fn without_zone(text: &str) -> &str {
    text.split_once('%').map_or(text, |(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_a_name() {
        let form = |text: &str| AddressHeader::parse(text).unwrap().form();
        assert_eq!(form("X-Forwarded-For"), HopForm::List);
        assert_eq!(form("cf-connecting-ip"), HopForm::List);
        assert_eq!(form("Forwarded"), HopForm::Forwarded);
        for bad in ["", "a b", "a:", "x\u{e9}", &"x".repeat(65)] {
            assert!(AddressHeader::parse(bad).is_err(), "{bad}");
        }
    }
}
