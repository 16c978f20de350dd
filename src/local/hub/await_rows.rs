//! Waiting for rows: nobody is told that something is known to the cluster before it is.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::local::hub::Hub;
use crate::local::shard::Command;
use crate::protocol::ids::Fd;

/// How long whoever is to be told that something is known to the cluster waits for its row.
pub(crate) const ROW_PATIENCE: Duration = Duration::from_secs(1);

/// Rows that are being written.
#[derive(Debug)]
pub struct Rows(SmallVec<[oneshot::Receiver<()>; 1]>);

impl Rows {
    /// Waits for all; answers whether they are written, and not given up. Goes on where it was if
    /// it is called again.
    pub async fn written(&mut self) -> bool {
        let mut all = true;
        while let Some(row) = self.0.last_mut() {
            all &= row.await.is_ok();
            self.0.pop();
        }
        all
    }

    pub(crate) fn extend(&mut self, rows: impl Iterator<Item = oneshot::Receiver<()>>) {
        self.0.extend(rows);
    }
}

impl From<oneshot::Receiver<()>> for Rows {
    fn from(row: oneshot::Receiver<()>) -> Self {
        Self(SmallVec::from_buf([row]))
    }
}

impl Hub {
    /// Waits for rows of a connection until the deadline; answers whether that was enough. If
    /// not, pushes pass the connection by until they are there, and only then can it be told what
    /// to fetch.
    pub async fn await_rows(self: &Arc<Self>, fd: Fd, rows: Rows, deadline: Instant) -> bool {
        self.await_rows_or(fd, rows, deadline, async {}).await
    }

    /// As [`Hub::await_rows`], with something to do when rows that are late have come.
    pub(crate) async fn await_rows_or(
        self: &Arc<Self>,
        fd: Fd,
        mut rows: Rows,
        deadline: Instant,
        when_late: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        let in_time = tokio::time::timeout_at(deadline, rows.written()).await;
        if in_time.is_err() {
            let hub = self.clone();
            tokio::spawn(async move {
                if rows.written().await {
                    hub.metrics.lost("late_row");
                    hub.tell(fd, Command::Missed { fd }).await;
                    when_late.await;
                }
            });
        }
        in_time.is_ok()
    }
}
