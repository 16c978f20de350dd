//! Saves how far clients have read. Positions of one device that wait together are one write.
//!
//! What must stay true: of those, the one counts that has read most. Tabs share a device, and a
//! client that comes back begins at what was saved, while its last position still waits here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;

use crate::backplane::Backplane;
use crate::backplane::bookmarks::newer;
use crate::local::connection::bookmark::SavedBookmark;
use crate::protocol::ids::UserId;
use crate::protocol::position::Position;

/// Most positions that are taken together.
const BATCH: usize = 1_024;
/// Most concurrent writes.
const AT_ONCE: usize = 64;
/// A position that is not saved by then is given up: its client gets messages again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Serves the shards until all are gone.
pub(crate) async fn serve(backplane: Arc<Backplane>, mut waiting: mpsc::Receiver<SavedBookmark>) {
    let mut taken = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut taken, BATCH).await > 0 {
        let furthest: Vec<_> = furthest(taken.drain(..)).into_iter().collect();
        for part in furthest.chunks(AT_ONCE) {
            let saves = part.iter().map(async |((user, device), position)| {
                let save = backplane.save_bookmark(user, device, *position);
                // Told of where Redis is looked after.
                let _ = tokio::time::timeout(PATIENCE, save).await;
            });
            join_all(saves).await;
        }
    }
}

/// How far each device has read.
fn furthest(saved: impl Iterator<Item = SavedBookmark>) -> HashMap<(UserId, Arc<str>), Position> {
    let mut furthest = HashMap::new();
    for SavedBookmark {
        user,
        device,
        position,
    } in saved
    {
        let known = furthest.entry((user, device)).or_insert(position);
        *known = newer(Some(*known), position);
    }
    furthest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::position::EntryId;

    fn saved(device: &str, ms: u64) -> SavedBookmark {
        let entry = EntryId { ms, seq: 0 };
        SavedBookmark {
            user: "42".parse().unwrap(),
            device: device.into(),
            position: Position { n: 1, entry },
        }
    }

    #[test]
    fn what_a_device_has_read_is_not_taken_back_by_what_waits_behind_it() {
        let waiting = [saved("tab", 7), saved("phone", 3), saved("tab", 5)];
        let furthest = furthest(waiting.into_iter());
        let of = |device: &str| {
            furthest[&("42".parse().unwrap(), Arc::from(device))]
                .entry
                .ms
        };
        assert_eq!((of("tab"), of("phone")), (7, 3));
    }
}
