//! Writes the rows `pn:user:{<user>}` of this node's users.
//!
//! By level, not by edge: for each dirty user the hub is asked what is true now, and that is
//! written, together with the removal of fields that are gone. A row is changed only by naming
//! this node's own fields, so no script is needed and nobody's fresh login is erased. HSET and
//! EXPIRE stand in one MULTI: a row without an end can not come to be.

use std::sync::Arc;
use std::time::Duration;

use fred::prelude::{Client, HashesInterface, KeysInterface, TransactionInterface};
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::Keys;
use crate::backplane::embedded::about;
use crate::changes::Change;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::names::{ConnectionId, UserId};

/// A row's time in Redis: only a broom for what nobody swept. Rows are put again long before.
const ROW_TTL_SECONDS: i64 = 24 * 3600;
/// Users in one MULTI.
const USERS: usize = 256;
/// Transactions on their way at once.
const IN_FLIGHT: usize = 8;
/// Between two attempts while Redis fails.
const RETRY: Duration = Duration::from_millis(100);
/// Between two looks whether all is written.
const SETTLE_STEP: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub(super) struct Registry {
    client: Client,
    keys: Keys,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

type Changes = Vec<(UserId, Change)>;

impl Registry {
    pub(super) fn new(client: Client, keys: Keys, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            keys,
            hub,
            metrics,
        }
    }

    /// Writes whatever is dirty, for ever. What comes while a write is under way goes into the
    /// next one: batching by availability.
    pub(super) async fn write(self) {
        loop {
            let changes = self.hub.changes().take().await;
            if !self.write_all(changes).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Waits until all is written, for the given time at most.
    pub(super) async fn settle(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.hub.changes().is_settled() && Instant::now() < deadline {
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }

    /// Answers whether all went well; what did not is dirty again.
    async fn write_all(&self, changes: Changes) -> bool {
        let mut parts = Vec::with_capacity(changes.len().div_ceil(USERS));
        let mut rest = changes.into_iter().peekable();
        while rest.peek().is_some() {
            parts.push(rest.by_ref().take(USERS).collect::<Changes>());
        }
        // Different parts are different users: their order does not matter.
        let writes = parts.into_iter().map(|part| self.write_part(part));
        stream::iter(writes)
            .buffer_unordered(IN_FLIGHT)
            // Not `all`, which would drop the rest, and what they carry, at the first failure.
            .fold(true, async |all, well| all && well)
            .await
    }

    async fn write_part(&self, changes: Changes) -> bool {
        match self.transact(&changes).await {
            Ok(()) => {
                self.metrics.registry_writes.inc_by(changes.len() as u64);
                self.hub.changes().written(changes);
                true
            }
            Err(error) => {
                tracing::debug!(%error, users = changes.len(), "rows not written; trying on");
                self.metrics.registry_errors.inc();
                self.hub.changes().put_back(changes);
                false
            }
        }
    }

    async fn transact(&self, changes: &Changes) -> Result<(), fred::error::Error> {
        let node = self.hub.node();
        let field = |fd| {
            ConnectionId {
                node: node.clone(),
                fd,
            }
            .to_string()
        };
        let transaction = self.client.multi();
        for (user, change) in changes {
            let key = self.keys.user(user);
            let seats = self.hub.seats(user);
            if !change.gone.is_empty() {
                let gone: Vec<String> = change.gone.iter().map(|fd| field(*fd)).collect();
                let _: () = transaction.hdel(&key, gone).await?;
            }
            if !seats.is_empty() {
                let rows: Vec<(String, String)> = seats
                    .iter()
                    .map(|seat| {
                        let about = serde_json::to_string(&about(seat)).expect("plain fields");
                        (field(seat.fd), about)
                    })
                    .collect();
                let _: () = transaction.hset(&key, rows).await?;
                let _: () = transaction.expire(&key, ROW_TTL_SECONDS, None).await?;
            }
        }
        if transaction.len() > 0 {
            let _: fred::types::Value = transaction.exec(true).await?;
        }
        Ok(())
    }
}
