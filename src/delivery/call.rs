//! A sender's call: which nodes hold the user, their answers, and the single answer to the sender.
//!
//! Connections on this node are asked at once, those elsewhere by a question to each node of the
//! user's row. The first answer of a client ends the call. As for a push, 0 receivers mean that the
//! row is read again, until the deadline. A node never gets a question again that it accepted, so
//! no client is asked twice. What must stay true: an answer never says more than is proven.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::LATE;
use crate::cluster::reach::RETRY;
use crate::cluster::survey::{Said, Survey};
use crate::delivery::share::SUSPECTED;
use crate::local::hub::Hub;
use crate::local::hub::calls::Calls;
use crate::protocol::ids::{NodeId, Subject};
use crate::protocol::{Call, CallStatus, Called, Question, Target};
use crate::telemetry::metrics::Metrics;

/// Maximum number of calls of this node's senders under way at once; further ones are refused.
const UNDER_WAY: usize = 10_000;

/// The outcome of a call.
#[derive(Debug)]
pub(crate) struct CallOutcome {
    /// The node whose client answered.
    pub node: Option<NodeId>,
    /// The client's answer, or why there is none.
    pub called: Called,
    /// For `unrouted` and `busy`: the reason in words.
    pub reason: &'static str,
}

/// Carries out the calls of this node's senders.
#[derive(Debug)]
pub(crate) struct CallService {
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    survey: Survey,
    calls: Arc<Calls>,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

/// The state of a call under way.
struct CallProgress {
    /// Nodes that need not be asked (again).
    asked: SmallVec<[NodeId; 2]>,
    /// The best status that nodes reported, as long as no client has answered.
    status: CallStatus,
    /// When to read the row; `None` if that is not needed.
    look: Option<Instant>,
    /// Why some nodes cannot be reached.
    open: Option<&'static str>,
    /// A node no longer had the user, so the row was read again. Once is enough.
    moved: bool,
    /// It was the first to meet a node that does not listen, so it waits for it.
    waits: bool,
}

impl CallService {
    /// For the node of this hub.
    pub(crate) fn new(
        hub: Arc<Hub>,
        backplane: Arc<Backplane>,
        survey: Survey,
        calls: Arc<Calls>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            backplane,
            survey,
            calls,
            places: Semaphore::new(UNDER_WAY),
            metrics,
        }
    }

    /// Asks the client, and waits for its answer.
    pub(crate) async fn call(&self, call: &Call) -> CallOutcome {
        let outcome = match self.places.try_acquire() {
            Ok(_place) => self.carry_out(call).await,
            Err(_) => outcome(CallStatus::Busy, "too many calls are under way"),
        };
        let status = outcome.called.status.as_str();
        self.metrics.calls.get_or_create(&status.into()).inc();
        outcome
    }

