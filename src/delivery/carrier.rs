//! Carries pushes to users and topics: one share for each recipient and push, in rounds.
//!
//! A share is open until every node in the row has accepted it or is known to be dead. Many
//! shares go through a round together: one pipelined look-up, one line for each node.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{Published, ReplicaProof, Unavailable};
use crate::cluster::pending::{Expected, Replies};
use crate::cluster::reach::{RETRY, Reached, judge};
use crate::delivery::answer::{Answer, PartAnswer, further, replicated};
use crate::delivery::operation::Operation;
use crate::local::hub::Hub;
use crate::local::hub::deliver::Delivered;
use crate::local::receipt::{Receipt, Waiter};
use crate::protocol::ids::{NodeId, Subject, UserId};
use crate::protocol::position::Position;
use crate::protocol::{Push, ReceiptRequest, Status, Target, Wait};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// One user's or topic's part of one push on its way.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    operation: Operation<'a>,
    subject: Subject,
    wait: Wait,
    deadline: Instant,
    /// Nodes that need no line (any more): they accepted it, or they are dead.
    served: SmallVec<[NodeId; 2]>,
    connections: u32,
    /// Nodes that accepted it for at least one connection.
    reached: SmallVec<[NodeId; 1]>,
    duplicate: bool,
    /// It is in the inbox or log.
    kept: bool,
    /// Whether replicas have it; taken once that is asked.
    proof: ReplicaProof,
    /// It is not known that enough replicas have it.
    unreplicated: bool,
    /// It could not be put there, so it is not pushed at all.
    refused: bool,
    /// Why it is not finished yet; `None` once it is.
    open: Option<&'static str>,
    local: Option<Waiter>,
    receipts: Option<Expected>,
    /// The number of nodes that owe a receipt.
    owed: u32,
    /// The furthest status that receipts prove.
    proven: Option<Status>,
}

impl<'a> Delivery<'a> {
    pub(crate) fn new(
        operation: Operation<'a>,
        subject: Subject,
        wait: Wait,
        deadline: Instant,
    ) -> Self {
        Self {
            operation,
            subject,
            wait,
            deadline,
            served: SmallVec::new(),
            connections: 0,
            reached: SmallVec::new(),
            duplicate: false,
            kept: false,
            proof: ReplicaProof::default(),
            unreplicated: false,
            refused: false,
            open: Some("the row could not be looked up"),
            local: None,
            receipts: None,
            owed: 0,
            proven: None,
        }
    }

    /// Marks it as kept in the inbox or log.
    pub(crate) fn kept(self, proof: ReplicaProof) -> Self {
        Self {
            kept: true,
            proof,
            ..self
        }
    }

    /// Marks it as refused: it should have been kept, and could not be.
    pub(crate) fn refused(self, reason: &'static str) -> Self {
        Self {
            refused: true,
            open: Some(reason),
            ..self
        }
    }

    /// Whether nodes must send receipts for it.
    fn wants_receipts(&self) -> bool {
        self.wait > Wait::Routed && !matches!(self.operation, Operation::Look)
    }

    /// Whether some node must still get it.
    fn is_open(&self) -> bool {
        self.open.is_some() && !self.refused
    }

    /// Records the sender's answer in the trace.
    pub(crate) fn trace(&self, id: Option<&str>, trace: &Trace) {
        trace.pushed(&self.subject, id, self.status(), self.open);
    }

    fn position(&self) -> Option<Position> {
        match self.operation {
            Operation::Push(push) => push.message.position(),
            Operation::Kick(_) | Operation::Enroll(..) | Operation::Look => None,
        }
    }

    fn status(&self) -> Status {
        match self.open {
            // Sent before: the connections have it, or get it now.
            _ if matches!(self.operation, Operation::Look) => Status::Duplicate,
            _ if self.connections > 0 && self.proven.is_some() => self.proven.expect("checked"),
            // Some nodes received it, although not all: that much is proven.
            Some(_) if self.connections == 0 && !self.kept => Status::Unrouted,
            _ if self.connections > 0 => Status::Routed,
            _ if self.duplicate => Status::Duplicate,
            _ if self.kept => Status::Stored,
            _ => Status::Offline,
        }
    }
}

/// Carries what goes to users and topics, here and to other nodes.
#[derive(Debug)]
pub(crate) struct Carrier {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) replies: Arc<Replies>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Carrier {
    /// The instructions to a node for the receipt it owes.
    pub(crate) fn reply(
        &self,
        expected: &Expected,
        wait: Wait,
        deadline: Instant,
    ) -> ReceiptRequest {
        let left = deadline.saturating_duration_since(Instant::now());
        ReceiptRequest {
            node: self.hub.node().clone(),
            reference: expected.reference.clone(),
            wait,
            timeout_ms: left.as_millis() as u64,
        }
    }

