//! Who gets a place: caps on clients per node and per address.
//!
//! A place is taken when a socket is accepted, before a byte of it is read, and given back when
//! its [`Permit`] is dropped, wherever the connection has gone by then.

use std::net::IpAddr;
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

/// The caps and what is taken of them.
#[derive(Debug)]
pub(crate) struct Admission {
    most: usize,
    most_per_address: u32,
    taken: AtomicUsize,
    addresses: DashMap<IpAddr, u32, ahash::RandomState>,
}

impl Admission {
    /// Caps; 0 for `most_per_address` means none.
    pub(crate) fn new(most: usize, most_per_address: u32) -> Self {
        Self {
            most,
            most_per_address,
            taken: AtomicUsize::new(0),
            addresses: DashMap::default(),
        }
    }

    /// Takes a place. Unix sockets have no address: only the cap of the node counts for them.
    ///
    /// # Errors
    /// Which cap is reached.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Refusal> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::NodeFull);
        }
        let address = address.filter(|_| self.most_per_address > 0);
        // From here on the drop of the permit gives back what was taken.
        let mut permit = Permit {
            admission: self.clone(),
            address: None,
            behind: None,
        };
        self.count(&mut permit, address)?;
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
        address: Option<IpAddr>,
    ) -> Result<Arc<Permit>, Refusal> {
        let mut permit = Permit {
            admission: self.clone(),
            address: None,
            behind: Some(behind.clone()),
        };
        self.count(&mut permit, address.filter(|_| self.most_per_address > 0))?;
        Ok(Arc::new(permit))
    }

    fn count(&self, permit: &mut Permit, address: Option<IpAddr>) -> Result<(), Refusal> {
        if let Some(address) = address {
            let mut count = self.addresses.entry(address).or_insert(0);
            if *count >= self.most_per_address {
                return Err(Refusal::AddressFull);
            }
            *count += 1;
            permit.address = Some(address);
        }
        Ok(())
    }
}

/// A place under the caps.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
    /// The proxy's, for a client of one: that has the place on the node.
    behind: Option<Arc<Permit>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.behind.is_none() {
            self.admission.taken.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(address) = self.address {
            self.admission
                .addresses
                .remove_if_mut(&address, |_, count| {
                    *count -= 1;
                    *count == 0
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let admission = Arc::new(Admission::new(3, 2));
        let (one, two): (IpAddr, IpAddr) =
            ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
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
        let clients = [one, one, two].map(|one| admission.admit_behind(&proxy, Some(one)));
        assert_eq!(
            admission.admit_behind(&proxy, Some(one)).unwrap_err(),
            Refusal::AddressFull
        );
        assert_eq!(admission.taken.load(Ordering::Relaxed), 1);
        drop((clients, proxy));
        assert!(admission.addresses.is_empty());
        assert_eq!(admission.taken.load(Ordering::Relaxed), 0);
    }
}
