//! What is told of a connection to Redis: in the log, in `readyz`, in the metrics.
//!
//! A connection that is refused breaks first ("connection closed") and hears the cause only when it
//! is dialled again: another password, a certificate, too many clients. So each new kind of error is
//! logged, whatever came before, and the latest one with a cause is the node's reason. What must
//! stay true: a kind is logged once per break, and a connect ends the break.

use std::collections::HashSet;
use std::sync::Arc;

use fred::prelude::{Client, EventInterface};
use parking_lot::Mutex;
use tokio::sync::{broadcast::error::RecvError, watch};

use crate::backplane::redis::servers::errors::{cause, redacted};
use crate::telemetry::metrics::Metrics;

/// Which of a node's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Commands,
    Subscription,
}

/// Why there is no connection, for each link.
#[derive(Debug, Default)]
pub(crate) struct LinkFaults {
    commands: Mutex<Option<&'static str>>,
    subscription: Mutex<Option<&'static str>>,
}

impl LinkFaults {
    fn of(&self, link: Link) -> &Mutex<Option<&'static str>> {
        match link {
            Link::Commands => &self.commands,
            Link::Subscription => &self.subscription,
        }
    }

    /// Why the node has no connection, as far as that is known.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        let commands = *self.commands.lock();
        commands.or_else(|| *self.subscription.lock())
    }

    fn set(&self, link: Link, reason: Option<&'static str>) {
        *self.of(link).lock() = reason;
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

impl LinkWatch {
    /// Watches a client until it ends. `server` says where, for the log: empty, or ` at host:port`.
    pub(crate) async fn watch(self, link: Link, client: Client, server: String) {
        let mut errors = client.error_rx();
        let mut connects = client.reconnect_rx();
        let mut told = HashSet::new();
        loop {
            tokio::select! {
                error = errors.recv() => match error {
                    Ok((error, _)) => {
                        let cause = cause(&error);
                        // A break in the connection says less than what was heard before it.
                        if cause.is_named || told.is_empty() {
                            self.faults.set(link, Some(cause.reason));
                        }
                        if told.insert(cause.reason) {
                            let what = match link {
                                Link::Commands => "connection",
                                Link::Subscription => "subscription",
                            };
                            tracing::warn!(
                                error = %redacted(&error),
                                "no {what} to Redis{server}: {}; retrying", cause.reason
                            );
                        }
                    }
                    Err(RecvError::Closed) => return,
                    Err(_) => {}
                },
                connected = connects.recv() => match connected {
                    Ok(_) => {
                        told.clear();
                        self.faults.set(link, None);
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
