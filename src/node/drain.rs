//! The end of a node: its clients are sent away over the drain window, what senders asked for is
//! carried out, then its place in the cluster is given up.
//!
//! Clients reconnect to other nodes, so they are spread over the window: all at once would be a
//! connect storm there.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::App;
use crate::protocol::close::CloseReason;

/// Beyond the drain window, the longest wait for the last clients to go, and for senders' requests
/// to be carried out.
const LAST_WAIT: Duration = Duration::from_secs(6);
/// Between two rounds of closing connections.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// Sends the clients away. Without grace the window is 0 and the cluster is not told: the node must
/// not be in it.
pub(super) async fn drain(app: &App, gracefully: bool) {
    let window = if gracefully {
        app.config.drain_seconds
    } else {
        Duration::ZERO
    };
    let hub = &app.hub;
    tracing::info!(connections = hub.len(), ?window, "leaving");
    if gracefully {
        app.backplane.announce_draining().await;
    }
    let fds = hub.fds();
    let steps = (window.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
    let began = Instant::now();
    for (step, part) in fds.chunks(fds.len().div_ceil(steps).max(1)).enumerate() {
        tokio::time::sleep_until(began + DRAIN_STEP * step as u32).await;
        for fd in part {
            hub.close(*fd, CloseReason::Drain, None).await;
        }
    }
    let last = Instant::now() + LAST_WAIT;
    loop {
        // Clients that came in during the drain, through a handshake that was under way.
        for fd in hub.fds() {
            hub.close(fd, CloseReason::Drain, None).await;
        }
        let is_done = hub.is_flushed() && app.under_way.count() == 0;
        if is_done || Instant::now() > last {
            break;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
    if gracefully {
        app.backplane.leave().await;
    }
    tracing::info!(connections = hub.len(), "left");
}
