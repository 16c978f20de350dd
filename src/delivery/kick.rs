//! Sending clients away, wherever they are.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::SessionId;
use crate::backplane::answers::Unavailable;
use crate::delivery::answer::Answer;
use crate::delivery::carrier::{Delivery, Operation, sum_up};
use crate::delivery::router::Router;
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Subject, UserId};
use crate::protocol::{Target, Wait};

/// How long the nodes of a user's row are told before all are: then their receipts still count
/// what they closed.
const ROWS_FIRST: Duration = Duration::from_millis(400);

impl Router {
    /// Ends all connections of a user, wherever they are. First by the user's row, whose nodes
    /// report; then by a word to all nodes, for a connection may be there before its row is.
    pub async fn kick_user(&self, user: &UserId, reason: CloseReason) -> Answer {
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
        Answer {
            targets: Vec::new(),
            ..sum_up(&shares)
        }
    }

    /// Ends one connection, wherever it is.
    pub async fn kick_connection(&self, id: &ConnectionId, reason: CloseReason) -> Answer {
        self.command_connection(Operation::Kick(reason), id).await
    }

    /// Ends all connections that rest on a session, wherever they are: no row tells where.
    ///
    /// # Errors
    /// When the other nodes could not be told.
    pub async fn revoke(&self, session: SessionId) -> Result<(), Unavailable> {
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
