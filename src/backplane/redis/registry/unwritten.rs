//! Whose rows cannot be written: then a missing row proves nothing about its user.
//!
//! A node whose rows Redis refuses says so at once on the channel of all nodes, and in its lease,
//! where the others read it with each beat. One that cannot renew the lease either is late soon: its
//! last beat is too long ago, although its channel has a subscriber. In a cluster, rows may also wait
//! for a silent server that has none of them, but lists them. What must stay true: a refusal of one
//! row alone (another program made a key of another type) does not count, or one key could
//! cast doubt on all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backplane::nodes::NodeRecord;
use crate::backplane::redis::registry::belief::LEASE;
use crate::backplane::redis::servers::errors::{WRONG_TYPE, known_reason, refusal_reason};
use crate::local::dirty_rows::RowLane;
use crate::protocol::Announcement;
use crate::protocol::ids::NodeId;

/// Why a missing row proves nothing while a node is late.
pub(crate) const OVERDUE: &str = "a node cannot renew its lease, and may have rows to write";

/// Why it proves nothing while a node waits for a server that has none of the rows in question: the
/// one that lists them, or that has the node's channel.
const UNLISTED: &str = "a node waits for Redis before it can write its rows";

/// How long what a node said on the channel counts unless it takes it back: by then its lease says
/// it, or the node is late. The lease says so for longer, if the word that ends it is lost.
const HEARD: Duration = LEASE;

/// Clones are one and the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnwrittenRows(Arc<State>);

#[derive(Debug, Default)]
struct State {
    own: RwLock<OwnRows>,
    /// What the leases of other nodes say.
    others: RwLock<Option<&'static str>>,
    /// What other nodes of the table said last on the channel.
    heard: RwLock<HashMap<NodeId, LastWord>>,
    /// Woken when `own` changes.
    news: Notify,
}

/// Why rows of this node are not written.
#[derive(Debug, Default)]
struct OwnRows {
    /// Why Redis refuses them.
    refused: Option<&'static str>,
    /// Those that wait for something else than their own server.
    waiting: HashSet<RowLane>,
}

impl OwnRows {
    fn reason(&self) -> Option<&'static str> {
        let waits = !self.waiting.is_empty();
        self.refused.or_else(|| waits.then_some(UNLISTED))
    }
}

#[derive(Debug, Default)]
struct LastWord {
    /// The number of that announcement.
    n: u64,
    /// Why Redis refuses its rows, and when it said so.
    unwritten: Option<(&'static str, Instant)>,
}

impl UnwrittenRows {
    /// Redis did not take rows of this node.
    pub(crate) fn note(&self, error: &Error) {
        let reason = reason_of_all(error);
        if reason.is_some() {
            self.change(|own| own.refused = reason);
        }
    }

    /// Redis took all rows of this node that it had to write.
    pub(crate) fn note_written(&self) {
        if self.own().is_some() {
            self.change(|own| own.refused = None);
        }
    }

    /// The rows of a lane wait for something else than their own server.
    pub(super) fn note_waiting(&self, lane: RowLane) {
        self.change(|own| _ = own.waiting.insert(lane));
    }

    /// Only the rows of these lanes may still wait.
    pub(super) fn keep_waiting(&self, lanes: impl Fn(&RowLane) -> bool) {
        if !self.0.own.read().waiting.is_empty() {
            self.change(|own| own.waiting.retain(lanes));
        }
    }

    fn change(&self, change: impl FnOnce(&mut OwnRows)) {
        let mut own = self.0.own.write();
        let before = own.reason();
        change(&mut own);
        if own.reason() != before {
            self.0.news.notify_one();
        }
    }

    /// Why rows of this node are not written.
    pub(crate) fn own(&self) -> Option<&'static str> {
        self.0.own.read().reason()
    }

    /// Why rows may be missing, of this node or of another one.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        let told = self.own().or_else(|| *self.0.others.read());
        told.or_else(|| {
            let heard = self.0.heard.read();
            let told = heard.values().filter_map(|heard| heard.unwritten);
            let mut fresh = told.filter(|(_, at)| at.elapsed() < HEARD);
            fresh.next().map(|(reason, _)| reason)
        })
    }

    /// Another node of the table says whether Redis takes its rows. What its lease says besides is
    /// read with the next beat.
    pub(crate) fn hear(&self, said: &Announcement) {
        let mut heard = self.0.heard.write();
        let last = heard.entry(said.from.clone()).or_default();
        if said.n > last.n {
            last.n = said.n;
            let reason = said.unwritten.as_deref().map(known);
            last.unwritten = reason.map(|reason| (reason, Instant::now()));
        }
    }

    /// Waits until the lease should say something else of this node.
    pub(crate) async fn news(&self) {
        self.0.news.notified().await;
    }

    /// Notes what the leases of the nodes say, and whether a node is late.
    pub(crate) fn see(&self, own: &NodeId, nodes: &[NodeRecord], is_late: bool) {
        let told = nodes
            .iter()
            .filter(|record| record.node != *own && !record.unwritten.is_empty())
            .map(|record| known(&record.unwritten))
            .next();
        *self.0.others.write() = told.or(is_late.then_some(OVERDUE));
        let mut heard = self.0.heard.write();
        heard.retain(|node, _| nodes.iter().any(|record| record.node == *node));
    }
}

