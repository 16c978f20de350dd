//! Sweeping: live nodes remove what a dead node left in Redis, and announce it.
//!
//! By level: at each beat and after each death, each node checks which entries of `pn:boots` are
//! dead; if a sweep was cut short, the next node to check resumes it. Who is dead is decided by
//! [`Beliefs`](super::belief::Beliefs), and the lease is read once more before a row is removed.
//!
//! A node may be taken for dead and come back while its rows are being removed. So a sweep holds
//! `pn:sweep:{<node>}` for longer than any of its commands can take. Whatever it found, it ends
//! by removing the node from `pn:boots`. A node that sees either at its beat writes all its rows
//! again. What must stay true: no row is removed after that last step.

use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{
    ClientLike, Expiration, HashesInterface, KeysInterface, SetOptions, SetsInterface,
};
use fred::types::{ClusterHash, CustomCommand, Value};
use futures::future::try_join_all;
use tokio::time::{Instant, MissedTickBehavior};

use crate::backplane::nodes::Standing;
use crate::backplane::redis::Keys;
use crate::backplane::redis::registry::belief::BEAT;
use crate::backplane::redis::registry::belief::LeaseSeen;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::store::events::EventLog;
use crate::backplane::rows::parse_field;
use crate::protocol;
use crate::protocol::ids::{NodeId, Subject, UserId};
use crate::telemetry::metrics::Metrics;

/// How long a sweep keeps other nodes out. A sweeper that crashed does so for no longer.
const LOCK: Duration = Duration::from_secs(30);
/// If a portion took longer, the lock may have expired: the sweep ends there.
const PORTION_LIMIT: Duration = Duration::from_secs(15);
/// Approximately how many rows are examined in one portion.
const PORTION: usize = 256;
/// How long users of a dead node have to connect elsewhere before they are reported as left.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Sweeper {
    servers: Servers,
    keys: Keys,
    lease: Arc<Lease>,
    log: EventLog,
    metrics: Arc<Metrics>,
}

