//! Where users were when their rows were last read: to which node a push is sent ahead, in the same
//! write as the look-up of its user.
//!
//! It decides nothing: the row does, as always. An entry that is out of date costs one line too
//! many, and so does one that two users share because their hashes are the same. Two generations,
//! so that users who get no pushes are forgotten, and the memory is bounded.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::backplane::rows::Locations;
use crate::protocol::ids::{Fd, NodeId, UserId};

/// Most users in one generation: some 40 bytes each, 4 MiB for both.
const CAPACITY: usize = 50_000;
/// Most nodes whose names are shared between entries.
const NAMES: usize = 1_024;

/// The node that a user is remembered on, and its oldest connection there.
pub(crate) type Seat = (NodeId, Fd);

#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    hasher: RandomState,
    generations: Mutex<SeatGenerations>,
}

#[derive(Debug, Default)]
struct SeatGenerations {
    young: HashMap<u64, Seat, RandomState>,
    old: HashMap<u64, Seat, RandomState>,
    /// The nodes in the entries, each name once.
    names: HashSet<NodeId, RandomState>,
}

impl Whereabouts {
    /// Where the user was last.
    pub(crate) fn last(&self, user: &UserId) -> Option<Seat> {
        let key = self.hasher.hash_one(user);
        let mut generations = self.generations.lock();
        if let Some(seat) = generations.young.get(&key) {
            return Some(seat.clone());
        }
        let seat = generations.old.remove(&key)?;
        generations.insert(key, seat.clone());
        Some(seat)
    }

    /// Remembers one of the nodes that the user's row names, or forgets the user if it names none.
    pub(crate) fn note(&self, user: &UserId, row: &Locations) {
        let key = self.hasher.hash_one(user);
        let mut generations = self.generations.lock();
        let Some(first) = row.first() else {
            generations.young.remove(&key);
            generations.old.remove(&key);
            return;
        };
        if let Some(seat) = generations.young.get_mut(&key) {
            let same = row.iter().find(|place| place.node == seat.0);
            if let Some(place) = same {
                seat.1 = place.oldest;
                return;
            }
        }
        let node = generations.shared(&first.node);
        generations.insert(key, (node, first.oldest));
    }
}

impl SeatGenerations {
    fn insert(&mut self, key: u64, seat: Seat) {
        if self.young.len() >= CAPACITY {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, seat);
    }

    /// The same name, in memory once.
    fn shared(&mut self, node: &NodeId) -> NodeId {
        if let Some(name) = self.names.get(node) {
            return name.clone();
        }
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        self.names.insert(node.clone());
        node.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::rows::RowPlace;

    fn row(nodes: &[(&str, u64)]) -> Locations {
        let place = |&(node, fd): &(&str, u64)| RowPlace {
            node: node.parse().expect("a node"),
            connections: 1,
            oldest: Fd(fd),
        };
        nodes.iter().map(place).collect()
    }

    #[test]
    fn a_user_is_where_its_row_said_last() {
        let whereabouts = Whereabouts::default();
        let user: UserId = "42".parse().expect("a user");
        let seat = |node: &str, fd| Some((node.parse().expect("a node"), Fd(fd)));
        assert_eq!(whereabouts.last(&user), None);
        whereabouts.note(&user, &row(&[("a.1", 7), ("b.1", 3)]));
        assert_eq!(whereabouts.last(&user), seat("a.1", 7));
        whereabouts.note(&user, &row(&[("b.1", 3), ("a.1", 9)]));
        assert_eq!(whereabouts.last(&user), seat("a.1", 9), "still there");
        whereabouts.note(&user, &row(&[("b.1", 3)]));
        assert_eq!(whereabouts.last(&user), seat("b.1", 3));
        whereabouts.note(&user, &row(&[]));
        assert_eq!(whereabouts.last(&user), None);
    }

    #[test]
    fn those_who_get_pushes_stay_and_the_number_is_bounded() {
        let whereabouts = Whereabouts::default();
        let user = |n: usize| -> UserId { n.to_string().parse().expect("a user") };
        let there = row(&[("a.1", 1)]);
        for n in 0..4 * CAPACITY {
            whereabouts.note(&user(n), &there);
            assert!(whereabouts.last(&user(0)).is_some(), "{n}");
        }
        let generations = whereabouts.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * CAPACITY);
        assert_eq!(generations.names.len(), 1);
    }
}
