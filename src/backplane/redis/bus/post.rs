//! What goes out: lines, the payloads that they are packed into, and what an answer means for them.
//!
//! If Redis gives no answer, the outcome is unknown: the payload is sent again under the same
//! number, and receivers drop a number they have had. What must stay true: each line gets exactly
//! one answer.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::error::Error;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backplane::answers::{Published, Unavailable};
use crate::backplane::redis::AWAY;
use crate::backplane::redis::keys::Keys;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::wire::queue::Answers;
use crate::protocol;
use crate::protocol::ClusterKeys;
use crate::protocol::ids::NodeId;
use crate::telemetry::metrics::Metrics;

/// A payload takes no further bundle once it has this many lines.
const LINES: usize = 64;
/// A payload takes no further bundle once it has this many bytes.
const BYTES: usize = 32 * 1024;
/// The pause before a failed payload is sent again.
pub(super) const RETRY: Duration = Duration::from_millis(50);
/// A channel without a new payload for this long gets a tail.
pub(super) const TAIL: Duration = Duration::from_millis(500);
/// How many times a tail is tried. It may come late: receivers ignore one without news.
const TAIL_ATTEMPTS: u32 = 10;

type LineAnswer = oneshot::Sender<Result<u32, Unavailable>>;

pub(super) struct OutboxLine {
    text: String,
    pub(super) deadline: Instant,
    answer: LineAnswer,
    /// What is asked right before this is published.
    look_up: Option<LookUp>,
}

/// A row to be read, and who waits for it.
pub(super) struct LookUp {
    pub(super) key: String,
    pub(super) caller: oneshot::Sender<Answers>,
}

impl OutboxLine {
    pub(super) fn new(text: String, deadline: Instant) -> (Self, Published) {
        let (answer, published) = oneshot::channel();
        let line = Self {
            text,
            deadline,
            answer,
            look_up: None,
        };
        (line, Published(published))
    }

    /// Has a row read right before the line is published, by the same connection: so a connection
    /// that the row names was there before the line came to its node.
    pub(super) fn behind(self, look_up: LookUp) -> Self {
        Self {
            look_up: Some(look_up),
            ..self
        }
    }

    /// Whether a row is read first.
    pub(super) fn is_ahead(&self) -> bool {
        self.look_up.is_some()
    }

    /// It is not sent.
    pub(super) fn refuse(self, reason: Unavailable) {
        // The send fails if the sender has stopped waiting.
        let _ = self.answer.send(Err(reason));
    }
}

/// Lines that go in one payload.
pub(super) type Bundle = SmallVec<[OutboxLine; 1]>;

pub(super) struct Payload {
    pub(super) number: u64,
    pub(super) text: Bytes,
    deadline: Instant,
    /// An attempt without an answer may have published it, or one that a replica passed on. Then an
    /// answer of 0 to another attempt does not prove that no receiver has it.
    doubtful: bool,
    answers: SmallVec<[LineAnswer; 1]>,
}

/// What all channels share.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) servers: Servers,
    pub(super) lease: Arc<Lease>,
    pub(super) keys: Keys,
    pub(super) secrets: ClusterKeys,
    /// The number of lines without an answer yet.
    pub(super) unanswered: AtomicUsize,
    pub(super) metrics: Arc<Metrics>,
}

impl Post {
    /// The channels of the nodes in the table, and that of all.
    pub(super) fn live_channels(&self) -> HashSet<String> {
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

    /// Packs as many of these bundles as go together, at least one. What is to be looked up before
    /// goes to `look_ups`.
    pub(super) fn pack(
        &self,
        channel: &str,
        number: u64,
        waiting: &mut VecDeque<Bundle>,
        look_ups: &mut SmallVec<[LookUp; 1]>,
    ) -> Payload {
        let mut text = self.header(channel, protocol::header_line(self.lease.node(), number));
        let header = text.len();
        let mut answers = SmallVec::new();
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
                look_ups.extend(line.look_up);
            }
        }
        self.metrics.batch_size.observe(answers.len() as f64);
        Payload {
            number,
            text: text.into(),
            deadline,
            doubtful: false,
            answers,
        }
    }

    /// Sends failed payloads again, one after the other, until each has an answer or its
    /// deadline has passed.
    pub(super) async fn repeat(&self, channel: &str, failed: Vec<Payload>) {
        for mut payload in failed {
            loop {
                if Instant::now() + RETRY >= payload.deadline {
                    self.answer(payload, Err(AWAY));
                    break;
                }
                tokio::time::sleep(RETRY).await;
                self.metrics.publish_retries.inc();
                let result = self.servers.publish(channel, payload.text.clone()).await;
                match self.finish(payload, result) {
                    Ok(()) => break,
                    Err(back) => payload = back,
                }
            }
        }
    }

    /// Delivers the answer, or returns the payload if there is none.
    pub(super) fn finish(
        &self,
        mut payload: Payload,
        result: Result<u32, Error>,
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
    pub(super) fn note_count(&self, listener: Option<&NodeId>, result: &Result<u32, Error>) {
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

    /// Tells that these lines reached no node, because they were not sent, and that their rows were
    /// not read.
    pub(super) fn take_back(&self, bundles: impl Iterator<Item = Bundle>) {
        for line in bundles.flatten() {
            self.metrics.published("failed", 1);
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
            // The outcome first: it is asked for once the row is not known.
            let _ = line.answer.send(Ok(0));
        }
    }

    /// Gives up bundles that were never sent.
    pub(super) fn give_up(&self, bundles: impl Iterator<Item = Bundle>) {
        for line in bundles.flatten() {
            line.refuse(AWAY);
            self.metrics.published("failed", 1);
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Repeats the last number to the listeners. Overtaking, in either direction, does no harm:
    /// receivers ignore a lower number.
    pub(super) async fn publish_tail(self: Arc<Self>, channel: String, number: u64) {
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
