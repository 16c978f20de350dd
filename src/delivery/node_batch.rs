//! What one node gets in one round: a line for a push, or one for many users of the same push.

use smallvec::SmallVec;

use crate::backplane::answers::Published;
use crate::backplane::rows::RowPlace;
use crate::delivery::operation::Operation;
use crate::delivery::share::Delivery;
use crate::local::budget::Claim;
use crate::protocol::ids::NodeId;
use crate::protocol::{Target, Wait};

/// What goes to one node in one line: a push, for one user or several.
pub(super) struct NodeBatch {
    pub(super) node: NodeId,
    /// The index of each share, and how many connections its row names there.
    pub(super) shares: SmallVec<[(usize, u32); 1]>,
    pub(super) published: Option<Published>,
    /// What its line takes of the node's memory.
    pub(super) claim: Option<Claim>,
}

impl NodeBatch {
    pub(super) fn new(share: usize, place: RowPlace) -> Self {
        Self {
            node: place.node,
            shares: SmallVec::from_elem((share, place.connections), 1),
            published: None,
            claim: None,
        }
    }

    /// Its node, and whether it was sent ahead.
    pub(super) fn place(&self) -> (&NodeId, bool) {
        (&self.node, self.published.is_some())
    }
}

/// Adds a share to the batches. Joins it with the one before if both are the same push to the
/// same node and no sender asked for a receipt.
pub(super) fn add_to_batch(
    batches: &mut Vec<NodeBatch>,
    shares: &[Delivery<'_>],
    i: usize,
    place: RowPlace,
) {
    let share = &shares[i];
    if share.wait == Wait::Routed
        && let Operation::Push(push) = share.operation
        && matches!(push.to, Target::Users(_))
        && let Some(batch) = batches.iter_mut().rev().find(|batch| {
            batch.node == place.node && batch.published.is_none()
                && matches!(shares[batch.shares[0].0].operation, Operation::Push(other) if std::ptr::eq(other, push))
        })
    {
        return batch.shares.push((i, place.connections));
    }
    batches.push(NodeBatch::new(i, place));
}
