//! What is told of a connection to Redis: in the log, in `readyz`, in the metrics.
//!
//! A connection that is refused breaks first ("connection closed") and hears the cause only when it
//! is dialled again: another password, a certificate, too many clients. So each new kind of error
//! is logged, whatever came before, and the latest one with a cause is the node's reason. What must
//! stay true: a kind is logged once per break, a connect ends the break, and a connection that was
//! replaced tells nothing any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fred::error::Error;
use fred::prelude::{Client, EventInterface};
use parking_lot::Mutex;
use tokio::sync::{broadcast::error::RecvError, watch};
use tokio::task::JoinHandle;

use crate::backplane::redis::servers::errors::{Cause, cause, redacted};
use crate::telemetry::metrics::Metrics;

/// Which of a node's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Commands,
    /// For look-ups and publishing.
    Pushes,
    Subscription,
}

/// Why there is no connection, for each link.
#[derive(Debug, Default)]
pub(crate) struct LinkFaults {
    commands: Mutex<Option<&'static str>>,
    pushes: Mutex<Option<&'static str>>,
    subscription: Mutex<Option<&'static str>>,
    /// Which reasons are logged, and of which link: they mostly break together.
    told: Mutex<HashMap<&'static str, Link>>,
}

impl LinkFaults {
    fn of(&self, link: Link) -> &Mutex<Option<&'static str>> {
        match link {
            Link::Commands => &self.commands,
            Link::Pushes => &self.pushes,
            Link::Subscription => &self.subscription,
        }
    }

    /// Why the node has no connection, as far as that is known.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        let links = [&self.commands, &self.pushes, &self.subscription];
        links.into_iter().find_map(|link| *link.lock())
    }

    /// Notes an error; answers whether to log it.
    fn note(&self, link: Link, cause: Cause, is_over: &AtomicBool) -> bool {
        // A break in the connection says less than what was heard before it.
        let mut reason = self.of(link).lock();
        // Asked under the lock: what is noted before the end, the successor's `clear` removes.
        if is_over.load(Ordering::Acquire) {
            return false;
        }
        if cause.is_named || reason.is_none() {
            *reason = Some(cause.reason);
        }
        let mut told = self.told.lock();
        let is_new = !told.contains_key(cause.reason);
        if is_new {
            told.insert(cause.reason, link);
        }
        is_new
    }

    /// Notes that a link works.
    pub(crate) fn clear(&self, link: Link) {
        *self.of(link).lock() = None;
        self.told.lock().retain(|_, one| *one != link);
    }
}

/// What a link reports to.
#[derive(Debug, Clone)]
pub(crate) struct LinkWatch {
    pub(crate) faults: Arc<LinkFaults>,
    /// Counts connects: Redis may have forgotten this node.
    pub(crate) breaks: watch::Sender<u64>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A connection that is watched. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct WatchedLink {
    task: JoinHandle<()>,
    is_over: Arc<AtomicBool>,
}

impl WatchedLink {
    /// Nothing more is told of the connection. An abort alone may come too late: the task may be
    /// noting an error at this moment, which no connect would remove.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.task.abort();
    }
}

impl Drop for WatchedLink {
    fn drop(&mut self) {
        self.end();
    }
}

impl LinkWatch {
    /// Watches a client. `server` says where, for the log: empty, or ` at host:port`.
    pub(crate) fn start(self, link: Link, client: Client, server: String) -> WatchedLink {
        let is_over = Arc::<AtomicBool>::default();
        let task = tokio::spawn(self.watch(link, client, server, is_over.clone()));
        WatchedLink { task, is_over }
    }

    /// Notes why there is no connection.
    pub(crate) fn failed(&self, link: Link, error: &Error, server: &str, is_over: &AtomicBool) {
        let cause = cause(error);
        if self.faults.note(link, cause, is_over) {
            tracing::warn!(
                error = %redacted(error),
                "no connection to Redis{server}: {}; retrying", cause.reason
            );
        }
    }

    async fn watch(self, link: Link, client: Client, server: String, is_over: Arc<AtomicBool>) {
        let mut errors = client.error_rx();
        let mut connects = client.reconnect_rx();
        loop {
            tokio::select! {
                error = errors.recv() => match error {
                    Ok((error, _)) => self.failed(link, &error, &server, &is_over),
                    Err(RecvError::Closed) => return,
                    Err(_) => {}
                },
                connected = connects.recv() => match connected {
                    Ok(_) => {
                        self.faults.clear(link);
                        if link == Link::Commands {
                            self.metrics.redis_connects.inc();
                            tracing::info!("connected to Redis{server}");
                            self.breaks.send_modify(|count| *count += 1);
                        }
                    }
                    Err(RecvError::Closed) => return,
                    Err(_) => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_replaced_tells_nothing_any_more() {
        let faults = LinkFaults::default();
        let refused = Cause {
            reason: "Redis refuses connections",
            is_named: true,
        };
        let (old, new) = (AtomicBool::new(false), AtomicBool::new(false));
        assert!(faults.note(Link::Commands, refused, &old));
        assert_eq!(faults.reason(), Some(refused.reason));
        // The new one has connected, and the old one is dialled once more.
        old.store(true, Ordering::Release);
        faults.clear(Link::Commands);
        assert!(!faults.note(Link::Commands, refused, &old));
        assert_eq!(faults.reason(), None);
        assert!(faults.note(Link::Commands, refused, &new));
        assert_eq!(faults.reason(), Some(refused.reason));
    }
}
