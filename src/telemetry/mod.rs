//! What operators see: counters and gauges, and the trace of a user's messages.

pub(crate) mod labels;

pub(crate) mod metrics;

pub(crate) mod trace;

pub(crate) mod throttle;

pub(crate) mod log_writer;
