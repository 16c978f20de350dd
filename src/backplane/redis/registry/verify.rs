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
//! A server that cannot be read holds up no rows of others, but a portion may take two seconds.
//! Its own rows have their next turn, and those already found missing are looked at until they are
//! read.
//!
//! What must stay true: a row that is still being written is not taken for lost, so a row counts
//! as lost only if it is missing at two looks, a tick apart, and is not dirty. Nor is one that went
//! with everything else. Whose row was lost is told, once it stands again, that messages may have
//! passed by (`LostRows`).

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use fred::clients::Pipeline;
use fred::error::Error;
use fred::prelude::{Client, FredResult, KeysInterface};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::backplane::lanes::in_lanes;
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
                tracing::debug!(error = %redacted(&error), "indexes not verified; the next step tries again");
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
        // Side by side, so that a silent server is waited for once.
        let (mut again, first) = futures::join!(self.read_through(suspects), self.look(rows));
        let is_forgotten = !again.missing.is_empty() && self.is_forgotten().await;
        // One that was written since it was read is whole, and who hears of it does already.
        self.hub.changes().retain_untouched(&mut again.missing);
        // What could not be read at this second look gets another one. At a first look it has to
        // wait for its next turn: a silent server may have most rows.
        self.suspects = again.unread;
        match is_forgotten {
            true => self.suspects.extend(again.missing),
            false => self.restore(again.missing),
        }
        self.suspects.extend(first.missing);
        self.verify_indexes().await
    }

    /// The first look at these rows.
    async fn look(&self, rows: &[(u64, Subject)]) -> Read {
        match self.doubtful(rows).await {
            Ok(doubtful) => self.read_through(doubtful).await,
            Err(error) => {
                tracing::debug!(error = %redacted(&error), "rows not verified; the next round tries again");
                Read::default()
            }
        }
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

    /// Reads these rows, unless they are dirty: the servers side by side, so that none waits for
    /// another.
    async fn read_through(&self, mut rows: Vec<Subject>) -> Read {
        self.hub.changes().retain_clean(&mut rows);
        let lanes = in_lanes(rows, |row| self.servers.lane(|| self.keys.row(row)));
        let reads = lanes.iter().map(async |rows| self.read_lane(rows).await);
        let mut all = Read::default();
        for read in join_all(reads).await {
            all.missing.extend(read.missing);
            all.unread.extend(read.unread);
        }
        self.hub.changes().retain_clean(&mut all.missing);
        all
    }

    /// Reads rows of one server. One that cannot be read hides no others.
    async fn read_lane(&self, rows: &[Subject]) -> Read {
        let mut read = Read::default();
        let mut parts = rows.chunks(KEYS);
        for part in parts.by_ref() {
            let keys: Vec<String> = part.iter().map(|row| self.keys.row(row)).collect();
            let answers = self.servers.try_each("HKEYS", &keys).await;
            let is_away = (answers.iter())
                .all(|answer| answer.as_ref().is_err_and(|error| !is_refusal(error)));
            for (row, answer) in part.iter().zip(answers) {
                let fields = match answer {
                    Ok(answer) => flat(answer).unwrap_or_default(),
                    // A key of another type has no fields: the row is as good as deleted.
                    Err(error) if is_wrong_type(&error) => Vec::new(),
                    Err(_) => {
                        read.unread.push(row.clone());
                        continue;
                    }
                };
                if !self.is_whole(row, &fields) {
                    read.missing.push(row.clone());
                }
            }
            // Others would be waited for in vain.
            if is_away {
                break;
            }
        }
        read.unread.extend(parts.flatten().cloned());
        read
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

    /// Whether Redis lacks this node's lease, too: then it has forgotten everything. The lease finds
    /// that within a second, and all clients hear of it at once.
    async fn is_forgotten(&self) -> bool {
        let lease = self.keys.lease(self.hub.node().name());
        let there = self.servers.at(&lease).exists(&lease).await;
        there.is_ok_and(|there: bool| !there)
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
        if lacks && self.lacks_index && !self.is_forgotten().await {
            tracing::warn!("an index of this node's rows is missing in Redis; rewriting its rows");
            self.hub.changes().mark(self.hub.subjects());
            lacks = false;
        }
        self.lacks_index = lacks;
        Ok(())
    }
}

/// What was found of rows.
#[derive(Debug, Default)]
struct Read {
    /// They lack a field of this node.
    missing: Vec<Subject>,
    /// Nothing is known of them: their server is away, or refused.
    unread: Vec<Subject>,
}

fn is_refusal(error: &Error) -> bool {
    refusal_reason(error).is_some()
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