    pub(crate) async fn carry_and_settle(&self, shares: &mut [Delivery<'_>]) {
        self.carry_all(shares).await;
        self.settle_all(shares).await;
    }

    /// Carries shares to this node and to other nodes.
    pub(crate) async fn carry_all(&self, shares: &mut [Delivery<'_>]) {
        for share in shares.iter_mut().filter(|share| !share.refused) {
            self.deliver_here(share).await;
        }
        if self.backplane.is_shared() {
            self.carry(shares).await;
        } else {
            let carried = shares.iter_mut().filter(|share| !share.refused);
            carried.for_each(|share| share.open = None);
        }
    }

    /// Waits for the requested receipts, then for replicas: they had the same time.
    pub(crate) async fn settle_all(&self, shares: &mut [Delivery<'_>]) {
        for share in shares.iter_mut().filter(|share| share.wants_receipts()) {
            self.settle(share).await;
        }
        for share in shares.iter_mut().filter(|share| share.kept) {
            let proof = std::mem::take(&mut share.proof);
            share.unreplicated = !proof.replicated_by(share.deadline).await;
            let missing = u64::from(share.unreplicated);
            self.metrics.kept_unreplicated.inc_by(missing);
        }
    }

    /// Delivers to the recipient's connections on this node.
    async fn deliver_here(&self, share: &mut Delivery<'_>) {
        let to = Target::from(share.subject.clone());
        let (receipt, waiter) = match share.wait {
            Wait::Routed => (None, None),
            wait => {
                let (receipt, waiter) = Receipt::new(wait);
                (Some(receipt), Some(waiter))
            }
        };
        let operation = share.operation;
        let (is_push, is_look) = (
            matches!(operation, Operation::Push(_)),
            matches!(operation, Operation::Look),
        );
        self.metrics
            .shares_here
            .inc_by(u64::from(is_push || is_look));
        self.metrics.looks.inc_by(u64::from(is_look));
        match operation.carry_out(&self.hub, &to, receipt.as_ref()).await {
            Delivered::To(0) => {}
            Delivered::To(count) => {
                share.connections += count;
                share.reached.push(self.hub.node().clone());
                share.local = waiter;
            }
            Delivered::Duplicate => share.duplicate = true,
        }
    }

    /// Delivers to connections on other nodes: rounds of look-up and publishing.
    async fn carry(&self, shares: &mut [Delivery<'_>]) {
        loop {
            let round = self.carry_once(shares).await;
            if let Err(Unavailable(reason)) = round {
                for share in shares.iter_mut().filter(|share| share.is_open()) {
                    share.open = Some(reason);
                }
            }
            let now = Instant::now();
            let waits = |share: &Delivery<'_>| share.is_open() && share.deadline > now + RETRY;
            if !shares.iter().any(waits) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One round for every share that is still open.
    async fn carry_once(&self, shares: &mut [Delivery<'_>]) -> Result<(), Unavailable> {
        let now = Instant::now();
        let open: Vec<usize> = (0..shares.len())
            .filter(|&i| shares[i].is_open() && shares[i].deadline > now)
            .collect();
        let subjects: Vec<Subject> = open.iter().map(|&i| shares[i].subject.clone()).collect();
        let last = open
            .iter()
            .map(|&i| shares[i].deadline)
            .max()
            .unwrap_or(now);
        let rows = tokio::time::timeout_at(last, self.backplane.locate(&subjects))
            .await
            .map_err(|_| Unavailable("no answer from Redis in time"))??;

        let mut batches = Vec::new();
        for (&i, locations) in open.iter().zip(rows) {
            let Some(locations) = locations else {
                shares[i].open = Some("the registry is being rebuilt");
                continue;
            };
            shares[i].open = None;
            for (node, connections) in locations {
                if !shares[i].served.contains(&node) {
                    add_to_batch(&mut batches, shares, i, node, connections);
                }
            }
        }
        for batch in &mut batches {
            let line = self.line(shares, batch);
            let deadline = shares[batch.shares[0].0].deadline;
            batch.published = Some(self.backplane.publish(&batch.node, line, deadline).await);
        }
        for batch in batches {
            self.finish(shares, batch).await;
        }
        Ok(())
    }

    /// The line published for a batch. A sender that waits for more than routing gets a receipt.
    fn line(&self, shares: &mut [Delivery<'_>], batch: &NodeBatch) -> String {
        let share = &mut shares[batch.shares[0].0];
        let (wait, deadline) = (share.wait, share.deadline);
        let reply = share.wants_receipts().then(|| {
            let expected = share.receipts.get_or_insert_with(|| self.replies.expect());
            self.reply(expected, wait, deadline)
        });
        let operation = share.operation;
        let to = match &batch.shares[..] {
            [(only, _)] => shares[*only].subject.clone().into(),
            many => {
                let subjects = many.iter().map(|(i, _)| &shares[*i].subject);
                let users = subjects.filter_map(|subject| match subject {
                    Subject::User(user) => Some(user.clone()),
                    Subject::Topic(_) => None,
                });
                Target::Users(users.collect())
            }
        };
        operation.line(&to, reply.as_ref())
    }

    /// Notes Redis's answer for a batch.
    async fn finish(&self, shares: &mut [Delivery<'_>], batch: NodeBatch) {
        let NodeBatch {
            node,
            shares: parts,
            published,
        } = batch;
        let deadline = shares[parts[0].0].deadline;
        let published = published.expect("published above");
        let reached = judge(&self.backplane, &node, published, deadline).await;
        for (i, connections) in parts {
            let share = &mut shares[i];
            match reached {
                Reached::Heard => {
                    share.served.push(node.clone());
                    share.connections += connections;
                    share.reached.push(node.clone());
                    share.owed += u32::from(share.wants_receipts());
                }
                Reached::Dead => {
                    share.served.push(node.clone());
                    // The sender does not wait for the clean-up.
                    let backplane = self.backplane.clone();
                    let (subject, node) = (share.subject.clone(), node.clone());
                    tokio::spawn(async move { backplane.forget(&subject, &node).await });
                }
                Reached::Deaf => share.open = Some("a node in the row does not listen"),
                Reached::Away(reason) => share.open = Some(reason),
            }
        }
    }

    /// Waits for receipts, here and from other nodes. If a node no longer has the user, the user
    /// may have moved: the row is read once more.
    async fn settle(&self, share: &mut Delivery<'_>) {
        let mut proven = (Status::Routed, 0);
        if let Some(local) = share.local.take() {
            proven = further(proven, local.settle(share.deadline).await);
        }
        let mut moved = false;
        while share.owed > 0 {
            let Some(expected) = &mut share.receipts else {
                break;
            };
            let receipt = tokio::time::timeout_at(share.deadline, expected.receipts.recv()).await;
            let Ok(Some(receipt)) = receipt else { break };
            share.owed -= 1;
            match receipt.status {
                Status::Stale if !moved => {
                    moved = true;
                    share.reached.retain(|node| *node != receipt.node);
                    share.connections = 0;
                    share.open = Some("the user has moved");
                    if proven.1 == 0 {
                        self.deliver_here(share).await;
                        if let Some(local) = share.local.take() {
                            proven = further(proven, local.settle(share.deadline).await);
                        }
                    }
                    self.carry(std::slice::from_mut(share)).await;
                }
                Status::Stale => share.reached.retain(|node| *node != receipt.node),
                Status::Duplicate => share.duplicate = true,
                status => proven = further(proven, (status, receipt.connections)),
            }
        }
        if moved && share.owed == 0 && proven.1 == 0 {
            // Every node has reported that it holds no connection of this recipient.
            share.connections = 0;
        }
        if proven.1 > 0 {
            share.connections = proven.1;
            share.proven = Some(proven.0);
        }
    }
}

/// What goes to one node in one line: a push, for one user or several.
struct NodeBatch {
    node: NodeId,
    /// The index of each share, and how many connections its row names there.
    shares: SmallVec<[(usize, u32); 1]>,
    published: Option<Published>,
}

/// The part of a push that goes to one user or topic.
pub(crate) type Part<'a> = (Subject, Cow<'a, Push>);

/// The parts of a push to users or topics. Users share its message; a topic's message names it.
pub(crate) fn parts_of(push: &Push) -> Vec<Part<'_>> {
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

/// Adds a share to the batches. Joins it with the one before if both are the same push to the
/// same node and no sender asked for a receipt.
fn add_to_batch(
    batches: &mut Vec<NodeBatch>,
    shares: &[Delivery<'_>],
    i: usize,
    node: NodeId,
    connections: u32,
) {
    let share = &shares[i];
    if share.wait == Wait::Routed
        && let Operation::Push(push) = share.operation
        && matches!(push.to, Target::Users(_))
        && let Some(batch) = batches.iter_mut().rev().find(|batch| {
            batch.node == node
                && matches!(shares[batch.shares[0].0].operation, Operation::Push(other) if std::ptr::eq(other, push))
        })
    {
        return batch.shares.push((i, connections));
    }
    batches.push(NodeBatch {
        node,
        shares: SmallVec::from_elem((i, connections), 1),
        published: None,
    });
}
/// One answer for all shares of one push.
pub(crate) fn sum_up(shares: &[Delivery<'_>]) -> Answer {
    let status_of = |status| shares.iter().any(|share| share.status() == status);
    let order = [
        Status::Acked,
        Status::Written,
        Status::Routed,
        Status::Unrouted,
        Status::Stored,
        Status::Duplicate,
    ];
    let status = order
        .into_iter()
        .find(|status| status_of(*status))
        .unwrap_or(Status::Offline);
    // Several users' connections may be on one node.
    let nodes: HashSet<&NodeId> = shares.iter().flat_map(|share| &share.reached).collect();
    Answer {
        id: None,
        status,
        connections: shares.iter().map(|share| share.connections).sum(),
        seq_id: match shares {
            [only] => only.position(),
            _ => None,
        },
        nodes: nodes.len() as u32,
        replicated: replicated(shares.iter().any(|share| share.unreplicated)),
        // A message that is kept but reached no client is `stored`, which needs no reason.
        reason: shares
            .iter()
            .filter(|share| !share.kept || share.connections > 0)
            .find_map(|share| share.open),
        targets: shares
            .iter()
            .map(|share| PartAnswer {
                subject: share.subject.clone(),
                status: share.status(),
                connections: share.connections,
                seq_id: share.position(),
                replicated: replicated(share.unreplicated),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
