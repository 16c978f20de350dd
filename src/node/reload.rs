//! What a running node reads again when it is told to (SIGHUP). All else needs a restart.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::app::App;

/// Reads it for each order, until the process gives no more.
pub(super) async fn serve(app: Arc<App>, mut orders: mpsc::Receiver<()>) {
    while orders.recv().await.is_some() {
        app.authenticator.reload();
    }
}
