//! A sender's call: which nodes hold the user, what they say, and the one answer.
//!
//! Connections on this node are asked at once, those elsewhere by a question to each node of the
//! user's row. The first answer of a client ends the call. As for a push, 0 receivers mean that the
//! row is read again, until the deadline; but what a node has taken is never sent to it a second
//! time, so no client is asked twice. What must stay true: an answer never says more than is proven.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use smallvec::SmallVec;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backplane::{Backplane, Unavailable};
use crate::cluster::survey::{Said, Survey};
use crate::local::hub::Hub;
use crate::local::hub::calls::Calls;
use crate::protocol::ids::{NodeId, Subject};
use crate::protocol::{Call, CallStatus, Called, Question, Target};
use crate::telemetry::metrics::Metrics;

/// Before the row is read again.
const RETRY: Duration = Duration::from_millis(50);
/// Calls of this node's senders under way at once; more are refused.
const UNDER_WAY: usize = 10_000;

/// What became of a call.
#[derive(Debug)]
pub struct CallOutcome {
    /// The node whose client answered.
    pub node: Option<NodeId>,
    /// What it said, or why there is nothing.
    pub called: Called,
    /// For `unrouted` and `busy`: in words.
    pub reason: &'static str,
}

/// Carries out calls of this node's senders.
#[derive(Debug)]
pub struct Caller {
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    survey: Survey,
    calls: Arc<Calls>,
    places: Semaphore,
    metrics: Arc<Metrics>,
}

/// What is known of a call on its way.
struct Course {
    /// Nodes that need not be asked (again).
    asked: SmallVec<[NodeId; 2]>,
    /// The best of what nodes said, as long as no client has answered.
    status: CallStatus,
    /// When to read the row; none if there is no need.
    look: Option<Instant>,
    /// Why part of the way is down.
    open: Option<&'static str>,
    /// A node had the user no more, so the row was read again. Once is enough.
    moved: bool,
}

impl Caller {
    /// For the node of this hub.
    #[must_use]
    pub fn new(
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
    pub async fn call(&self, call: &Call) -> CallOutcome {
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
        let mut course = Course {
            asked: SmallVec::new(),
            status: CallStatus::Offline,
            look: Some(Instant::now()),
            open: None,
            moved: false,
        };
        if !self.hub.matching(&call.to).is_empty() {
            let here = self.hub.node().clone();
            course.asked.push(here.clone());
            parts.push(self.put(here, call, deadline));
        }
        loop {
            if parts.is_empty() && course.look.is_none() {
                return course.conclude();
            }
            let look = course.look.unwrap_or(deadline);
            tokio::select! {
                biased;
                Some((node, said)) = parts.next(), if !parts.is_empty() => {
                    if let Some(called) = self.take(&mut course, call, &node, said, deadline).await {
                        return CallOutcome { node: Some(node), called, reason: "" };
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    if !parts.is_empty() {
                        course.status = course.status.max(CallStatus::Timeout);
                        course.open = None;
                    }
                    return course.conclude();
                }
                () = tokio::time::sleep_until(look), if course.look.is_some() => {
                    for node in self.look(&mut course, call, deadline).await {
                        course.asked.push(node.clone());
                        parts.push(self.put(node, call, deadline));
                    }
                }
            }
        }
    }

    /// Reads where the user is; answers the nodes that have not been asked.
    async fn look(&self, course: &mut Course, call: &Call, deadline: Instant) -> Vec<NodeId> {
        course.look = None;
        let nodes = match &call.to {
            Target::Connection(id, _) => Ok(vec![id.node.clone()]),
            Target::User(user) if self.backplane.is_shared() => {
                let users = [Subject::User(user.clone())];
                let rows = tokio::time::timeout_at(deadline, self.backplane.locate(&users)).await;
                match rows {
                    Ok(Ok(rows)) => match rows.into_iter().next().flatten() {
                        Some(row) => Ok(row.into_iter().map(|(node, _)| node).collect()),
                        None => Err("the registry is being rebuilt"),
                    },
                    Ok(Err(Unavailable(reason))) => Err(reason),
                    Err(_) => Err("no answer from Redis in time"),
                }
            }
            _ => Ok(Vec::new()),
        };
        match nodes {
            Ok(mut nodes) => {
                course.open = None;
                let here = self.hub.node();
                if course.moved && !self.hub.matching(&call.to).is_empty() {
                    nodes.push(here.clone());
                }
                nodes.retain(|node| !course.asked.contains(node));
                nodes
            }
            Err(reason) => {
                course.open = Some(reason);
                course.look = Some(Instant::now() + RETRY);
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

    /// Notes what one node said; answers what its client did.
    async fn take(
        &self,
        course: &mut Course,
        call: &Call,
        node: &NodeId,
        said: Said,
        deadline: Instant,
    ) -> Option<Called> {
        match said {
            Said::Body(body) => match Called::parse(&body) {
                Ok(called) if called.status.is_said() => return Some(called),
                Ok(called) if called.status == CallStatus::Offline && !course.moved => {
                    course.moved = true;
                    course.look = matches!(call.to, Target::User(_)).then(Instant::now);
                }
                Ok(called) => course.status = course.status.max(called.status),
                // A node of another version, or one that answers too many questions.
                Err(_) => course.open = Some("the user's node could not take the call"),
            },
            Said::Nothing => course.status = course.status.max(CallStatus::Timeout),
            Said::Away(reason) => course.open = Some(reason),
            // Its client may have been asked, so nobody else is.
            Said::Lost => course.status = course.status.max(CallStatus::Unrouted),
            Said::Deaf => {
                let dead = tokio::time::timeout_at(deadline, self.backplane.is_dead(node)).await;
                if let (Ok(Ok(true)), Target::User(user)) = (&dead, &call.to) {
                    // Tidying up is not what the sender waits for.
                    let (backplane, user) = (self.backplane.clone(), Subject::User(user.clone()));
                    let node = node.clone();
                    tokio::spawn(async move { backplane.forget(&user, &node).await });
                }
                if !matches!(dead, Ok(Ok(true))) {
                    course.asked.retain(|asked| asked != node);
                    course.open = Some("the user's node does not listen");
                    course.look = Some(Instant::now() + RETRY);
                }
            }
        }
        None
    }
}

impl Course {
    /// What to say when no client has answered.
    fn conclude(self) -> CallOutcome {
        match (self.open, self.status) {
            // Somebody who could not be asked may be there.
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
