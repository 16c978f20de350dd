//! The map that every thread of the node reads and writes.
//!
//! What must stay true: code that holds an entry does not wait, and does not look into the same
//! map: an entry is a lock.

use dashmap::DashMap;

pub(crate) type Map<K, V> = DashMap<K, V, ahash::RandomState>;
