//! Writes the rows `pn:user:{<user>}` of this node's users.
//!
//! By level, not by edge: for each dirty user the hub is asked what is true now, and that is
//! written, together with the removal of fields that are gone. A row is changed only by naming
//! this node's own fields, so no script is needed and nobody's fresh login is erased. HSET and
//! EXPIRE stand in one MULTI: a row without an end can not come to be.
//!
//! Beside the rows, `pn:users:{<node>}` lists their users, for whoever sweeps them when this
//! node is dead. It is added to before the row is written and taken from behind it: a crash in
//! between leaves a name too many there, never one too few.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::prelude::{Client, HashesInterface, KeysInterface, SetsInterface, TransactionInterface};
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use super::{Keys, ROW_TTL_SECONDS};
use crate::backplane::About;
use crate::backplane::embedded::about;
use crate::changes::Change;
use crate::hub::{Hub, Seats};
use crate::metrics::Metrics;
use crate::names::{ConnectionId, UserId};

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
    /// Rows say that the node is going.
    leaving: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

type Changes = Vec<(UserId, Change)>;

impl Registry {
    pub(super) fn new(client: Client, keys: Keys, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            keys,
            hub,
            leaving: Arc::default(),
            metrics,
        }
    }

    /// Has every row say that this node is leaving, as soon as may be.
    pub(super) fn mark_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.hub.changes().mark(self.hub.users());
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

    /// Waits until all is written, for the given time at most; answers whether it is.
    pub(super) async fn settle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.hub.changes().is_settled() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(SETTLE_STEP).await;
        }
        true
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
        // Read once, for rows and index alike. Whoever comes or goes from here on is dirty again.
        let seats = |(user, _): &(UserId, Change)| self.hub.seats(user);
        let seats: Vec<Seats> = changes.iter().map(seats).collect();
        let users = |here: bool| -> Vec<&str> {
            let all = changes.iter().zip(&seats);
            all.filter(|(_, seats)| seats.is_empty() != here)
                .map(|((user, _), _)| user.as_str())
                .collect()
        };
        let index = self.keys.users(self.hub.node());
        let (here, gone) = (users(true), users(false));
        if !here.is_empty() {
            let _: () = self.client.sadd(&index, here).await?;
        }
        self.write_rows(changes, &seats).await?;
        if !gone.is_empty() {
            let _: () = self.client.srem(&index, gone).await?;
        }
        Ok(())
    }

    async fn write_rows(
        &self,
        changes: &Changes,
        seats: &[Seats],
    ) -> Result<(), fred::error::Error> {
        let node = self.hub.node();
        let leaving = self.leaving.load(Ordering::Relaxed);
        let field = |fd| {
            ConnectionId {
                node: node.clone(),
                fd,
            }
            .to_string()
        };
        let transaction = self.client.multi();
        for ((user, change), seats) in changes.iter().zip(seats) {
            let key = self.keys.user(user);
            if !change.gone.is_empty() {
                let gone: Vec<String> = change.gone.iter().map(|fd| field(*fd)).collect();
                let _: () = transaction.hdel(&key, gone).await?;
            }
            if !seats.is_empty() {
                let rows: Vec<(String, String)> = seats
                    .iter()
                    .map(|seat| {
                        let about = About {
                            leaving,
                            ..about(seat)
                        };
                        let about = serde_json::to_string(&about).expect("plain fields");
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
