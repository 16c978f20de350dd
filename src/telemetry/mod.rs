//! What operators see: counters and gauges, and the trace of a user's messages.

pub mod metrics;

pub mod trace;
