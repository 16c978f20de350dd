//! Reads the rows of topics for the presence task, each once it has been written.
//!
//! What must stay true: a row that cannot be written or read holds up no other; and each topic has
//! one look under way at most, so that an older row is never taken for a newer one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::backplane::Backplane;
use crate::presence::peers::{Found, TopicRow};
use crate::protocol::ids::Topic;

/// How long a row may take to be written.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reads under way at once. More than one, because a server may be silent.
const READS: usize = 4;

/// A topic, and what resolves when its row is written.
type WrittenRow = (Topic, oneshot::Receiver<()>);

/// Which rows are being read, and which are to be read after that.
pub(super) struct RowReader {
    /// To the task that reads. One for each topic at most.
    asked: mpsc::UnboundedSender<WrittenRow>,
    under_way: HashSet<Topic>,
    next: HashMap<Topic, oneshot::Receiver<()>>,
}

impl RowReader {
    pub(super) fn new(backplane: &Arc<Backplane>, finds: mpsc::UnboundedSender<Found>) -> Self {
        let (asked, rows) = mpsc::unbounded_channel();
        tokio::spawn(read(backplane.clone(), rows, finds));
        Self {
            asked,
            under_way: HashSet::new(),
            next: HashMap::new(),
        }
    }

    /// Reads a row once it is written. While an earlier look at it is under way, only after that.
    pub(super) fn look(&mut self, topic: Topic, row: oneshot::Receiver<()>) {
        if self.under_way.contains(&topic) {
            self.next.insert(topic, row);
            return;
        }
        self.under_way.insert(topic.clone());
        // Without the task the node has ended.
        let _ = self.asked.send((topic, row));
    }

    /// A look has ended, whatever it found.
    pub(super) fn note_ended(&mut self, topic: &Topic) {
        self.under_way.remove(topic);
        if let Some((topic, row)) = self.next.remove_entry(topic) {
            self.look(topic, row);
        }
    }
}

/// Waits for each row by itself, and reads together what is written by then.
async fn read(
    backplane: Arc<Backplane>,
    mut asked: mpsc::UnboundedReceiver<WrittenRow>,
    finds: mpsc::UnboundedSender<Found>,
) {
    let (mut waits, mut reads) = (FuturesUnordered::new(), FuturesUnordered::new());
    let (mut written, mut late) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            row = asked.recv() => match row {
                Some((topic, row)) => waits.push(async move {
                    // An error says that there is no registry, or that the node ends.
                    (topic, tokio::time::timeout(PATIENCE, row).await.is_ok())
                }),
                None => return,
            },
            Some((topic, is_written)) = waits.next() => match is_written {
                true => written.push(topic),
                false => late.push((topic, None)),
            },
            Some(rows) = reads.next() => drop(finds.send(Found::Rows(rows))),
        }
        while let Some(Some((topic, is_written))) = waits.next().now_or_never() {
            match is_written {
                true => written.push(topic),
                false => late.push((topic, None)),
            }
        }
        if !late.is_empty() {
            let _ = finds.send(Found::Rows(std::mem::take(&mut late)));
        }
        if !written.is_empty() && reads.len() < READS {
            reads.push(rows_of(&backplane, std::mem::take(&mut written)));
        }
    }
}

async fn rows_of(backplane: &Backplane, topics: Vec<Topic>) -> Vec<TopicRow> {
    let rows = backplane.parties(&topics).await;
    let rows = rows.into_iter().map(Result::ok);
    topics.into_iter().zip(rows).collect()
}
