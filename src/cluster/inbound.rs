//! What a node does with lines received on its channels.
//!
//! One reader per node feeds this in order. It only decodes and dispatches. It never waits for a
//! client and never unwraps external input. A malformed line is counted and logged (its fault,
//! not its content) and disturbs nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backplane::feed::{Channel, FeedEvent};
use crate::backplane::{Backplane, Feed};
use crate::cluster::pending::Replies;
use crate::cluster::questions::Respond;
use crate::cluster::sequence::{Number, Numbers};
use crate::local::hub::Hub;
use crate::local::hub::deliver::Delivered;
use crate::local::receipt::{Receipt, Waiter};
use crate::local::shard::command::Command;
use crate::protocol;
use crate::protocol::ids::{NodeId, Topic};
use crate::protocol::{
    Announcement, ClusterKeys, DeliveryReport, InvalidInput, Line, MAX_TIMEOUT, Proof, Question,
    ReceiptRequest, Status, Target,
};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::{Throttle, ThrottleByKind};
use crate::telemetry::trace::TraceOutcome;

/// The time reserved for a receipt's way back.
const REPORT_MARGIN: Duration = Duration::from_millis(100);

/// When the node leaves, receipts for the last lines may take this long.
const REPORTS: Duration = Duration::from_secs(1);

/// The time between two checks whether all receipts are sent.
const REPORT_STEP: Duration = Duration::from_millis(10);

/// Receipts owed at a time. A further one reports at once what is proven by then.
const RECEIPTS: i64 = 100_000;

/// The minimum time between two loss notices to clients: in a flood, there are thousands of losses.
const TELL: Duration = Duration::from_millis(500);

/// An outage of Redis shows in several signs, which come within this time of each other. Clients
/// are told once, when the last one has come.
const SIGNS_APART: Duration = Duration::from_millis(1500);

/// But not later than this after the first one.
const LATEST: Duration = Duration::from_secs(2);

/// The minimum time between two entries in the log of one kind that publishers can cause.
const COMPLAINTS: Duration = Duration::from_secs(60);

/// Maximum number of senders whose numbers are remembered.
const SENDERS: usize = 10_000;

/// Messages for this node may be lost.
#[derive(Debug, Clone, Copy)]
struct Loss {
    sign: &'static str,
    first: Instant,
    /// When the last sign of it came, if it is one of an outage.
    last: Option<Instant>,
}

impl Loss {
    /// Whether further signs of it may come.
    fn is_unfolding(&self) -> bool {
        let is_recent = self.last.is_some_and(|last| last.elapsed() < SIGNS_APART);
        is_recent && self.first.elapsed() < LATEST
    }
}

/// The reader's state.
#[derive(Debug)]
pub(crate) struct Inbound {
    hub: Arc<Hub>,
    replies: Arc<Replies>,
    backplane: Arc<Backplane>,
    respond: Arc<Respond>,
    secrets: ClusterKeys,
    /// The names of the own channel and of that of all nodes.
    channels: [String; 2],
    senders: HashMap<NodeId, Numbers>,
    /// As `senders`, by headers that are not signed: they must not disturb those that are.
    unsigned: HashMap<NodeId, Numbers>,
    /// Which refused lines are logged.
    complaints: Throttle,
    /// Which bad envelopes are logged.
    bad_envelopes: Throttle,
    /// Which losses are logged, by their sign.
    losses: ThrottleByKind,
    /// When the clients were last told of a loss.
    told: Option<Instant>,
    /// A loss that the clients have not been told of.
    untold: Option<Loss>,
    /// Held by each receipt on its way.
    reports: Arc<()>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
}

