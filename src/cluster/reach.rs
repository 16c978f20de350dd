//! Getting a line to one node: publishes it, and judges by the answer whether the node got it.
//!
//! What is believed of a node is decided by the backplane; this file turns that into what a sender
//! does. Of all that meet a node that does not listen, only the first waits for it, also while no
//! lease can be read. What must stay true: `Dead` is returned only when the backplane is sure.

use std::time::Duration;

use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{LATE, Published, Unavailable};
use crate::backplane::nodes::Standing;
use crate::protocol::ids::NodeId;

/// The pause before an undelivered line is published again, or a row is read again.
pub(crate) const RETRY: Duration = Duration::from_millis(50);

/// The outcome of a line for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Redis handed it to a subscriber of the node's channel.
    Heard,
    /// The node is dead and will never receive it.
    Dead,
    /// The channel has no subscriber, and the node is not known to be dead: it may be about to
    /// subscribe again.
    Deaf,
    /// The same, and another sender waits for the node already: no use in waiting.
    Suspect,
    /// Redis gives no answer, for this reason: the line may have been published.
    Away(&'static str),
}

/// Interprets the answer to a published line.
pub(crate) async fn judge(
    backplane: &Backplane,
    node: &NodeId,
    published: Published,
    deadline: Instant,
) -> Reached {
    match told(published, deadline).await {
        Some(reached) => reached,
        None => ask_after(backplane, node, deadline).await,
    }
}

/// What the answer to a published line says alone. `None`: no subscriber received it.
pub(crate) async fn told(published: Published, deadline: Instant) -> Option<Reached> {
    match published.receivers(deadline).await {
        Ok(0) => None,
        Ok(_) => Some(Reached::Heard),
        Err(Unavailable(reason)) => Some(Reached::Away(reason)),
    }
}

/// What is to be done about a node of which no subscriber was counted. Reads its lease.
pub(crate) async fn ask_after(backplane: &Backplane, node: &NodeId, deadline: Instant) -> Reached {
    // Boxed: rare, and every push would carry its room.
    let standing = Box::pin(backplane.standing(node));
    match tokio::time::timeout_at(deadline, standing).await {
        Ok(Ok(Standing::Dead)) => Reached::Dead,
        Ok(Ok(Standing::Alive)) => Reached::Deaf,
        // Also when the lease cannot be read: 0 receivers prove that no node got the line, and
        // another sender may wait for the node already.
        _ if backplane.may_wait(node) => Reached::Deaf,
        _ => Reached::Suspect,
    }
}

/// Publishes a line, and publishes it again while `again` accepts the outcome and `patience`
/// has not passed. Each attempt waits for Redis until the deadline at most.
pub(crate) async fn reach(
    backplane: &Backplane,
    node: &NodeId,
    line: &str,
    patience: Instant,
    deadline: Instant,
    again: fn(Reached) -> bool,
) -> Reached {
    let mut is_first = false;
    let mut before = None;
    loop {
        let published = backplane.publish(node, line.to_owned(), deadline).await;
        let reached = match judge(backplane, node, published, deadline).await {
            Reached::Suspect if is_first => Reached::Deaf,
            reached => reached,
        };
        is_first |= reached == Reached::Deaf;
        // That the time ran out within this try says less than what the one before found.
        let reached = match (reached, before) {
            (Reached::Away(LATE), Some(before)) => before,
            _ => reached,
        };
        if !again(reached) || Instant::now() + RETRY >= patience {
            return reached;
        }
        before = Some(reached);
        tokio::time::sleep(RETRY).await;
    }
}
