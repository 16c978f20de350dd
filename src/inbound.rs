//! What a node does with what it hears on its channels.
//!
//! One reader per node feeds this in order. It only decodes and moves: it never waits for a
//! client, never unwraps what came from outside, and a line that makes no sense is counted and
//! logged (what is wrong with it, not what it says) and disturbs nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hub::{Delivered, Hub};
use crate::metrics::Metrics;
use crate::names::{NodeId, Topic};
use crate::protocol::{self, Line, MAX_TIMEOUT, Receipt as Report, Reply, Status, Target};
use crate::receipt::{Receipt, Waiter};
use crate::replies::{Outbound, Replies};
use crate::respond::Respond;
use crate::shard::Command;
use crate::shutdown::Shutdown;
use crate::trace::Outcome;

/// Where a line was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// On this node's own channel.
    Own,
    /// On the channel of all nodes.
    Global,
}

/// How long a report may be on its way back.
const REPORT_MARGIN: Duration = Duration::from_millis(100);

/// Between two looks whether all receipts are out.
const REPORT_STEP: Duration = Duration::from_millis(10);

/// Clients are told of losses at most once in this time: in a flood each may bring thousands.
const TELL: Duration = Duration::from_millis(500);

/// Senders whose numbers are remembered.
const SENDERS: usize = 10_000;

/// The numbers heard of one sender, for each channel.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    own: Count,
    global: Count,
}

/// Where one sender is in its count on one channel.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    /// The highest number heard.
    last: Option<u64>,
    /// Which of the 64 numbers up to `last` were heard, itself in the lowest bit. A sender that
    /// lost its connection may be overtaken by itself: the payload that got no answer comes
    /// again behind the next ones, and is then late and not a repeat.
    heard: u64,
    /// The highest number that a tail told of. Apart from `last`: a payload that is late is not
    /// a repeat, although its number is known.
    told: Option<u64>,
}

/// What a number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// New.
    Next,
    /// Heard before.
    Repeat,
    /// New, and behind later ones.
    Late,
    /// So many before it were not heard.
    Jump(u64),
}

impl Count {
    /// Takes the number of a header. `from_1`: nobody can have sent anything before the first.
    fn take(&mut self, seq: u64, tail: bool, from_1: bool) -> Number {
        let before = match self.last.max(self.told) {
            None if from_1 => 0,
            None => seq.saturating_sub(u64::from(!tail)),
            Some(known) => known,
        };
        if tail {
            self.told = self.told.max(Some(seq));
            return if seq > before {
                Number::Jump(seq - before)
            } else {
                Number::Repeat
            };
        }
        if let Some(age) = self.last.and_then(|last| last.checked_sub(seq)) {
            let bit = u32::try_from(age)
                .ok()
                .and_then(|age| 1u64.checked_shl(age));
            return match bit {
                Some(bit) if self.heard & bit == 0 => {
                    self.heard |= bit;
                    Number::Late
                }
                _ => Number::Repeat,
            };
        }
        let step = self.last.map_or(u64::MAX, |last| seq - last);
        let kept = u32::try_from(step)
            .ok()
            .and_then(|step| self.heard.checked_shl(step));
        self.heard = kept.unwrap_or(0) | 1;
        self.last = Some(seq);
        match seq.saturating_sub(before) {
            0 => Number::Late,
            1 => Number::Next,
            step => Number::Jump(step - 1),
        }
    }
}

/// The reader's state.
#[derive(Debug)]
pub struct Inbound {
    hub: Arc<Hub>,
    replies: Arc<Replies>,
    outbound: Outbound,
    respond: Arc<Respond>,
    probes: Arc<Probes>,
    senders: HashMap<NodeId, Heard>,
    /// When the clients were last told of a loss.
    told: Option<Instant>,
    /// The sign of a loss they have not been told of.
    untold: Option<&'static str>,
    /// Held by each receipt on its way.
    reports: Arc<()>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
}