impl Inbound {
    /// A reader for the node of this hub.
    pub(crate) fn new(
        hub: Arc<Hub>,
        replies: Arc<Replies>,
        backplane: Arc<Backplane>,
        respond: Arc<Respond>,
        secrets: ClusterKeys,
        shutdown: Shutdown,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            replies,
            secrets,
            channels: backplane.channels(),
            unsigned: HashMap::new(),
            complaints: Throttle::new(COMPLAINTS),
            bad_envelopes: Throttle::new(COMPLAINTS),
            losses: ThrottleByKind::new(COMPLAINTS),
            backplane,
            respond,
            senders: HashMap::new(),
            told: None,
            untold: None,
            reports: Arc::default(),
            shutdown,
            metrics,
        }
    }

    /// Processes the feed's events in order, until the node has left.
    pub(crate) async fn run(mut self, mut feed: Feed) {
        loop {
            match feed.next().await {
                FeedEvent::Payload(channel, payload) => self.hear(channel, &payload).await,
                FeedEvent::Lost(sign) => self.lost(sign).await,
                FeedEvent::Tick => self.tell_of_losses().await,
                FeedEvent::End => {
                    self.reported(REPORTS).await;
                    return feed.finish();
                }
            }
        }
    }

    /// Processes one payload: lines, of which the first may be a node's header. Without one that is
    /// believed it is a publisher's.
    async fn hear(&mut self, channel: Channel, payload: &[u8]) {
        let mut lines = 0_u32;
        let mut header: &[u8] = b"";
        let (mut is_first, mut is_late) = (true, false);
        for line in protocol::lines(payload) {
            if line.trim_ascii().is_empty() || protocol::leaves_out(line, self.hub.node()) {
                continue;
            }
            let is_first = std::mem::take(&mut is_first);
            let parsed = Line::parse(line);
            let mut is_signed = false;
            if let Ok(parsed) = &parsed
                && parsed.is_of_nodes()
            {
                match self.prove(channel, header, line) {
                    Ok(signed) => is_signed = signed,
                    Err(reason) => {
                        // It may have come since the table was read, and sign nothing.
                        if let Line::Header { from, .. }
                        | Line::Announcement(Announcement { from, .. }) = parsed
                        {
                            self.backplane.note_stranger(from);
                        }
                        self.refuse(channel, reason);
                        continue;
                    }
                }
            }
            match parsed {
                // Our own push to everybody; the router has delivered it here itself.
                Ok(Line::Header { from, .. } | Line::Announcement(Announcement { from, .. }))
                    if channel == Channel::Global && from == *self.hub.node() =>
                {
                    return;
                }
                Ok(Line::Header { .. } | Line::Announcement(..)) if !is_first => {
                    self.refuse(channel, "place");
                }
                Ok(Line::Announcement(said)) => {
                    self.backplane.note_announced(&said);
                    let _ = self.number(channel, said.from, (0, true), is_signed).await;
                    return;
                }
                Ok(Line::Header { from, seq, tail }) => {
                    match self.number(channel, from, (seq, tail), is_signed).await {
                        Some(number) if tail || number == Number::Repeat => return,
                        Some(number) => {
                            header = line;
                            is_late = number == Number::Late;
                        }
                        None => self.refuse(channel, "range"),
                    }
                }
                // On the channel of all nodes it would end all of them, and the nodes that start
                // later if it is repeated.
                Ok(Line::Drain | Line::Ask(Ok(Question::Drain), _))
                    if channel == Channel::Global =>
                {
                    self.refuse(channel, "place");
                }
                Ok(line) => {
                    lines += 1;
                    self.act(channel, line).await;
                }
                Err(fault) => self.ignore(channel, &fault, line.len()),
            }
        }
        if is_late {
            // Who comes and goes is told in order: this may undo what came later.
            self.hub.topics().notices().lost();
        }
        if lines > 0 {
            self.metrics.heard_batch_size.observe(f64::from(lines));
        }
    }

    /// Counts a line that cannot be read. The line itself is not logged: most of it may be a message.
    fn ignore(&mut self, channel: Channel, fault: &InvalidInput, bytes: usize) {
        self.metrics.bad_envelopes.inc();
        let fault = fault.unquoted();
        match self.bad_envelopes.pass() {
            Some(unlogged) => {
                tracing::warn!(?channel, %fault, bytes, unlogged, "bad envelope ignored");
            }
            None => tracing::debug!(?channel, %fault, bytes, "bad envelope ignored"),
        }
    }

    /// Whether a line that only nodes may say is signed; an error if it is not theirs.
    fn prove(&self, channel: Channel, header: &[u8], line: &[u8]) -> Result<bool, &'static str> {
        if self.secrets.is_empty() {
            return Ok(false);
        }
        let [own, global] = &self.channels;
        let name = match channel {
            Channel::Own => own,
            Channel::Global => global,
        };
        match self.secrets.check(name, header, line) {
            Proof::Valid => Ok(true),
            Proof::Invalid => Err("signature"),
            Proof::Unsigned if self.backplane.requires_signatures() => Err("unsigned"),
            Proof::Unsigned => {
                self.metrics.lines_trusted.inc();
                Ok(false)
            }
        }
    }

    /// Counts a line that is not believed. Logged at intervals: a publisher may send many.
    fn refuse(&mut self, channel: Channel, reason: &'static str) {
        self.metrics.line_refused(reason);
        if let Some(unlogged) = self.complaints.pass() {
            tracing::warn!(
                ?channel,
                reason,
                unlogged,
                "a line that only nodes may say is refused"
            );
        }
    }

    /// Checks a sender's sequence number. A known number is a repeat of a payload whose sender got
    /// no answer. A jump means that payloads were lost on the way. A tail reveals the loss of the
    /// last payload. `None`: no sender can have got to that number.
    async fn number(
        &mut self,
        channel: Channel,
        from: NodeId,
        (seq, tail): (u64, bool),
        is_signed: bool,
    ) -> Option<Number> {
        let senders = match is_signed {
            true => &mut self.senders,
            false => &mut self.unsigned,
        };
        if senders.len() >= SENDERS {
            // Years of restarts, or invented names. Forgetting costs at most a false alarm.
            let nodes = self.backplane.nodes();
            senders.retain(|node, _| nodes.iter().any(|record| record.node == *node));
        }
        if self.backplane.is_believed_dead(&from) {
            self.backplane.note_stranger(&from);
        }
        let heard = senders.entry(from).or_insert_with_key(|from| {
            self.backplane.note_stranger(from);
            Numbers::default()
        });
        let number = match channel {
            // No sender can have published to this boot before it existed.
            Channel::Own => heard.own.take(seq, tail, true, is_signed),
            Channel::Global => heard.global.take(seq, tail, false, is_signed),
        };
        match number {
            Number::Jump(missed) => {
                self.metrics.payloads_missed.inc_by(missed);
                self.lost("sequence").await;
            }
            Number::Late => _ = self.metrics.payloads_late.inc(),
            Number::Repeat if !tail => _ = self.metrics.payloads_repeated.inc(),
            Number::Beyond => return None,
            Number::Repeat | Number::Next => {}
        }
        Some(number)
    }

    /// Messages for this node may be lost: counts that and tells the clients now or, if they were
    /// told a moment ago, with the next [`Inbound::tell_of_losses`].
    async fn lost(&mut self, sign: &'static str) {
        self.metrics.lost(sign);
        self.hub.doubt();
        self.hub.trace().lost(sign);
        self.hub.topics().notices().lost();
        // No client to tell: one that comes later has missed nothing by it.
        if self.hub.len() == 0 {
            return;
        }
        let now = Instant::now();
        let is_outage = matches!(sign, "reconnect" | "resubscribed" | "forgotten");
        if is_outage {
            self.hub.tell_all(|| Command::DoubtKept).await;
        }
        self.hub.set_owes_resync(true);
        let loss = self.untold.get_or_insert(Loss {
            sign,
            first: now,
            last: None,
        });
        if is_outage {
            loss.last = Some(now);
        }
        self.tell_of_losses().await;
    }

    /// Tells the clients of losses not announced yet. Must be called regularly.
    async fn tell_of_losses(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return;
        }
        if self.untold.is_some_and(|loss| loss.is_unfolding()) {
            return;
        }
        if let Some(Loss { sign, .. }) = self.untold.take() {
            self.told = Some(Instant::now());
            self.hub.set_owes_resync(false);
            if let Some(unlogged) = self.losses.pass(sign) {
                tracing::warn!(
                    sign,
                    unlogged,
                    "messages may have been lost; clients are told to resync"
                );
            }
            self.hub.tell_all(|| Command::Resync).await;
        }
    }

    /// Waits until the receipts owed so far are sent, for `patience` at most.
    async fn reported(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Arc::strong_count(&self.reports) > 1 && Instant::now() < deadline {
            tokio::time::sleep(REPORT_STEP).await;
        }
    }

    async fn act(&mut self, channel: Channel, line: Line) {
        match line {
            // Valid only as the first line of a payload, and taken there.
            Line::Header { .. } | Line::Announcement(..) => {}
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
                    trace.arrived(&push.to, id, TraceOutcome::Stale);
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
            // The pump takes probes out before they get here.
            Line::Probe(_) => {}
            Line::Receipt(report) => {
                self.backplane.note_reply(&report.node);
                let claimed = self.replies.settle(report);
                self.metrics.receipts_unclaimed.inc_by(u64::from(!claimed));
            }
            Line::Ask(question, reply) => {
                self.respond.hear(question, reply, self.reports.clone());
            }
            Line::Answer(answer) => {
                self.backplane.note_reply(&answer.node);
                self.replies.settle_answer(answer);
            }
            Line::Presence(line) => self.hub.topics().notices().hear(line),
        }
    }

    async fn enroll(&self, to: &Target, topic: &Topic, joins: bool, reply: Option<ReceiptRequest>) {
        let (receipt, waiter) = Receipt::new(protocol::Wait::Written);
        let count = self.hub.enroll(to, topic, joins, Some(&receipt)).await;
        drop(receipt);
        if let Some(reply) = reply {
            self.report(to, Delivered::To(count), reply, waiter);
        }
    }

    /// Sends a receipt once the outcome of the message is known; never waits for it here.
    fn report(&self, to: &Target, delivered: Delivered, reply: ReceiptRequest, waiter: Waiter) {
        let node = self.hub.node().clone();
        let backplane = self.backplane.clone();
        let under_way = self.reports.clone();
        let metrics = self.metrics.clone();
        let owed = metrics.receipts_owed.inc();
        // A node without recipients is not a fault of a broadcast.
        let none = if *to == Target::All {
            Status::Written
        } else {
            Status::Stale
        };
        tokio::spawn(async move {
            let timeout = Duration::from_millis(reply.timeout_ms).min(MAX_TIMEOUT);
            // The receipt must arrive before the asker stops waiting for it.
            let timeout = match owed < RECEIPTS {
                true => timeout - REPORT_MARGIN.min(timeout / 4),
                false => Duration::ZERO,
            };
            let (status, connections) = match delivered {
                Delivered::Duplicate => (Status::Duplicate, 0),
                Delivered::To(0) => (none, 0),
                Delivered::To(count) => match waiter.settle(Instant::now() + timeout).await {
                    (Status::Routed, _) => (Status::Routed, count),
                    proven => proven,
                },
            };
            let report = DeliveryReport {
                reference: reply.reference,
                node,
                status,
                connections,
            };
            backplane
                .send(&reply.node, protocol::receipt_line(&report))
                .await;
            metrics.receipts_owed.dec();
            drop(under_way);
        });
    }
}
