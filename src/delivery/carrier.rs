//! Carries pushes to users and topics: one share for each recipient and push, in rounds.
//!
//! A share is open until every node in the row has accepted it or is known to be dead. Many
//! shares go through a round together: one pipelined look-up, one line for each node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{LATE, Unavailable};
use crate::backplane::rows::Locations;
use crate::cluster::pending::{Expected, Replies};
use crate::cluster::reach::{RETRY, Reached, ask_after, told};
use crate::delivery::ahead::AfterRow;
use crate::delivery::answer::further;
use crate::delivery::node_batch::{NodeBatch, add_to_batch};
use crate::delivery::operation::Operation;
use crate::delivery::share::{Delivery, SUSPECTED};
use crate::local::dedup::Recent;
use crate::local::hub::Hub;
use crate::local::hub::deliver::Delivered;
use crate::local::receipt::Receipt;
use crate::protocol::ids::{NodeId, Subject};
use crate::protocol::{ReceiptRequest, Status, Target, Wait};
use crate::telemetry::metrics::Metrics;

/// Most shares that are stored, looked up and published together. After each chunk of a large batch
/// others get their turn, and the deadline is looked at.
pub(crate) const CHUNK: usize = 512;
/// A chunk takes no further share once its messages have so many bytes: the lines for one node go
/// in one payload, which other lines must not wait for long.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long connections are told in the background to look for kept messages.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Before rows that could not be looked up for that are looked up again.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Carries what goes to users and topics, here and to other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) replies: Arc<Replies>,
    /// Ids of pushes that every node with connections took: here are their senders.
    pub(crate) sent: Arc<Recent>,
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
        self.carry_first(shares, &mut HashSet::new()).await;
        self.carry_rest(shares).await;
    }

    /// Carries shares to this node and, in one round, to other nodes. `held` are recipients of
    /// earlier shares that are still open: later ones must not overtake those.
    pub(crate) async fn carry_first(
        &self,
        shares: &mut [Delivery<'_>],
        held: &mut HashSet<Subject>,
    ) {
        for share in shares.iter_mut().filter(|share| !share.refused) {
            self.deliver_here(share).await;
        }
        if self.backplane.is_shared() {
            self.round(shares, held).await;
        } else {
            let carried = shares.iter_mut().filter(|share| !share.refused);
            carried.for_each(|share| share.open = None);
        }
    }

    /// Carries what the first round left open: further rounds, until the deadline.
    pub(crate) async fn carry_rest(&self, shares: &mut [Delivery<'_>]) {
        loop {
            let now = Instant::now();
            let waits = |share: &Delivery<'_>| share.is_open() && share.deadline > now + RETRY;
            if !shares.iter().any(waits) {
                return;
            }
            tokio::time::sleep(RETRY).await;
            self.round(shares, &mut HashSet::new()).await;
        }
    }

    /// Another round for shares that had been carried, and what that leaves open.
    async fn carry_again(&self, shares: &mut [Delivery<'_>]) {
        self.round(shares, &mut HashSet::new()).await;
        self.carry_rest(shares).await;
    }

    /// Has the connections of users and topics look for messages that may be kept and that they
    /// were not told of. In the background, because the sender's time is over. A node that does not
    /// hear of it has lost its subscription, and looks by itself. But if no row could be looked up,
    /// that node knows of no loss: then it is tried again.
    pub(crate) fn look_later(&self, subjects: Vec<Subject>) {
        let carrier = self.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + LOOK_TIMEOUT;
            for chunk in subjects.chunks(CHUNK) {
                let look = |subject: &Subject| {
                    Delivery::new(Operation::Look, subject.clone(), Wait::Routed, deadline)
                };
                let mut shares: Vec<Delivery<'static>> = chunk.iter().map(look).collect();
                carrier.carry_first(&mut shares, &mut HashSet::new()).await;
                let is_unknown = |share: &Delivery<'_>| share.is_open() && share.unheard.is_empty();
                while shares.iter().any(is_unknown) && Instant::now() + LOOK_PAUSE < deadline {
                    tokio::time::sleep(LOOK_PAUSE).await;
                    carrier.round(&mut shares, &mut HashSet::new()).await;
                }
            }
        });
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

    /// Remembers what every node took. A push that was sent before is a duplicate, wherever the
    /// user is; it was published all the same, for connections that are new since.
    pub(crate) fn note_sent(&self, shares: &mut [Delivery<'_>]) {
        for share in shares {
            if let Operation::Push(push) = share.operation
                && push.message.id().is_some()
                && share.is_routed_elsewhere(self.hub.node())
                && self.was_sent(share.operation, &share.subject.clone().into())
                && share.wait == Wait::Routed
            {
                share.note_duplicate();
            }
        }
    }

    /// Whether a push that was just taken had been sent before, as its id tells.
    pub(crate) fn was_sent(&self, operation: Operation<'_>, to: &Target) -> bool {
        let Operation::Push(push) = operation else {
            return false;
        };
        let id = push.message.id();
        id.is_some_and(|id| self.sent.is_repeat(id, to, None))
    }

    /// Delivers to the recipient's connections on this node.
    pub(super) async fn deliver_here(&self, share: &mut Delivery<'_>) {
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

    /// Delivers to connections on other nodes: one look-up and one publishing of each open share.
    async fn round(&self, shares: &mut [Delivery<'_>], held: &mut HashSet<Subject>) {
        let mut rest = shares;
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at_mut(chunk_of(rest));
            rest = later;
            if let Err(Unavailable(reason)) = self.carry_once(chunk, held).await {
                let open = chunk.iter_mut().filter(|share| share.is_open());
                open.for_each(|share| share.stays_open(reason));
            }
            let open = chunk.iter().filter(|share| share.is_open());
            held.extend(open.map(|share| share.subject.clone()));
            if !rest.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// One round for every share that is still open and not held back.
    async fn carry_once(
        &self,
        shares: &mut [Delivery<'_>],
        held: &HashSet<Subject>,
    ) -> Result<(), Unavailable> {
        let now = Instant::now();
        let is_next = |share: &Delivery<'_>| {
            share.is_open() && share.deadline > now && !held.contains(&share.subject)
        };
        let open: Vec<usize> = (0..shares.len()).filter(|&i| is_next(&shares[i])).collect();
        if open.is_empty() {
            return Ok(());
        }
        let subjects: Vec<Subject> = open.iter().map(|&i| shares[i].subject.clone()).collect();
        let last = open
            .iter()
            .map(|&i| shares[i].deadline)
            .max()
            .unwrap_or(now);
        let rows = tokio::time::timeout_at(last, self.look_up(shares, &open, &subjects))
            .await
            .map_err(|_| Unavailable(LATE))?;

        self.serve(shares, &open, &subjects, rows).await;
        Ok(())
    }

    /// Carries shares to the nodes that their rows name. `open` are their indexes, `subjects` their
    /// recipients, and `rows` what is known of those.
    pub(super) async fn serve(
        &self,
        shares: &mut [Delivery<'_>],
        open: &[usize],
        subjects: &[Subject],
        rows: Vec<Result<Locations, &'static str>>,
    ) {
        let mut batches = Vec::new();
        // Recipients of shares that stay open, which later ones must not overtake.
        let mut left: HashSet<&Subject> = HashSet::new();
        for ((&i, subject), locations) in open.iter().zip(subjects).zip(rows) {
            let locations = match locations {
                _ if !left.is_empty() && left.contains(subject) => continue,
                Ok(locations) => locations,
                Err(reason) => {
                    shares[i].stays_open(reason);
                    left.insert(subject);
                    continue;
                }
            };
            shares[i].looked_up();
            for place in locations {
                if shares[i].served.contains(&place.node) {
                    continue;
                }
                match shares[i].after_row(&place).await {
                    AfterRow::Publish => add_to_batch(&mut batches, shares, i, place),
                    AfterRow::Hear(published, claim) => {
                        let mut batch = NodeBatch::new(i, place);
                        (batch.published, batch.claim) = (Some(published), claim);
                        batches.push(batch);
                    }
                    AfterRow::Unclear(ahead) => shares[i].note_unclear(ahead),
                }
            }
            self.note_astray(&shares[i]);
        }
        self.publish(shares, &mut batches).await;
        // However many pushes go to a node that does not listen, it is asked after once; and if the
        // first may wait for it, so may the others, because they are answered together.
        let mut asked = SmallVec::new();
        for batch in batches {
            self.finish(shares, batch, &mut asked).await;
        }
    }

    /// Publishes the line of each batch. All lines for one node go together: if it does not listen
    /// now, but does in a moment, none of them may overtake another.
    async fn publish(&self, shares: &mut [Delivery<'_>], batches: &mut [NodeBatch]) {
        if let [only] = batches {
            if only.published.is_some() {
                return;
            }
            let line = self.line(shares, only);
            only.claim = Some(self.hub.memory().claim(line.len()));
            let deadline = shares[only.shares[0].0].deadline;
            only.published = Some(self.backplane.publish(&only.node, line, deadline).await);
            return;
        }
        // Stable: the lines of one node keep their order.
        batches.sort_by(|one, other| one.place().cmp(&other.place()));
        for those in batches.chunk_by_mut(|one, other| one.place() == other.place()) {
            if those[0].published.is_some() {
                continue;
            }
            let lines = those.iter_mut().map(|batch| {
                let deadline = shares[batch.shares[0].0].deadline;
                let line = self.line(shares, batch);
                batch.claim = Some(self.hub.memory().claim(line.len()));
                (line, deadline)
            });
            let lines = lines.collect();
            let node = &those[0].node;
            let published = self.backplane.publish_together(node, lines).await;
            for (batch, published) in those.iter_mut().zip(published) {
                batch.published = Some(published);
            }
        }
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

    /// Notes Redis's answer for a batch. `asked`: the nodes that were asked after in this round.
    async fn finish(
        &self,
        shares: &mut [Delivery<'_>],
        batch: NodeBatch,
        asked: &mut SmallVec<[(NodeId, Reached); 1]>,
    ) {
        let NodeBatch {
            node,
            shares: parts,
            published,
            claim: _claim,
        } = batch;
        let deadline = shares[parts[0].0].deadline;
        let published = published.expect("published above");
        let place = asked.iter().position(|(of, _)| *of == node);
        let reached = match (told(published, deadline).await, place) {
            (Some(reached), _) => reached,
            (None, Some(place)) => asked[place].1,
            (None, None) => {
                let mut reached = ask_after(&self.backplane, &node, deadline).await;
                let mut those = parts.iter().map(|(i, _)| &shares[*i]);
                // The one that another sender waits for is waited for here.
                if reached == Reached::Suspect && those.any(|share| share.awaited.contains(&node)) {
                    reached = Reached::Deaf;
                }
                asked.push((node.clone(), reached));
                reached
            }
        };
        for (i, connections) in parts {
            let share = &mut shares[i];
            match reached {
                Reached::Heard => share.heard(&node, connections),
                Reached::Dead => {
                    share.served.push(node.clone());
                    share.unheard.retain(|unheard| *unheard != node);
                    // The sender does not wait for the clean-up.
                    let backplane = self.backplane.clone();
                    let (subject, node) = (share.subject.clone(), node.clone());
                    tokio::spawn(async move { backplane.forget(&subject, &node).await });
                }
                Reached::Suspect if !share.awaited.contains(&node) => {
                    share.not_heard(&node, SUSPECTED);
                }
                Reached::Deaf | Reached::Suspect => {
                    share.wait_for(&node, "a node in the row does not listen");
                }
                Reached::Away(reason) => share.wait_for(&node, reason),
            }
        }
    }

    /// Waits for receipts, here and from other nodes. If a node no longer has the user, the user
    /// may have moved: the row is read once more.
    async fn settle(&self, share: &mut Delivery<'_>) {
        let mut proven = (Status::Routed, 0);
        if let Some(local) = share.local.take() {
            let settled = local.settle(share.deadline).await;
            if settled.0 == Status::Routed {
                share.unheard.push(self.hub.node().clone());
            }
            proven = further(proven, settled);
        }
        let mut moved = false;
        while !share.owing.is_empty() {
            let Some(expected) = &mut share.receipts else {
                break;
            };
            let receipt = tokio::time::timeout_at(share.deadline, expected.receipts.recv()).await;
            let Ok(Some(receipt)) = receipt else { break };
            share.owing.retain(|node| *node != receipt.node);
            match receipt.status {
                Status::Stale if !moved => {
                    moved = true;
                    share.reached.retain(|node| *node != receipt.node);
                    share.connections = 0;
                    share.open = Some("the user has moved");
                    share.waits = true;
                    if proven.1 == 0 {
                        self.deliver_here(share).await;
                        if let Some(local) = share.local.take() {
                            proven = further(proven, local.settle(share.deadline).await);
                        }
                    }
                    let moved = std::slice::from_mut(share);
                    Box::pin(self.carry_again(moved)).await;
                }
                Status::Stale => share.reached.retain(|node| *node != receipt.node),
                Status::Duplicate => share.duplicate = true,
                status => proven = further(proven, (status, receipt.connections)),
            }
        }
        if moved && share.owing.is_empty() && proven.1 == 0 {
            // Every node has reported that it holds no connection of this recipient.
            share.connections = 0;
        }
        if proven.1 > 0 {
            share.connections = proven.1;
            share.proven = Some(proven.0);
        } else if share.duplicate && share.open.is_none() && share.missing().next().is_none() {
            // Every node has reported, and those with connections had seen the id.
            share.note_duplicate();
        }
    }
}

/// How many of these shares go through a round together.
fn chunk_of(shares: &[Delivery<'_>]) -> usize {
    let (mut bytes, mut before) = (0, None);
    let fits = shares.iter().take(CHUNK).take_while(|share| {
        let fits = bytes < CHUNK_BYTES;
        if let Operation::Push(push) = share.operation {
            let is_same = before.is_some_and(|before| std::ptr::eq(before, push));
            // Users of one push share its line, unless each owes a receipt.
            if !is_same || share.wait > Wait::Routed {
                bytes += push.message.data().len();
            }
            before = Some(push);
        }
        fits
    });
    fits.count()
}
