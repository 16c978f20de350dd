//! What the presence task must hear of, noted by the code that sees it.
//!
//! Noting never waits. Changes are noted by level: which topics have changed, not how. What must
//! stay true: while no client watches a topic, a connection that joins or leaves it pays one look
//! at a number.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::local::map::Map;
use crate::protocol::PresenceLine;
use crate::protocol::ids::{Fd, Topic};

/// Lines that may wait for the task, which works at processor speed. Beyond, it is told that
/// some are lost, and asks again.
const LINES: usize = 8_192;
/// Bytes of the names in them.
const BYTES: usize = 16 * 1024 * 1024;
/// Bytes charged for each name in addition to its own.
const OVERHEAD: usize = 48;

/// Kept by the hub; what is noted is taken by the presence task.
#[derive(Debug, Default)]
pub(crate) struct PresenceQueue {
    /// Topics with a watcher on any node: changes of their members are noted.
    told: Map<Topic, ()>,
    /// How many those are.
    telling: AtomicUsize,
    /// Topics that clients of this node watch, as the rows say.
    watched: Map<Topic, ()>,
    noted: Mutex<PresenceBatch>,
    wake: Notify,
}

/// All that was noted since the last look.
#[derive(Debug, Default)]
pub(crate) struct PresenceBatch {
    /// Told-of topics that may have other members here.
    pub(crate) changed: HashSet<Topic>,
    /// Topics that have their first member here; each with what resolves when the row says so.
    pub(crate) appeared: HashMap<Topic, oneshot::Receiver<()>>,
    /// Connections that want to watch a topic.
    pub(crate) asked: HashSet<(Fd, Topic)>,
    /// What other nodes said, in order.
    pub(crate) lines: Vec<PresenceLine>,
    /// Bytes of the names in them.
    bytes: usize,
    /// Lines for which there was no room.
    pub(crate) dropped: u64,
    /// Lines of others may be lost.
    pub(crate) lost: bool,
}

impl PresenceBatch {
    fn is_empty(&self) -> bool {
        self.changed.is_empty()
            && self.appeared.is_empty()
            && self.asked.is_empty()
            && self.lines.is_empty()
            && !self.lost
    }
}

impl PresenceQueue {
    /// The topic has other members than before.
    pub(crate) fn changed(&self, topic: &Topic) {
        if self.telling.load(Ordering::Relaxed) > 0 && self.told.contains_key(topic) {
            self.note(|noted| noted.changed.extend([topic.clone()]));
        }
    }

    /// The topic has its first member here; `row` resolves when its row says so.
    pub(crate) fn appeared(&self, topic: &Topic, row: oneshot::Receiver<()>) {
        self.note(|noted| drop(noted.appeared.insert(topic.clone(), row)));
    }

    /// A connection wants to watch a topic that it is subscribed to.
    pub(crate) fn ask(&self, fd: Fd, topic: Topic) {
        self.note(|noted| noted.asked.extend([(fd, topic)]));
    }

    /// Another node says something.
    pub(crate) fn hear(&self, line: PresenceLine) {
        let bytes = match &line {
            PresenceLine::Watch(_) => 0,
            PresenceLine::Told(told) => {
                let names = told.here.iter().chain(&told.gone);
                names.map(|user| user.as_str().len() + OVERHEAD).sum()
            }
        };
        self.note(|noted| {
            if noted.lines.len() < LINES && noted.bytes + bytes <= BYTES {
                noted.bytes += bytes;
                noted.lines.push(line);
            } else {
                noted.dropped += 1;
                noted.lost = true;
            }
        });
    }

    /// Something that other nodes said may be lost.
    pub(crate) fn lost(&self) {
        self.note(|noted| noted.lost = true);
    }

    /// Waits until there is something and takes it.
    pub(crate) async fn take(&self) -> PresenceBatch {
        loop {
            let noted = self.take_now();
            if !noted.is_empty() {
                return noted;
            }
            self.wake.notified().await;
        }
    }

    /// Takes what there is, be it nothing.
    pub(crate) fn take_now(&self) -> PresenceBatch {
        std::mem::take(&mut *self.noted.lock())
    }

    /// From now on changes of this topic are noted, or no longer.
    pub(crate) fn tell_of(&self, topic: &Topic, tells: bool) {
        // Counted up before and down after, so that the number is never too low.
        if tells {
            self.telling.fetch_add(1, Ordering::Relaxed);
            if self.told.insert(topic.clone(), ()).is_none() {
                return;
            }
        } else if self.told.remove(topic).is_none() {
            return;
        }
        self.telling.fetch_sub(1, Ordering::Relaxed);
    }

    /// Clients of this node watch this topic, or no longer. The row is to be written then.
    pub(crate) fn watch(&self, topic: &Topic, watches: bool) {
        match watches {
            true => self.watched.insert(topic.clone(), ()),
            false => self.watched.remove(topic).map(drop),
        };
    }

    /// Whether clients of this node watch the topic.
    pub(crate) fn is_watched(&self, topic: &Topic) -> bool {
        self.watched.contains_key(topic)
    }

    fn note(&self, change: impl FnOnce(&mut PresenceBatch)) {
        change(&mut self.noted.lock());
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Watch;

    #[test]
    fn lines_beyond_the_bound_are_counted_and_the_task_asks_again() {
        let queue = PresenceQueue::default();
        let line = || {
            PresenceLine::Watch(Watch {
                topic: "room".parse().expect("a topic"),
                node: "n.1".parse().expect("a node"),
                begin: false,
                end: false,
            })
        };
        for _ in 0..LINES + 3 {
            queue.hear(line());
        }
        let noted = queue.take_now();
        assert_eq!((noted.lines.len(), noted.dropped), (LINES, 3));
        assert!(noted.lost);
        queue.hear(line());
        assert_eq!(queue.take_now().dropped, 0);
    }
}
