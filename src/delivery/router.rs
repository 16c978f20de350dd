//! One push: its recipients, their nodes, and the truthful answer.
//!
//! Local connections get the push at once and never wait for Redis. For the rest, the row of the
//! user or topic names the nodes; a line goes to each of their channels. An answer of 0 receivers
//! or an error means that the row is read and the rest tried again, 50 ms apart, until the sender's
//! deadline. What is still open then is `unrouted`, and at once if the node was suspected before. A
//! node that turns out to be dead is removed from the row. What must stay true: an answer never
//! says more than is proven.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{LATE, Unavailable};
use crate::backplane::rows::Row;
use crate::cluster::pending::Replies;
use crate::cluster::reach::{RETRY, Reached, reach};
use crate::delivery::answer::{Answer, await_receipts, settled_here};
use crate::delivery::carrier::{CHUNK, Carrier};
use crate::delivery::keep::Stored;
use crate::delivery::ledger::OutcomeLedger;
use crate::delivery::operation::Operation;
use crate::delivery::part::{Part, parts_of};
use crate::delivery::share::{Delivery, SUSPECTED, TOO_LATE, sum_up};
use crate::local::hub::Hub;
use crate::local::hub::deliver::Delivered;
use crate::local::receipt::Receipt;
use crate::protocol;
use crate::protocol::ids::{ConnectionId, NodeId, Subject, Topic, UserId};
use crate::protocol::{InvalidInput, PushRequest, Status, Target, Wait};
use crate::telemetry::metrics::Metrics;

/// What is sent to everybody reaches no node.
const DEAF: Unavailable = Unavailable("no node listens");

/// Routes pushes of this node's senders.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) carrier: Carrier,
}

impl Router {
    /// A router for the node of this hub.
    pub(crate) fn new(
        hub: Arc<Hub>,
        backplane: Arc<Backplane>,
        replies: Arc<Replies>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let carrier = Carrier {
            hub,
            backplane,
            replies,
            sent: Arc::default(),
            metrics,
        };
        Self { carrier }
    }

    /// The node that these senders are connected to.
    pub(crate) fn node(&self) -> &NodeId {
        self.carrier.hub.node()
    }

