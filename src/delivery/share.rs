//! A share: one user's or topic's part of one push, and what is proven of it.

use std::collections::HashSet;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::backplane::answers::{LATE, ReplicaProof};
use crate::cluster::pending::Expected;
use crate::delivery::ahead::Ahead;
use crate::delivery::answer::{Answer, PartAnswer, replicated};
use crate::delivery::operation::Operation;
use crate::local::receipt::Waiter;
use crate::protocol::ids::{NodeId, Subject};
use crate::protocol::position::Position;
use crate::protocol::{Status, Wait};
use crate::telemetry::trace::Trace;

/// Why a share is refused whose turn did not come: nothing of it was done.
pub(crate) const TOO_LATE: &str = "the deadline passed before its turn in the batch";

/// Why a share is open before its first look-up has ended.
const NOT_LOOKED_UP: &str = "the row could not be looked up";

/// Why a push does not wait for a node: another sender waits for it already.
pub(crate) const SUSPECTED: &str = "the node does not listen and may be dead; it is asked after";

/// One user's or topic's part of one push on its way.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) subject: Subject,
    pub(super) wait: Wait,
    pub(super) deadline: Instant,
    /// Nodes that need no line (any more): they accepted it, or they are dead.
    pub(super) served: SmallVec<[NodeId; 2]>,
    pub(super) connections: u32,
    /// Nodes that accepted it for at least one connection.
    pub(super) reached: SmallVec<[NodeId; 1]>,
    pub(super) duplicate: bool,
    /// It is in the inbox or log.
    pub(super) kept: bool,
    /// Whether replicas have it; taken once that is asked.
    pub(super) proof: ReplicaProof,
    /// It is not known that enough replicas have it.
    pub(super) unreplicated: bool,
    /// It could not be put there, so it is not pushed at all.
    pub(super) refused: bool,
    /// Why it is not finished yet; `None` once it is.
    pub(super) open: Option<&'static str>,
    /// Why it was not finished when the round began that is under way.
    pub(super) earlier: Option<&'static str>,
    /// Suspect nodes that this push was the first to meet: it waits for them.
    pub(super) awaited: SmallVec<[NodeId; 1]>,
    /// Whether another round may help; not if only suspect nodes are left.
    pub(super) waits: bool,
    pub(super) local: Option<Waiter>,
    pub(super) receipts: Option<Expected>,
    /// The nodes that owe a receipt.
    pub(super) owing: SmallVec<[NodeId; 1]>,
    /// Nodes with connections that are not known to have heard it; this one too.
    pub(super) unheard: Vec<NodeId>,
    /// The furthest status that receipts prove.
    pub(super) proven: Option<Status>,
    /// Its line to a node that no row has named since.
    pub(super) ahead: Option<Ahead>,
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
            open: Some(NOT_LOOKED_UP),
            earlier: None,
            awaited: SmallVec::new(),
            waits: true,
            local: None,
            receipts: None,
            owing: SmallVec::new(),
            unheard: Vec::new(),
            proven: None,
            ahead: None,
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

    /// Marks it as not begun: its deadline passed before its turn came.
    pub(crate) fn too_late(self) -> Self {
        self.refused(TOO_LATE)
    }

    /// Whether it is, or may be, in the inbox or log, and connections were not told of it.
    pub(crate) fn is_untold(&self) -> bool {
        match self.open {
            None | Some(TOO_LATE) => false,
            Some(_) => self.refused || self.kept,
        }
    }

    /// Whether nodes must send receipts for it.
    pub(super) fn wants_receipts(&self) -> bool {
        self.wait > Wait::Routed && !matches!(self.operation, Operation::Look)
    }

    /// Whether some node must still get it, and may.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some() && !self.refused && self.waits
    }

    /// The row was looked up: what it names is tried next.
    pub(super) fn looked_up(&mut self) {
        self.earlier = self.open.take();
        self.waits = false;
    }

    /// Notes why it stays open. That the time ran out within a further try says less than what the
    /// try before found.
    pub(super) fn stays_open(&mut self, reason: &'static str) {
        let found = self.open.or(self.earlier);
        let found = found.filter(|found| reason == LATE && *found != NOT_LOOKED_UP);
        self.open = Some(found.unwrap_or(reason));
    }

    /// The node took it, for so many connections.
    pub(super) fn heard(&mut self, node: &NodeId, connections: u32) {
        self.served.push(node.clone());
        self.connections += connections;
        self.reached.push(node.clone());
        self.unheard.retain(|unheard| unheard != node);
        if self.wants_receipts() {
            self.owing.push(node.clone());
        }
    }

    pub(super) fn not_heard(&mut self, node: &NodeId, reason: &'static str) {
        self.stays_open(reason);
        if !self.unheard.contains(node) {
            self.unheard.push(node.clone());
        }
    }

    /// As [`Delivery::not_heard`], but the node may listen in the next round.
    pub(super) fn wait_for(&mut self, node: &NodeId, reason: &'static str) {
        self.not_heard(node, reason);
        self.waits = true;
        if !self.awaited.contains(node) {
            self.awaited.push(node.clone());
        }
    }

    /// Whether all nodes took it, another one among them. What is kept has its mark in Redis.
    pub(super) fn is_routed_elsewhere(&self, here: &NodeId) -> bool {
        self.open.is_none() && !self.kept && self.reached.iter().any(|node| node != here)
    }

    /// It was sent before, and nothing more is proven now.
    pub(super) fn note_duplicate(&mut self) {
        self.duplicate = true;
        self.connections = 0;
    }

    /// Nodes that may hold connections for which nothing is proven.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &NodeId> {
        self.unheard.iter().chain(&self.owing)
    }

    /// Nodes that have reported what they did.
    pub(crate) fn proven_nodes(&self) -> impl Iterator<Item = &NodeId> {
        let is_missing = |node: &NodeId| self.missing().any(|missing| missing == node);
        self.reached.iter().filter(move |node| !is_missing(node))
    }

    /// Records the sender's answer in the trace.
    pub(crate) fn trace(&self, id: Option<&str>, trace: &Trace) {
        trace.pushed(&self.subject, id, self.status(), self.open);
    }

    pub(super) fn position(&self) -> Option<Position> {
        match self.operation {
            Operation::Push(push) => push.message.position(),
            Operation::Kick(_) | Operation::Enroll(..) | Operation::Look => None,
        }
    }

    pub(super) fn status(&self) -> Status {
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

    /// The answer to a push of which this is all. Its id is left out.
    pub(super) fn answer(&self) -> Answer {
        let is_first = |&i: &usize| !self.reached[..i].contains(&self.reached[i]);
        let nodes = (0..self.reached.len()).filter(is_first).count();
        Answer {
            seq_id: self.position(),
            replicated: replicated(self.unreplicated),
            reason: self.reason(),
            ..Answer::of(self.status(), self.connections, nodes as u32)
        }
    }

    /// A message that is kept but reached no client is `stored`, which needs no reason.
    fn reason(&self) -> Option<&'static str> {
        self.open.filter(|_| !self.kept || self.connections > 0)
    }

    fn part(&self) -> PartAnswer {
        PartAnswer {
            subject: self.subject.clone(),
            status: self.status(),
            connections: self.connections,
            seq_id: self.position(),
            replicated: replicated(self.unreplicated),
        }
    }
}

