//! Calls that are put to clients of this node, and their answers.
//!
//! Each connection that is asked holds a [`Pending`] until it answers; whatever ends the
//! connection drops that, which tells that it is gone. So no call can be forgotten, and nobody but
//! the connections that were asked can answer: there is no table to look a reference up in. The
//! first answer is taken, the others find that the call is over.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::local::hub::Hub;
use crate::local::shard::Command;
use crate::protocol;
use crate::protocol::ids::Fd;
use crate::protocol::{Call, CallStatus, Called};
use crate::telemetry::metrics::Metrics;

/// Calls put to clients of this node that wait for an answer; more are refused.
const UNDER_WAY: usize = 10_000;

/// What one connection says to a call: its answer, or why there is none.
type Outcome = Result<Result<Box<str>, Box<str>>, CallStatus>;

/// One connection's part in a call. Dropped without an answer, the connection is gone.
#[derive(Debug)]
pub struct Pending {
    fd: Fd,
    reference: Arc<str>,
    outcome: Option<mpsc::Sender<(Fd, Outcome)>>,
}

impl Pending {
    /// What its answer carries as `ref`.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// The client has answered.
    pub(crate) fn answer(self, result: Result<Box<str>, Box<str>>) {
        self.settle(Ok(result));
    }

    /// The client cannot be asked.
    pub(crate) fn refuse(self, status: CallStatus) {
        self.settle(Err(status));
    }

    fn settle(mut self, outcome: Outcome) {
        if let Some(sender) = self.outcome.take() {
            // There is room for one of each; closed if another was first.
            let _ = sender.try_send((self.fd, outcome));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(sender) = self.outcome.take() {
            let _ = sender.try_send((self.fd, Err(CallStatus::Gone)));
        }
    }
}

/// Puts calls to the clients of this node.
#[derive(Debug)]
pub struct Calls {
    hub: Arc<Hub>,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

impl Calls {
    /// For the node of this hub.
    #[must_use]
    pub fn new(hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self {
            hub,
            places: Semaphore::new(UNDER_WAY),
            metrics,
        }
    }

    /// How many wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> usize {
        UNDER_WAY - self.places.available_permits()
    }

    /// Asks all connections here that the call is for; answers what the first of them says.
    pub async fn put(&self, call: &Call) -> Called {
        let deadline = Instant::now() + call.timeout;
        let Ok(_place) = self.places.try_acquire() else {
            return Called::unanswered(CallStatus::Busy);
        };
        let connections = self.hub.matching(&call.to);
        if connections.is_empty() {
            return Called::unanswered(CallStatus::Offline);
        }
        let reference: Arc<str> = new_reference().into();
        let object: Arc<str> = protocol::call_object(&reference, call).into();
        let (outcome, mut outcomes) = mpsc::channel(connections.len());
        for (fd, _) in &connections {
            let pending = Pending {
                fd: *fd,
                reference: reference.clone(),
                outcome: Some(outcome.clone()),
            };
            let (fd, object) = (*fd, object.clone());
            self.metrics.calls_put.inc();
            self.hub
                .tell(
                    fd,
                    Command::Call {
                        fd,
                        object,
                        pending,
                    },
                )
                .await;
        }
        drop(outcome);
        let mut status = CallStatus::Offline;
        loop {
            match tokio::time::timeout_at(deadline, outcomes.recv()).await {
                Ok(Some((fd, Ok(result)))) => {
                    let user = connections.iter().find(|(asked, _)| *asked == fd);
                    let user = user.map(|(_, user)| user.clone());
                    let user = user.expect("one of those that were asked");
                    return Called::answered(fd, user, result);
                }
                Ok(Some((_, Err(reason)))) => status = status.max(reason),
                Ok(None) => return Called::unanswered(status),
                Err(_) => return Called::unanswered(CallStatus::Timeout),
            }
        }
    }
}

/// 128 random bits: nobody can guess it.
fn new_reference() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    format!("{:032x}", u128::from_ne_bytes(random))
}
