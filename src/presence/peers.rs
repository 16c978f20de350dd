//! What a node asks the others and Redis about topics: who has members, who watches, who is dead.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::nodes::Health;
use crate::backplane::rows::TopicNodes;
use crate::presence::Presence;
use crate::presence::roster::HEARD;
use crate::presence::view::{PresenceChanges, View};
use crate::protocol;
use crate::protocol::ids::{NodeId, Topic};
use crate::protocol::{PresenceLine, Watch};

/// Nodes asked in one beat for their lists, beyond those that are new: after a loss all are asked.
const ASKS: usize = 2_000;
/// Most lines whose outcome is waited for.
const OUTCOMES: usize = 1_024;

/// A topic, and who is in its row; none if that could not be written or read.
pub(super) type TopicRow = (Topic, Option<TopicNodes>);

/// What was found out beside the task.
pub(super) enum Found {
    /// Who is in the rows of topics.
    Rows(Vec<TopicRow>),
    /// Of these nodes, which are dead.
    Dead(Vec<NodeId>),
    /// What this node was told of the topic did not reach it, as far as is known.
    Unheard(Topic, NodeId),
}

/// A line for a node, and of which topic it tells, if it does.
pub(super) struct CarriedLine {
    node: NodeId,
    text: String,
    told: Option<Topic>,
}

impl Presence {
    pub(super) fn send(&mut self, node: &NodeId, line: &PresenceLine) {
        let told = match line {
            PresenceLine::Told(told) => Some(told.topic.clone()),
            PresenceLine::Watch(_) => None,
        };
        let carried = CarriedLine {
            node: node.clone(),
            text: line.to_line(),
            told,
        };
        if self.lines.try_send(carried).is_ok() {
            return;
        }
        // It would go on with a gap that it cannot see. As it is, it begins again when it asks
        // next.
        if let PresenceLine::Told(told) = line
            && let Some(roster) = self.rolls.get_mut(&told.topic)
        {
            roster.forget(node);
        }
    }

    pub(super) fn ask(&mut self, topic: &Topic, node: &NodeId, begin: bool, end: bool) {
        let watch = Watch {
            topic: topic.clone(),
            node: self.hub.node().clone(),
            begin,
            end,
        };
        self.send(node, &PresenceLine::Watch(watch));
    }

    /// Something that others said may be lost: all of them are asked again.
    pub(super) fn doubt(&mut self) {
        let (here, now) = (self.hub.node().clone(), Instant::now());
        for view in self.views.values_mut() {
            view.doubt(&here, now);
        }
        self.ask_all(now);
    }

    pub(super) fn ask_all(&mut self, now: Instant) {
        let mut asks: Vec<(Topic, NodeId)> = Vec::new();
        let here = self.hub.node();
        for (topic, view) in &mut self.views {
            if asks.len() >= ASKS {
                break;
            }
            let nodes = view.next_asked(now).into_iter();
            asks.extend(
                nodes
                    .filter(|node| node != here)
                    .map(|node| (topic.clone(), node)),
            );
        }
        for (topic, node) in asks {
            self.ask(&topic, &node, true, false);
        }
    }

    /// What a row says: who has members that we want to hear of, and who wants to hear of ours.
    pub(super) fn locate(&mut self, (topic, parties): TopicRow) {
        self.rows.note_ended(&topic);
        let now = Instant::now();
        let Some(parties) = parties else {
            // A view is refreshed until it works; a node that watches elsewhere reads the row, too.
            if let Some(view) = self.views.get_mut(&topic) {
                view.refresh = now;
            }
            return;
        };
        for (node, watches) in &parties {
            if *watches {
                self.listen(&topic, node, false, Some(now + HEARD));
            }
        }
        let here = self.hub.node().clone();
        let Some(view) = self.views.get_mut(&topic) else {
            return;
        };
        view.is_located = true;
        view.add(&here, now);
        for (node, _) in &parties {
            view.add(node, now);
        }
        view.drop_idle(|node| *node == here || parties.iter().any(|(one, _)| one == node));
        let asked = view
            .next_asked(now)
            .into_iter()
            .filter(|node| *node != here);
        for node in asked.collect::<Vec<_>>() {
            self.ask(&topic, &node, true, false);
        }
        // A client that waits is given the list with the first node's answer, which is ours.
        self.listen(&topic, &here, true, None);
    }

    /// Finds out whether nodes that have members in our eyes, and no lease, are dead.
    pub(super) fn judge(&mut self) {
        if self.is_judging || *self.health.borrow() != Health::Ready {
            return;
        }
        let records = self.backplane.nodes();
        let live: HashSet<&NodeId> = records.iter().map(|record| &record.node).collect();
        let sources = self.views.values().flat_map(View::sources);
        let silent = sources.filter(|node| *node != self.hub.node() && !live.contains(node));
        let silent: HashSet<NodeId> = silent.cloned().collect();
        if silent.is_empty() {
            return;
        }
        self.is_judging = true;
        let (backplane, finds) = (self.backplane.clone(), self.finds.clone());
        tokio::spawn(async move {
            let mut dead = Vec::new();
            for node in silent {
                if backplane.is_gone(&node).await == Ok(true) {
                    dead.push(node);
                }
            }
            let _ = finds.send(Found::Dead(dead));
        });
    }

    /// Has a node told all again in a while: a line that it never got leaves no gap in numbers.
    pub(super) fn note_unheard(&mut self, topic: Topic, node: NodeId) {
        let roster = self.rolls.get_mut(&topic);
        if let Some(pause) = roster.and_then(|roster| roster.note_unheard(&node)) {
            self.unheard.insert((Instant::now() + pause, topic, node));
        }
    }

    pub(super) fn tell_again(&mut self, now: Instant) {
        while self.unheard.first().is_some_and(|(at, ..)| *at <= now) {
            let (_, topic, node) = self.unheard.pop_first().expect("one is there");
            let roster = self.rolls.get_mut(&topic);
            if roster.is_some_and(|roster| roster.begin_again(&node)) {
                self.arrange(&topic);
            }
        }
    }

    pub(super) fn bury(&mut self, dead: Vec<NodeId>) {
        self.is_judging = false;
        let now = Instant::now();
        for node in dead {
            let views = self.views.iter_mut();
            let changes: Vec<(Topic, PresenceChanges)> = views
                .map(|(topic, view)| (topic.clone(), view.bury(&node, now, self.grace)))
                .collect();
            for (topic, changes) in changes {
                // No user joins by a death.
                self.note(&topic, changes);
            }
        }
    }
}

/// Hands lines to the backplane, in order; a slow one holds up nothing but them.
pub(super) async fn carry(
    backplane: Arc<Backplane>,
    mut lines: mpsc::Receiver<CarriedLine>,
    finds: mpsc::UnboundedSender<Found>,
) {
    let mut outcomes = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((told, node, is_heard)) = outcomes.next() => {
                if let (Some(topic), false) = (told, is_heard) {
                    let _ = finds.send(Found::Unheard(topic, node));
                }
            }
            line = lines.recv(), if outcomes.len() < OUTCOMES => {
                let Some(CarriedLine { node, text, told }) = line else {
                    return;
                };
                let deadline = Instant::now() + protocol::DEFAULT_TIMEOUT;
                let published = backplane.publish(&node, text, deadline).await;
                outcomes.push(async move {
                    let receivers = published.receivers(deadline).await;
                    (told, node, receivers.is_ok_and(|count| count > 0))
                });
            }
        }
    }
}
