//! One connection's part in a call that a sender has put to clients of this node.
//!
//! What must stay true: each `PendingCall` gives exactly one outcome. Whatever ends a connection
//! drops its pending calls, and the drop says that the connection is gone.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::protocol::CallStatus;
use crate::protocol::ids::Fd;

/// What one connection says to a call: its answer, or why there is none.
pub(crate) type CallEnd = Result<Result<Box<str>, Box<str>>, CallStatus>;

/// One connection's part in a call. Dropped without an answer, the connection is gone.
#[derive(Debug)]
pub(crate) struct PendingCall {
    fd: Fd,
    reference: Arc<str>,
    outcome: Option<mpsc::Sender<(Fd, CallEnd)>>,
}

impl PendingCall {
    /// `outcome` must have room for one outcome of each connection that is asked.
    pub(crate) fn new(fd: Fd, reference: Arc<str>, outcome: mpsc::Sender<(Fd, CallEnd)>) -> Self {
        Self {
            fd,
            reference,
            outcome: Some(outcome),
        }
    }

    /// What its answer carries as `ref`.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// Whether the call no longer waits for an answer.
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

    fn settle(mut self, outcome: CallEnd) {
        if let Some(sender) = self.outcome.take() {
            // There is room for one of each; closed if another was first.
            let _ = sender.try_send((self.fd, outcome));
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        if let Some(sender) = self.outcome.take() {
            let _ = sender.try_send((self.fd, Err(CallStatus::Gone)));
        }
    }
}
