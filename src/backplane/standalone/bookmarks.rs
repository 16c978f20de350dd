//! How far devices have read their users' inboxes, for a node without Redis: in memory, with the
//! bounds of those in Redis. What is too old goes by itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backplane::bookmarks::{MAX_DEVICES, newer, surplus, time_of};
use crate::protocol::ids::UserId;
use crate::protocol::position::Position;

/// Most users with positions. Beyond that the half goes that was not here for longest.
const MAX_USERS: usize = 100_000;
/// Positions outlive what they point at by this, as numbers do in Redis.
const MORE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Default)]
pub(crate) struct MemoryBookmarks(Mutex<HashMap<UserId, Devices, ahash::RandomState>>);

#[derive(Debug)]
struct Devices {
    positions: HashMap<String, Position>,
    /// When one of them was last saved.
    saved: Instant,
}

impl MemoryBookmarks {
    pub(crate) fn read(&self, user: &UserId, device: &str) -> Option<Position> {
        let users = self.0.lock();
        users.get(user)?.positions.get(device).copied()
    }

    pub(crate) fn save(&self, user: &UserId, device: &str, position: Position) {
        let mut users = self.0.lock();
        let saved = Instant::now();
        let devices = users.entry(user.clone()).or_insert_with(|| Devices {
            positions: HashMap::new(),
            saved,
        });
        devices.saved = saved;
        let stored = devices.positions.get(device).copied();
        let position = newer(stored, position);
        devices.positions.insert(device.to_owned(), position);
        if devices.positions.len() > MAX_DEVICES {
            let all = devices.positions.iter();
            let all = all.map(|(device, position)| (device.as_str(), time_of(position)));
            for device in surplus(all, device) {
                devices.positions.remove(&device);
            }
        }
        if users.len() > MAX_USERS {
            let mut times: Vec<Instant> = users.values().map(|devices| devices.saved).collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_USERS / 2);
            let middle = *middle;
            users.retain(|_, devices| devices.saved > middle);
        }
    }

    /// Drops what is too old for messages that are kept so long.
    pub(crate) fn sweep(&self, age: Duration) {
        let mut users = self.0.lock();
        users.retain(|_, devices| devices.saved.elapsed() < age + MORE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::position::EntryId;

    #[test]
    fn devices_are_bounded_and_those_that_read_last_stay() {
        let bookmarks = MemoryBookmarks::default();
        let user: UserId = "a".parse().unwrap();
        let at = |ms| Position {
            n: 1,
            entry: EntryId { ms, seq: 0 },
        };
        for ms in 1..=MAX_DEVICES as u64 {
            bookmarks.save(&user, &ms.to_string(), at(ms));
        }
        // Where nothing was kept yet, a position has no time: the newcomer stays all the same.
        bookmarks.save(&user, "new", at(0));
        assert_eq!(bookmarks.read(&user, "new"), Some(at(0)));
        assert_eq!(bookmarks.read(&user, "1"), None);
        bookmarks.save(&user, "2", at(1));
        assert_eq!(bookmarks.read(&user, "2"), Some(at(2)));
        bookmarks.sweep(Duration::from_secs(60));
        assert_eq!(bookmarks.read(&user, "2"), Some(at(2)));
    }
}
