//! The table of counters and gauges, in the Prometheus text format.
//!
//! Hot counters are fields, incremented without a look-up. Labelled ones count what happens once
//! per connection or push. No user id is ever a label.

use std::hash::Hash;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::protocol::close::CloseReason;
use crate::protocol::outcome::Status;
use crate::telemetry::labels;

/// A label whose values are fixed words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Word(pub &'static str);

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
    /// The outcome of a push, a share of one, a line or a call.
    Outcome { status }
    /// How a loss was detected.
    Sign { sign }
    /// The kind of queue.
    Queue { queue }
    /// What a hook is asked.
    Hook { hook }
    /// The kind of error.
    Kind { kind }
}

/// One metric, as docs/operations.md lists it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    name: &'static str,
    form: &'static str,
    /// What is counted, as operators read it.
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
        /// All metrics of one node.
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

            /// The values that the label of a counter can have, by the counter's name without
            /// prefix and `_total`.
            #[must_use]
            pub fn known_labels(name: &str) -> Vec<&'static str> {
                labels::of(name)
            }

            /// A table of zeros.
            #[must_use]
            pub fn new() -> Self {
                let mut registry = Registry::with_prefix("pushnode");
                $(
                    let $field: $type = $make;
                    $field.begin(&labels::of($name));
                    registry.register($name, $help, $field.clone());
                )+
                Self { registry, $($field,)+ }
            }
        }
    };
}

/// What a metric shows before anything is counted.
trait Begin {
    /// Gives these label values a 0.
    fn begin(&self, _words: &[&'static str]) {}
}

impl Begin for Counter {}
impl Begin for Gauge {}
impl Begin for Seconds {}
impl Begin for Histogram {}
impl Begin for Family<Hook, Histogram, MakeHistogram> {}
/// Set at each look.
impl Begin for Family<Queue, Gauge> {}

impl<L: From<&'static str> + Clone + Eq + Hash> Begin for Family<L, Counter> {
    fn begin(&self, words: &[&'static str]) {
        for word in words {
            drop(self.get_or_create(&L::from(word)));
        }
    }
}

/// Makes the histogram of a label.
type MakeHistogram = fn() -> Histogram;

/// A gauge of seconds.
type Seconds = Gauge<f64, AtomicU64>;

/// Buckets for the size of small batches.
const BATCH_SIZES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
/// Buckets for batches of up to about a thousand.
const LARGE_BATCHES: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];
/// Buckets for the round trip over the bus, in seconds. After 1.5 a subscription counts as deaf.
const LAGS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.5];
/// Buckets for the answers of hooks, in seconds.
const HOOK_TIMES: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0];

