//! How long a node takes to leave. The defaults depend on whether other nodes can take its clients:
//! a lone node that lingers only makes its clients wait for the next process.

use std::time::Duration;

use crate::config::Config;

/// Longer than the usual checks of balancers need: one after 5 s, or three that are 2 s apart.
const PRESTOP: Duration = Duration::from_millis(6_500);
/// Spreads the reconnects of clients over the other nodes.
const DRAIN: Duration = Duration::from_secs(10);

impl Config {
    /// How long a leaving node goes on serving everybody.
    pub(crate) fn prestop(&self) -> Duration {
        self.prestop_seconds.unwrap_or(self.with_others(PRESTOP))
    }

    /// Over which time it then sends its clients away.
    pub(crate) fn drain_window(&self) -> Duration {
        self.drain_seconds.unwrap_or(self.with_others(DRAIN))
    }

    /// This, where other nodes may be there.
    fn with_others(&self, default: Duration) -> Duration {
        match self.redis_url {
            Some(_) => default,
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_may_have_others_waits_for_them() {
        let times = |pairs: &[(&'static str, &'static str)]| {
            let config = Config::from_pairs(pairs.iter().copied()).unwrap();
            let whole = |duration: Duration| duration.as_secs_f64();
            (whole(config.prestop()), whole(config.drain_window()))
        };
        let redis = ("PUSH_REDIS_URL", "redis://127.0.0.1");
        assert_eq!(times(&[]), (0.0, 0.0));
        assert_eq!(times(&[redis]), (6.5, 10.0));
        let set = [("PUSH_PRESTOP_SECONDS", "1"), ("PUSH_DRAIN_SECONDS", "2")];
        assert_eq!(times(&set), (1.0, 2.0));
        assert_eq!(times(&[redis, set[0], set[1]]), (1.0, 2.0));
    }
}
