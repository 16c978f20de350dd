//! Writes the rows `pn:user:{<user>}` of this node's users and `pn:topic:{<topic>}` of its topics.
//!
//! By level, not by edge: for each dirty row the hub is asked for the current state. That is
//! written, together with the removal of fields that no longer apply. A row is changed only by
//! naming this node's own fields, so no script is needed and no other node's new connection is
//! erased. HSET and EXPIRE are in one MULTI, so no row is ever without a TTL. It travels as one
//! write over the lean connection, because each connect waits for it.
//!
//! A field that was written before and is added was missing: another program deleted the row,
//! and messages may have passed its connections by. They are told, unless all clients hear of a
//! greater loss after that.
//!
//! Redis may refuse one row of many, because another program made a key of another type: the others
//! are written all the same. What must stay true: each row is judged by what its own commands were
//! answered, in a MULTI too, and one that is refused holds up nothing that waits for the others.
//!
//! Each server has one round of writes under way, so that a silent one holds up only its own rows.
//! What must stay true: a row is in one round at a time, or an older state could follow a newer one.
//!
//! Beside the rows, `pn:users:{<node>}` and `pn:topics:{<node>}` list their owners, for the node
//! that sweeps them when this node is dead. On one server both are written in the same MULTI. In a
//! cluster, where they are in different slots, a name is added before its row is written and
//! removed after the row is: a crash in between leaves a name too many, never one too few.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::error::Error;
use fred::prelude::FredResult;
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::backplane::redis::Keys;
use crate::backplane::redis::registry::lost_rows::LostRows;
use crate::backplane::redis::registry::offer::RowOffer;
use crate::backplane::redis::registry::row_script::{DirtyRow, INDEXES, RowWriter, WrittenBefore};
use crate::backplane::redis::registry::unwritten::{UnwrittenRows, is_of_one_row};
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::wire::connection::{Awaited, Wire};
use crate::backplane::redis::wire::resp::Reply;
use crate::backplane::redis::wire::script::{executed, outcome};
use crate::backplane::redis::wire::stream::accepted;
use crate::local::dirty_rows::{RowChanges, RowLane};
use crate::local::hub::Hub;
use crate::protocol::ids::Subject;
use crate::telemetry::metrics::Metrics;

/// Maximum number of rows in one MULTI.
const ROWS: usize = 256;
/// Maximum number of transactions under way at once.
const IN_FLIGHT: usize = 8;
/// The pause between two attempts while Redis fails.
const RETRY: Duration = Duration::from_millis(100);
/// So long rows wait for something else before others hear of it: less than `ROW_PATIENCE`.
const LATE: Duration = Duration::from_millis(500);
/// The time between two checks whether all is written.
const SETTLE_STEP: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub(crate) struct Registry {
    servers: Servers,
    keys: Keys,
    hub: Arc<Hub>,
    offer: RowOffer,
    unwritten: UnwrittenRows,
    /// Whether rows mark the node as draining.
    leaving: Arc<AtomicBool>,
    lost: LostRows,
    metrics: Arc<Metrics>,
}

/// What became of a row that was to be written.
///
/// In order: of two refusals of one row, the first of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Failed,
    /// Redis refused this row, and would not refuse others for the same reason.
    Refused,
    Written,
    /// Redis lacked something of it that was written before.
    Restored,
}

impl Fate {
    fn of_refused(error: &Error) -> Self {
        match is_of_one_row(error) {
            true => Self::Refused,
            false => Self::Failed,
        }
    }

    fn is_written(self) -> bool {
        matches!(self, Self::Written | Self::Restored)
    }
}

/// Rows by what became of them.
#[derive(Default)]
struct RowsOutcome {
    written: RowChanges,
    failed: RowChanges,
    refused: RowChanges,
}

/// How far a write of many rows came, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RowsProgress {
    AllWritten,
    /// Redis refused single rows, and took the others.
    ButRefused,
    Failed,
}

