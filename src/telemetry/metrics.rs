//! The table of counters and gauges, in the Prometheus text format.
//!
//! Hot counters are fields, bumped without a look-up; labelled ones are for what happens to a
//! connection or a push once. No user id is ever a label.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::protocol::Status;
use crate::protocol::close::CloseReason;

/// A label whose values are fixed words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Word(pub &'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

macro_rules! labels {
    ($($(#[doc = $doc:literal])+ $name:ident { $label:ident })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            $label: Word,
        }

        impl From<&'static str> for $name {
            fn from(word: &'static str) -> Self {
                Self { $label: Word(word) }
            }
        }
    )+};
}
labels! {
    /// Why something was dropped, closed or refused.
    Reason { reason }
    /// What became of a push, a share of one, a line or a call.
    Outcome { status }
    /// How a loss was noticed.
    Sign { sign }
    /// Which queue.
    Queue { queue }
    /// What kind of error.
    Kind { kind }
}

/// One metric, as docs/operations.md lists it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    name: &'static str,
    form: &'static str,
    /// What it says.
    pub help: &'static str,
}

impl Metric {
    /// `counter`, `gauge` or `histogram`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.form.contains("Counter") {
            "counter"
        } else if self.form.contains("Histogram") {
            "histogram"
        } else {
            "gauge"
        }
    }

    /// The name of its label, if it has one.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        let (label, _) = self.form.strip_prefix("Family<")?.split_once(',')?;
        let label = label.to_lowercase();
        Some(label.replace("outcome", "status"))
    }

    /// Its name as Prometheus sees it.
    #[must_use]
    pub fn full_name(&self) -> String {
        let total = if self.kind() == "counter" {
            "_total"
        } else {
            ""
        };
        format!("pushnode_{}{total}", self.name)
    }
}

/// Declares the table: field, type, name in Prometheus, help.
macro_rules! metrics {
    ($($field:ident: $type:ty = $make:expr, $name:literal, $help:literal;)+) => {
        /// All of them. One for each node.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $type,)+
        }

        impl Metrics {
            /// All metrics, in the order in which they are documented.
            pub const TABLE: &[Metric] = &[
                $(Metric { name: $name, form: stringify!($type), help: $help },)+
            ];

            /// A table of zeros.
            #[must_use]
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("pushnode");
                $(
                    let $field: $type = $make;
                    registry.register($name, $help, $field.clone());
                )+
                Self { registry, $($field,)+ }
            }
        }
    };
}

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Buckets for how many of something go together.
const BATCH_SIZES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Buckets for what goes together by the hundred.
const LARGE_BATCHES: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];
/// Buckets for the way over the bus and back, in seconds. A subscription is deaf after 1.5.
const LAGS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.5];

