//! Publishing: one outbox for each channel, batched by availability.
//!
//! A single line leaves at once. While publishes are under way, the lines that arrive meanwhile
//! go together into the next one. Lines of one batch are a bundle and stay together: else Redis
//! could find no receiver for one line of a sender, and one for the next. Payloads of one outbox
//! are numbered from 1. If Redis gives no answer, the outcome is unknown: the payload is sent again
//! under the same number, and receivers drop a number they have had. Receivers detect a loss by the
//! next number; if no payload follows, a tail repeats the last number.
//!
//! A publisher can name any channel in its `reply`, and an outbox takes memory: for names that are
//! not in the table of nodes there is a bounded number, and one that finds no subscriber ends at
//! once.
//!
//! What must stay true: lines of one channel keep their order, each gets exactly one answer, and
//! no number is used twice.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use futures::stream::{FuturesOrdered, StreamExt};
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::backplane::answers::{Published, Unavailable};
use crate::backplane::redis::AWAY;
use crate::backplane::redis::bus::numbers::ChannelNumbers;
use crate::backplane::redis::keys::Keys;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::protocol;
use crate::protocol::ClusterKeys;
use crate::protocol::ids::NodeId;
use crate::telemetry::metrics::Metrics;

/// Maximum number of bundles queued in one outbox; further publishers wait.
pub(crate) const QUEUE: usize = 4_096;
/// A payload takes no further bundle once it has this many lines.
const LINES: usize = 64;
/// A payload takes no further bundle once it has this many bytes.
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
/// As [`IDLE`], for a name that is not in the table of nodes; and if no subscriber was there.
const IDLE_STRANGER: Duration = Duration::from_secs(2);
const IDLE_UNHEARD: Duration = Duration::from_millis(10);
/// Maximum number of open outboxes for such names; further publishers wait.
const STRANGERS: usize = 1_024;
/// Publishers to more such names than this.
const TOO_MANY: Unavailable = Unavailable("too many channels of unknown nodes");

struct OutboxLine {
    text: String,
    deadline: Instant,
    answer: oneshot::Sender<Result<u32, Unavailable>>,
}

impl OutboxLine {
    fn new(text: String, deadline: Instant) -> (Self, Published) {
        let (answer, published) = oneshot::channel();
        let line = Self {
            text,
            deadline,
            answer,
        };
        (line, Published(published))
    }
}

/// Lines that go in one payload.
type Bundle = SmallVec<[OutboxLine; 1]>;

struct Payload {
    text: Bytes,
    deadline: Instant,
    /// An attempt without an answer may have published it, or one that a replica passed on. Then an
    /// answer of 0 to another attempt does not prove that no receiver has it.
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
    lease: Arc<Lease>,
    keys: Keys,
    secrets: ClusterKeys,
    open: DashMap<String, mpsc::Sender<Bundle>>,
    /// Places for outboxes of names that are not in the table.
    strangers: Arc<Semaphore>,
    numbers: Mutex<ChannelNumbers>,
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
    pub(crate) fn new(
        servers: Servers,
        lease: Arc<Lease>,
        keys: Keys,
        secrets: ClusterKeys,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (open, numbers) = (DashMap::new(), Mutex::default());
        Self {
            shared: Arc::new(Shared {
                servers,
                lease,
                keys,
                secrets,
                open,
                strangers: Arc::new(Semaphore::new(STRANGERS)),
                numbers,
                unanswered: AtomicUsize::new(0),
                metrics,
            }),
        }
    }

    /// Puts a line into the outbox of a node, or of all; waits for room there.
    pub(crate) async fn publish(
        &self,
        node: Option<&NodeId>,
        text: String,
        deadline: Instant,
    ) -> Published {
        let (line, published) = OutboxLine::new(text, deadline);
        self.put(node, smallvec![line], deadline).await;
        published
    }