metrics! {
    connections: Gauge = Gauge::default(), "connections",
        "Clients connected now";
    connects: Counter = Counter::default(), "connects",
        "Client handshakes accepted";
    handshakes_refused: Family<Reason, Counter> = Family::default(), "handshakes_refused",
        "Client handshakes refused, by error code";
    handshakes_fast: Counter = Counter::default(), "handshakes_fast",
        "Requests to GET /ws that took the fast lane";
    accepts_refused: Family<Reason, Counter> = Family::default(), "accepts_refused",
        "Connections refused before their first request: node_full, address_full or proxy_header";
    accept_errors: Counter = Counter::default(), "accept_errors",
        "Failed accept calls, usually for lack of file descriptors";
    closes: Family<Reason, Counter> = Family::default(), "closes",
        "Client connections closed, by reason";
    shed: Counter = Counter::default(), "shed",
        "Slow clients closed because a node held more than PUSH_MEMORY_BYTES";
    bodies_refused: Counter = Counter::default(), "bodies_refused",
        "Bodies refused because they did not fit into PUSH_MEMORY_BYTES";
    requests_refused: Family<Reason, Counter> = Family::default(), "requests_refused",
        "API requests refused, by error code; an invalid item of a batch counts as bad_item";
    pushes: Family<Outcome, Counter> = Family::default(), "pushes",
        "Pushes of this node's senders, by resulting status";
    pushes_fast: Counter = Counter::default(), "pushes_fast",
        "Requests to POST /v1/push that took the fast lane";
    calls: Family<Outcome, Counter> = Family::default(), "calls",
        "Calls of this node's senders, by resulting status";
    calls_put: Counter = Counter::default(), "calls_put",
        "Calls handed to connections on this node";
    upstream: Family<Outcome, Counter> = Family::default(), "upstream",
        "Messages from clients to services: accepted, or the error code";
    events_dropped: Counter = Counter::default(), "events_dropped",
        "Events that were not, or may not have been, written to the event stream";
    shares: Counter = Counter::default(), "shares",
        "Push shares accepted: one per target user or topic, one for any other push or reply";
    share_outcomes: Family<Outcome, Counter> = Family::default(), "share_outcomes",
        "Push shares completed, by outcome";
    shares_under_way: Gauge = Gauge::default(), "shares_under_way",
        "Push shares without an outcome yet";
    lines: Counter = Counter::default(), "lines",
        "Lines queued for publishing to one node or to all nodes";
    line_outcomes: Family<Outcome, Counter> = Family::default(), "line_outcomes",
        "Lines by publish result: taken, `nobody` (no subscriber) or failed";
    lines_under_way: Gauge = Gauge::default(), "lines_under_way",
        "Lines that Redis has not answered yet";
    shares_here: Counter = Counter::default(), "shares_here",
        "Local push shares matched against this node's own connections";
    arrivals_matched: Counter = Counter::default(), "arrivals_matched",
        "Envelopes and local shares handed to connections here, every broadcast included";
    arrivals_unmatched: Counter = Counter::default(), "arrivals_unmatched",
        "Envelopes and local shares without a recipient on this node";
    arrivals_left_out: Counter = Counter::default(), "arrivals_left_out",
        "Envelopes and local shares whose recipients here were all excluded by `except`";
    looks: Counter = Counter::default(), "looks",
        "Envelopes and local shares that only announce a new inbox or log entry";
    offered: Counter = Counter::default(), "offered",
        "Messages for connections here, counted per connection, inbox and log pages included";
    deliveries: Counter = Counter::default(), "deliveries",
        "Messages accepted into the queue of a connection";
    written: Counter = Counter::default(), "written",
        "Messages written to a socket in full";
    drops: Family<Reason, Counter> = Family::default(), "drops",
        "Messages dropped before they were written, by reason";
    left_to_inbox: Family<Reason, Counter> = Family::default(), "left_to_inbox",
        "Kept messages not queued: old (client has it) or later (read from the inbox or log)";
    waiting_messages: Gauge = Gauge::default(), "waiting_messages",
        "Messages waiting in client queues";
    waiting_bytes: Gauge = Gauge::default(), "waiting_bytes",
        "Bytes waiting in client queues";
    blocked_connections: Gauge = Gauge::default(), "blocked_connections",
        "Clients whose socket accepts no more data";
    queue_length: Family<Queue, Gauge> = Family::default(), "queue_length",
        "Fill level of the fullest queue of each kind";
    queue_limit: Family<Queue, Gauge> = Family::default(), "queue_limit",
        "Capacity of one queue of each kind";
    acks_forgotten: Counter = Counter::default(), "acks_forgotten",
        "Messages whose ack is no longer awaited because too many were outstanding";
    receipts_owed: Gauge = Gauge::default(), "receipts_owed",
        "Receipts that this node still has to send";
    receipts_awaited: Gauge = Gauge::default(), "receipts_awaited",
        "Local senders waiting for receipts";
    receipts_unclaimed: Counter = Counter::default(), "receipts_unclaimed",
        "Receipts that arrived after their sender had stopped waiting";
    received: Counter = Counter::default(), "received",
        "Messages received from clients, pings and pongs included";
    kept: Counter = Counter::default(), "kept",
        "Messages stored in inboxes and logs for this node's senders";
    kept_before: Counter = Counter::default(), "kept_before",
        "Messages not stored again because their id was stored within the last minute";
    kept_unreplicated: Counter = Counter::default(), "kept_unreplicated",
        "Messages stored but not known to be on PUSH_KEEP_REPLICAS replicas in time";
    replayed: Counter = Counter::default(), "replayed",
        "Messages read from inboxes and logs for clients that resumed or fell behind";
    catch_ups: Counter = Counter::default(), "catch_ups",
        "Reads of inboxes and logs for connections that fell behind";
    catch_up_gaps: Counter = Counter::default(), "catch_up_gaps",
        "Connections told that kept messages may be missing before a page of an inbox or log";
    inbox_asks: Gauge = Gauge::default(), "inbox_asks",
        "Connections waiting for a page of an inbox or log";
    envelopes: Counter = Counter::default(), "envelopes",
        "Envelopes received from the bus";
    bad_envelopes: Counter = Counter::default(), "bad_envelopes",
        "Lines received from the bus that are not valid envelopes";
    lines_refused: Family<Reason, Counter> = Family::default(), "lines_refused",
        "Lines of the bus that only nodes may say and that were not believed, or found no room, by reason";
    lines_trusted: Counter = Counter::default(), "lines_trusted",
        "Unsigned lines taken for a node's because a live node has no PUSH_CLUSTER_SECRET";
    sent_ahead: Counter = Counter::default(), "sent_ahead",
        "Pushes published with the look-up of their user, to the node remembered for it";
    sent_astray: Counter = Counter::default(), "sent_astray",
        "Pushes sent ahead to a node that the row no longer named";
    stale: Counter = Counter::default(), "stale",
        "Envelopes on this node's own channel whose recipients are no longer here";
    duplicates: Counter = Counter::default(), "duplicates",
        "Envelopes and local shares dropped because their id was seen within the last minute";
    losses: Family<Sign, Counter> = Family::default(), "losses",
        "Signs that messages to this node may have been lost, by sign";
    payloads_missed: Counter = Counter::default(), "payloads_missed",
        "Payloads missing when later sequence numbers of their sender arrived";
    payloads_late: Counter = Counter::default(), "payloads_late",
        "Payloads that arrived after later ones of the same sender";
    payloads_repeated: Counter = Counter::default(), "payloads_repeated",
        "Payloads dropped because their sequence number had already arrived";
    payloads_overrun: Counter = Counter::default(), "payloads_overrun",
        "Always 0: what a node has not read waits in Redis";
    resyncs: Counter = Counter::default(), "resyncs",
        "Rounds of `resync` notices to clients, counted once per shard";
    batch_size: Histogram = Histogram::new(BATCH_SIZES), "publish_batch_size",
        "Lines per published payload";
    heard_batch_size: Histogram = Histogram::new(BATCH_SIZES), "heard_batch_size",
        "Lines per received payload, header excluded";
    shard_batch_size: Histogram = Histogram::new(LARGE_BATCHES), "shard_batch_size",
        "Commands waiting when a shard woke";
    bus_lag: Histogram = Histogram::new(LAGS), "bus_lag_seconds",
        "Seconds from publishing a probe to receiving it";
    publish_retries: Counter = Counter::default(), "publish_retries",
        "Publish attempts repeated after an error";
    registry_writes: Counter = Counter::default(), "registry_writes",
        "User and topic rows written to Redis";
    registry_batch_size: Histogram = Histogram::new(LARGE_BATCHES), "registry_batch_size",
        "Rows written together";
    registry_lag: Seconds = Gauge::default(), "registry_lag_seconds",
        "Seconds that the oldest change has waited to be written to Redis";
    registry_waiting: Gauge = Gauge::default(), "registry_waiting",
        "User and topic rows waiting to be written";
    registry_errors: Counter = Counter::default(), "registry_errors",
        "Row writes that failed and will be repeated";
    rows_restored: Counter = Counter::default(), "registry_rows_restored",
        "Rows found missing in Redis one by one and written again";
    redis_up: Gauge = Gauge::default(), "redis_up",
        "1 if the subscription works and the lease is held; always 1 without Redis";
    redis_servers: Gauge = Gauge::default(), "redis_servers",
        "Redis servers that receive commands";
    redis_connected: Gauge = Gauge::default(), "redis_connected",
        "Redis servers with an open command connection";
    redis_connects: Counter = Counter::default(), "redis_connects",
        "Command connections opened to Redis servers";
    redis_turns: Counter = Counter::default(), "redis_turns",
        "Switches to other Redis servers: fail-over, moved slots or a silent connection";
    redis_errors: Family<Kind, Counter> = Family::default(), "redis_errors",
        "Redis commands that failed, by kind";
    redis_may_evict: Gauge = Gauge::default(), "redis_may_evict",
        "1 if the maxmemory-policy of a Redis server is not noeviction";
    redis_evictions: Counter = Counter::default(), "redis_evictions",
        "Keys that Redis evicted while this node watched";
    hook_connect: Family<Outcome, Counter> = Family::default(), "hook_connect",
        "Questions to the connect hook, by outcome";
    hook_subscribe: Family<Outcome, Counter> = Family::default(), "hook_subscribe",
        "Questions to the subscribe hook, by outcome";
    hook_send: Family<Outcome, Counter> = Family::default(), "hook_send",
        "Messages from clients to services that are hooks, by outcome";
    hook_seconds: Family<Hook, Histogram, MakeHistogram> =
        Family::new_with_constructor(|| Histogram::new(HOOK_TIMES)), "hook_seconds",
        "Seconds until a hook answered or failed, without the wait in the queue";
    lease_age: Seconds = Gauge::default(), "lease_age_seconds",
        "Seconds since the lease was last confirmed; it lasts 10 s";
    clock_offset: Seconds = Gauge::default(), "clock_offset_seconds",
        "Seconds by which the clock of this node is ahead of that of Redis; negative: behind";
    nodes: Gauge = Gauge::default(), "nodes",
        "Live nodes at the last heartbeat, this one included";
    nodes_swept: Counter = Counter::default(), "nodes_swept",
        "Dead nodes whose rows this node removed";
    subscriptions: Counter = Counter::default(), "subscriptions",
        "Times this node subscribed to its channels";
    member_publishes: Family<Outcome, Counter> = Family::default(), "member_publishes",
        "Messages that members published to topics, by outcome";
    topic_rules_read: Family<Outcome, Counter> = Family::default(), "topic_rules_read",
        "Times that PUSH_TOPIC_RULES_FILE was read again with a change: taken or refused";
    topic_rules_differ: Gauge = Gauge::default(), "topic_rules_differ",
        "Other live nodes whose topic rules differ from those of this node";
    log_lines_dropped: Counter = Counter::default(), "log_lines_dropped",
        "Log lines dropped because standard error took none";
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

    /// Counts a kept message that its connection gets, or already got, from the inbox.
    pub fn left_to_inbox(&self, reason: &'static str) {
        self.left_to_inbox.get_or_create(&reason.into()).inc();
    }

    /// Counts a request, or an item of a batch, that was refused.
    pub fn refused(&self, reason: &'static str) {
        self.requests_refused.get_or_create(&reason.into()).inc();
    }

    /// Counts a refused handshake, by the error code in the answer.
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

    /// Counts messages that a connection will not receive.
    pub fn dropped(&self, reason: &'static str, messages: u64) {
        if messages > 0 {
            self.drops.get_or_create(&reason.into()).inc_by(messages);
        }
    }

    /// Counts what a member published, or may not.
    pub fn member_published(&self, status: &'static str) {
        self.member_publishes
            .get_or_create(&Outcome::from(status))
            .inc();
    }

    /// Counts a file of topic rules that was read again.
    pub fn topic_rules_read(&self, status: &'static str) {
        self.topic_rules_read
            .get_or_create(&Outcome::from(status))
            .inc();
    }

    /// Counts a line of the bus that was not believed.
    pub fn line_refused(&self, reason: &'static str) {
        self.lines_refused(reason, 1);
    }

    /// Counts lines of the bus that were not believed, or for which there was no room.
    pub fn lines_refused(&self, reason: &'static str, count: u64) {
        self.lines_refused
            .get_or_create(&reason.into())
            .inc_by(count);
    }

    /// Counts a sign of loss.
    pub fn lost(&self, sign: &'static str) {
        self.losses.get_or_create(&sign.into()).inc();
    }

    /// All metrics in the OpenMetrics text format.
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
