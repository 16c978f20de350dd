//! Getting a line to one node: publishes it, and judges by the answer whether the node got it.
//!
//! Only this file distinguishes a node that does not listen for a moment from a dead one. What
//! must stay true: `Dead` is returned only when the backplane is sure.

use std::time::Duration;

use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{Published, Unavailable};
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
    match published.receivers(deadline).await {
        Ok(0) => {}
        Ok(_) => return Reached::Heard,
        Err(Unavailable(reason)) => return Reached::Away(reason),
    }
    match tokio::time::timeout_at(deadline, backplane.is_dead(node)).await {
        Ok(Ok(true)) => Reached::Dead,
        // Also when the lease cannot be read: 0 receivers prove that no node got the line.
        Ok(Ok(false) | Err(_)) | Err(_) => Reached::Deaf,
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
    loop {
        let published = backplane.publish(node, line.to_owned(), deadline).await;
        let reached = judge(backplane, node, published, deadline).await;
        if !again(reached) || Instant::now() + RETRY >= patience {
            return reached;
        }
        tokio::time::sleep(RETRY).await;
    }
}