/// A reason that another node has told, as one of ours.
fn known(told: &str) -> &'static str {
    match told == UNLISTED {
        true => UNLISTED,
        false => known_reason(told),
    }
}

/// Why Redis refuses rows, if it would refuse others too.
fn reason_of_all(error: &Error) -> Option<&'static str> {
    refusal_reason(error).filter(|reason| *reason != WRONG_TYPE)
}

/// Whether what Redis answered to one command of many concerns its row alone.
pub(super) fn is_of_one_row(error: &Error) -> bool {
    reason_of_all(error).is_none()
}

#[cfg(test)]
mod tests {
    use fred::error::ErrorKind;

    use super::*;

    fn refused(words: &'static str) -> Error {
        Error::new(ErrorKind::Unknown, words)
    }

    fn record(name: &str, unwritten: &str) -> NodeRecord {
        let text = format!(
            r#"{{"node":"{name}.1","name":"{name}","boot":"1","state":"up","connections":0,
            "started":0,"version":"","url":"","weight":1,"unwritten":"{unwritten}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn rows_are_in_doubt_while_this_node_or_another_cannot_write_them() {
        let (rows, a): (_, NodeId) = (UnwrittenRows::default(), "a.1".parse().unwrap());
        assert_eq!(rows.reason(), None);
        rows.note(&refused("WRONGTYPE of one key"));
        rows.note(&refused("ERR of one command"));
        assert_eq!(rows.reason(), None);
        rows.note(&refused("OOM command not allowed"));
        assert_eq!(rows.own(), Some("Redis is out of memory"));
        rows.note_written();
        assert_eq!(rows.reason(), None);
        let misconf = "Redis cannot save its data";
        rows.see(&a, &[record("a", misconf), record("b", "")], false);
        assert_eq!(rows.reason(), None, "what this node said before");
        rows.see(&a, &[record("a", ""), record("b", misconf)], true);
        assert_eq!((rows.own(), rows.reason()), (None, Some(misconf)));
        rows.see(&a, &[record("b", "a reason of a later version")], false);
        assert_eq!(rows.reason(), Some("Redis refuses commands"));
        rows.see(&a, &[record("b", "")], true);
        assert_eq!(rows.reason(), Some(OVERDUE));
        rows.see(&a, &[], false);
        assert_eq!(rows.reason(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_says_counts_until_it_takes_it_back_or_is_late() {
        let rows = UnwrittenRows::default();
        let hear = |from: &str, n, unwritten: Option<&str>| {
            let unwritten = unwritten.map(str::to_owned);
            let from = from.parse().unwrap();
            rows.hear(&Announcement { from, n, unwritten });
        };
        let told = "Redis is out of memory";
        hear("b.1", 1, Some(told));
        assert_eq!((rows.own(), rows.reason()), (None, Some(told)));
        hear("c.1", 1, None);
        assert_eq!(rows.reason(), Some(told));
        hear("b.1", 2, None);
        assert_eq!(rows.reason(), None);
        hear("b.1", 1, Some(told));
        assert_eq!(rows.reason(), None, "an old one that is repeated");
        hear("b.1", 3, Some("a reason of a later version"));
        assert_eq!(rows.reason(), Some("Redis refuses commands"));
        tokio::time::advance(HEARD).await;
        assert_eq!(rows.reason(), None);
        hear("b.1", 4, Some(told));
        rows.see(&"a.1".parse().unwrap(), &[], false);
        assert_eq!(rows.reason(), None, "it is no longer there");
    }

    #[test]
    fn rows_that_wait_are_in_doubt_until_those_of_all_lanes_are_written() {
        let (rows, a): (_, NodeId) = (UnwrittenRows::default(), "a.1".parse().unwrap());
        let [one, other] = [1, 2].map(RowLane);
        rows.note_waiting(one);
        rows.note_waiting(other);
        rows.note(&refused("OOM command not allowed"));
        assert_eq!(rows.own(), Some("Redis is out of memory"));
        rows.note_written();
        rows.keep_waiting(|lane| *lane == other);
        assert_eq!(rows.own(), Some(UNLISTED));
        rows.keep_waiting(|lane| *lane == one);
        assert_eq!(rows.own(), None);
        rows.see(&a, &[record("b", UNLISTED)], false);
        assert_eq!(rows.reason(), Some(UNLISTED));
    }

    #[tokio::test]
    async fn the_lease_hears_of_each_change_once() {
        let rows = UnwrittenRows::default();
        rows.note(&refused("OOM command not allowed"));
        rows.news().await;
        rows.note(&refused("OOM command not allowed"));
        assert!(futures::FutureExt::now_or_never(rows.news()).is_none());
        rows.note_written();
        rows.news().await;
    }
}
