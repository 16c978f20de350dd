//! The stream of events, `pn:events`: changes of nodes and of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::error::Error;
use fred::prelude::{ClientLike, MemoryInterface, StreamsInterface};
use fred::types::Value;
use fred::types::streams::{XCapKind, XCapTrim};
use tokio::time::Instant;

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::{Keys, RedisSettings};
use crate::local::hub::Hub;

/// The time between two checks whether Redis is available.
const RETRY: Duration = Duration::from_millis(100);
/// The time between two checks whether all is written.
const SETTLE_STEP: Duration = Duration::from_millis(10);

/// The part of the bytes after which they are measured again.
const MEASURED: u64 = 16;

/// Appends to the stream. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct EventLog {
    servers: Servers,
    key: Arc<str>,
    /// Approximately how many events Redis keeps.
    length: i64,
    /// And how many bytes.
    bytes: u64,
    /// Bytes appended since the stream was last measured.
    appended: Arc<AtomicU64>,
}

impl EventLog {
    pub(crate) fn new(servers: Servers, keys: &Keys, settings: &RedisSettings) -> Self {
        let key = keys.events().into();
        Self {
            servers,
            key,
            length: settings.events_length,
            bytes: settings.events_bytes,
            appended: Arc::default(),
        }
    }

    pub(crate) async fn append(&self, event: &str) -> Result<(), Error> {
        let mut words = vec!["MAXLEN".to_owned(), "~".to_owned(), self.length.to_string()];
        words.extend(["*", "event", event].map(str::to_owned));
        self.servers.call("XADD", &self.key, &words).await?;
        self.bound(event.len()).await;
        Ok(())
    }

    /// Keeps the stream within its bytes. Measured once a sixteenth of them was appended, so that
    /// it exceeds them by no more than that, for each node.
    async fn bound(&self, appended: usize) {
        let before = self.appended.fetch_add(appended as u64, Ordering::Relaxed);
        if before + (appended as u64) < self.bytes / MEASURED {
            return;
        }
        self.appended.store(0, Ordering::Relaxed);
        let client = self.servers.at(&self.key);
        let bounded = async {
            let bytes: Option<u64> = client.memory_usage(&*self.key, None).await?;
            let bytes = bytes.unwrap_or(0);
            if bytes > self.bytes {
                let length: u64 = client.xlen(&*self.key).await?;
                let fit = (u128::from(length) * u128::from(self.bytes) / u128::from(bytes)).max(1);
                let fit = i64::try_from(fit).unwrap_or(i64::MAX);
                let _: u64 = client.xtrim(&*self.key, ("MAXLEN", "=", fit)).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = bounded.await {
            self.servers.note(&error);
            tracing::debug!(error = %redacted(&error), "the stream of events is not bounded");
        }
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
            self.bound(events.iter().map(String::len).sum()).await;
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
