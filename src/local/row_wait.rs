//! Rows of a connection that are being written to the registry, and waiting for them.
//!
//! What must stay true: a wait that was cancelled resumes, and a row that was given
//! up does not count as written.

use smallvec::SmallVec;
use tokio::sync::oneshot;

/// RowWait that are being written.
#[derive(Debug)]
pub(crate) struct RowWait(SmallVec<[oneshot::Receiver<()>; 1]>);

impl RowWait {
    /// Waits for all; answers whether they are written, and not given up. Resumes if
    /// it is called again.
    pub(crate) async fn written(&mut self) -> bool {
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

impl From<oneshot::Receiver<()>> for RowWait {
    fn from(row: oneshot::Receiver<()>) -> Self {
        Self(SmallVec::from_buf([row]))
    }
}
