//! Saves how far clients have read. Positions of one device that wait together are one write: of
//! all that a client acknowledges in a moment, only the last counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;

use crate::backplane::Backplane;
use crate::local::connection::bookmark::SavedBookmark;

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
        let mut latest = HashMap::new();
        for one in taken.drain(..) {
            latest.insert((one.user, one.device), one.position);
        }
        let latest: Vec<_> = latest.into_iter().collect();
        for part in latest.chunks(AT_ONCE) {
            let saves = part.iter().map(async |((user, device), position)| {
                let save = backplane.save_bookmark(user, device, *position);
                // Told of where Redis is looked after.
                let _ = tokio::time::timeout(PATIENCE, save).await;
            });
            join_all(saves).await;
        }
    }
}
