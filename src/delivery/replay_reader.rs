//! Reads inboxes and logs for connections that have not caught up.
//!
//! The number of concurrent reads is limited, so that ten thousand clients that catch up do not
//! block other work in Redis. Asks for the same page share one read, which begins after they
//! ask: a page read earlier might lack the messages they ask for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::backplane::Backplane;
use crate::local::hub::Hub;
use crate::local::replay::page::Page;
use crate::local::shard::command::Command;
use crate::local::shard::outlets::PageRequest;
use crate::protocol::ids::Subject;
use crate::protocol::position::Since;
use crate::telemetry::metrics::Metrics;

/// Maximum number of concurrent reads.
const AT_ONCE: usize = 64;
/// The pause between two attempts while the inbox cannot be read.
const RETRY: Duration = Duration::from_millis(250);

/// What is read. Requests for the same page share one read.
type PageKey = (Subject, Since);

/// Asks for a page that is being read; they wait for the next read of it.
type Waiting = HashMap<PageKey, Vec<PageRequest>, ahash::RandomState>;

/// The reader for all connections of a node.
#[derive(Debug)]
pub(crate) struct ReplayReader {
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    metrics: Arc<Metrics>,
    /// An entry for each read under way.
    waiting: Mutex<Waiting>,
    slots: Semaphore,
}

impl ReplayReader {
    pub(crate) fn new(hub: Arc<Hub>, backplane: Arc<Backplane>, metrics: Arc<Metrics>) -> Self {
        Self {
            hub,
            backplane,
            metrics,
            waiting: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
        }
    }

    /// Serves the shards' asks until all shards are gone. A connection has at most one open ask
    /// for each inbox or log.
    pub(crate) async fn serve(self, mut asks: mpsc::UnboundedReceiver<PageRequest>) {
        let reader = Arc::new(self);
        while let Some(request) = asks.recv().await {
            reader.metrics.inbox_asks.inc();
            let key = (request.subject.clone(), request.ask.since);
            if let Some(request) = reader.begin(&key, request) {
                tokio::spawn(reader.clone().read(key, vec![request]));
            }
        }
    }

    /// Returns the ask if no read of its page is under way; otherwise it waits for the next read.
    fn begin(&self, key: &PageKey, ask: PageRequest) -> Option<PageRequest> {
        let mut waiting = self.lock();
        match waiting.get_mut(key) {
            Some(those) => {
                those.push(ask);
                None
            }
            None => {
                waiting.insert(key.clone(), Vec::new());
                Some(ask)
            }
        }
    }

    /// Reads until no connection asks for this page any more.
    async fn read(self: Arc<Self>, key: PageKey, mut asks: Vec<PageRequest>) {
        while !asks.is_empty() {
            let page = self.read_once(&key, &asks).await;
            self.metrics.inbox_asks.dec_by(asks.len() as i64);
            if let Some(page) = page {
                for ask in asks {
                    self.tell(ask, &page).await;
                }
            }
            let mut waiting = self.lock();
            asks = waiting.remove(&key).unwrap_or_default();
            if !asks.is_empty() {
                waiting.insert(key.clone(), Vec::new());
            }
        }
    }

    /// Retries until the read succeeds or no asking connection is left.
    async fn read_once(
        &self,
        (subject, since): &PageKey,
        asks: &[PageRequest],
    ) -> Option<Arc<Page>> {
        self.metrics.catch_ups.inc();
        while asks.iter().any(|ask| self.hub.holds(ask.fd)) {
            // The semaphore is never closed.
            let slot = self.slots.acquire().await;
            let page = self.backplane.read_inbox(subject, *since).await;
            drop(slot);
            match page {
                Ok(page) => return Some(Arc::new(page)),
                Err(error) => {
                    tracing::debug!(?subject, %error, "inbox not read; retrying");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        None
    }

    async fn tell(&self, request: PageRequest, page: &Arc<Page>) {
        let PageRequest {
            fd,
            subject,
            ask,
            told,
        } = request;
        let mut page = page.clone();
        if let Some(told) = told {
            match told.send(page) {
                Ok(()) => return,
                Err(back) => page = back,
            }
        }
        if let Subject::User(user) = &subject {
            let (trace, messages) = (self.hub.trace(), page.messages.len() as u64);
            trace.caught_up(user, fd, messages, page.is_continuous);
        }
        let command = Command::Page {
            fd,
            subject,
            ask,
            page,
            tryout: None,
        };
        self.hub.tell(fd, command).await;
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}
