//! A shard: the one owner of a part of this node's sockets.
//!
//! No other task reads from them or writes to them, so there are no locks and no reordering.
//! Commands come through a bounded inbox. A shard takes what is there, puts frames into the
//! queues of their connections, then flushes each touched connection once: one frame is a
//! plain write, several are one `writev`. An idle shard writes at once; under load messages
//! coalesce by themselves. It never waits for a client: a socket that takes no more is left
//! until the kernel says that it does.
//!
//! Readiness comes from an epoll instance of its own (by mio), watched by the runtime as a
//! single file descriptor. That makes a connection a few hundred bytes of plain data, without
//! a task, a waker or a timer of its own.

pub(crate) mod socket;

pub(crate) mod uring;

pub(crate) mod socket_table;

pub(crate) mod slot_index;

pub(crate) mod command;

pub(crate) mod outlets;

pub(crate) mod members;

pub(crate) mod resync;

pub(crate) mod encoded;

pub(crate) mod gathered;

pub(crate) mod task;

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::local::budget::Holds;
use crate::local::connection::Settings;
use crate::local::shard::command::INBOX;
use crate::local::shard::command::ShardHandle;
use crate::local::shard::members::Members;
use crate::local::shard::outlets::ShardOutputs;
use crate::local::shard::task::ShardTask;
use crate::local::shard::uring::Ring;
use crate::local::topics::Topics;
use crate::protocol::ids::NodeId;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// Starts `count` shards. Each ends when the last handle to it is gone. `asks` gets what their
/// connections want to read of inboxes, `requests` what their clients ask of the node.
///
/// # Errors
/// When the kernel gives no epoll instance.
pub(crate) fn start(
    count: usize,
    node: &NodeId,
    topics: &Arc<Topics>,
    settings: &Arc<Settings>,
    outlets: &ShardOutputs,
    trace: &Arc<Trace>,
    metrics: &Arc<Metrics>,
) -> io::Result<Vec<ShardHandle>> {
    if settings.uring
        && let Err(error) = Ring::probe()
    {
        tracing::info!(%error, "no io_uring here: messages for many are written socket by socket");
    }
    (0..count)
        .map(|number| {
            let (sender, inbox) = mpsc::channel(INBOX);
            let shard = ShardTask::new(
                inbox,
                node.clone(),
                Members::new(topics.clone(), number),
                Holds::new(&settings.memory),
                settings.clone(),
                outlets.clone(),
                (trace.clone(), metrics.clone()),
            )?;
            let handle = ShardHandle::new(sender, shard.count.clone());
            tokio::spawn(shard.run());
            Ok(handle)
        })
        .collect()
}
