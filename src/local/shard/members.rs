//! Which connections of a shard are in which topic.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::local::topics::Topics;
use crate::protocol::ids::Topic;

/// Slots of connections by topic. The counts that the hub has follow it step by step.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) topics: Arc<Topics>,
    /// Which shard this is.
    shard: usize,
    slots: Slots,
    /// Of those, the ones that hear who comes and goes.
    watchers: Slots,
}

type Slots = HashMap<Topic, HashSet<usize, ahash::RandomState>, ahash::RandomState>;

/// Takes a slot out; answers whether it was there.
fn remove(slots: &mut Slots, topic: &Topic, slot: usize) -> bool {
    let Some(of_topic) = slots.get_mut(topic) else {
        return false;
    };
    let was_there = of_topic.remove(&slot);
    if of_topic.is_empty() {
        slots.remove(topic);
    }
    was_there
}

impl Members {
    pub(crate) fn new(topics: Arc<Topics>, shard: usize) -> Self {
        Self {
            topics,
            shard,
            slots: HashMap::default(),
            watchers: HashMap::default(),
        }
    }

    /// The topic as the table has it, so that thousands of members share one text.
    pub(crate) fn shared(&self, topic: &Topic) -> Topic {
        let known = self.slots.get_key_value(topic);
        known.map_or(topic, |(known, _)| known).clone()
    }

    pub(crate) fn join(&mut self, topic: &Topic, slot: usize) -> oneshot::Receiver<()> {
        self.slots.entry(topic.clone()).or_default().insert(slot);
        self.topics.joined(topic, self.shard)
    }

    pub(crate) fn leave(&mut self, topic: &Topic, slot: usize) {
        if remove(&mut self.slots, topic, slot) {
            self.unwatch(topic, slot);
            self.topics.left(topic, self.shard);
        }
    }

    /// The hub has counted this watcher already. Answers whether the slot may watch the topic.
    pub(crate) fn watch(&mut self, topic: &Topic, slot: Option<usize>) -> bool {
        let member =
            slot.filter(|slot| (self.slots.get(topic)).is_some_and(|of| of.contains(slot)));
        let is_new = member.is_some_and(|slot| {
            let topic = self.shared(topic);
            self.watchers.entry(topic).or_default().insert(slot)
        });
        if !is_new {
            self.topics.unwatched(topic, self.shard);
        }
        member.is_some()
    }

    pub(crate) fn unwatch(&mut self, topic: &Topic, slot: usize) {
        if remove(&mut self.watchers, topic, slot) {
            self.topics.unwatched(topic, self.shard);
        }
    }

    pub(crate) fn watchers(&self, topic: &Topic) -> impl Iterator<Item = usize> {
        self.watchers.get(topic).into_iter().flatten().copied()
    }

    pub(crate) fn of(&self, topic: &Topic) -> impl Iterator<Item = usize> {
        self.slots.get(topic).into_iter().flatten().copied()
    }
}
