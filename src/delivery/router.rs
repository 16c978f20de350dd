//! One push: who, where, and the truthful answer.
//!
//! Local connections get theirs at once and never wait for Redis. For the rest, the row of the
//! user or topic tells the nodes; a line goes to each of their channels. An answer of 0 receivers or an error
//! means the row is read again and the rest tried again, 50 ms apart, until the sender's
//! deadline; what is still open then is `unrouted`. A node that turns out to be dead is taken
//! out of the row. What must stay true: an answer never says more than is proven.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::backplane::{Backplane, Row, Unavailable};
use crate::cluster::pending::{Expected, Replies};
use crate::delivery::carrier::{Cargo, Share, sum_up};
use crate::delivery::keep::Stored;
use crate::delivery::ledger::Tally;
use crate::local::hub::{Delivered, Hub};
use crate::local::receipt::{Receipt, Waiter};
use crate::local::replay::page::Position;
use crate::protocol;
use crate::protocol::ids::{ConnectionId, NodeId, Subject, Topic, UserId};
use crate::protocol::{Push, PushRequest, Reply, Status, Target, Wait};
use crate::telemetry::metrics::Metrics;

/// Before a failed part is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// The answer to a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The push's id, if it had one.
    pub id: Option<Box<str>>,
    /// The furthest that is proven for at least one connection.
    pub status: Status,
    /// On how many connections: those of the row for `routed`, counted ones beyond.
    pub connections: u32,
    /// How many nodes took part.
    pub nodes: u32,
    /// Where it lies in the inbox or log, if it is kept (and goes to one user or topic).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<Position>,
    /// For `unrouted`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// For `to.users` and `to.topics`: the answer for each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<PartAnswer>,
}

/// One user's or topic's part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartAnswer {
    /// The `user` or the `topic`.
    #[serde(flatten)]
    pub subject: Subject,
    /// As in [`Answer`].
    pub status: Status,
    /// As in [`Answer`].
    pub connections: u32,
    /// As in [`Answer`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_id: Option<Position>,
}

