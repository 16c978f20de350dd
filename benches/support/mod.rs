//! What the bench programs share: options, child processes and what they cost, a cheap client, reports.
//!
//! The client is deliberately small (one epoll loop, no runtime): it shares the cores with what it measures.
//! Every message says for whom it is and its place in the order, so counts are exact per socket.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each program uses its own part, from outside this module"
)]

pub mod accounting;
pub mod crowd;
pub mod dial;
pub mod events;
pub mod fleet;
pub mod http;
pub mod message;
pub mod nats;
pub mod options;
pub mod paced;
pub mod peers;
pub mod process;
pub mod redis;
pub mod report;
pub mod rivals;
pub mod target;
pub mod visits;
pub mod websocket;

use std::io;

/// Lifts the soft limit of open files to the hard one; child processes inherit it.
pub fn raise_open_files_limit() -> io::Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    Ok(rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        limit,
    )?)
}

/// The middle value; the mean of the two middle ones for an even count.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value below which `share` of the sorted values lie.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((sorted.len() as f64 * share) as usize)
        .or(sorted.get(last))
        .copied()
        .unwrap_or(f64::NAN)
}

/// A user out of every `of`-th, beginning with `first`, in no pattern that a cache would like.
pub fn pick(first: usize, of: usize, users: usize) -> usize {
    use std::cell::Cell;
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) });
    let random = STATE.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        (x >> 11) as usize
    });
    let count = (users - first).div_ceil(of);
    first + random % count * of
}
