//! The stream of events, `pn:events`: changes of nodes and of connections.

use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use fred::prelude::{ClientLike, StreamsInterface};
use fred::types::Value;
use fred::types::streams::{XCapKind, XCapTrim};
use tokio::time::Instant;

use crate::backplane::redis::Keys;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::local::hub::Hub;

/// The time between two checks whether Redis is available.
const RETRY: Duration = Duration::from_millis(100);
/// The time between two checks whether all is written.
const SETTLE_STEP: Duration = Duration::from_millis(10);

/// Appends to the stream. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct EventLog {
    servers: Servers,
    key: Arc<str>,
    /// Approximately how many events Redis keeps.
    length: i64,
}

impl EventLog {
    pub(crate) fn new(servers: Servers, keys: &Keys, length: i64) -> Self {
        let key = keys.events().into();
        Self {
            servers,
            key,
            length,
        }
    }

    pub(crate) async fn append(&self, event: &str) -> Result<(), Error> {
        let mut words = vec!["MAXLEN".to_owned(), "~".to_owned(), self.length.to_string()];
        words.extend(["*", "event", event].map(str::to_owned));
        self.servers.call("XADD", &self.key, &words).await.map(drop)
    }

    /// Writes the hub's events until the node ends.
    pub(crate) async fn write(self, hub: Arc<Hub>) {
        loop {
            let events = hub.events().take().await;
            // Events that fred would hold until it has a connection would only fill its memory.
            while !self.servers.at(&self.key).is_connected() {
                tokio::time::sleep(RETRY).await;
            }
            let failed = self.append_all(&events).await;
            hub.events().written(events.len(), failed);
        }
    }

    /// Appends many in one pipeline; returns how many are not known to be written.
    async fn append_all(&self, events: &[String]) -> usize {
        let pipeline = self.servers.at(&self.key).pipeline();
        for event in events {
            let cap = (XCapKind::MaxLen, XCapTrim::AlmostExact, self.length);
            let entry = vec![("event", event.as_str())];
            // Queued in memory only; the answers come with `try_all`.
            let queued: Result<(), Error> = pipeline.xadd(&*self.key, false, cap, "*", entry).await;
            if queued.is_err() {
                return events.len();
            }
        }
        let mut failed = 0;
        for (event, answer) in events.iter().zip(pipeline.try_all::<Value>().await) {
            let Err(error) = answer else { continue };
            self.servers.note(&error);
            // The stream may be moving to another server, which `append` follows.
            if !error.is_cluster() || self.append(event).await.is_err() {
                tracing::debug!(error = %redacted(&error), "event dropped");
                failed += 1;
            }
        }
        failed
    }

    /// Waits until every event is written, for `patience` at most.
    pub(crate) async fn settle(hub: &Hub, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !hub.events().is_settled() && Instant::now() < deadline {
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }
}