/// The last probe heard: whether the subscription works.
#[derive(Debug, Default)]
pub struct Probes {
    heard: AtomicU64,
    overruns: AtomicU64,
    /// The last one sent, and when.
    sent: Mutex<Option<(u64, Instant)>>,
    /// Woken by each one heard.
    news: Notify,
}

impl Probes {
    /// Notes that this one is sent now.
    pub fn note_sent(&self, n: u64) {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some((n, Instant::now()));
    }

    /// Notes that this one was heard. Answers how long it was on its way, if it is the last sent.
    pub fn note(&self, n: u64) -> Option<Duration> {
        self.heard.fetch_max(n, Ordering::Relaxed);
        self.news.notify_one();
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, at) = sent.filter(|(last, _)| *last == n)?;
        Some(at.elapsed())
    }

    /// Until one has been heard since the last call.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Notes that messages came faster than they were taken: a probe may be among the lost.
    pub fn note_overrun(&self) {
        self.overruns.fetch_add(1, Ordering::Relaxed);
    }

    /// The highest number heard so far.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// How often messages were lost because too many came.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }
}

impl Inbound {
    /// A reader for the node of this hub.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        replies: Arc<Replies>,
        outbound: Outbound,
        respond: Arc<Respond>,
        probes: Arc<Probes>,
        shutdown: Shutdown,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            replies,
            outbound,
            respond,
            probes,
            senders: HashMap::new(),
            told: None,
            untold: None,
            reports: Arc::default(),
            shutdown,
            metrics,
        }
    }

    /// Takes one payload: lines, of which the first may be a node's header.
    pub async fn hear(&mut self, channel: Channel, payload: &[u8]) {
        let mut lines = 0_u32;
        for line in payload.split(|byte| *byte == b'\n') {
            if line.trim_ascii().is_empty() || protocol::leaves_out(line, self.hub.node()) {
                continue;
            }
            match Line::parse(line) {
                // Our own push to everybody, which the router has delivered here itself.
                Ok(Line::Header { from, .. })
                    if channel == Channel::Global && from == *self.hub.node() =>
                {
                    return;
                }
                Ok(Line::Header { from, seq, tail }) => {
                    if !self.is_next(channel, from, seq, tail).await {
                        return;
                    }
                }
                Ok(line) => {
                    lines += 1;
                    self.act(channel, line).await;
                }
                Err(fault) => {
                    self.metrics.bad_envelopes.inc();
                    // Not the line itself: most of it may be a message.
                    let (fault, bytes) = (fault.unquoted(), line.len());
                    tracing::warn!(?channel, %fault, bytes, "bad envelope ignored");
                }
            }
        }
        if lines > 0 {
            self.metrics.heard_batch_size.observe(f64::from(lines));
        }
    }

    /// Checks a sender's count; answers whether what follows is new. A number heard before is a
    /// repeat of a payload whose sender got no answer; a jump means that payloads were lost on
    /// the way. A tail shows the loss of the last one.
    async fn is_next(&mut self, channel: Channel, from: NodeId, seq: u64, tail: bool) -> bool {
        if self.senders.len() >= SENDERS {
            // Boots of years, or somebody inventing names. Forgetting costs at most a false alarm.
            self.senders.clear();
        }
        let heard = self.senders.entry(from).or_default();
        let number = match channel {
            // Nobody can have published to this boot before it was there.
            Channel::Own => heard.own.take(seq, tail, true),
            Channel::Global => heard.global.take(seq, tail, false),
        };
        match number {
            Number::Jump(missed) => {
                self.metrics.payloads_missed.inc_by(missed);
                self.lost("sequence").await;
            }
            Number::Late => _ = self.metrics.payloads_late.inc(),
            Number::Repeat if !tail => _ = self.metrics.payloads_repeated.inc(),
            Number::Repeat | Number::Next => {}
        }
        !tail && number != Number::Repeat
    }

    /// Messages for this node may be lost: counts it and lets the clients know, now or, if they
    /// were told a moment ago, with the next [`Inbound::tell_of_losses`].
    pub async fn lost(&mut self, sign: &'static str) {
        self.metrics.lost(sign);
        self.hub.doubt();
        self.hub.trace().lost(sign);
        self.hub.topics().notices().lost();
        self.untold = Some(sign);
        self.tell_of_losses().await;
    }

    /// Tells the clients of losses that they have not been told of. To be called now and then.
    pub async fn tell_of_losses(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return;
        }
        if let Some(sign) = self.untold.take() {
            self.told = Some(Instant::now());
            tracing::warn!(
                sign,
                "messages may have been lost; clients are told to resync"
            );
            self.hub.tell_all(|| Command::Resync).await;
        }
    }

    /// Waits until the receipts owed so far are handed over, for the given time at most.
    pub async fn reported(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Arc::strong_count(&self.reports) > 1 && Instant::now() < deadline {
            tokio::time::sleep(REPORT_STEP).await;
        }
    }

    async fn act(&mut self, channel: Channel, line: Line) {
        match line {
            // Only the first line of a payload can be one; anything else was refused above.
            Line::Header { .. } => {}
            Line::Push(push, reply) => {
                self.metrics.envelopes.inc();
                let delivered = match reply {
                    None => self.hub.deliver(&push, None).await,
                    Some(reply) => {
                        let (receipt, waiter) = Receipt::new(reply.wait);
                        let delivered = self.hub.deliver(&push, Some(&receipt)).await;
                        drop(receipt);
                        self.report(&push.to, delivered, reply, waiter);
                        delivered
                    }
                };
                if channel == Channel::Own && delivered == Delivered::To(0) {
                    self.metrics.stale.inc();
                    let (trace, id) = (self.hub.trace(), push.message.id());
                    trace.arrived(&push.to, id, Outcome::Stale);
                }
            }
            Line::Look(to) => {
                self.metrics.envelopes.inc();
                self.metrics.looks.inc();
                self.hub.look(&to).await;
            }
            Line::Kick(to, reason, reply) => {
                let (receipt, waiter) = Receipt::new(protocol::Wait::Written);
                let kicked = self.hub.kick(&to, reason, Some(&receipt)).await;
                drop(receipt);
                if let Some(reply) = reply {
                    self.report(&to, Delivered::To(kicked), reply, waiter);
                }
            }
            Line::Subscribe(to, topic, reply) => self.enroll(&to, &topic, true, reply).await,
            Line::Unsubscribe(to, topic, reply) => self.enroll(&to, &topic, false, reply).await,
            Line::Revoke(session) => {
                self.hub.revoke(session).await;
            }
            Line::Drain => self.shutdown.begin(),
            Line::Probe(n) => {
                self.probes.note(n);
            }
            Line::Receipt(report) => {
                let claimed = self.replies.settle(report);
                self.metrics.receipts_unclaimed.inc_by(u64::from(!claimed));
            }
            Line::Ask(question, reply) => {
                self.respond.hear(question, reply, self.reports.clone());
            }
            Line::Answer(answer) => self.replies.settle_answer(answer),
            Line::Presence(line) => self.hub.topics().notices().hear(line),
        }
    }

    async fn enroll(&self, to: &Target, topic: &Topic, joins: bool, reply: Option<Reply>) {
        let (receipt, waiter) = Receipt::new(protocol::Wait::Written);
        let count = self.hub.enroll(to, topic, joins, Some(&receipt)).await;
        drop(receipt);
        if let Some(reply) = reply {
            self.report(to, Delivered::To(count), reply, waiter);
        }
    }

    /// Sends a receipt once it is known what became of the message; never waits for it here.
    fn report(&self, to: &Target, delivered: Delivered, reply: Reply, waiter: Waiter) {
        let node = self.hub.node().clone();
        let outbound = self.outbound.clone();
        let under_way = self.reports.clone();
        let metrics = self.metrics.clone();
        metrics.receipts_owed.inc();
        // Nobody here is no fault of a broadcast.
        let none = if *to == Target::All {
            Status::Written
        } else {
            Status::Stale
        };
        tokio::spawn(async move {
            let timeout = Duration::from_millis(reply.timeout_ms).min(MAX_TIMEOUT);
            // The report must be back before whoever asked gives up waiting for it.
            let timeout = timeout - REPORT_MARGIN.min(timeout / 4);
            let (status, connections) = match delivered {
                Delivered::Duplicate => (Status::Duplicate, 0),
                Delivered::To(0) => (none, 0),
                Delivered::To(count) => match waiter.settle(Instant::now() + timeout).await {
                    (Status::Routed, _) => (Status::Routed, count),
                    proven => proven,
                },
            };
            let report = Report {
                reference: reply.reference,
                node,
                status,
                connections,
            };
            outbound
                .send(&reply.node, protocol::receipt_line(&report))
                .await;
            metrics.receipts_owed.dec();
            drop(under_way);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes headers in order; a tail is a negative number.
    fn take(from_1: bool, numbers: &[i64]) -> Vec<Number> {
        let mut count = Count::default();
        numbers
            .iter()
            .map(|&n| count.take(n.unsigned_abs(), n < 0, from_1))
            .collect()
    }

    #[test]
    fn a_jump_is_a_loss_and_a_number_heard_before_a_repeat() {
        use Number::{Jump, Next, Repeat};
        assert_eq!(
            take(true, &[1, 2, 2, 4, 5]),
            [Next, Next, Repeat, Jump(1), Next]
        );
        assert_eq!(take(true, &[3]), [Jump(2)], "one and two were lost");
        assert_eq!(take(false, &[3, 4]), [Next, Next], "came in the middle");
    }

    #[test]
    fn a_payload_that_was_overtaken_is_late_and_not_a_repeat() {
        use Number::{Jump, Late, Next, Repeat};
        assert_eq!(
            take(true, &[1, 4, 2, 2, 3, 3, 4, 5]),
            [Next, Jump(2), Late, Repeat, Late, Repeat, Repeat, Next]
        );
        assert_eq!(take(true, &[1, 65, 2, 1]), [Next, Jump(63), Late, Repeat]);
        assert_eq!(
            take(true, &[1, 70, 2]),
            [Next, Jump(68), Repeat],
            "too late"
        );
    }

    #[test]
    fn a_tail_shows_the_loss_of_the_last_payload_once() {
        use Number::{Jump, Next, Repeat};
        assert_eq!(take(true, &[1, -1, 2]), [Next, Repeat, Next]);
        assert_eq!(take(true, &[1, -2, -2, 3]), [Next, Jump(1), Repeat, Next]);
        assert_eq!(take(true, &[-1]), [Jump(1)], "the only one was lost");
        assert_eq!(
            take(false, &[-7, 8]),
            [Repeat, Next],
            "sent before we listened"
        );
        assert_eq!(take(false, &[7, -8, 9]), [Next, Jump(1), Next]);
    }

    #[test]
    fn a_payload_behind_its_tail_is_late_and_not_a_repeat() {
        use Number::{Jump, Late, Next, Repeat};
        assert_eq!(
            take(true, &[1, -2, 2, 2, 3]),
            [Next, Jump(1), Late, Repeat, Next]
        );
        assert_eq!(take(false, &[-7, 7, 8]), [Repeat, Late, Next]);
    }

    #[test]
    fn no_number_is_too_great() {
        let mut count = Count::default();
        count.take(u64::MAX, true, true);
        assert_eq!(count.take(u64::MAX, false, true), Number::Late);
        assert_eq!(Count::default().take(0, false, false), Number::Late);
    }
}
