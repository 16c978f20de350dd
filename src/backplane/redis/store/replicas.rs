//! Whether replicas have what was written: `WAIT` on the connection that wrote it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::prelude::{ClientLike, FredResult};
use fred::types::CustomCommand;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::backplane::answers::ReplicaProof;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::exclusive::Loan;

/// The longest single `WAIT`, well below the time after which a silent connection is replaced.
const STEP: Duration = Duration::from_secs(1);
/// How long a push waits while replicas are known to be missing and another push tests that.
/// Otherwise all connections would soon be taken by pushes that wait in vain.
const MISSING: Duration = Duration::from_millis(100);

/// Waits for replicas; clones share what is known of them.
#[derive(Debug, Clone)]
pub(crate) struct Replicas {
    /// How many must have a message. 0: none, and nothing is asked.
    count: u32,
    missing: Arc<AtomicBool>,
    /// Held by the one push that waits to its deadline although replicas are missing.
    tests: Arc<Mutex<()>>,
}

impl Replicas {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            count,
            missing: Arc::default(),
            tests: Arc::default(),
        }
    }

    pub(crate) fn are_wanted(&self) -> bool {
        self.count > 0
    }

    /// Waits in a task of its own for what this connection wrote last: meanwhile the message is
    /// delivered.
    pub(crate) fn prove(&self, loan: Loan, deadline: Instant) -> ReplicaProof {
        let (answer, proof) = oneshot::channel();
        let replicas = self.clone();
        tokio::spawn(async move {
            let reached = replicas.reached(&loan, deadline).await;
            match &reached {
                Ok(_) => loan.give_back(),
                Err(error) => {
                    tracing::debug!(error = %redacted(error), "replicas not known to have it");
                    loan.close_all();
                }
            }
            // Gone if its sender no longer waits.
            let _ = answer.send(reached.unwrap_or(false));
        });
        ReplicaProof::awaited(proof)
    }

    async fn reached(&self, loan: &Loan, deadline: Instant) -> FredResult<bool> {
        let test = self.tests.try_lock();
        let is_short = self.missing.load(Ordering::Relaxed) && test.is_err();
        let until = match is_short {
            true => deadline.min(Instant::now() + MISSING),
            false => deadline,
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // 0 would be without an end.
            let step = left.min(STEP).as_millis().max(1);
            let command = CustomCommand::new_static("WAIT", None, false);
            let words = vec![self.count.to_string(), step.to_string()];
            let acknowledged: u32 = loan.client().custom(command, words).await?;
            if acknowledged >= self.count {
                self.missing.store(false, Ordering::Relaxed);
                return Ok(true);
            }
            if Instant::now() >= until {
                self.missing.store(true, Ordering::Relaxed);
                return Ok(false);
            }
        }
    }
}