impl Sweeper {
    pub(crate) fn new(
        servers: &Servers,
        keys: &Keys,
        lease: &Arc<Lease>,
        log: &EventLog,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            servers: servers.clone(),
            keys: keys.clone(),
            lease: lease.clone(),
            log: log.clone(),
            metrics: metrics.clone(),
        }
    }

    /// Checks for dead nodes at each beat and after each death until the node ends.
    pub(crate) async fn watch(self) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deaths = self.lease.beliefs().deaths();
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                Ok(()) = deaths.changed() => {}
            }
            if let Err(error) = self.look().await {
                tracing::debug!(error = %redacted(&error), "could not check for dead nodes; the next beat tries again");
            }
        }
    }

    async fn look(&self) -> Result<(), Error> {
        if !self.lease.is_held() {
            // While this node has no lease, the missing leases of others prove nothing.
            return Ok(());
        }
        let key = self.keys.boots();
        let boots: Vec<String> = self.servers.at(&key).smembers(&key).await?;
        for node in boots.iter().filter_map(|boot| boot.parse::<NodeId>().ok()) {
            let is_believed_dead = self.lease.beliefs().standing(&node) == Standing::Dead;
            // Never from memory: its lease is read now.
            if is_believed_dead && self.lease.weigh(&node).await == Ok(Standing::Dead) {
                self.sweep(&node).await?;
            }
        }
        Ok(())
    }

    /// Whether this node holds its lease again.
    async fn is_back(&self, node: &NodeId) -> Result<bool, Error> {
        Ok(node == self.lease.node() || self.lease.seen(node).await? == LeaseSeen::Held)
    }

    /// Removes a dead node's rows, unless another node is doing so.
    async fn sweep(&self, node: &NodeId) -> Result<(), Error> {
        if !self.lock(node).await? {
            return Ok(());
        }
        let started = Instant::now();
        let (users, is_dead) = self.remove_rows(node).await?;
        let lock = self.keys.sweep(node);
        if is_dead {
            for index in [self.keys.users(node), self.keys.topics(node)] {
                let _: () = self.servers.at(&index).del(&index).await?;
            }
        }
        let boots = self.keys.boots();
        let last: i64 = self
            .servers
            .at(&boots)
            .srem(&boots, node.to_string())
            .await?;
        let _: () = self.servers.at(&lock).del(&lock).await?;
        if !is_dead {
            tracing::warn!(%node, "a node that seemed dead is back; it rewrites its rows");
        } else if last > 0 {
            let (users, took) = (users.len(), started.elapsed());
            self.metrics.nodes_swept.inc();
            tracing::warn!(%node, users, ?took, "a node is dead; its rows are removed");
            self.log.append(&protocol::node_lost_event(node)).await?;
        }
        if is_dead && last > 0 {
            let (servers, keys, node) = (self.servers.clone(), self.keys.clone(), node.clone());
            let log = self.log.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GRACE).await;
                if let Err(error) = tell_who_left(&servers, &keys, &log, &node, &users).await {
                    tracing::warn!(%node, error = %redacted(&error), "not every user who left with the node was announced");
                }
            });
        }
        Ok(())
    }

    /// Takes the lock of a sweep. This node may hold it already, from a sweep that was cut short.
    async fn lock(&self, node: &NodeId) -> Result<bool, Error> {
        let (key, me) = (self.keys.sweep(node), self.lease.node().to_string());
        let expire = Some(Expiration::PX(LOCK.as_millis() as i64));
        let options = Some(SetOptions::NX);
        let client = self.servers.at(&key);
        let taken: Value = client.set(&key, &me, expire, options, false).await?;
        if !taken.is_null() {
            return Ok(true);
        }
        let holder: Option<String> = client.get(&key).await?;
        Ok(holder == Some(me) && self.renew(node).await?)
    }

    async fn renew(&self, node: &NodeId) -> Result<bool, Error> {
        let milliseconds = LOCK.as_millis() as i64;
        let key = self.keys.sweep(node);
        self.servers
            .at(&key)
            .pexpire(&key, milliseconds, None)
            .await
    }

    /// Removes the dead node's fields from the rows of all users and topics in its indexes. The
    /// indexes stay as they are, so that a node that resumes the work sees all of it. Returns those
    /// users, and whether the node is still dead; if it is not, part of its rows may be removed.
    async fn remove_rows(&self, node: &NodeId) -> Result<(Vec<UserId>, bool), Error> {
        let topic = |name: &str| name.parse().ok().map(Subject::Topic);
        let user = |name: &str| name.parse().ok().map(Subject::User);
        let (_, is_dead) = self
            .remove_index(node, self.keys.topics(node), topic)
            .await?;
        if !is_dead {
            return Ok((Vec::new(), false));
        }
        let (subjects, is_dead) = self.remove_index(node, self.keys.users(node), user).await?;
        let users = subjects.into_iter().filter_map(|subject| match subject {
            Subject::User(user) => Some(user),
            Subject::Topic(_) => None,
        });
        Ok((users.collect(), is_dead))
    }

    async fn remove_index(
        &self,
        node: &NodeId,
        index: String,
        read: fn(&str) -> Option<Subject>,
    ) -> Result<(Vec<Subject>, bool), Error> {
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let began = Instant::now();
            let renewed = self.renew(node).await?;
            let names;
            (cursor, names) = self.scan(&index, cursor).await?;
            let portion: Vec<Subject> = names.iter().filter_map(|name| read(name)).collect();
            if !renewed || self.is_back(node).await? {
                return Ok((all, false));
            }
            try_join_all(portion.iter().map(|one| self.remove_row(one, node))).await?;
            all.extend(portion);
            if began.elapsed() > PORTION_LIMIT {
                return Ok((all, false));
            }
            if cursor == "0" {
                let is_dead = !self.is_back(node).await?;
                return Ok((all, is_dead));
            }
        }
    }

    /// Some names of the index, and the next cursor. A name may be returned twice.
    async fn scan(&self, index: &str, cursor: String) -> Result<(String, Vec<String>), Error> {
        let command = CustomCommand::new_static("SSCAN", ClusterHash::FirstKey, false);
        let key = index.to_owned();
        let client = self.servers.at(&key);
        let arguments = vec![key, cursor, "COUNT".to_owned(), PORTION.to_string()];
        let answer: Vec<Value> = client.custom(command, arguments).await?;
        let [cursor, names] = <[Value; 2]>::try_from(answer)
            .map_err(|_| Error::new(ErrorKind::Parse, "SSCAN answered no pair"))?;
        Ok((cursor.convert()?, names.convert()?))
    }

    async fn remove_row(&self, subject: &Subject, node: &NodeId) -> Result<(), Error> {
        let key = self.keys.row(subject);
        let client = self.servers.at(&key);
        if matches!(subject, Subject::Topic(_)) {
            return client.hdel(&key, node.to_string()).await;
        }
        let mut fields: Vec<String> = client.hkeys(&key).await?;
        fields.retain(|field| parse_field(field).is_some_and(|id| id.node == *node));
        if !fields.is_empty() {
            let _: () = client.hdel(&key, fields).await?;
        }
        Ok(())
    }
}

/// Announces those users of a dead node who have no connection left on any node.
async fn tell_who_left(
    servers: &Servers,
    keys: &Keys,
    log: &EventLog,
    node: &NodeId,
    users: &[UserId],
) -> Result<(), Error> {
    let mut users: Vec<&UserId> = users.iter().collect();
    users.sort_unstable();
    users.dedup();
    for portion in users.chunks(PORTION) {
        let looks = portion.iter().map(async |user| {
            let key = keys.user(user);
            servers.at(&key).exists(&key).await
        });
        let are_there: Vec<bool> = try_join_all(looks).await?;
        let left = portion.iter().zip(are_there).filter(|(_, there)| !there);
        let events = left.map(|(user, _)| protocol::leave_event(user, node));
        try_join_all(events.map(async |event| log.append(&event).await)).await?;
    }
    Ok(())
}
