//! Verifying rows: what Redis lost one by one is found and written again.
//!
//! The lease shows only that Redis forgot everything. A single row can go by an eviction, a `DEL`,
//! or another node that wrongly takes this one for dead. So every row of this node is looked at
//! once in each round, always at the same place in the round: no row waits for more than one.
//!
//! The cost is bounded. Up to [`FIELDS`] rows a second are read field by field. Beyond that, one
//! `EXISTS` asks for [`KEYS`] rows, and a part of the rows, another in each round, is read field
//! by field: that finds fields missing from rows that other nodes' fields keep alive. In a cluster
//! one command cannot ask for several slots, so every row is read.
//!
//! A row that is written meanwhile for another reason is whole when its turn comes: the registry
//! notices by what the write is answered.
//!
//! What must stay true: a row that is still being written is not taken for lost, so a row counts
//! as lost only if it is missing at two looks, a tick apart, and is not dirty. Whose row was lost
//! is told, once it stands again, that messages may have passed by (`LostRows`).

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use fred::clients::Pipeline;
use fred::error::Error;
use fred::prelude::{Client, FredResult, KeysInterface};
use fred::types::Value;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::backplane::redis::Keys;
use crate::backplane::redis::registry::lost_rows::LostRows;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::{WRONG_TYPE, redacted, refusal_reason};
use crate::backplane::redis::servers::pushes::flat;
use crate::local::hub::Hub;
use crate::protocol::ids::{ConnectionId, Subject};

/// The time between two portions of a round.
const TICK: Duration = Duration::from_secs(1);
/// The portions of a round: short enough that a row is back within 30 s on a machine that is busy.
const TICKS: u64 = 10;
/// In a cluster every row costs a command, so that a round takes longer there.
const CLUSTER_TICKS: u64 = 20;
/// The rows that one `EXISTS` asks for: Redis is busy with it for some 30 us.
const KEYS: usize = 128;
/// Maximum number of rows of a portion that are read field by field only because it is their turn.
const FIELDS: usize = 100;

pub(crate) struct Verifier {
    servers: Servers,
    keys: Keys,
    hub: Arc<Hub>,
    lost: LostRows,
    /// Changes when Redis has evicted keys: then all rows are verified at once.
    evicted: watch::Receiver<u64>,
    /// Gives each row its place in the round.
    hasher: RandomState,
    round: usize,
    ticks: u64,
    /// Rows missing at the first look.
    suspects: Vec<Subject>,
    /// Whether an index of this node's rows was missing at the first look.
    lacks_index: bool,
}

impl Verifier {
    pub(crate) fn new(
        servers: Servers,
        keys: Keys,
        hub: Arc<Hub>,
        evicted: watch::Receiver<u64>,
        lost: LostRows,
    ) -> Self {
        let ticks = match servers.is_clustered() {
            true => CLUSTER_TICKS,
            false => TICKS,
        };
        Self {
            servers,
            keys,
            hub,
            lost,
            evicted,
            hasher: RandomState::new(),
            round: 0,
            ticks,
            suspects: Vec::new(),
            lacks_index: false,
        }
    }

    /// Verifies rows, round after round, until the node ends.
    pub(crate) async fn watch(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all = Vec::new();
        let mut step = 0;
        loop {
            let at_once = tokio::select! {
                _ = tick.tick() => false,
                Ok(()) = self.evicted.changed() => true,
            };
            if at_once || step == 0 {
                all = self.in_order();
                self.round = self.round.wrapping_add(1);
            }
            let (from, to) = match at_once {
                true => (0, all.len()),
                false => {
                    let ticks = self.ticks;
                    (place(&all, step, ticks), place(&all, step + 1, ticks))
                }
            };
            // An eviction does not move the round on: each row keeps its place in it.
            step = if at_once {
                step
            } else {
                (step + 1) % self.ticks
            };
            if let Err(error) = self.verify(&all[from..to]).await {
                tracing::debug!(error = %redacted(&error), "rows not verified; the next round tries again");
            }
        }
    }

    /// Every row of this node by its place in the round.
    fn in_order(&self) -> Vec<(u64, Subject)> {
        let rows = self.hub.subjects().into_iter();
        let mut rows: Vec<_> = rows
            .map(|subject| (self.hasher.hash_one(&subject), subject))
            .collect();
        rows.sort_unstable_by_key(|(place, _)| *place);
        rows
    }

    /// Looks at these rows, and a second time at those that were missing at the last look.
    async fn verify(&mut self, rows: &[(u64, Subject)]) -> FredResult<()> {
        let suspects = std::mem::take(&mut self.suspects);
        self.hub.changes().watch(&suspects);
        let mut lost = self.read_through(suspects).await?;
        // One that was written since it was read is whole, and who hears of it does already.
        self.hub.changes().retain_untouched(&mut lost);
        self.restore(lost);
        self.verify_indexes().await?;
        let doubtful = self.doubtful(rows).await?;
        self.suspects = self.read_through(doubtful).await?;
        Ok(())
    }

