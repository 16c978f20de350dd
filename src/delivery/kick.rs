//! Closes clients' connections on all nodes.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::backplane::answers::Unavailable;
use crate::delivery::answer::Answer;
use crate::delivery::operation::Operation;
use crate::delivery::router::Router;
use crate::delivery::share::{Delivery, sum_up};
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, NodeId, Subject, UserId};
use crate::protocol::session_id::SessionId;
use crate::protocol::{Status, Target, Wait};

/// The nodes of a user's row are told this long before all nodes are, so that their receipts
/// still count the connections they closed.
const ROWS_FIRST: Duration = Duration::from_millis(400);

/// What became of a user's connections.
#[derive(Debug)]
pub(crate) struct KickOutcome {
    pub(crate) answer: Answer,
    /// How many nodes have proven their part.
    pub(crate) nodes: u32,
    /// Nodes of the user's row that have not.
    pub(crate) missing: Vec<NodeId>,
}

impl KickOutcome {
    /// How many connections are proven to be closed.
    pub(crate) fn connections(&self) -> u32 {
        match self.answer.status {
            Status::Written | Status::Acked => self.answer.connections,
            // That is the number in the row.
            _ => 0,
        }
    }
}

impl Router {
    /// Ends all connections of a user, on all nodes. First tells the nodes of the user's row, which
    /// report; then tells all nodes, because a connection may exist before its row does.
    pub(crate) async fn kick_user(&self, user: &UserId, reason: CloseReason) -> KickOutcome {
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let subject = Subject::User(user.clone());
        let share = Delivery::new(Operation::Kick(reason), subject, Wait::Written, deadline);
        let mut shares = [share];
        {
            let mut carried = pin!(self.carrier.carry_all(&mut shares));
            let all = tokio::time::timeout(ROWS_FIRST, &mut carried).await;
            if self.carrier.backplane.is_shared() {
                let line = protocol::kick_line(&Target::User(user.clone()), reason, None);
                self.carrier.backplane.publish_all(line, deadline).await;
            }
            if all.is_err() {
                carried.await;
            }
        }
        self.carrier.settle_all(&mut shares).await;
        let [share] = &shares;
        KickOutcome {
            nodes: share.proven_nodes().count() as u32,
            missing: share.missing().cloned().collect(),
            answer: Answer {
                targets: Vec::new(),
                ..sum_up(&shares)
            },
        }
    }

    /// Ends one connection, on any node.
    pub(crate) async fn kick_connection(&self, id: &ConnectionId, reason: CloseReason) -> Answer {
        self.command_connection(Operation::Kick(reason), id).await
    }

    /// Ends all connections that rest on a session. Tells all nodes, because no row names them.
    ///
    /// # Errors
    /// When the other nodes could not be told.
    pub(crate) async fn revoke(&self, session: SessionId) -> Result<(), Unavailable> {
        self.carrier.hub.revoke(session).await;
        if !self.carrier.backplane.is_shared() {
            return Ok(());
        }
        let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
        let line = protocol::revoke_line(session);
        let published = self.carrier.backplane.publish_all(line, deadline).await;
        published.receivers(deadline).await.map(drop)
    }
}
