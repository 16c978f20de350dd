//! The sender's side of the ledger: every accepted share gets exactly one outcome.
//!
//! A share is one user's or topic's part of a push, or the whole of a push to a connection or to
//! everybody. The node may end while a push is under way, which drops the futures that work on it.
//! Shares without an outcome by then are counted as abandoned.

use crate::delivery::answer::Answer;
use crate::protocol::Status;
use crate::protocol::{PushRequest, Target};
use crate::telemetry::metrics::Metrics;

/// The outcome of a share whose node ended: it may have been pushed or not.
const ABANDONED: &str = "abandoned";

/// Shares under way. Dropping it gives the remaining shares their outcome.
#[derive(Debug)]
pub(crate) struct OutcomeLedger<'a> {
    open: u64,
    metrics: &'a Metrics,
}

impl<'a> OutcomeLedger<'a> {
    /// Accepts the shares of these requests.
    pub(crate) fn open(requests: &[PushRequest], metrics: &'a Metrics) -> Self {
        let open = requests.iter().map(shares).sum();
        metrics.shares.inc_by(open);
        metrics.shares_under_way.inc_by(open as i64);
        Self { open, metrics }
    }

    /// Counts the outcomes.
    pub(crate) fn settle(mut self, answers: &[Answer]) {
        let mut counts = [0; Status::ALL.len()];
        let mut count = |status: Status| counts[status as usize] += 1;
        for answer in answers {
            match &answer.targets[..] {
                [] => count(answer.status),
                targets => targets.iter().for_each(|target| count(target.status)),
            }
        }
        for (status, count) in Status::ALL.into_iter().zip(counts) {
            self.close(status.as_str(), count);
        }
    }

    fn close(&mut self, outcome: &'static str, shares: u64) {
        self.open -= shares;
        self.metrics.settled(outcome, shares);
        self.metrics.shares_under_way.dec_by(shares as i64);
    }
}

impl Drop for OutcomeLedger<'_> {
    fn drop(&mut self) {
        self.close(ABANDONED, self.open);
    }
}

fn shares(request: &PushRequest) -> u64 {
    match &request.push.to {
        Target::Users(users) => users.len() as u64,
        Target::Topics(topics) => topics.len() as u64,
        Target::User(_) | Target::Topic(_) | Target::Connection(..) | Target::All => 1,
    }
}
