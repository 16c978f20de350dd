//! Who gets a place: caps on clients per node and per address.
//!
//! A place is taken when a socket is accepted, before a byte of it is read, and given back when
//! its [`Permit`] is dropped, wherever the connection has gone by then.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `PUSH_MAX_CONNECTIONS` are here.
    NodeFull,
    /// `PUSH_MAX_CONNECTIONS_PER_ADDRESS` are here from this address.
    AddressFull,
}

impl Refusal {
    /// The `reason` label in metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::NodeFull => "node_full",
            Self::AddressFull => "address_full",
        }
    }
}

/// Whom `PUSH_MAX_CONNECTIONS_PER_ADDRESS` counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AddressKey {
    V4(Ipv4Addr),
    /// A /64: providers give one to each customer, who can use all of its addresses.
    V6([u16; 4]),
    /// All clients of Unix sockets that no proxy names an address for.
    Unix,
}

impl AddressKey {
    /// The source that this address counts for; none is a Unix socket.
    pub(crate) fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Unix,
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// The caps and what is taken of them.
#[derive(Debug)]
pub(crate) struct Admission {
    most: usize,
    most_per_address: u32,
    taken: AtomicUsize,
    sources: DashMap<AddressKey, u32, ahash::RandomState>,
}

impl Admission {
    /// Caps; 0 for `most_per_address` means none.
    pub(crate) fn new(most: usize, most_per_address: u32) -> Self {
        Self {
            most,
            most_per_address,
            taken: AtomicUsize::new(0),
            sources: DashMap::default(),
        }
    }

    /// Takes a place. Without a source, only the cap of the node counts.
    ///
    /// # Errors
    /// Which cap is reached.
    pub(crate) fn admit(self: &Arc<Self>, source: Option<AddressKey>) -> Result<Permit, Refusal> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::NodeFull);
        }
        // From here on the drop of the permit gives back what was taken.
        let mut permit = Permit {
            admission: self.clone(),
            beside: None,
        };
        if let Some(source) = source {
            self.count(&mut permit, source)?;
        }
        Ok(permit)
    }

    /// Takes a place for a client of a proxy, whose socket has the permit `behind`: only the cap
    /// for each address counts, of which the proxy takes nothing.
    ///
    /// # Errors
    /// When that cap is reached.
    pub(crate) fn admit_behind(
        self: &Arc<Self>,
        behind: &Arc<Permit>,
        source: AddressKey,
    ) -> Result<Arc<Permit>, Refusal> {
        let mut permit = Permit {
            admission: self.clone(),
            beside: Some(Beside::behind(behind.clone())),
        };
        self.count(&mut permit, source)?;
        Ok(Arc::new(permit))
    }

    fn count(&self, permit: &mut Permit, source: AddressKey) -> Result<(), Refusal> {
        if self.most_per_address > 0 {
            let mut count = self.sources.entry(source).or_insert(0);
            if *count >= self.most_per_address {
                return Err(Refusal::AddressFull);
            }
            *count += 1;
            permit.beside.get_or_insert_default().source = Some(source);
        }
        Ok(())
    }
}

/// A place under the caps.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    /// Most have only their place on the node.
    beside: Option<Box<Beside>>,
}

/// What else a permit may hold.
#[derive(Debug, Default)]
struct Beside {
    /// It counts for this source.
    source: Option<AddressKey>,
    /// Another one, which has the place on the node: a proxy's, for a client of it.
    behind: Option<Arc<Permit>>,
}

impl Beside {
    fn behind(other: Arc<Permit>) -> Box<Self> {
        Box::new(Self {
            source: None,
            behind: Some(other),
        })
    }
}

impl Permit {
    /// The permit without the allocation for sharing it. If others share it still, one behind it.
    pub(crate) fn unshared(shared: Arc<Self>) -> Self {
        Arc::try_unwrap(shared).unwrap_or_else(|shared| Self {
            admission: shared.admission.clone(),
            beside: Some(Beside::behind(shared)),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let beside = self.beside.as_ref();
        if beside.is_none_or(|beside| beside.behind.is_none()) {
            self.admission.taken.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(source) = beside.and_then(|beside| beside.source) {
            self.admission.sources.remove_if_mut(&source, |_, count| {
                *count -= 1;
                *count == 0
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> AddressKey {
        AddressKey::of(address.parse().ok())
    }

    #[test]
    fn an_address_counts_with_those_of_its_customer() {
        for (one, other, together) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("a Unix socket", "a Unix socket", true),
            ("a Unix socket", "192.0.2.1", false),
        ] {
            assert_eq!(source(one) == source(other), together, "{one} {other}");
        }
    }

    #[test]
    fn places_are_given_back() {
        let admission = Arc::new(Admission::new(3, 2));
        let (one, two) = (source("127.0.0.1"), source("127.0.0.2"));
        let first = admission.admit(Some(one)).unwrap();
        let second = admission.admit(Some(one)).unwrap();
        assert_eq!(
            admission.admit(Some(one)).unwrap_err(),
            Refusal::AddressFull
        );
        let third = admission.admit(Some(two)).unwrap();
        assert_eq!(admission.admit(None).unwrap_err(), Refusal::NodeFull);
        drop((first, second, third));
        let proxy = Arc::new(admission.admit(None).unwrap());
        let clients = [one, one, two].map(|one| admission.admit_behind(&proxy, one));
        assert_eq!(
            admission.admit_behind(&proxy, one).unwrap_err(),
            Refusal::AddressFull
        );
        assert_eq!(admission.taken.load(Ordering::Relaxed), 1);
        drop((clients, proxy));
        assert!(admission.sources.is_empty());
        assert_eq!(admission.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_place_is_given_back_once_whoever_shares_it() {
        let admission = Arc::new(Admission::new(2, 2));
        let source = source("127.0.0.1");
        let counts = || {
            let of_source = admission.sources.get(&source).map_or(0, |count| *count);
            (admission.taken.load(Ordering::Relaxed), of_source)
        };
        let shared = Arc::new(admission.admit(Some(source)).unwrap());
        let alone = Permit::unshared(Arc::new(admission.admit(Some(source)).unwrap()));
        let behind = Permit::unshared(shared.clone());
        assert_eq!(counts(), (2, 2));
        drop(alone);
        assert_eq!(counts(), (1, 1));
        drop(shared);
        assert_eq!(counts(), (1, 1), "the other still has it");
        drop(behind);
        assert_eq!(counts(), (0, 0));
    }
}