metrics! {
    connections: Gauge = Gauge::default(), "connections", "Clients connected now";
    connects: Counter = Counter::default(), "connects", "Clients that were let in";
    handshakes_refused: Family<Reason, Counter> = Family::default(), "handshakes_refused", "Clients that were not let in, by reason";
    accepts_refused: Family<Reason, Counter> = Family::default(), "accepts_refused", "Sockets refused at the listener, by reason";
    accept_errors: Counter = Counter::default(), "accept_errors", "Failed accept calls, such as for want of file descriptors";
    closes: Family<Reason, Counter> = Family::default(), "closes", "Connections ended, by reason";
    requests_refused: Family<Reason, Counter> = Family::default(), "requests_refused", "Requests of senders that were refused, by the code that they were told, and refused items of batches (bad_item); what became of pushes and calls is no refusal";
    pushes: Family<Outcome, Counter> = Family::default(), "pushes", "Pushes of this node's senders, by what became of them";
    calls: Family<Outcome, Counter> = Family::default(), "calls", "Calls of this node's senders, by what became of them";
    calls_put: Counter = Counter::default(), "calls_put", "Calls put to connections of this node";
    upstream: Family<Outcome, Counter> = Family::default(), "upstream", "What clients sent to services, by what became of it";
    events_dropped: Counter = Counter::default(), "events_dropped", "Events that are not, or may not be, in the stream of events";
    shares: Counter = Counter::default(), "shares", "Shares of pushes accepted from this node's senders: one for each user or topic, or for a connection or everybody";
    share_outcomes: Family<Outcome, Counter> = Family::default(), "share_outcomes", "Shares of pushes, by what became of them";
    shares_under_way: Gauge = Gauge::default(), "shares_under_way", "Shares of pushes that have no outcome yet";
    lines: Counter = Counter::default(), "lines", "Lines handed over to be published to other nodes or to all";
    line_outcomes: Family<Outcome, Counter> = Family::default(), "line_outcomes", "Lines by what became of them: taken, nobody listened, failed";
    lines_under_way: Gauge = Gauge::default(), "lines_under_way", "Lines that wait for Redis to answer";
    shares_here: Counter = Counter::default(), "shares_here", "Shares of this node's senders that were looked for among its own connections";
    arrivals_matched: Counter = Counter::default(), "arrivals_matched", "Envelopes and own shares that were handed to connections here";
    arrivals_unmatched: Counter = Counter::default(), "arrivals_unmatched", "Envelopes and own shares for whom nobody is here";
    arrivals_left_out: Counter = Counter::default(), "arrivals_left_out", "Envelopes and own shares all of whose connections here are left out by except";
    looks: Counter = Counter::default(), "looks", "Envelopes and own shares that only tell of something in an inbox or log";
    offered: Counter = Counter::default(), "offered", "Messages meant for a connection here, counted for each connection; pages of inboxes and logs included";
    deliveries: Counter = Counter::default(), "deliveries", "Messages accepted into the queue of a connection";
    written: Counter = Counter::default(), "written", "Messages written to a socket in full";
    drops: Family<Reason, Counter> = Family::default(), "drops", "Messages left out or thrown away, by reason";
    left_to_inbox: Family<Reason, Counter> = Family::default(), "left_to_inbox", "Kept messages not put into a queue: old (the client has it) or later (it comes with a page of the inbox or log)";
    waiting_messages: Gauge = Gauge::default(), "waiting_messages", "Messages in the queues of clients";
    waiting_bytes: Gauge = Gauge::default(), "waiting_bytes", "Bytes in the queues of clients";
    blocked_connections: Gauge = Gauge::default(), "blocked_connections", "Clients whose socket takes no more";
    queue_length: Family<Queue, Gauge> = Family::default(), "queue_length", "How full the fullest queue of each kind is";
    queue_limit: Family<Queue, Gauge> = Family::default(), "queue_limit", "What such a queue holds at most";
    acks_forgotten: Counter = Counter::default(), "acks_forgotten", "Messages whose acknowledgement is no longer waited for: too many were open";
    receipts_owed: Gauge = Gauge::default(), "receipts_owed", "Receipts that this node owes to others";
    receipts_awaited: Gauge = Gauge::default(), "receipts_awaited", "Senders here that wait for receipts";
    receipts_unclaimed: Counter = Counter::default(), "receipts_unclaimed", "Receipts that came when nobody waited for them any more";
    received: Counter = Counter::default(), "received", "Messages from clients, pings and pongs included";
    kept: Counter = Counter::default(), "kept", "Messages put into inboxes and logs by this node's senders";
    kept_before: Counter = Counter::default(), "kept_before", "Messages not put into an inbox or log because their id was kept there within a minute";
    replayed: Counter = Counter::default(), "replayed", "Messages read from inboxes and logs for clients that came back or were behind";
    catch_ups: Counter = Counter::default(), "catch_ups", "Reads of inboxes and logs for connections that were behind";
    inbox_asks: Gauge = Gauge::default(), "inbox_asks", "Connections that wait for a page of an inbox or log";
    envelopes: Counter = Counter::default(), "envelopes", "Envelopes taken from the bus";
    bad_envelopes: Counter = Counter::default(), "bad_envelopes", "Lines on the bus that are no envelope";
    stale: Counter = Counter::default(), "stale", "Envelopes on this node's own channel for whom nobody is here any more";
    duplicates: Counter = Counter::default(), "duplicates", "Envelopes and own shares dropped because their id was seen within a minute";
    losses: Family<Sign, Counter> = Family::default(), "losses", "Signs that messages may have been lost on the way to this node";
    payloads_missed: Counter = Counter::default(), "payloads_missed", "Payloads that by their senders' numbers had not come when they should";
    payloads_late: Counter = Counter::default(), "payloads_late", "Payloads that came after all, behind later ones";
    payloads_repeated: Counter = Counter::default(), "payloads_repeated", "Payloads dropped because their number was heard before";
    payloads_overrun: Counter = Counter::default(), "payloads_overrun", "Payloads overwritten because this node did not take them in time";
    resyncs: Counter = Counter::default(), "resyncs", "Times that clients were told to resync";
    batch_size: Histogram = Histogram::new(BATCH_SIZES), "publish_batch_size", "Envelopes in one PUBLISH to a node";
    heard_batch_size: Histogram = Histogram::new(BATCH_SIZES), "heard_batch_size", "Lines in one payload that was heard, header left out";
    shard_batch_size: Histogram = Histogram::new(LARGE_BATCHES), "shard_batch_size", "Commands that a shard found waiting when it woke";
    bus_lag: Histogram = Histogram::new(LAGS), "bus_lag_seconds", "From PUBLISH of a probe until it was heard";
    publish_retries: Counter = Counter::default(), "publish_retries", "Payloads published again after an error";
    registry_writes: Counter = Counter::default(), "registry_writes", "Users and topics whose row was written";
    registry_batch_size: Histogram = Histogram::new(LARGE_BATCHES), "registry_batch_size", "Rows written together";
    registry_lag: Seconds = Gauge::default(), "registry_lag_seconds", "How long the oldest change has waited to be written to Redis";
    registry_waiting: Gauge = Gauge::default(), "registry_waiting", "Users and topics whose row is to be written";
    registry_errors: Counter = Counter::default(), "registry_errors", "Failed writes of rows, to be repeated";
    redis_up: Gauge = Gauge::default(), "redis_up", "1 if the subscription works and the lease is held; always 1 without Redis";
    redis_servers: Gauge = Gauge::default(), "redis_servers", "Redis servers that commands go to";
    redis_connected: Gauge = Gauge::default(), "redis_connected", "Redis servers to which the connection is up";
    redis_connects: Counter = Counter::default(), "redis_connects", "Connections made to Redis servers, for commands";
    redis_turns: Counter = Counter::default(), "redis_turns", "Times that commands were led to other servers: a fail-over, slots that moved, a silent connection";
    redis_errors: Family<Kind, Counter> = Family::default(), "redis_errors", "Commands that failed, by kind";
    lease_age: Seconds = Gauge::default(), "lease_age_seconds", "Since the lease was last known to be ours; it lasts 10 s";
    nodes: Gauge = Gauge::default(), "nodes", "Live nodes at the last beat, this one included";
    nodes_swept: Counter = Counter::default(), "nodes_swept", "Dead nodes whose rows this node removed";
    subscriptions: Counter = Counter::default(), "subscriptions", "Times that this node subscribed to its channels";
}

