//! Removing a dead node's fields from a row that a sender met: a sweep may have missed it.
//!
//! What must stay true: nothing is removed from memory, and nothing of a node that is back. The row
//! is watched, then the lease is read. A node that is back puts its lease before its rows: either
//! the lease is seen here, or the row changes under the watch and Redis refuses the removal.

use fred::error::{Error, ErrorKind};
use fred::prelude::{ClientLike, HashesInterface};
use fred::types::{CustomCommand, Value};

use crate::backplane::nodes::Standing;
use crate::backplane::redis::Redis;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::{multi, queue};
use crate::backplane::rows::parse_field;
use crate::protocol::ids::{NodeId, Subject};

impl Redis {
    /// Removes the fields of a node from a row, if it is dead.
    pub(crate) async fn forget(&self, subject: &Subject, node: &NodeId) {
        if let Err(error) = self.remove_if_dead(subject, node).await {
            // The next push there tries again.
            tracing::debug!(%node, error = %redacted(&error), "a dead node stays in a row");
        }
    }

    async fn remove_if_dead(&self, subject: &Subject, node: &NodeId) -> Result<(), Error> {
        let key = self.keys.row(subject);
        let loan = self.watching.take(&key).await?;
        let client = loan.client();
        let watch = CustomCommand::new_static("WATCH", None, false);
        if let Err(error) = client.custom::<(), _>(watch, vec![&*key]).await {
            // Access rules of an older version do not allow it; the connection is still good.
            if *error.kind() == ErrorKind::Unknown {
                loan.give_back();
            }
            return Err(error);
        }
        let mut fields: Vec<String> = client.hkeys(&key).await?;
        fields.retain(|field| match subject {
            Subject::User(_) => parse_field(field).is_some_and(|id| id.node == *node),
            Subject::Topic(_) => *field == node.to_string(),
        });
        let is_dead = self.standing(node).await == Ok(Standing::Dead);
        if is_dead && !fields.is_empty() {
            let pipeline = multi(client).await?;
            let _: () = pipeline.hdel(&key, fields).await?;
            queue(&pipeline, "EXEC").await?;
            // Empty if the row has changed, which is as good.
            let _: Vec<Value> = pipeline.all().await?;
        } else {
            let unwatch = CustomCommand::new_static("UNWATCH", None, false);
            let _: () = client.custom(unwatch, Vec::<String>::new()).await?;
        }
        loan.give_back();
        Ok(())
    }
}
