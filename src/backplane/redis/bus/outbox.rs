//! Publishing: one outbox for each channel, batched by availability.
//!
//! A single line leaves at once. While publishes are under way, the lines that arrive meanwhile
//! go together into the next one. Payloads of one outbox are numbered from 1. If Redis gives no
//! answer, the outcome is unknown: the payload is sent again under the same number, and receivers
//! drop a number they have had. Receivers detect a loss by the next number; if no payload
//! follows, a tail repeats the last number. What must stay true: lines of one channel keep their
//! order, and each gets exactly one answer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures::stream::{FuturesOrdered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::backplane::answers::{Published, Unavailable};
use crate::backplane::redis::AWAY;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::protocol;
use crate::protocol::ids::NodeId;
use crate::telemetry::metrics::Metrics;

/// Maximum number of lines queued in one outbox; further publishers wait.
pub(crate) const QUEUE: usize = 4_096;
/// Maximum number of lines in one payload.
const LINES: usize = 64;
/// A payload takes no further line once it has this many bytes.
const BYTES: usize = 32 * 1024;
/// Maximum number of publishes under way at once.
const IN_FLIGHT: usize = 8;
/// The pause before a failed payload is sent again.
const RETRY: Duration = Duration::from_millis(50);
/// An outbox without a new payload for this long sends a tail.
const TAIL: Duration = Duration::from_millis(500);
/// How many times a tail is tried. It may come late: receivers ignore one without news.
const TAIL_ATTEMPTS: u32 = 10;
/// The time between two checks whether every line is answered.
const SETTLE_STEP: Duration = Duration::from_millis(10);
/// An outbox without work ends after this time; the next line starts another.
const IDLE: Duration = Duration::from_secs(60);

struct OutboxLine {
    text: String,
    deadline: Instant,
    answer: oneshot::Sender<Result<u32, Unavailable>>,
}

struct Payload {
    text: Bytes,
    deadline: Instant,
    /// An attempt without an answer may have published it. Then an answer of 0 to another attempt
    /// does not prove that no receiver has it.
    doubtful: bool,
    answers: Vec<oneshot::Sender<Result<u32, Unavailable>>>,
}

#[derive(Debug)]
pub(crate) struct Outboxes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    servers: Servers,
    node: NodeId,
    open: DashMap<String, mpsc::Sender<OutboxLine>>,
    /// The last number used for a channel. Outlives the outbox: a number must not be used twice.
    numbers: Mutex<HashMap<String, u64>>,
    /// The number of lines without an answer yet.
    unanswered: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for OutboxLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboxLine")
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

impl Outboxes {
    pub(crate) fn new(servers: Servers, node: NodeId, metrics: Arc<Metrics>) -> Self {
        let (open, numbers) = (DashMap::new(), Mutex::default());
        Self {
            shared: Arc::new(Shared {
                servers,
                node,
                open,
                numbers,
                unanswered: AtomicUsize::new(0),
                metrics,
            }),
        }
    }

    /// Puts a line into its channel's outbox; waits for room there.
    pub(crate) async fn publish(
        &self,
        channel: String,
        text: String,
        deadline: Instant,
    ) -> Published {
        let (answer, published) = oneshot::channel();
        let outbox = self.shared.outbox(channel);
        // Counted once there is room, because a waiting publisher may be dropped. `reserve` fails
        // only when the runtime is ending; the dropped `answer` tells the publisher.
        if let Ok(place) = outbox.reserve().await {
            self.shared.unanswered.fetch_add(1, Ordering::Relaxed);
            self.shared.metrics.lines.inc();
            place.send(OutboxLine {
                text,
                deadline,
                answer,
            });
        }
        Published(published)
    }

    /// How many lines have no answer yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.shared.unanswered.load(Ordering::Relaxed)
    }

    /// How many lines wait for an answer, and how many are queued in the fullest outbox.
    pub(crate) fn load(&self) -> (usize, usize) {
        let waiting = |outbox: &mpsc::Sender<OutboxLine>| QUEUE - outbox.capacity();
        let fullest = self.shared.open.iter().map(|entry| waiting(entry.value()));
        (
            self.shared.unanswered.load(Ordering::Relaxed),
            fullest.max().unwrap_or(0),
        )
    }

    /// Waits until every line handed over is answered, for `patience` at most.
    pub(crate) async fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.shared.unanswered.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }
}

impl Shared {
    fn outbox(self: &Arc<Self>, channel: String) -> mpsc::Sender<OutboxLine> {
        if let Some(outbox) = self.open.get(&channel) {
            return outbox.clone();
        }
        let entry = self.open.entry(channel.clone());
        let outbox = entry.or_insert_with(|| {
            let (outbox, lines) = mpsc::channel(QUEUE);
            tokio::spawn(self.clone().serve(channel, lines));
            outbox
        });
        outbox.clone()
    }