    /// Which of these rows must be read: it is their turn, or a row of their `EXISTS` is missing.
    async fn doubtful(&self, rows: &[(u64, Subject)]) -> FredResult<Vec<Subject>> {
        let turns = match self.servers.is_clustered() {
            true => 1,
            false => rows.len().div_ceil(FIELDS).max(1),
        };
        let mut lacking = Vec::new();
        if turns > 1 {
            let client = self.servers.at(&self.keys.row(&rows[0].1));
            let pipeline: Pipeline<Client> = client.pipeline();
            for part in rows.chunks(KEYS) {
                let keys = part.iter().map(|(_, subject)| self.keys.row(subject));
                let _: () = pipeline.exists(keys.collect::<Vec<String>>()).await?;
            }
            let there: Vec<usize> = pipeline.all().await?;
            let parts = rows.chunks(KEYS).zip(there);
            lacking.extend(parts.map(|(part, there)| there < part.len()));
        }
        let is_doubtful = |at: usize| {
            at % turns == self.round % turns || lacking.get(at / KEYS).is_some_and(|lacks| *lacks)
        };
        let doubtful = rows.iter().enumerate().filter(|(at, _)| is_doubtful(*at));
        Ok(doubtful.map(|(_, (_, subject))| subject.clone()).collect())
    }

    /// Reads these rows; returns those that lack a field of this node and are not dirty.
    async fn read_through(&self, mut rows: Vec<Subject>) -> FredResult<Vec<Subject>> {
        self.hub.changes().retain_clean(&mut rows);
        let mut missing = Vec::new();
        for part in rows.chunks(KEYS) {
            let keys: Vec<String> = part.iter().map(|row| self.keys.row(row)).collect();
            let answers = match self.servers.read_each("HKEYS", &keys).await {
                Err(error) if is_wrong_type(&error) => self.read_alone(&keys).await?,
                answers => answers?,
            };
            for (row, answer) in part.iter().zip(answers) {
                if !self.is_whole(row, &flat(answer).unwrap_or_default()) {
                    missing.push(row.clone());
                }
            }
        }
        self.hub.changes().retain_clean(&mut missing);
        Ok(missing)
    }

    /// Reads rows of which one is a key of another type, which has no fields: then the row is as
    /// good as deleted. Asked for together, it would hide the others.
    async fn read_alone(&self, keys: &[String]) -> FredResult<Vec<Value>> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            let answer = self.servers.call("HKEYS", key, &[]).await;
            answers.push(match answer {
                Err(error) if is_wrong_type(&error) => Value::Null,
                answer => answer?,
            });
        }
        Ok(answers)
    }

    /// Whether a row with these fields has all those of this node.
    fn is_whole(&self, row: &Subject, fields: &[String]) -> bool {
        let node = self.hub.node();
        match row {
            Subject::User(user) => self.hub.seats(user).iter().all(|seat| {
                let (node, fd) = (node.clone(), seat.fd);
                fields.contains(&ConnectionId { node, fd }.to_string())
            }),
            Subject::Topic(topic) => {
                self.hub.topics().count(topic) == 0 || fields.contains(&node.to_string())
            }
        }
    }

    fn restore(&self, lost: Vec<Subject>) {
        self.lost.note(lost.len());
        self.hub.changes().lost(lost);
    }

    /// The indexes name the rows that are to be removed when this node is dead. A missing one is
    /// written again together with the rows that it names, of which some may be missing too.
    async fn verify_indexes(&mut self) -> FredResult<()> {
        let node = self.hub.node();
        let topics = self.hub.topics();
        let mut lacks = false;
        for (index, has_rows) in [
            (self.keys.users(node), self.hub.user_count() > 0),
            (self.keys.topics(node), !topics.is_empty()),
        ] {
            if has_rows {
                let there: bool = self.servers.at(&index).exists(&index).await?;
                lacks |= !there;
            }
        }
        if lacks && self.lacks_index {
            tracing::warn!("an index of this node's rows is missing in Redis; rewriting its rows");
            self.hub.changes().mark(self.hub.subjects());
            lacks = false;
        }
        self.lacks_index = lacks;
        Ok(())
    }
}

fn is_wrong_type(error: &Error) -> bool {
    refusal_reason(error) == Some(WRONG_TYPE)
}

/// Where this step of a round begins.
fn place(rows: &[(u64, Subject)], step: u64, ticks: u64) -> usize {
    if step >= ticks {
        return rows.len();
    }
    let first = u64::MAX / ticks * step;
    rows.partition_point(|(place, _)| *place < first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_belongs_to_one_step_of_a_round() {
        let hasher = RandomState::new();
        let users = (0..5_000).map(|i| Subject::User(format!("u{i}").parse().unwrap()));
        let mut rows: Vec<_> = users.map(|row| (hasher.hash_one(&row), row)).collect();
        rows.push((0, rows[0].1.clone()));
        rows.push((u64::MAX, rows[0].1.clone()));
        rows.sort_unstable_by_key(|(place, _)| *place);
        let mut next = 0;
        for step in 0..TICKS {
            assert_eq!(place(&rows, step, TICKS), next);
            next = place(&rows, step + 1, TICKS);
        }
        assert_eq!(next, rows.len());
    }
}
