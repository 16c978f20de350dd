//! Waiting for rows: a client learns that the cluster knows something only after it does.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::local::hub::Hub;
use crate::local::row_wait::RowWait;
use crate::local::shard::command::Command;
use crate::protocol::ids::Fd;

/// How long a client waits for a row before it is told that the node is degraded.
pub(crate) const ROW_PATIENCE: Duration = Duration::from_secs(1);

impl Hub {
    /// Waits for rows of a connection until the deadline; answers whether that was enough. If
    /// not, pushes pass the connection by until they are there, and only then can it be told what
    /// to fetch.
    pub(crate) async fn await_rows(
        self: &Arc<Self>,
        fd: Fd,
        rows: RowWait,
        deadline: Instant,
    ) -> bool {
        self.await_rows_or(fd, rows, deadline, async {}).await
    }

    /// As [`Hub::await_rows`], with something to do when rows that are late have come.
    pub(crate) async fn await_rows_or(
        self: &Arc<Self>,
        fd: Fd,
        mut rows: RowWait,
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