    /// The user's connections on live nodes.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn rows(&self, user: &UserId) -> Result<Vec<Row>, Unavailable> {
        self.carrier.backplane.rows(user).await
    }

    /// Refuses a push that the rule of its topic makes impossible.
    ///
    /// # Errors
    /// Why it is.
    pub(crate) fn check(&self, request: &PushRequest) -> Result<(), InvalidInput> {
        let push = &request.push;
        let topics = match &push.to {
            Target::Topic(topic) => std::slice::from_ref(topic),
            Target::Topics(topics) => topics,
            _ => return Ok(()),
        };
        let goes_with_keep = push.except.is_none() && !push.message.has_policy();
        let rules = self.carrier.hub.topics().rules();
        let is_kept = |topic: &Topic| rules.find(topic).is_some_and(|rule| rule.keep.every);
        match topics
            .iter()
            .find(|topic| !goes_with_keep && is_kept(topic))
        {
            None => Ok(()),
            Some(topic) => Err(InvalidInput::new(format!(
                "the rule of the topic {topic} keeps every push, which goes with neither except \
                nor policy"
            ))),
        }
    }

    /// Carries out one push.
    pub(crate) async fn push(&self, request: &PushRequest) -> Answer {
        if let Target::User(user) = &request.push.to
            && !request.keep
        {
            return self.push_to_user(request, user).await;
        }
        // Boxed, or the short way above would carry the room for all that this may wait for.
        let mut answers = Box::pin(self.push_all(std::slice::from_ref(request))).await;
        answers.pop().expect("an answer for each request")
    }

    /// Carries out many pushes, in order for each user; returns the answers in order.
    pub(crate) async fn push_all(&self, requests: &[PushRequest]) -> Vec<Answer> {
        // One time for all: what waits for others of its batch waits within its own deadline.
        let began = Instant::now();
        let ledger = OutcomeLedger::open(requests, &self.carrier.metrics);
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while let Some(first) = rest.first() {
            // Pushes to users and topics go together. Others wait for those before them, so that a
            // recipient of both gets them in order.
            let run = rest
                .iter()
                .take_while(|request| is_to_subjects(request))
                .count();
            if run > 0 {
                let (those, behind) = rest.split_at(run);
                answers.extend(self.push_to_subjects(those, began).await);
                rest = behind;
            } else {
                answers.push(self.push_elsewhere(first, began).await);
                rest = &rest[1..];
            }
        }
        for answer in &answers {
            self.carrier.metrics.pushed(answer.status);
        }
        ledger.settle(&answers);
        answers
    }

    async fn push_elsewhere(&self, request: &PushRequest, began: Instant) -> Answer {
        let deadline = began + request.timeout;
        let answer = match &request.push.to {
            _ if Instant::now() >= deadline => Answer::unrouted(TOO_LATE),
            Target::Connection(id, _) if id.node == *self.carrier.hub.node() => {
                self.push_here(request, deadline).await
            }
            Target::Connection(id, _) => {
                let node = id.node.clone();
                self.push_to_node(
                    &node,
                    Operation::Push(&request.push),
                    &request.push.to,
                    request.wait,
                    deadline,
                )
                .await
            }
            _ => self.push_to_everybody(request, deadline).await,
        };
        self.trace(request, answer)
    }

    /// Records the answer to a push that has one share.
    pub(super) fn trace(&self, request: &PushRequest, mut answer: Answer) -> Answer {
        answer.id = request.push.message.id().map(Into::into);
        let (trace, id) = (self.carrier.hub.trace(), request.push.message.id());
        trace.pushed_elsewhere(&request.push.to, id, answer.status, answer.reason);
        answer
    }

    // ------------------------------------------------------------ users and topics

    async fn push_to_subjects(&self, requests: &[PushRequest], began: Instant) -> Vec<Answer> {
        let rules = self.carrier.hub.topics().rules();
        let parts = requests.iter().map(|one| parts_of(one, rules));
        let parts: Vec<Vec<Part<'_>>> = parts.collect();
        let count = parts.iter().map(Vec::len).sum();
        let mut kept_pushes = Vec::new();
        if parts.iter().flatten().any(|part| part.keep) {
            kept_pushes.resize_with(count, OnceLock::new);
        }
        let mut shares: Vec<Delivery<'_>> = Vec::with_capacity(count);
        let mut held = HashSet::new();
        let mut next = 0;
        while next < requests.len() {
            let these = next..next + chunk(&parts[next..]);
            let (requests, parts) = (&requests[these.clone()], &parts[these.clone()]);
            // Messages are kept first: no client gets a message that could still be refused.
            // The first ones have not waited for others.
            let waited = next > 0;
            let now = Instant::now();
            let is_late = |request: &PushRequest| waited && now >= began + request.timeout;
            let kept = match requests.iter().all(is_late) {
                true => Vec::new(),
                false => self.carrier.keep_all(requests, parts, began).await,
            };
            let first = shares.len();
            let mut kept = kept.into_iter().peekable();
            for (request, parts) in requests.iter().zip(parts) {
                for Part {
                    subject,
                    push,
                    keep,
                } in parts
                {
                    let deadline = began + request.timeout;
                    let new = |operation| {
                        Delivery::new(operation, subject.clone(), request.wait, deadline)
                    };
                    // Empty also where the whole chunk is late.
                    let kept = kept.next_if(|_| *keep);
                    shares.push(match kept {
                        Some(Ok(Stored { push, proof })) => new(match push {
                            Some(push) => {
                                Operation::Push(kept_pushes[shares.len()].get_or_init(|| push))
                            }
                            None => Operation::Look,
                        })
                        .kept(proof),
                        Some(Err(Unavailable(reason))) => {
                            new(Operation::Push(push)).refused(reason)
                        }
                        None if is_late(request) => new(Operation::Push(push)).too_late(),
                        None => new(Operation::Push(push)),
                    });
                }
            }
            self.carrier
                .carry_first(&mut shares[first..], &mut held)
                .await;
            next = these.end;
            if shares.len() < count {
                tokio::task::yield_now().await;
            }
        }
        self.carrier.carry_rest(&mut shares).await;
        self.carrier.settle_all(&mut shares).await;
        self.carrier.note_sent(&mut shares);
        let untold = shares.iter().filter(|share| share.is_untold());
        let untold: Vec<Subject> = untold.map(|share| share.subject.clone()).collect();
        if !untold.is_empty() {
            self.carrier.look_later(untold);
        }
        self.answers(requests, shares).await
    }

    /// The answers to pushes to users and topics, whose shares these are, in order.
    async fn answers(&self, requests: &[PushRequest], shares: Vec<Delivery<'_>>) -> Vec<Answer> {
        let trace = self.carrier.hub.trace();
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = &shares[..];
        let mut since_yield = 0;
        for request in requests {
            let (count, has_targets) = match &request.push.to {
                Target::Users(users) => (users.len(), true),
                Target::Topics(topics) => (topics.len(), true),
                _ => (1, false),
            };
            let (parts, behind) = rest.split_at(count);
            rest = behind;
            let id = request.push.message.id();
            parts.iter().for_each(|share| share.trace(id, trace));
            let mut answer = sum_up(parts);
            answer.id = id.map(Into::into);
            if !has_targets {
                answer.targets = Vec::new();
            }
            answers.push(answer);
            since_yield += count;
            if since_yield > CHUNK {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
        answers
    }

    /// Subscribes all connections of a user to a topic, on all nodes, or unsubscribes them.
    pub(crate) async fn enroll_user(&self, user: &UserId, topic: &Topic, joins: bool) -> Answer {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let subject = Subject::User(user.clone());
        let operation = Operation::Enroll(topic, joins);
        let mut shares = [Delivery::new(operation, subject, Wait::Written, deadline)];
        self.carrier.carry_and_settle(&mut shares).await;
        Answer {
            targets: Vec::new(),
            ..sum_up(&shares)
        }
    }

    /// Subscribes one connection to a topic, on any node, or unsubscribes it.
    pub(crate) async fn enroll_connection(
        &self,
        id: &ConnectionId,
        topic: &Topic,
        joins: bool,
    ) -> Answer {
        self.command_connection(Operation::Enroll(topic, joins), id)
            .await
    }

    pub(crate) async fn command_connection(
        &self,
        operation: Operation<'_>,
        id: &ConnectionId,
    ) -> Answer {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let target = Target::Connection(id.clone(), None);
        if id.node != *self.carrier.hub.node() {
            return self
                .push_to_node(&id.node, operation, &target, Wait::Written, deadline)
                .await;
        }
        let (receipt, waiter) = Receipt::new(Wait::Written);
        let count = operation
            .carry_out(&self.carrier.hub, &target, Some(&receipt))
            .await;
        drop(receipt);
        match count {
            Delivered::To(count) => settled_here(count, waiter, deadline).await,
            Delivered::Duplicate => Answer::of(Status::Duplicate, 0, 0),
        }
    }

    // ------------------------------------------------------------ one connection, everybody

    pub(super) async fn push_here(&self, request: &PushRequest, deadline: Instant) -> Answer {
        let (receipt, waiter) = match request.wait {
            Wait::Routed => (None, None),
            wait => {
                let (receipt, waiter) = Receipt::new(wait);
                (Some(receipt), Some(waiter))
            }
        };
        self.carrier.metrics.shares_here.inc();
        let hub = &self.carrier.hub;
        let delivered = hub.deliver(&request.push, receipt.as_ref()).await;
        drop(receipt);
        match (delivered, waiter) {
            (Delivered::Duplicate, _) => Answer::of(Status::Duplicate, 0, 0),
            (Delivered::To(0), _) => Answer::of(Status::Offline, 0, 0),
            (Delivered::To(count), None) => Answer::of(Status::Routed, count, 1),
            (Delivered::To(count), Some(waiter)) => settled_here(count, waiter, deadline).await,
        }
    }

    async fn push_to_node(
        &self,
        node: &NodeId,
        operation: Operation<'_>,
        to: &Target,
        wait: Wait,
        deadline: Instant,
    ) -> Answer {
        let carrier = &self.carrier;
        let mut expected = (wait > Wait::Routed).then(|| carrier.replies.expect());
        let reply = expected
            .as_ref()
            .map(|expected| carrier.reply(expected, wait, deadline));
        let line = operation.line(to, reply.as_ref());
        let _claim = carrier.hub.memory().claim(line.len());
        let again = |reached| matches!(reached, Reached::Deaf | Reached::Away(_));
        match reach(&carrier.backplane, node, &line, deadline, deadline, again).await {
            Reached::Heard => match &mut expected {
                None if carrier.was_sent(operation, to) => Answer::of(Status::Duplicate, 0, 1),
                None => Answer::of(Status::Routed, 1, 1),
                Some(expected) => await_receipts(expected, 1, None, deadline).await,
            },
            Reached::Dead => Answer::of(Status::Offline, 0, 0),
            Reached::Deaf => Answer::unrouted("the connection's node does not listen"),
            Reached::Suspect => Answer::unrouted(SUSPECTED),
            Reached::Away(reason) => Answer::unrouted(reason),
        }
    }

    /// Published first, delivered here second: a refused push has reached no client (except in a
    /// Redis Cluster of which a part fails). A later push to a user cannot overtake this one, as it
    /// could if this node received its own copy by the bus.
    async fn push_to_everybody(&self, request: &PushRequest, deadline: Instant) -> Answer {
        let mut expected = (request.wait > Wait::Routed).then(|| self.carrier.replies.expect());
        let reply = expected
            .as_ref()
            .map(|expected| self.carrier.reply(expected, request.wait, deadline));
        let line = Operation::Push(&request.push).line(&request.push.to, reply.as_ref());
        let listeners = match self.publish_to_everybody(line, deadline).await {
            Ok(listeners) => listeners,
            Err(Unavailable(reason)) => {
                return Answer::unrouted(reason);
            }
        };
        self.carrier.metrics.shares_here.inc();
        let Some(expected) = &mut expected else {
            if self.carrier.hub.deliver(&request.push, None).await == Delivered::Duplicate {
                return Answer::of(Status::Duplicate, 0, listeners);
            }
            // As the nodes reported at their last beat; this push has not counted the connections.
            let nodes = self.carrier.backplane.nodes();
            let others = nodes
                .iter()
                .filter(|record| record.node != *self.carrier.hub.node());
            let there: usize = others.map(|record| record.connections).sum();
            return Answer::of(
                Status::Routed,
                (there + self.carrier.hub.len()) as u32,
                listeners,
            );
        };
        let (receipt, waiter) = Receipt::new(request.wait);
        let delivered = self
            .carrier
            .hub
            .deliver(&request.push, Some(&receipt))
            .await;
        drop(receipt);
        let here = match delivered {
            Delivered::Duplicate => (Status::Duplicate, 0),
            Delivered::To(0) => (Status::Written, 0),
            Delivered::To(_) => waiter.settle(deadline).await,
        };
        await_receipts(expected, listeners, Some(here), deadline).await
    }

    /// Returns how many nodes listen, including this one. None at all means that Redis has just
    /// lost its subscribers; they will subscribe again.
    async fn publish_to_everybody(
        &self,
        line: String,
        deadline: Instant,
    ) -> Result<u32, Unavailable> {
        let _claim = self.carrier.hub.memory().claim(line.len());
        let mut was_deaf = false;
        loop {
            let published = self
                .carrier
                .backplane
                .publish_all(line.clone(), deadline)
                .await;
            match published.receivers(deadline).await {
                Ok(0) if Instant::now() + RETRY >= deadline => return Err(DEAF),
                Ok(0) => {
                    was_deaf = true;
                    tokio::time::sleep(RETRY).await;
                }
                Err(Unavailable(LATE)) if was_deaf => return Err(DEAF),
                listeners => return listeners,
            }
        }
    }

    /// Tells a node to drain: to close its clients' connections and leave. Returns whether it
    /// listens.
    ///
    /// # Errors
    /// When the backplane cannot be reached.
    pub(crate) async fn drain(&self, node: &NodeId) -> Result<bool, Unavailable> {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let published = self
            .carrier
            .backplane
            .publish(node, protocol::drain_line(), deadline)
            .await;
        Ok(published.receivers(deadline).await? > 0)
    }
}

/// How many of these pushes are carried together: those of a chunk, and one at least.
fn chunk(parts: &[Vec<Part<'_>>]) -> usize {
    let mut count = 0;
    let fits = parts.iter().take_while(|parts| {
        count += parts.len();
        count <= CHUNK
    });
    fits.count().max(1)
}

fn is_to_subjects(request: &PushRequest) -> bool {
    !matches!(request.push.to, Target::Connection(..) | Target::All)
}
