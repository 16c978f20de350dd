//! What becomes of connections, for the readers of `pn:events`.
//!
//! Told at once and written later, by one task of the backplane, as many together as are there. So
//! no connection waits for it; if Redis cannot keep up, or is away for long, events are dropped and
//! counted. Events of one connection keep their order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::EventKind;
use crate::protocol;
use crate::protocol::ids::{ConnectionId, Topic, UserId};
use crate::telemetry::metrics::Metrics;

/// Events that may wait to be written.
const QUEUE: usize = 16_384;
/// Most events taken at once.
const BATCH: usize = 256;

/// Events on their way to Redis.
#[derive(Debug)]
pub(crate) struct Events {
    wanted: Vec<EventKind>,
    waiting: Mutex<VecDeque<String>>,
    /// How many wait or are being written.
    open: AtomicUsize,
    notify: Notify,
    metrics: Arc<Metrics>,
}

impl Events {
    /// Tells events of these kinds and no others.
    pub(crate) fn new(wanted: Vec<EventKind>, metrics: Arc<Metrics>) -> Self {
        Self {
            wanted,
            waiting: Mutex::default(),
            open: AtomicUsize::new(0),
            notify: Notify::new(),
            metrics,
        }
    }

    /// Whether events of this kind are wanted.
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        self.wanted.contains(&kind)
    }

    /// A client is connected.
    pub(crate) fn connected(
        &self,
        id: &ConnectionId,
        user: &UserId,
        transport: &str,
        device: Option<&str>,
    ) {
        self.tell(EventKind::Connect, || {
            protocol::connect_event(id, user, transport, device)
        });
    }

    /// A connection has ended; `reason` is the label of its close, `code` what the client said.
    pub(crate) fn disconnected(
        &self,
        id: &ConnectionId,
        user: &UserId,
        transport: &str,
        device: Option<&str>,
        reason: &str,
        code: Option<u16>,
    ) {
        self.tell(EventKind::Disconnect, || {
            protocol::disconnect_event(id, user, transport, device, reason, code)
        });
    }

    /// A connection gets what is sent to a topic.
    pub(crate) fn subscribed(&self, id: &ConnectionId, user: &UserId, topic: &Topic) {
        self.tell(EventKind::Subscribe, || {
            protocol::topic_event("subscribe", id, user, topic)
        });
    }

    /// It does no more.
    pub(crate) fn unsubscribed(&self, id: &ConnectionId, user: &UserId, topic: &Topic) {
        self.tell(EventKind::Unsubscribe, || {
            protocol::topic_event("unsubscribe", id, user, topic)
        });
    }

    fn tell(&self, kind: EventKind, event: impl FnOnce() -> String) {
        if !self.wants(kind) {
            return;
        }
        let event = event();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= QUEUE {
            return self.dropped(1);
        }
        waiting.push_back(event);
        self.open.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
        self.notify.notify_one();
    }

    /// Waits until there is something to write, and takes it. The caller owes a
    /// [`Events::written`].
    pub(crate) async fn take(&self) -> Vec<String> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let count = waiting.len().min(BATCH);
                if count > 0 {
                    return waiting.drain(..count).collect();
                }
            }
            self.notify.notified().await;
        }
    }

    /// So many that were taken are written, but for those that were not.
    pub(crate) fn written(&self, taken: usize, failed: usize) {
        self.open.fetch_sub(taken, Ordering::Relaxed);
        self.dropped(failed);
    }

    /// How many wait to be taken, and how many may.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        (self.waiting.lock().len(), QUEUE)
    }

    /// Whether all that was told is written or dropped.
    pub(crate) fn is_settled(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    fn dropped(&self, events: usize) {
        self.metrics.events_dropped.inc_by(events as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(fd: u64) -> ConnectionId {
        format!("n.1/{fd}").parse().unwrap()
    }

    #[tokio::test]
    async fn what_is_not_wanted_costs_nothing_and_what_does_not_fit_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let events = Events::new(vec![EventKind::Connect], metrics.clone());
        let user: UserId = "42".parse().unwrap();
        events.disconnected(&id(1), &user, "ws", None, "gone", None);
        assert!(events.is_settled());
        for fd in 1..=QUEUE as u64 + 3 {
            events.connected(&id(fd), &user, "ws", None);
        }
        assert_eq!(metrics.events_dropped.get(), 3);
        let taken = events.take().await;
        assert_eq!(taken.len(), BATCH);
        assert!(taken[0].contains(r#""fd":1,"#), "{}", taken[0]);
        assert!(!events.is_settled());
        events.written(taken.len(), 1);
        assert_eq!(metrics.events_dropped.get(), 4);
    }
}
