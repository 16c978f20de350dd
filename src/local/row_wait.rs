//! Rows of a connection that are being written to the registry, and waiting for them.
//!
//! What must stay true: a wait that was cancelled goes on where it was, and a row that was given
//! up does not count as written.

use smallvec::SmallVec;
use tokio::sync::oneshot;

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
