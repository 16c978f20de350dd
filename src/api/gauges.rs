//! Gauges that are not kept up to date: what waits where, counted when an operator asks.
//!
//! Counting at that moment costs the hot path nothing. The numbers are real counts, not sums of
//! changes, so that the ledger (docs/operations.md) can be checked against them.

use std::time::Duration;

use crate::backplane::Backplane;
use crate::cluster::pending::Replies;
use crate::local::hub::Hub;
use crate::telemetry::log_writer;
use crate::telemetry::metrics::Metrics;

/// How long the shards may take to count. After that the gauges keep their last values.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sets all of them. `most` is how many bytes may wait for one client.
pub(super) async fn read(
    hub: &Hub,
    backplane: &Backplane,
    replies: &Replies,
    most: usize,
    metrics: &Metrics,
) {
    if let Ok(Some(load)) = tokio::time::timeout(PATIENCE, hub.load()).await {
        metrics.waiting_messages.set(load.messages as i64);
        metrics.waiting_bytes.set(load.bytes as i64);
        metrics.blocked_connections.set(load.blocked as i64);
        metrics.queue("client", load.fullest, most);
        metrics.queue("clients", load.held, load.may_hold);
        metrics.queue("memory", hub.memory().held(), load.may_hold);
    }
    let (commands, most) = hub.backlog();
    metrics.queue("shard", commands, most);
    let (events, most) = hub.events().backlog();
    metrics.queue("events", events, most);
    let (rows, lag) = hub.changes().waiting();
    metrics.registry_waiting.set(rows as i64);
    metrics.registry_lag.set(lag.as_secs_f64());
    metrics.receipts_awaited.set(replies.len() as i64);
    metrics
        .log_lines_dropped
        .inc_by(log_writer::newly_dropped());
    backplane.gauge(metrics);
}