/// Routes pushes of this node's senders.
#[derive(Debug)]
pub struct Router {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) replies: Arc<Replies>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Router {
    /// A router for the node of this hub.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        backplane: Arc<Backplane>,
        replies: Arc<Replies>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            backplane,
            replies,
            metrics,
        }
    }

    /// The node whose senders these are.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        self.hub.node()
    }

    /// The user's connections on live nodes.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn rows(&self, user: &UserId) -> Result<Vec<Row>, Unavailable> {
        self.backplane.rows(user).await
    }

    /// Carries out one push.
    pub async fn push(&self, request: &PushRequest) -> Answer {
        let mut answers = self.push_all(std::slice::from_ref(request)).await;
        answers.pop().expect("an answer for each request")
    }

    /// Carries out many, in order for each user; answers in order.
    pub async fn push_all(&self, requests: &[PushRequest]) -> Vec<Answer> {
        let tally = Tally::open(requests, &self.metrics);
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while let Some(first) = rest.first() {
            // Pushes to users and topics go together. Others wait for those before them, so that the
            // order holds for whoever gets both.
            let run = rest
                .iter()
                .take_while(|request| is_to_subjects(request))
                .count();
            if run > 0 {
                let (those, behind) = rest.split_at(run);
                answers.extend(self.push_to_subjects(those).await);
                rest = behind;
            } else {
                answers.push(self.push_elsewhere(first).await);
                rest = &rest[1..];
            }
        }
        for answer in &answers {
            self.metrics.pushed(answer.status);
        }
        tally.settle(&answers);
        answers
    }

    async fn push_elsewhere(&self, request: &PushRequest) -> Answer {
        let deadline = Instant::now() + request.timeout;
        let mut answer = match &request.push.to {
            Target::Connection(id, _) if id.node == *self.hub.node() => {
                self.push_here(request, deadline).await
            }
            Target::Connection(id, _) => {
                let node = id.node.clone();
                self.push_to_node(
                    &node,
                    Cargo::Push(&request.push),
                    &request.push.to,
                    request.wait,
                    deadline,
                )
                .await
            }
            _ => self.push_to_everybody(request, deadline).await,
        };
        answer.id = request.push.message.id().map(Into::into);
        let (trace, id) = (self.hub.trace(), request.push.message.id());
        trace.pushed_elsewhere(&request.push.to, id, answer.status, answer.reason);
        answer
    }

    // ------------------------------------------------------------ users and topics

    async fn push_to_subjects(&self, requests: &[PushRequest]) -> Vec<Answer> {
        let now = Instant::now();
        // What is kept is kept first: nobody gets a message that could still be refused.
        let parts: Vec<Vec<Part<'_>>> = requests.iter().map(|one| parts_of(&one.push)).collect();
        let kept = self.keep_all(requests, &parts, now).await;
        let mut kept_here = kept.iter();
        let mut shares = Vec::with_capacity(requests.len());
        for (request, parts) in requests.iter().zip(&parts) {
            for (subject, push) in parts {
                let deadline = now + request.timeout;
                let new = |cargo| Share::new(cargo, subject.clone(), request.wait, deadline);
                shares.push(if request.keep {
                    match kept_here.next().expect("one for each subject") {
                        Ok(Stored::At(push)) => new(Cargo::Push(push)).kept(),
                        Ok(Stored::Before) => new(Cargo::Look).kept(),
                        Err(Unavailable(reason)) => new(Cargo::Push(push)).refused(reason),
                    }
                } else {
                    new(Cargo::Push(push))
                });
            }
        }
        self.carry_and_settle(&mut shares).await;

        let mut shares = shares.into_iter();
        requests
            .iter()
            .zip(&parts)
            .map(|(request, parts)| {
                let id = request.push.message.id();
                let trace = |share: &Share<'_>| share.trace(id, self.hub.trace());
                let id = id.map(Into::into);
                match &request.push.to {
                    Target::Users(_) | Target::Topics(_) => {
                        let parts: Vec<Share<'_>> = shares.by_ref().take(parts.len()).collect();
                        parts.iter().for_each(trace);
                        Answer {
                            id,
                            ..sum_up(&parts)
                        }
                    }
                    _ => {
                        let share = shares.next().expect("a share for each");
                        trace(&share);
                        Answer {
                            id,
                            targets: Vec::new(),
                            ..sum_up(std::slice::from_ref(&share))
                        }
                    }
                }
            })
            .collect()
    }

    /// Subscribes all connections of a user to a topic, wherever they are, or takes that back.
    pub async fn enroll_user(&self, user: &UserId, topic: &Topic, joins: bool) -> Answer {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let subject = Subject::User(user.clone());
        let cargo = Cargo::Enroll(topic, joins);
        let mut shares = [Share::new(cargo, subject, Wait::Written, deadline)];
        self.carry_and_settle(&mut shares).await;
        Answer {
            targets: Vec::new(),
            ..sum_up(&shares)
        }
    }

    /// Subscribes one connection to a topic, wherever it is, or takes that back.
    pub async fn enroll_connection(&self, id: &ConnectionId, topic: &Topic, joins: bool) -> Answer {
        self.command_connection(Cargo::Enroll(topic, joins), id)
            .await
    }

    pub(crate) async fn command_connection(&self, cargo: Cargo<'_>, id: &ConnectionId) -> Answer {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let target = Target::Connection(id.clone(), None);
        if id.node != *self.hub.node() {
            return self
                .push_to_node(&id.node, cargo, &target, Wait::Written, deadline)
                .await;
        }
        let (receipt, waiter) = Receipt::new(Wait::Written);
        let count = cargo.carry_out(&self.hub, &target, Some(&receipt)).await;
        drop(receipt);
        match count {
            Delivered::To(count) => settled_here(count, waiter, deadline).await,
            Delivered::Duplicate => answer(Status::Duplicate, 0, 0),
        }
    }

    // ------------------------------------------------------------ one connection, everybody

    async fn push_here(&self, request: &PushRequest, deadline: Instant) -> Answer {
        let (receipt, waiter) = Receipt::new(request.wait);
        self.metrics.shares_here.inc();
        let delivered = self.hub.deliver(&request.push, Some(&receipt)).await;
        drop(receipt);
        match delivered {
            Delivered::Duplicate => answer(Status::Duplicate, 0, 0),
            Delivered::To(0) => answer(Status::Offline, 0, 0),
            Delivered::To(count) if request.wait == Wait::Routed => {
                answer(Status::Routed, count, 1)
            }
            Delivered::To(count) => settled_here(count, waiter, deadline).await,
        }
    }

    async fn push_to_node(
        &self,
        node: &NodeId,
        cargo: Cargo<'_>,
        to: &Target,
        wait: Wait,
        deadline: Instant,
    ) -> Answer {
        let mut expected = (wait > Wait::Routed).then(|| self.replies.expect());
        let reply = expected
            .as_ref()
            .map(|expected| self.reply(expected, wait, deadline));
        let line = cargo.line(to, reply.as_ref());
        let reason = loop {
            let published = self.backplane.publish(node, line.clone(), deadline).await;
            let dead = match published.receivers(deadline).await {
                Ok(0) => self.is_dead(node, deadline).await,
                Ok(_) => {
                    return match &mut expected {
                        None => answer(Status::Routed, 1, 1),
                        Some(expected) => await_receipts(expected, 1, None, deadline).await,
                    };
                }
                Err(unavailable) => Err(unavailable),
            };
            let reason = match dead {
                Ok(true) => return answer(Status::Offline, 0, 0),
                Ok(false) => "the connection's node does not listen",
                Err(Unavailable(reason)) => reason,
            };
            if Instant::now() + RETRY >= deadline {
                break reason;
            }
            tokio::time::sleep(RETRY).await;
        };
        Answer {
            reason: Some(reason),
            ..answer(Status::Unrouted, 0, 0)
        }
    }

    /// What a node is told about the receipt it owes.
    pub(crate) fn reply(&self, expected: &Expected, wait: Wait, deadline: Instant) -> Reply {
        let left = deadline.saturating_duration_since(Instant::now());
        Reply {
            node: self.hub.node().clone(),
            reference: expected.reference.clone(),
            wait,
            timeout_ms: left.as_millis() as u64,
        }
    }

    pub(crate) async fn is_dead(
        &self,
        node: &NodeId,
        deadline: Instant,
    ) -> Result<bool, Unavailable> {
        let dead = tokio::time::timeout_at(deadline, self.backplane.is_dead(node)).await;
        dead.unwrap_or(Err(Unavailable("no answer from Redis in time")))
    }

    /// Published first, delivered here second: whoever is refused has sent to nobody (but in a
    /// Redis Cluster of which a part fails), and a push to a user that follows can not overtake
    /// this one, as it could if ours came by the bus.
    async fn push_to_everybody(&self, request: &PushRequest, deadline: Instant) -> Answer {
        let mut expected = (request.wait > Wait::Routed).then(|| self.replies.expect());
        let reply = expected
            .as_ref()
            .map(|expected| self.reply(expected, request.wait, deadline));
        let line = Cargo::Push(&request.push).line(&request.push.to, reply.as_ref());
        let listeners = match self.publish_to_everybody(line, deadline).await {
            Ok(listeners) => listeners,
            Err(Unavailable(reason)) => {
                return Answer {
                    reason: Some(reason),
                    ..answer(Status::Unrouted, 0, 0)
                };
            }
        };
        self.metrics.shares_here.inc();
        let Some(expected) = &mut expected else {
            self.hub.deliver(&request.push, None).await;
            // As the nodes said at their last beat; nobody has counted these.
            let nodes = self.backplane.nodes();
            let others = nodes
                .iter()
                .filter(|record| record.node != *self.hub.node());
            let there: usize = others.map(|record| record.connections).sum();
            return answer(Status::Routed, (there + self.hub.len()) as u32, listeners);
        };
        let (receipt, waiter) = Receipt::new(request.wait);
        let delivered = self.hub.deliver(&request.push, Some(&receipt)).await;
        drop(receipt);
        let here = match delivered {
            Delivered::Duplicate => (Status::Duplicate, 0),
            Delivered::To(0) => (Status::Written, 0),
            Delivered::To(_) => waiter.settle(deadline).await,
        };
        await_receipts(expected, listeners, Some(here), deadline).await
    }

    /// Answers how many listen, this node among them. Nobody at all means that Redis has just
    /// lost its subscribers; they will be back.
    async fn publish_to_everybody(
        &self,
        line: String,
        deadline: Instant,
    ) -> Result<u32, Unavailable> {
        loop {
            let published = self.backplane.publish_all(line.clone(), deadline).await;
            match published.receivers(deadline).await? {
                0 if Instant::now() + RETRY >= deadline => {
                    return Err(Unavailable("no node listens"));
                }
                0 => tokio::time::sleep(RETRY).await,
                listeners => return Ok(listeners),
            }
        }
    }

    /// Tells a node to send its clients away and leave; answers whether it listens.
    ///
    /// # Errors
    /// When the way there is down.
    pub async fn drain(&self, node: &NodeId) -> Result<bool, Unavailable> {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let published = self
            .backplane
            .publish(node, protocol::drain_line(), deadline)
            .await;
        Ok(published.receivers(deadline).await? > 0)
    }
}

