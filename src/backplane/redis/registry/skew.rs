//! How far this node's clock is from that of Redis, asked with each beat.
//!
//! The answer was made somewhere between question and receipt, so half of that time is the most by
//! which the offset is wrong. What must stay true: an answer that took long corrects nothing.

use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike};
use fred::types::CustomCommand;
use tokio::time::Instant;

use crate::clock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// An answer that took longer says too little.
const SLOW: Duration = Duration::from_millis(500);
/// From so many seconds on, the log says so.
const TOLD: f64 = 2.0;
/// Between two lines in the log.
const COMPLAINTS: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct ClockSkew(Throttle);

impl Default for ClockSkew {
    fn default() -> Self {
        Self(Throttle::new(COMPLAINTS))
    }
}

impl ClockSkew {
    /// Asks for the time of Redis. A server that does not tell it keeps no node from its lease.
    pub(crate) async fn measure(&self, redis: &Client, metrics: &Metrics) {
        match ahead(redis).await {
            Ok(Some(ahead)) => self.note(ahead, metrics),
            Ok(None) => {}
            Err(error) => tracing::debug!(kind = ?error.kind(), "Redis does not tell its time"),
        }
    }

    fn note(&self, ahead: f64, metrics: &Metrics) {
        clock::note_ahead((ahead * 1000.0).round() as i64);
        metrics.clock_offset.set(-ahead);
        if ahead.abs() > TOLD
            && let Some(unlogged) = self.0.pass()
        {
            let (seconds, side) = (ahead.abs(), if ahead > 0.0 { "behind" } else { "ahead of" });
            tracing::warn!(
                unlogged,
                "the clock of this node is {seconds:.1} s {side} that of Redis; it judges when \
                tokens begin and end: set it, or that of Redis, by NTP"
            );
        }
    }
}

/// How many seconds Redis is ahead; `None` if the answer took too long.
async fn ahead(redis: &Client) -> Result<Option<f64>, Error> {
    let (asked, before) = (Instant::now(), clock::since_1970());
    let command = CustomCommand::new_static("TIME", None, false);
    let answer: Vec<String> = redis.custom(command, Vec::<String>::new()).await?;
    let taken = asked.elapsed();
    let odd = || Error::new(ErrorKind::Protocol, "TIME has an odd answer");
    let [seconds, microseconds] = &answer[..] else {
        return Err(odd());
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| odd());
    let (seconds, microseconds) = (number(seconds)?, number(microseconds)?);
    let redis = f64::from(seconds) + f64::from(microseconds) / 1e6;
    let here = (before + taken / 2).as_secs_f64();
    Ok((taken < SLOW).then_some(redis - here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_that_of_this_node_and_the_shared_clock_is_that_of_redis() {
        let (skew, metrics) = (ClockSkew::default(), Metrics::new());
        skew.note(3600.0, &metrics);
        assert_eq!(metrics.clock_offset.get(), -3600.0);
        let ahead = clock::shared_ms() - clock::unix_ms();
        assert!((3_599_000..3_601_000).contains(&ahead), "{ahead}");
        skew.note(0.0, &metrics);
        assert!(clock::shared_ms().abs_diff(clock::unix_ms()) < 1000);
    }
}