impl Metrics {
    /// Counts the end of a connection.
    pub fn closed(&self, reason: CloseReason) {
        self.closes.get_or_create(&reason.label().into()).inc();
    }

    /// Counts a push of one of this node's senders.
    pub fn pushed(&self, status: Status) {
        self.pushes.get_or_create(&status.as_str().into()).inc();
    }

    /// Counts shares of pushes that have an outcome.
    pub fn settled(&self, outcome: &'static str, shares: u64) {
        if shares > 0 {
            let outcomes = self.share_outcomes.get_or_create(&outcome.into());
            outcomes.inc_by(shares);
        }
    }

    /// Counts lines that have an answer.
    pub fn published(&self, outcome: &'static str, lines: u64) {
        let outcomes = self.line_outcomes.get_or_create(&outcome.into());
        outcomes.inc_by(lines);
    }

    /// Counts a kept message that its connection gets, or got, from the inbox.
    pub fn left_to_inbox(&self, reason: &'static str) {
        self.left_to_inbox.get_or_create(&reason.into()).inc();
    }

    /// Counts a request, or an item of a batch, that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.requests_refused.get_or_create(&reason.into()).inc();
    }

    /// Counts a client that was not let in, by the code that it was told.
    pub fn handshake_refused(&self, code: &'static str) {
        self.handshakes_refused.get_or_create(&code.into()).inc();
    }

    /// Sets how full a queue is.
    pub fn queue(&self, queue: &'static str, length: usize, limit: usize) {
        let gauge = |family: &Family<Queue, Gauge>, value: usize| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&queue.into()).set(value);
        };
        gauge(&self.queue_length, length);
        gauge(&self.queue_limit, limit);
    }

    /// Counts messages that a connection will not get.
    pub fn dropped(&self, reason: &'static str, messages: u64) {
        if messages > 0 {
            self.drops.get_or_create(&reason.into()).inc_by(messages);
        }
    }

    /// Counts a sign of loss.
    pub fn lost(&self, sign: &'static str) {
        self.losses.get_or_create(&sign.into()).inc();
    }

    /// The whole table as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_everything_with_our_prefix() {
        let metrics = Metrics::new();
        metrics.closed(CloseReason::Slow);
        metrics.connects.inc();
        let text = metrics.render();
        assert!(
            text.contains("pushnode_closes_total{reason=\"slow\"} 1"),
            "{text}"
        );
        assert!(text.contains("pushnode_connects_total 1"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