fn is_to_subjects(request: &PushRequest) -> bool {
    !matches!(request.push.to, Target::Connection(..) | Target::All)
}

/// What of a push goes to one user or topic.
pub(crate) type Part<'a> = (Subject, Cow<'a, Push>);

/// The parts of a push to users or topics. Users share its message; that to a topic names it.
fn parts_of(push: &Push) -> Vec<Part<'_>> {
    let user = |user: &UserId| (Subject::User(user.clone()), Cow::Borrowed(push));
    match &push.to {
        Target::User(only) => vec![user(only)],
        Target::Users(users) => users.iter().map(user).collect(),
        Target::Topic(topic) => vec![(Subject::Topic(topic.clone()), Cow::Borrowed(push))],
        Target::Topics(topics) => {
            let subjects = topics.iter().cloned().map(Subject::Topic);
            let pushes = push.to_each(topics).into_iter().map(Cow::Owned);
            subjects.zip(pushes).collect()
        }
        Target::Connection(..) | Target::All => Vec::new(),
    }
}

fn answer(status: Status, connections: u32, nodes: u32) -> Answer {
    Answer {
        id: None,
        status,
        connections,
        nodes,
        seq_id: None,
        reason: None,
        targets: Vec::new(),
    }
}

/// The further of two proofs; equal ones add up.
pub(crate) fn further(a: (Status, u32), b: (Status, u32)) -> (Status, u32) {
    let rank = |status| match status {
        Status::Acked => 2,
        Status::Written => 1,
        _ => 0,
    };
    match rank(a.0).cmp(&rank(b.0)) {
        std::cmp::Ordering::Less => b,
        std::cmp::Ordering::Greater => a,
        std::cmp::Ordering::Equal => (a.0, a.1 + b.1),
    }
}

