//! Rows that Redis lost one by one, and stand again: who hears of it.
//!
//! Such a row is found by the `Verifier`, or by the registry, if a write adds what was
//! written before. Either way the registry writes it, and hands it on here.
//!
//! What must stay true: connections are told once their row stands again, as until then further
//! messages may pass them by; all news take turns, wherever a loss was found, because many
//! clients may then ask their own backend; and a row waits for its turn once, however often it is
//! lost meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::local::hub::Hub;
use crate::local::shard::command::Command;
use crate::protocol::ids::{Fd, Subject};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// So many connections are told of lost rows before a pause: they may all ask their own backend.
const TOLD_AT_ONCE: usize = 200;
const PAUSE: Duration = Duration::from_millis(100);
/// The time between two warnings.
const QUIET: Duration = Duration::from_secs(60);

/// Clones are one and the same.
#[derive(Debug, Clone)]
pub(crate) struct LostRows {
    stand_again: LostSender,
    warnings: Arc<Throttle>,
    metrics: Arc<Metrics>,
}

impl LostRows {
    /// Clients are told by a task of its own, which ends when nothing can be handed on any more.
    pub(crate) fn new(hub: &Arc<Hub>, metrics: &Arc<Metrics>) -> Self {
        let (stand_again, rows) = queue();
        tokio::spawn(tell_of(hub.clone(), metrics.clone(), rows));
        Self {
            stand_again,
            warnings: Arc::new(Throttle::new(QUIET)),
            metrics: metrics.clone(),
        }
    }

    /// So many rows lacked something that was written before.
    pub(super) fn note(&self, rows: usize) {
        if rows == 0 {
            return;
        }
        self.metrics.rows_restored.inc_by(rows as u64);
        if let Some(unlogged) = self.warnings.pass() {
            tracing::warn!(
                rows,
                unlogged,
                "rows of this node were missing in Redis and are written again; is something \
                 deleting keys, is maxmemory-policy not noeviction, or did a replica take over \
                 that lagged?"
            );
        }
    }

    /// This one stands again.
    pub(super) fn tell_of(&self, row: Subject) {
        self.stand_again.send(row);
    }
}

/// Once a row stands again, no more pushes pass its connections by, and they can be told that some
/// may have.
async fn tell_of(hub: Arc<Hub>, metrics: Arc<Metrics>, mut rows: LostReceiver) {
    let mut pace = Pace::default();
    while let Some(row) = rows.next().await {
        metrics.lost("lost_row");
        let fds: Vec<Fd> = match &row {
            Subject::User(user) => hub.seats(user).iter().map(|seat| seat.fd).collect(),
            Subject::Topic(topic) => {
                let members = hub.members(topic).await.into_iter();
                members.map(|member| member.fd).collect()
            }
        };
        for fd in fds {
            pace.keep().await;
            hub.tell(fd, Command::Missed { fd }).await;
        }
    }
}

/// Rows that wait to be told of, each once: a large topic takes a while, and may be lost again.
#[derive(Debug, Clone)]
struct LostSender {
    rows: mpsc::UnboundedSender<Subject>,
    waiting: RowsWaiting,
}

#[derive(Debug)]
struct LostReceiver {
    rows: mpsc::UnboundedReceiver<Subject>,
    waiting: RowsWaiting,
}

type RowsWaiting = Arc<Mutex<HashSet<Subject>>>;

fn queue() -> (LostSender, LostReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = RowsWaiting::default();
    let sender = LostSender {
        rows: sender,
        waiting: waiting.clone(),
    };
    let rows = receiver;
    (sender, LostReceiver { rows, waiting })
}

impl LostSender {
    fn send(&self, row: Subject) {
        if self.waiting.lock().insert(row.clone()) {
            // Without the task the node has ended.
            let _ = self.rows.send(row);
        }
    }
}

impl LostReceiver {
    /// The next one. If it is lost again from now on, it waits again.
    async fn next(&mut self) -> Option<Subject> {
        let row = self.rows.recv().await?;
        self.waiting.lock().remove(&row);
        Some(row)
    }
}

/// The pace of news: so many, and then a pause.
#[derive(Debug, Default)]
struct Pace {
    told: usize,
}

impl Pace {
    /// Waits until the next one may be told.
    async fn keep(&mut self) {
        if self.told > 0 && self.told.is_multiple_of(TOLD_AT_ONCE) {
            tokio::time::sleep(PAUSE).await;
        }
        self.told += 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_row_that_is_lost_again_while_it_waits_waits_once() {
        let [a, b] = ["a", "b"].map(|topic| Subject::Topic(topic.parse().unwrap()));
        let (sender, mut receiver) = queue();
        for row in [&a, &a, &b, &a] {
            sender.send(row.clone());
        }
        assert_eq!(receiver.next().await.as_ref(), Some(&a));
        // Its members are read from now on, and may not be all whom a further loss concerns.
        sender.send(a.clone());
        sender.send(b.clone());
        drop(sender);
        let mut rest = Vec::new();
        while let Some(row) = receiver.next().await {
            rest.push(row);
        }
        assert_eq!(rest, [b, a]);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_hear_of_lost_rows_two_hundred_at_a_time() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let mut times = Vec::new();
        for _ in 0..800 {
            pace.keep().await;
            times.push(start.elapsed());
        }
        let portions = times.chunk_by(|one, next| one == next);
        let portions: Vec<_> = portions
            .map(|part| (part[0].as_millis(), part.len()))
            .collect();
        assert_eq!(portions, [(0, 200), (100, 200), (200, 200), (300, 200)]);
    }
}
