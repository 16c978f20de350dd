//! Moves what a subscription delivers out of fred's buffer.

use std::sync::Arc;

use fred::types::Message;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::backplane::redis::bus::probes::Probes;
use crate::protocol;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Bytes of messages that may wait for the reader. Beyond that, fred's own buffer fills up, and
/// then messages are lost; that loss is detected.
pub(crate) const BACKLOG: usize = 16 * 1024 * 1024;
/// Bytes charged for each message in addition to its own.
const OVERHEAD: usize = 256;

/// What a subscription delivers.
pub(crate) enum Heard {
    /// A message; the permit is its share of the backlog.
    Message(Message, OwnedSemaphorePermit),
    /// This many messages are lost.
    Lagged(u64),
}

/// The state shared by the pumps of a node.
#[derive(Debug, Clone)]
pub(crate) struct Pump {
    /// The channel of this node.
    pub(crate) own: Arc<str>,
    /// How many further bytes may wait.
    pub(crate) backlog: Arc<Semaphore>,
    pub(crate) probes: Arc<Probes>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Pump {
    /// For a node of this channel.
    pub(crate) fn new(own: &str, metrics: &Arc<Metrics>) -> Self {
        Self {
            own: own.into(),
            backlog: Arc::new(Semaphore::new(BACKLOG)),
            probes: Arc::default(),
            metrics: metrics.clone(),
        }
    }

    /// Moves messages from fred's buffer, which overwrites messages that are not taken in time, to
    /// one that is bounded by bytes. Does nothing else, so that it keeps up however busy the
    /// reader is.
    ///
    /// The pump handles the probes itself: they measure whether the subscription works, and not
    /// the reader's delay. Under load, that delay would be mistaken for deafness.
    pub(crate) async fn run(
        self,
        mut messages: Receiver<Message>,
        heard: mpsc::UnboundedSender<Heard>,
        last: Shutdown,
    ) {
        loop {
            let next = tokio::select! {
                biased;
                next = messages.recv() => next,
                // Only when the buffer is empty.
                () = last.begun() => return,
            };
            let next = match next {
                Ok(message) => {
                    if let Some(n) =
                        protocol::as_probe(message.value.as_bytes().unwrap_or_default())
                    {
                        match self.probes.note(n) {
                            Some(lag) => self.metrics.bus_lag.observe(lag.as_secs_f64()),
                            // By which another node finds out whether this one listens.
                            None if n == 0 => {}
                            None => self.metrics.line_refused("probe"),
                        }
                        continue;
                    }
                    if *message.channel == *self.own {
                        self.probes.note_line();
                    }
                    let bytes = message.value.as_bytes().map_or(0, <[u8]>::len) + OVERHEAD;
                    let charge = bytes.min(BACKLOG) as u32;
                    // The semaphore is never closed.
                    let Ok(permit) = self.backlog.clone().acquire_many_owned(charge).await else {
                        return;
                    };
                    Heard::Message(message, permit)
                }
                Err(RecvError::Lagged(count)) => {
                    self.probes.note_overrun();
                    self.metrics.payloads_overrun.inc_by(count);
                    Heard::Lagged(count)
                }
                Err(RecvError::Closed) => return,
            };
            if heard.send(next).is_err() {
                return;
            }
        }
    }
}