    /// As [`Outboxes::publish`], for lines that Redis takes all or none of, each with its deadline;
    /// answers in the same order.
    pub(crate) async fn publish_together(
        &self,
        node: &NodeId,
        lines: Vec<(String, Instant)>,
    ) -> Vec<Published> {
        let Some(last) = lines.iter().map(|(_, deadline)| *deadline).max() else {
            return Vec::new();
        };
        let (bundle, published) = lines
            .into_iter()
            .map(|(text, deadline)| OutboxLine::new(text, deadline))
            .unzip();
        self.put(Some(node), bundle, last).await;
        published
    }

    /// Puts a bundle into an outbox; waits for room there.
    async fn put(&self, node: Option<&NodeId>, bundle: Bundle, deadline: Instant) {
        let channel = match node {
            Some(node) => self.shared.keys.node_channel(node),
            None => self.shared.keys.global_channel(),
        };
        let open = self.shared.open.get(&channel).map(|open| open.clone());
        let outbox = match open {
            Some(outbox) => outbox,
            None if node.is_none_or(|node| self.shared.lease.knows(node)) => {
                self.shared.outbox(channel, node, None)
            }
            None => {
                let place = self.shared.strangers.clone().acquire_owned();
                match tokio::time::timeout_at(deadline, place).await {
                    Ok(Ok(place)) => self.shared.outbox(channel, node, Some(place)),
                    _ => {
                        for line in bundle {
                            // The send fails if the sender has stopped waiting.
                            let _ = line.answer.send(Err(TOO_MANY));
                        }
                        return;
                    }
                }
            }
        };
        // Counted once there is room, because a waiting publisher may be dropped. `reserve` fails
        // only when the runtime is ending; the dropped `answer` tells the publisher.
        if let Ok(place) = outbox.reserve().await {
            let lines = bundle.len();
            self.shared.unanswered.fetch_add(lines, Ordering::Relaxed);
            self.shared.metrics.lines.inc_by(lines as u64);
            place.send(bundle);
        }
    }