/// One answer for all shares of one push.
pub(crate) fn sum_up(shares: &[Delivery<'_>]) -> Answer {
    if let [only] = shares {
        return Answer {
            targets: vec![only.part()],
            ..only.answer()
        };
    }
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
        seq_id: None,
        nodes: nodes.len() as u32,
        replicated: replicated(shares.iter().any(|share| share.unreplicated)),
        reason: shares.iter().find_map(Delivery::reason),
        targets: shares.iter().map(Delivery::part).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{PushRequest, Target};

    #[test]
    fn a_try_that_time_cuts_off_leaves_the_reason_of_the_one_before() {
        let subject = Subject::User("42".parse().expect("a user"));
        let (look, node) = (Operation::Look, "b.1".parse().expect("a node"));
        let mut share = Delivery::new(look, subject, Wait::Routed, Instant::now());
        share.stays_open(LATE);
        assert_eq!(share.open, Some(LATE));
        share.stays_open("Redis is out of memory");
        share.stays_open(LATE);
        assert_eq!(share.open, Some("Redis is out of memory"));
        share.looked_up();
        share.wait_for(&node, LATE);
        assert_eq!(share.open, Some("Redis is out of memory"));
        share.looked_up();
        share.not_heard(&node, SUSPECTED);
        assert_eq!(share.open, Some(SUSPECTED));
    }

    #[test]
    fn a_kept_push_that_has_not_reached_all_says_so() {
        let body = br#"{"to":{"user":"42"},"keep":true,"data":1}"#;
        let PushRequest { push, wait, .. } = PushRequest::parse(body).expect("a push");
        let Target::User(user) = &push.to else {
            panic!("to a user: {:?}", push.to)
        };
        let (subject, operation) = (Subject::User(user.clone()), Operation::Push(&push));
        let answer = |connections, open| {
            let share = Delivery::new(operation, subject.clone(), wait, Instant::now())
                .kept(ReplicaProof::default());
            let share = Delivery {
                connections,
                open,
                ..share
            };
            let answer = sum_up(&[share]);
            (answer.status, answer.reason)
        };
        let reason = Some("a node in the row does not listen");
        assert_eq!(answer(1, reason), (Status::Routed, reason));
        assert_eq!(answer(0, reason), (Status::Stored, None));
        assert_eq!(answer(1, None), (Status::Routed, None));
    }
}
