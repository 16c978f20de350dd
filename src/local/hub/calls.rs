//! Calls put to clients of this node, and their answers.
//!
//! Each connection that is asked holds a `PendingCall` until it answers; whatever ends the
//! connection drops that, and the drop says that the connection is gone. So no call is forgotten,
//! and only the connections that were asked can answer: no table maps references to calls. The
//! first answer is taken; the others find that the call is over.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::local::hub::Hub;
use crate::local::pending_call::PendingCall;
use crate::local::shard::command::Command;
use crate::protocol;
use crate::protocol::{Call, CallStatus, Called};
use crate::telemetry::metrics::Metrics;

/// Calls put to clients of this node that wait for an answer; more are refused.
const UNDER_WAY: usize = 10_000;

/// Puts calls to the clients of this node.
#[derive(Debug)]
pub(crate) struct Calls {
    hub: Arc<Hub>,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

impl Calls {
    /// For the node of this hub.
    pub(crate) fn new(hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self {
            hub,
            places: Semaphore::new(UNDER_WAY),
            metrics,
        }
    }

    /// How many wait for an answer.
    pub(crate) fn waiting(&self) -> usize {
        UNDER_WAY - self.places.available_permits()
    }

    /// Asks all connections here that the call is for; answers what the first of them says.
    pub(crate) async fn put(&self, call: &Call) -> Called {
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
            let pending = PendingCall::new(*fd, reference.clone(), outcome.clone());
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

/// 128 random bits, so that no client can guess it.
fn new_reference() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    format!("{:032x}", u128::from_ne_bytes(random))
}
