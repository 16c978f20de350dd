//! The table of counters and gauges, in the Prometheus text format.
//!
//! Hot counters are fields, bumped without a look-up; labelled ones are for what happens to a
//! connection or a push once. No user id is ever a label.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::close::CloseReason;
use crate::protocol::Status;

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
    /// What became of a push or a call.
    Outcome { status }
    /// How a loss was noticed.
    Sign { sign }
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

/// Buckets for how many envelopes leave in one PUBLISH.
const BATCH_SIZES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

metrics! {
    connections: Gauge = Gauge::default(), "connections", "Clients connected now";
    connects: Counter = Counter::default(), "connects", "Clients that were let in";
    handshakes_refused: Family<Reason, Counter> = Family::default(), "handshakes_refused", "Clients that were not let in, by reason";
    accepts_refused: Family<Reason, Counter> = Family::default(), "accepts_refused", "Sockets refused at the listener, by reason";
    accept_errors: Counter = Counter::default(), "accept_errors", "Failed accept calls, such as for want of file descriptors";
    closes: Family<Reason, Counter> = Family::default(), "closes", "Connections ended, by reason";
    pushes: Family<Outcome, Counter> = Family::default(), "pushes", "Pushes of this node's senders, by what became of them";
    calls: Family<Outcome, Counter> = Family::default(), "calls", "Calls of this node's senders, by what became of them";
    calls_put: Counter = Counter::default(), "calls_put", "Calls put to connections of this node";
    upstream: Family<Outcome, Counter> = Family::default(), "upstream", "What clients sent to services, by what became of it";
    events_dropped: Counter = Counter::default(), "events_dropped", "Events that are not, or may not be, in the stream of events";
    deliveries: Counter = Counter::default(), "deliveries", "Messages accepted into the queue of a connection";
    written: Counter = Counter::default(), "written", "Messages written to a socket in full";
    drops: Family<Reason, Counter> = Family::default(), "drops", "Messages left out or thrown away, by reason";
    received: Counter = Counter::default(), "received", "Messages from clients, pings and pongs included";
    kept: Counter = Counter::default(), "kept", "Messages put into inboxes by this node's senders";
    replayed: Counter = Counter::default(), "replayed", "Messages read from inboxes for clients that came back or were behind";
    catch_ups: Counter = Counter::default(), "catch_ups", "Reads of inboxes for connections that were behind";
    envelopes: Counter = Counter::default(), "envelopes", "Envelopes taken from the bus";
    bad_envelopes: Counter = Counter::default(), "bad_envelopes", "Lines on the bus that are no envelope";
    stale: Counter = Counter::default(), "stale", "Envelopes for a connection or user that is no longer here";
    duplicates: Counter = Counter::default(), "duplicates", "Pushes dropped because their id was seen within a minute";
    losses: Family<Sign, Counter> = Family::default(), "losses", "Signs that messages may have been lost on the way to this node";
    resyncs: Counter = Counter::default(), "resyncs", "Times that clients were told to resync";
    batch_size: Histogram = Histogram::new(BATCH_SIZES), "publish_batch_size", "Envelopes in one PUBLISH to a node";
    publish_retries: Counter = Counter::default(), "publish_retries", "Payloads published again after an error";
    registry_writes: Counter = Counter::default(), "registry_writes", "Users whose row was written";
    registry_errors: Counter = Counter::default(), "registry_errors", "Failed writes of rows, to be repeated";
    redis_up: Gauge = Gauge::default(), "redis_up", "1 if the subscription works and the lease is held; always 1 without Redis";
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