    async fn carry_out(&self, call: &Call) -> CallOutcome {
        let deadline = Instant::now() + call.timeout;
        let mut parts = FuturesUnordered::new();
        let mut progress = CallProgress {
            asked: SmallVec::new(),
            status: CallStatus::Offline,
            look: Some(Instant::now()),
            open: None,
            moved: false,
            waits: false,
        };
        if !self.hub.matching(&call.to).is_empty() {
            let here = self.hub.node().clone();
            progress.asked.push(here.clone());
            parts.push(self.put(here, call, deadline));
        }
        loop {
            if parts.is_empty() && progress.look.is_none() {
                return progress.conclude();
            }
            let look = progress.look.unwrap_or(deadline);
            tokio::select! {
                biased;
                Some((node, said)) = parts.next(), if !parts.is_empty() => {
                    if let Some(called) = self.take(&mut progress, call, &node, said) {
                        return CallOutcome { node: Some(node), called, reason: "" };
                    }
                }
                // Before the deadline: no user is offline who was not looked up.
                () = tokio::time::sleep_until(look), if progress.look.is_some() => {
                    for node in self.look(&mut progress, call, deadline).await {
                        progress.asked.push(node.clone());
                        parts.push(self.put(node, call, deadline));
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    if !parts.is_empty() {
                        progress.status = progress.status.max(CallStatus::Timeout);
                        progress.open = None;
                    }
                    return progress.conclude();
                }
            }
        }
    }

    /// Reads where the user is; returns the nodes that have not been asked.
    async fn look(
        &self,
        progress: &mut CallProgress,
        call: &Call,
        deadline: Instant,
    ) -> Vec<NodeId> {
        progress.look = None;
        let nodes = match &call.to {
            Target::Connection(id, _) => Ok(vec![id.node.clone()]),
            Target::User(user) if self.backplane.is_shared() => {
                let row = self.backplane.locate_user(user, None);
                let row = tokio::time::timeout_at(deadline, row).await;
                let row = row.unwrap_or(Err(LATE));
                row.map(|places| places.into_iter().map(|place| place.node).collect())
            }
            _ => Ok(Vec::new()),
        };
        match nodes {
            Ok(mut nodes) => {
                progress.open = None;
                let here = self.hub.node();
                if progress.moved && !self.hub.matching(&call.to).is_empty() {
                    nodes.push(here.clone());
                }
                nodes.retain(|node| !progress.asked.contains(node));
                nodes
            }
            Err(reason) => {
                progress.open = Some(reason);
                progress.look = Some(Instant::now() + RETRY);
                Vec::new()
            }
        }
    }

    /// Asks one node.
    fn put<'a>(
        &'a self,
        node: NodeId,
        call: &'a Call,
        deadline: Instant,
    ) -> BoxFuture<'a, (NodeId, Said)> {
        let left = deadline.saturating_duration_since(Instant::now());
        let call = Call {
            timeout: left.max(Duration::from_millis(1)),
            ..call.clone()
        };
        async move {
            if node == *self.hub.node() {
                let called = self.calls.put(&call).await;
                return (node, Said::Body(called.to_body().into()));
            }
            let question = Question::Call(call);
            let said = self.survey.ask_one(&node, &question, deadline).await;
            (node, said)
        }
        .boxed()
    }

    /// Notes one node's answer; returns what its client answered.
    fn take(
        &self,
        progress: &mut CallProgress,
        call: &Call,
        node: &NodeId,
        said: Said,
    ) -> Option<Called> {
        match said {
            Said::Body(body) => match Called::parse(&body) {
                Ok(called) if called.status.is_said() => return Some(called),
                Ok(called) if called.status == CallStatus::Offline && !progress.moved => {
                    progress.moved = true;
                    progress.look = matches!(call.to, Target::User(_)).then(Instant::now);
                }
                Ok(called) => progress.status = progress.status.max(called.status),
                // A node of another version, or one that answers too many questions.
                Err(_) => progress.open = Some("the user's node could not take the call"),
            },
            Said::Nothing => progress.status = progress.status.max(CallStatus::Timeout),
            Said::Away(reason) => progress.open = Some(reason),
            // Its client may have been asked, so no other client is.
            Said::Lost => progress.status = progress.status.max(CallStatus::Unrouted),
            Said::Dead => {
                if let Target::User(user) = &call.to {
                    // The sender does not wait for the clean-up.
                    let (backplane, user) = (self.backplane.clone(), Subject::User(user.clone()));
                    let node = node.clone();
                    tokio::spawn(async move { backplane.forget(&user, &node).await });
                }
            }
            Said::Suspect if !progress.waits => {
                progress.open = Some(SUSPECTED);
            }
            Said::Deaf | Said::Suspect => {
                progress.waits = true;
                progress.asked.retain(|asked| asked != node);
                progress.open = Some("the user's node does not listen");
                progress.look = Some(Instant::now() + RETRY);
            }
        }
        None
    }
}

impl CallProgress {
    /// The outcome when no client has answered.
    fn conclude(self) -> CallOutcome {
        match (self.open, self.status) {
            // A client that could not be asked may be there.
            (Some(reason), _) => outcome(CallStatus::Unrouted, reason),
            (None, CallStatus::Unrouted) => outcome(
                CallStatus::Unrouted,
                "the user's node stopped listening before it answered",
            ),
            (None, status) => outcome(status, "the node or the client has too many calls"),
        }
    }
}

fn outcome(status: CallStatus, reason: &'static str) -> CallOutcome {
    CallOutcome {
        node: None,
        called: Called::unanswered(status),
        reason,
    }
}
