//! Which slot of a shard a connection has, by its number.
//!
//! The table holds the slots alone, at five bytes each: the numbers are read from the connections
//! there. So each call hands in how to read one, and a slot is in the table only while its
//! connection is in its place.

use hashbrown::HashTable;

use crate::protocol::ids::Fd;

#[derive(Debug, Default)]
pub(crate) struct SlotIndex {
    slots: HashTable<u32>,
    hasher: ahash::RandomState,
}

impl SlotIndex {
    pub(crate) fn find(&self, fd: Fd, fd_at: impl Fn(usize) -> Fd) -> Option<usize> {
        let is_its = |slot: &u32| fd_at(*slot as usize) == fd;
        let slot = self.slots.find(self.hasher.hash_one(fd), is_its)?;
        Some(*slot as usize)
    }

    /// The connection is in this slot, which is not in the table.
    pub(crate) fn insert(&mut self, fd: Fd, slot: usize, fd_at: impl Fn(usize) -> Fd) {
        let (slots, hasher) = (&mut self.slots, &self.hasher);
        let hash = |slot: &u32| hasher.hash_one(fd_at(*slot as usize));
        let slot = u32::try_from(slot).expect("fewer sockets than that");
        slots.insert_unique(hasher.hash_one(fd), slot, hash);
    }

    /// The connection leaves this slot.
    pub(crate) fn remove(&mut self, fd: Fd, slot: usize) {
        let is_it = |one: &u32| *one as usize == slot;
        if let Ok(entry) = self.slots.find_entry(self.hasher.hash_one(fd), is_it) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_by_its_number_alone() {
        let mut index = SlotIndex::default();
        let mut here: Vec<Fd> = Vec::new();
        for number in 0..1_000_u64 {
            here.push(Fd(number * 7 + 1));
            let slot = here.len() - 1;
            index.insert(here[slot], slot, |slot| here[slot]);
        }
        assert_eq!(index.find(Fd(2), |slot| here[slot]), None);
        for slot in (0..1_000).step_by(2) {
            index.remove(here[slot], slot);
        }
        for (slot, fd) in here.iter().enumerate() {
            let found = index.find(*fd, |slot| here[slot]);
            assert_eq!(found, (slot % 2 == 1).then_some(slot), "{fd}");
        }
        // The slot is another's now.
        here[0] = Fd(9_999);
        index.insert(here[0], 0, |slot| here[slot]);
        assert_eq!(index.find(Fd(1), |slot| here[slot]), None);
        assert_eq!(index.find(Fd(9_999), |slot| here[slot]), Some(0));
    }
}