impl Registry {
    pub(crate) fn new(
        servers: &Servers,
        keys: &Keys,
        hub: &Arc<Hub>,
        (offer, unwritten): (&RowOffer, &UnwrittenRows),
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            servers: servers.clone(),
            keys: keys.clone(),
            hub: hub.clone(),
            offer: offer.clone(),
            unwritten: unwritten.clone(),
            leaving: Arc::default(),
            lost: LostRows::new(hub, metrics),
            metrics: metrics.clone(),
        }
    }

    /// Who hears of rows that Redis lost.
    pub(crate) fn lost_rows(&self) -> LostRows {
        self.lost.clone()
    }

    /// Has every row mark this node as draining, as soon as possible.
    pub(crate) fn mark_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.hub.changes().mark(self.hub.subjects());
    }

    /// Writes all dirty rows, for ever. Each server has one round of writes at a time, so that one
    /// that is silent holds up only its own rows. Changes that arrive during a round go into the
    /// next one: batching by availability. While the subscription is not heard, they wait.
    pub(crate) async fn write(self) {
        let changes = self.hub.changes();
        let lane_of = |subject: &Subject| RowLane(self.servers.lane(|| self.keys.row(subject)));
        let (mut rounds, mut pauses) = (FuturesUnordered::new(), FuturesUnordered::new());
        let (mut busy, mut failing) = (HashSet::new(), HashSet::new());
        loop {
            tokio::select! {
                // A single server is asked what is left for it when its round has ended.
                taken = changes.take(lane_of), if busy.is_empty() || self.servers.is_clustered() => {
                    busy.extend(taken.iter().map(|(lane, _)| *lane));
                    // Without a round, a lane has no rows any more that had failed.
                    failing.retain(|lane| busy.contains(lane));
                    self.unwritten.keep_waiting(|lane| busy.contains(lane));
                    rounds.extend(taken.into_iter().map(|(lane, rows)| self.round(lane, rows)));
                }
                Some((lane, progress)) = rounds.next() => {
                    match progress {
                        RowsProgress::Failed => _ = failing.insert(lane),
                        _ => {
                            failing.remove(&lane);
                            self.unwritten.keep_waiting(|one| *one != lane);
                        }
                    }
                    if progress != RowsProgress::Failed && failing.is_empty() {
                        self.unwritten.note_written();
                    }
                    if progress != RowsProgress::AllWritten {
                        pauses.push(async move {
                            tokio::time::sleep(RETRY).await;
                            lane
                        });
                    } else {
                        busy.remove(&lane);
                        changes.end_round(lane);
                    }
                }
                Some(lane) = pauses.next() => {
                    busy.remove(&lane);
                    changes.end_round(lane);
                }
            }
        }
    }

    /// Writes these once the subscription is heard.
    async fn round(&self, lane: RowLane, changes: RowChanges) -> (RowLane, RowsProgress) {
        let heard = async {
            while !self.offer.stands() && !self.leaving.load(Ordering::Relaxed) {
                self.offer.until_it_stands(RETRY).await;
            }
        };
        self.before_rows(lane, heard).await;
        (lane, self.write_all(lane, changes).await)
    }

    /// Does what the rows of a lane wait for. Other nodes hear of it if it takes long.
    async fn before_rows<T>(&self, lane: RowLane, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        if let Ok(done) = tokio::time::timeout(LATE, &mut step).await {
            return done;
        }
        self.unwritten.note_waiting(lane);
        step.await
    }

    /// Waits until all is written, for `patience` at most; returns whether it is.
    pub(crate) async fn settle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.hub.changes().is_settled() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(SETTLE_STEP).await;
        }
        true
    }

    /// Those that are not written are dirty again.
    async fn write_all(&self, lane: RowLane, changes: RowChanges) -> RowsProgress {
        let mut parts = Vec::with_capacity(changes.len().div_ceil(ROWS));
        let by_server = self
            .servers
            .by_server(changes, |(subject, _)| self.keys.row(subject));
        for (wire, changes) in by_server {
            let mut rest = changes.into_iter().peekable();
            while rest.peek().is_some() {
                parts.push((
                    wire.clone(),
                    rest.by_ref().take(ROWS).collect::<RowChanges>(),
                ));
            }
        }
        // Different parts are different rows: their order does not matter.
        let writes = parts
            .into_iter()
            .map(|(wire, part)| self.write_part(lane, wire, part));
        stream::iter(writes)
            .buffer_unordered(IN_FLIGHT)
            // To the end: otherwise the rest would be dropped with their changes.
            .fold(RowsProgress::AllWritten, async |all, one| all.max(one))
            .await
    }

    async fn write_part(&self, lane: RowLane, wire: Wire, changes: RowChanges) -> RowsProgress {
        self.metrics
            .registry_batch_size
            .observe(changes.len() as f64);
        // Read once, for rows and index alike. A later change makes its row dirty again.
        let rows = changes.into_iter();
        let rows = rows.map(|change| DirtyRow::of(&self.hub, change)).collect();
        let outcome = match self.servers.is_clustered() {
            true => self.write_in_cluster(lane, &wire, rows).await,
            false => self.transact(&wire, rows).await,
        };
        let RowsOutcome {
            written,
            failed,
            refused,
        } = outcome;
        self.metrics.registry_writes.inc_by(written.len() as u64);
        let lost = written.iter().filter(|(_, change)| change.lost);
        let mut lost: Vec<Subject> = lost.map(|(subject, _)| subject.clone()).collect();
        if self.is_told_with_all(lost.len()) {
            lost.clear();
        }
        let progress = match (failed.is_empty(), refused.is_empty()) {
            (true, true) => RowsProgress::AllWritten,
            (true, false) => RowsProgress::ButRefused,
            (false, _) => RowsProgress::Failed,
        };
        let changes = self.hub.changes();
        changes.written(written);
        lost.into_iter().for_each(|row| self.lost.tell_of(row));
        if progress != RowsProgress::AllWritten {
            self.metrics.registry_errors.inc();
            changes.put_back(failed);
            changes.put_back_refused(refused);
        }
        progress
    }

    /// Whether the losses of so many rows that stand now are no news: all clients hear of a greater
    /// one later, as it was just found or other rows must stand first. After an outage that comes
    /// before any row is written: rows are offered once the new subscription is heard.
    fn is_told_with_all(&self, rows: usize) -> bool {
        rows > 0 && (self.hub.owes_resync() || !self.hub.changes().are_back())
    }

    fn writer(&self) -> RowWriter<'_> {
        let leaving = self.leaving.load(Ordering::Relaxed);
        RowWriter::new(&self.keys, self.hub.node(), leaving)
    }

    /// Writes all of these and the index in one MULTI.
    async fn transact(&self, wire: &Wire, mut rows: Vec<DirtyRow>) -> RowsOutcome {
        let (asked, standing) = {
            let mut writer = self.writer();
            writer.transaction(&rows);
            (wire.play(&writer.script), writer.into_written_before())
        };
        let fates = match executed(asked.answers().await) {
            Ok(answers) => {
                let mut fates = vec![Fate::Written; rows.len()];
                for row in standing.lacking(&answers) {
                    fates[row] = Fate::Restored;
                }
                self.note_lacks(&mut rows, &fates);
                self.judge(&rows, answers, &mut fates);
                fates
            }
            Err(error) => {
                self.note(&error, rows.len());
                vec![Fate::Failed; rows.len()]
            }
        };
        self.note_written(&rows, &fates);
        let (written, outcome) = sorted(rows, fates);
        RowsOutcome {
            written: changes(written),
            ..outcome
        }
    }

    /// Which rows of a transaction were refused, by what each command was answered.
    fn judge(&self, rows: &[DirtyRow], answers: Vec<Reply>, fates: &mut [Fate]) {
        let is_refused = |answer: &Reply| matches!(answer, Reply::Refused(_));
        if !answers.iter().any(is_refused) {
            return;
        }
        let owners = self.writer().owners(rows);
        for (answer, owner) in answers.into_iter().zip(owners) {
            let Err(error) = accepted(answer) else {
                continue;
            };
            match owner {
                Some(row) => {
                    if fates[row].is_written() {
                        self.note(&error, 1);
                    }
                    fates[row] = fates[row].min(Fate::of_refused(&error));
                }
                // Of an index: it would not name all rows of this node.
                None => {
                    self.note(&error, rows.len());
                    fates.fill(Fate::Failed);
                }
            }
        }
    }

    /// Notes which rows lacked something, also if they are written later.
    fn note_lacks(&self, rows: &mut [DirtyRow], fates: &[Fate]) {
        let lacking = rows.iter_mut().zip(fates);
        let lacking = lacking.filter(|(_, fate)| **fate == Fate::Restored);
        let news = lacking.filter_map(|(row, _)| row.note_lack().then_some(()));
        let news = news.count();
        if !self.is_told_with_all(news) {
            self.lost.note(news);
        }
    }

    /// Notes what is in Redis now.
    fn note_written(&self, rows: &[DirtyRow], fates: &[Fate]) {
        let written = rows.iter().zip(fates).filter(|(_, fate)| fate.is_written());
        written.for_each(|(row, _)| row.note_written(&self.hub));
    }

    /// Writes rows and index, in that order for removals and in the reverse order for additions.
    async fn write_in_cluster(
        &self,
        lane: RowLane,
        wire: &Wire,
        mut rows: Vec<DirtyRow>,
    ) -> RowsOutcome {
        let listed = self.change_indexes(b"SADD", &rows, DirtyRow::stays);
        if let Err(error) = self.before_rows(lane, listed).await {
            if !error.is_cluster() {
                self.unwritten.note_waiting(lane);
            }
            self.note(&error, rows.len());
            return RowsOutcome {
                failed: changes(rows),
                ..RowsOutcome::default()
            };
        }
        let fates = self.write_each(wire, &rows).await;
        self.note_lacks(&mut rows, &fates);
        self.note_written(&rows, &fates);
        // The others come again, and with them their names, which stay in the index for now.
        let (written, mut outcome) = sorted(rows, fates);
        let taken = self.change_indexes(b"SREM", &written, DirtyRow::is_empty);
        match taken.await {
            Ok(()) => outcome.written = changes(written),
            Err(error) => {
                self.note(&error, written.len());
                outcome.failed.extend(changes(written));
            }
        }
        outcome
    }

    /// Has the chosen rows' owners added to the indexes, or taken out of them, where those are.
    async fn change_indexes(
        &self,
        command: &[u8],
        rows: &[DirtyRow],
        chosen: fn(&DirtyRow) -> bool,
    ) -> FredResult<()> {
        for of_topics in INDEXES {
            let mut writer = self.writer();
            if let Some(index) = writer.index(of_topics, command, rows, chosen) {
                let asked = self.servers.wire_at(&index).play(&writer.script);
                outcome(asked.answers().await)?;
            }
        }
        Ok(())
    }

    fn note(&self, error: &Error, rows: usize) {
        tracing::debug!(error = %redacted(error), rows, "rows not written; retrying");
        self.unwritten.note(error);
        self.servers.note(error);
    }

    /// Writes each of these in its own MULTI, because in a cluster no MULTI may span slots.
    async fn write_each(&self, wire: &Wire, rows: &[DirtyRow]) -> Vec<Fate> {
        let ask = |row: &DirtyRow| {
            let mut writer = self.writer();
            writer.alone(row);
            (wire.play(&writer.script), writer.into_written_before())
        };
        // All are asked before the first answer is waited for.
        let asked: Vec<(Awaited, WrittenBefore)> = rows.iter().map(ask).collect();
        let mut fates = Vec::with_capacity(rows.len());
        for (row, (asked, standing)) in rows.iter().zip(asked) {
            let mut result = executed(asked.answers().await);
            if let Err(error) = &result
                && let Some(server) = self.servers.asked(error)
            {
                // The row is moving to another server, and is written there.
                let mut writer = self.writer();
                writer.script.command(&[b"ASKING"]);
                writer.alone(row);
                let asked = server.wire.play(&writer.script);
                result = executed(asked.answers().await);
            }
            let answers = result.as_deref().unwrap_or_default();
            let lacks = standing.lacking(answers).next().is_some();
            let refusal = match result {
                Ok(answers) => {
                    let mut refusals = answers.into_iter().filter_map(|one| accepted(one).err());
                    refusals.next().map(|one| (Fate::of_refused(&one), one))
                }
                Err(error) => Some((Fate::Failed, error)),
            };
            fates.push(match refusal {
                Some((fate, error)) => {
                    self.note(&error, 1);
                    fate
                }
                None if lacks => Fate::Restored,
                None => Fate::Written,
            });
        }
        fates
    }
}

/// Those that are written, and what became of the others.
fn sorted(rows: Vec<DirtyRow>, fates: Vec<Fate>) -> (Vec<DirtyRow>, RowsOutcome) {
    let mut outcome = RowsOutcome::default();
    if fates.iter().all(|fate| fate.is_written()) {
        return (rows, outcome);
    }
    let mut written = Vec::with_capacity(rows.len());
    for (row, fate) in rows.into_iter().zip(fates) {
        match fate {
            Fate::Failed => outcome.failed.push(row.into_change()),
            Fate::Refused => outcome.refused.push(row.into_change()),
            Fate::Written | Fate::Restored => written.push(row),
        }
    }
    (written, outcome)
}

fn changes(rows: Vec<DirtyRow>) -> RowChanges {
    rows.into_iter().map(DirtyRow::into_change).collect()
}