    /// Serves one channel until it has had no work for a while.
    async fn serve(self: Arc<Self>, channel: String, mut lines: mpsc::Receiver<OutboxLine>) {
        let mut number = self.numbers().get(&channel).copied().unwrap_or(0);
        let mut waiting: VecDeque<OutboxLine> = VecDeque::new();
        let mut under_way = FuturesOrdered::new();
        let mut taken = Vec::with_capacity(LINES);
        // When a tail is due; `None` if no loss is possible since the last tail.
        let mut tail: Option<Instant> = None;
        loop {
            while under_way.len() < IN_FLIGHT && !waiting.is_empty() {
                number += 1;
                let payload = self.pack(number, &mut waiting);
                under_way.push_back(self.send(&channel, payload));
            }
            tokio::select! {
                biased;
                Some((payload, result)) = under_way.next(), if !under_way.is_empty() => {
                    // If the channel had no subscriber, the sender knows.
                    let mut heard = result.as_ref().is_ok_and(|receivers| *receivers > 0);
                    if let Err(failed) = self.finish(payload, result) {
                        heard = true;
                        // Later payloads must wait, to keep the order.
                        let mut again = VecDeque::from([failed]);
                        while let Some((payload, result)) = under_way.next().await {
                            again.extend(self.finish(payload, result).err());
                        }
                        self.repeat(&channel, again).await;
                    }
                    if heard || tail.is_some() {
                        tail = Some(Instant::now() + TAIL);
                    }
                }
                _ = lines.recv_many(&mut taken, LINES), if waiting.len() < LINES => {
                    waiting.extend(taken.drain(..));
                }
                // Not while a payload is under way: receivers would take it for lost.
                () = tokio::time::sleep_until(tail.unwrap_or_else(Instant::now)),
                    if tail.is_some() && under_way.is_empty() && waiting.is_empty() =>
                {
                    tail = None;
                    tokio::spawn(self.clone().publish_tail(channel.clone(), number));
                }
                () = tokio::time::sleep(IDLE), if under_way.is_empty() && waiting.is_empty() => {
                    // If no sender is held elsewhere, no line can be on its way to this task.
                    let is_idle = |outbox: &mpsc::Sender<OutboxLine>| outbox.strong_count() == 1 && lines.is_empty();
                    let closed = self.open.remove_if(&channel, |channel, outbox| {
                        let idle = is_idle(outbox);
                        if idle {
                            self.numbers().insert(channel.clone(), number);
                        }
                        idle
                    });
                    if closed.is_some() {
                        return;
                    }
                }
            }
        }
    }

    fn numbers(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pack(&self, number: u64, waiting: &mut VecDeque<OutboxLine>) -> Payload {
        let mut text = protocol::header_line(&self.node, number);
        let mut answers = Vec::with_capacity(waiting.len().min(LINES));
        let mut deadline = Instant::now();
        while answers.len() < LINES && (answers.is_empty() || text.len() < BYTES) {
            let Some(line) = waiting.pop_front() else {
                break;
            };
            if !answers.is_empty() {
                text.push('\n');
            }
            text.push_str(&line.text);
            deadline = deadline.max(line.deadline);
            answers.push(line.answer);
        }
        self.metrics.batch_size.observe(answers.len() as f64);
        Payload {
            text: text.into(),
            deadline,
            doubtful: false,
            answers,
        }
    }

    fn send(
        &self,
        channel: &str,
        payload: Payload,
    ) -> impl Future<Output = (Payload, Result<u32, fred::error::Error>)> + use<> {
        let (servers, channel) = (self.servers.clone(), channel.to_owned());
        async move {
            let result = servers.publish(&channel, payload.text.clone()).await;
            (payload, result)
        }
    }

    /// Sends failed payloads again, one after the other, until each has an answer or its
    /// deadline has passed.
    async fn repeat(&self, channel: &str, failed: VecDeque<Payload>) {
        for mut payload in failed {
            loop {
                if Instant::now() + RETRY >= payload.deadline {
                    self.answer(payload, Err(AWAY));
                    break;
                }
                tokio::time::sleep(RETRY).await;
                self.metrics.publish_retries.inc();
                let (back, result) = self.send(channel, payload).await;
                match self.finish(back, result) {
                    Ok(()) => break,
                    Err(back) => payload = back,
                }
            }
        }
    }
    /// Delivers the answer, or returns the payload if there is none.
    fn finish(
        &self,
        mut payload: Payload,
        result: Result<u32, fred::error::Error>,
    ) -> Result<(), Payload> {
        match result {
            Ok(0) if payload.doubtful => Err(payload),
            Ok(receivers) => {
                self.answer(payload, Ok(receivers));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(error = %redacted(&error), "publish failed");
                // A server that names another one has published nothing.
                payload.doubtful |= !error.is_cluster();
                Err(payload)
            }
        }
    }

    fn answer(&self, payload: Payload, result: Result<u32, Unavailable>) {
        let lines = payload.answers.len();
        let outcome = match result {
            Ok(0) => "nobody",
            Ok(_) => "taken",
            Err(_) => "failed",
        };
        self.metrics.published(outcome, lines as u64);
        for answer in payload.answers {
            // The send fails if the sender has stopped waiting.
            let _ = answer.send(result);
        }
        self.unanswered.fetch_sub(lines, Ordering::Relaxed);
    }

    /// Repeats the last number to the listeners. Overtaking, in either direction, does no harm:
    /// receivers ignore a lower number.
    async fn publish_tail(self: Arc<Self>, channel: String, number: u64) {
        let tail = Bytes::from(protocol::tail_payload(&self.node, number));
        for _ in 0..TAIL_ATTEMPTS {
            if self.servers.publish(&channel, tail.clone()).await.is_ok() {
                return;
            }
            tokio::time::sleep(TAIL).await;
        }
    }
}
