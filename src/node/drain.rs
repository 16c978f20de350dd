//! The end of a node: for a while it serves everybody and only says that it is leaving, so that
//! balancers stop sending. Then it closes its doors, its clients are sent away over the
//! drain window, what senders asked for is carried out, and its place in the cluster is given up.
//!
//! Clients reconnect to other nodes, so they are spread over the window: all at once would be a
//! connect storm there.

use std::time::Duration;

use tokio::time::Instant;

use crate::app::App;
use crate::backplane::nodes::Health;
use crate::protocol::close::CloseReason;

/// Beyond the drain window, the longest wait for the last clients to go, and for senders' requests
/// to be carried out.
const LAST_WAIT: Duration = Duration::from_secs(6);
/// The longest wait for Redis at the end.
const LEAVE: Duration = Duration::from_secs(5);
/// It takes as long to notice that Redis has gone.
const NOTICED: Duration = Duration::from_secs(3);
/// Beyond the drain window, what a node without Redis takes to end.
const SPARE: Duration = Duration::from_millis(800);
/// Between two rounds of closing connections.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// Sends the clients away. Without grace both times are 0 and the cluster is not told: the node
/// must not be in it.
pub(super) async fn drain(app: &App, gracefully: bool) {
    let (prestop, window) = match gracefully {
        true => (app.config.prestop(), app.config.drain_window()),
        false => (Duration::ZERO, Duration::ZERO),
    };
    let hub = &app.hub;
    tracing::info!(connections = hub.len(), ?prestop, ?window, "leaving");
    let began = Instant::now();
    let has_redis = || *app.backplane.health().borrow() == Health::Ready;
    let mut is_told = false;
    if prestop.is_zero() {
        app.closing.begin();
    }
    if gracefully {
        let patience = match has_redis() {
            true => window.max(SPARE / 2),
            // It may come back at this very moment.
            false => SPARE / 4,
        };
        let told = app.backplane.announce_draining(patience);
        (is_told, ()) = tokio::join!(told, tokio::time::sleep_until(began + prestop));
        app.closing.begin();
    }
    let began = began + prestop;
    let fds = hub.fds();
    let steps = (window.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
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
        let end = began + window + SPARE;
        // In a short window it is not noticed that Redis has gone.
        let patience = match has_redis() && (is_told || window >= NOTICED) {
            true => LEAVE,
            // Nothing can be removed there. The lease expires, and other nodes sweep the rows.
            false => end.saturating_duration_since(Instant::now()).max(SPARE / 8),
        };
        app.backplane.leave(patience).await;
    }
    tracing::info!(connections = hub.len(), "left");
}