async fn settled_here(count: u32, waiter: Waiter, deadline: Instant) -> Answer {
    if count == 0 {
        return answer(Status::Offline, 0, 0);
    }
    match waiter.settle(deadline).await {
        (Status::Routed, _) => answer(Status::Routed, count, 1),
        (status, proven) => answer(status, proven, 1),
    }
}

/// Receipts of `nodes` nodes, or as many as come in time; `here` is this node's own part.
async fn await_receipts(
    expected: &mut Expected,
    nodes: u32,
    here: Option<(Status, u32)>,
    deadline: Instant,
) -> Answer {
    let mut proven = (Status::Routed, 0);
    let (mut answered, mut duplicates, mut stale) = (0, 0, 0);
    match here {
        Some((Status::Duplicate, _)) => (answered, duplicates) = (1, 1),
        Some(part) => (answered, proven) = (1, part),
        None => {}
    }
    while answered < nodes {
        let receipt = tokio::time::timeout_at(deadline, expected.receipts.recv()).await;
        let Ok(Some(receipt)) = receipt else { break };
        answered += 1;
        match receipt.status {
            Status::Stale => stale += 1,
            Status::Duplicate => duplicates += 1,
            status => proven = further(proven, (status, receipt.connections)),
        }
    }
    match proven {
        (_, 0) if stale == nodes => answer(Status::Offline, 0, 0),
        (_, 0) if duplicates == nodes => answer(Status::Duplicate, 0, nodes),
        (status, connections) => answer(status, connections, nodes - stale),
    }
}