    /// How many lines have no answer yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.shared.unanswered.load(Ordering::Relaxed)
    }

    /// How many lines wait for an answer, and how many bundles are queued in the fullest outbox.
    pub(crate) fn load(&self) -> (usize, usize) {
        let waiting = |outbox: &mpsc::Sender<Bundle>| QUEUE - outbox.capacity();
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
    fn live_channels(&self) -> HashSet<String> {
        let nodes = self.lease.nodes();
        let channels = nodes
            .iter()
            .map(|record| self.keys.node_channel(&record.node));
        channels.chain([self.keys.global_channel()]).collect()
    }

    /// The header line of a payload, signed if there is a secret.
    fn header(&self, channel: &str, line: String) -> String {
        match self.secrets.is_empty() {
            true => line,
            false => self.secrets.signed(channel, "", &line),
        }
    }

    /// The outbox of a channel. `stranger`: a place for one whose name is not in the table.
    fn outbox(
        self: &Arc<Self>,
        channel: String,
        node: Option<&NodeId>,
        stranger: Option<OwnedSemaphorePermit>,
    ) -> mpsc::Sender<Bundle> {
        let entry = self.open.entry(channel.clone());
        let outbox = entry.or_insert_with(|| {
            let (outbox, lines) = mpsc::channel(QUEUE);
            let listener = node.cloned();
            tokio::spawn(self.clone().serve(channel, listener, lines, stranger));
            outbox
        });
        outbox.clone()
    }

    /// Serves one channel until it has had no work for a while.
    async fn serve(
        self: Arc<Self>,
        channel: String,
        listener: Option<NodeId>,
        mut bundles: mpsc::Receiver<Bundle>,
        stranger: Option<OwnedSemaphorePermit>,
    ) {
        let is_stranger = stranger.is_some();
        // The second: whether a number may have been received.
        let (mut number, mut is_used) = self.numbers().get(&channel, is_stranger);
        let mut waiting: VecDeque<Bundle> = VecDeque::new();
        let mut under_way = FuturesOrdered::new();
        let mut taken = Vec::with_capacity(LINES);
        // When a tail is due; `None` if no loss is possible since the last tail.
        let mut tail: Option<Instant> = None;
        loop {
            while under_way.len() < IN_FLIGHT && !waiting.is_empty() {
                number += 1;
                let payload = self.pack(&channel, number, &mut waiting);
                under_way.push_back(self.send(&channel, payload));
            }
            tokio::select! {
                biased;
                Some((payload, result)) = under_way.next(), if !under_way.is_empty() => {
                    // If the channel had no subscriber, the sender knows.
                    let mut heard = result.as_ref().is_ok_and(|receivers| *receivers > 0);
                    self.note_count(listener.as_ref(), &result);
                    if let Err(failed) = self.finish(payload, result) {
                        heard = true;
                        // Later payloads must wait, to keep the order.
                        let mut again = VecDeque::from([failed]);
                        while let Some((payload, result)) = under_way.next().await {
                            again.extend(self.finish(payload, result).err());
                        }
                        self.repeat(&channel, again).await;
                    }
                    is_used |= heard;
                    if heard || tail.is_some() {
                        tail = Some(Instant::now() + TAIL);
                    }
                }
                _ = bundles.recv_many(&mut taken, LINES), if waiting.len() < LINES => {
                    waiting.extend(taken.drain(..));
                }
                // Not while a payload is under way: receivers would take it for lost.
                () = tokio::time::sleep_until(tail.unwrap_or_else(Instant::now)),
                    if tail.is_some() && under_way.is_empty() && waiting.is_empty() =>
                {
                    tail = None;
                    tokio::spawn(self.clone().publish_tail(channel.clone(), number));
                }
                () = tokio::time::sleep(idle_time(is_stranger, is_used)), if under_way.is_empty() && waiting.is_empty() => {
                    // If no sender is held elsewhere, no line can be on its way to this task.
                    let is_idle = |outbox: &mpsc::Sender<Bundle>| outbox.strong_count() == 1 && bundles.is_empty();
                    let closed = self.open.remove_if(&channel, |channel, outbox| {
                        let idle = is_idle(outbox);
                        if idle && is_used {
                            let mut numbers = self.numbers();
                            numbers.prune(|| self.live_channels());
                            numbers.set(channel.clone(), number, is_stranger);
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

    fn numbers(&self) -> parking_lot::MutexGuard<'_, ChannelNumbers> {
        self.numbers.lock()
    }

    fn pack(&self, channel: &str, number: u64, waiting: &mut VecDeque<Bundle>) -> Payload {
        let mut text = self.header(channel, protocol::header_line(self.lease.node(), number));
        let header = text.len();
        let mut answers = Vec::with_capacity(waiting.len().min(LINES));
        let mut deadline = Instant::now();
        while answers.len() < LINES && (answers.is_empty() || text.len() < BYTES) {
            let Some(bundle) = waiting.pop_front() else {
                break;
            };
            for line in bundle {
                text.push('\n');
                if self.secrets.is_empty() || !protocol::is_command(&line.text) {
                    text.push_str(&line.text);
                } else {
                    let signed = self.secrets.signed(channel, &text[..header], &line.text);
                    text.push_str(&signed);
                }
                deadline = deadline.max(line.deadline);
                answers.push(line.answer);
            }
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
            Ok(0) if payload.doubtful || self.servers.may_deny_falsely() => {
                payload.doubtful = true;
                Err(payload)
            }
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

    /// What a count says of the node that the channel belongs to.
    fn note_count(&self, listener: Option<&NodeId>, result: &Result<u32, fred::error::Error>) {
        match (listener, result) {
            (Some(node), Ok(0)) => self.lease.note_unheard(node),
            (Some(node), Ok(_)) => self.lease.beliefs().note_heard(node),
            _ => {}
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
        let tail = protocol::tail_payload(self.lease.node(), number);
        let tail = Bytes::from(self.header(&channel, tail));
        for _ in 0..TAIL_ATTEMPTS {
            if self.servers.publish(&channel, tail.clone()).await.is_ok() {
                return;
            }
            tokio::time::sleep(TAIL).await;
        }
    }
}

/// How long an outbox stays open without work.
fn idle_time(is_stranger: bool, is_used: bool) -> Duration {
    match (is_stranger, is_used) {
        (false, _) => IDLE,
        (true, true) => IDLE_STRANGER,
        (true, false) => IDLE_UNHEARD,
    }
}
