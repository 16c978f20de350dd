//! Which connections of a shard are in which topic.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::hub::Topics;
use crate::names::Topic;

/// Slots of connections by topic. The counts that the hub has follow it step by step.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) topics: Arc<Topics>,
    /// Which shard this is.
    shard: usize,
    slots: HashMap<Topic, HashSet<usize, ahash::RandomState>, ahash::RandomState>,
}

impl Members {
    pub(super) fn new(topics: Arc<Topics>, shard: usize) -> Self {
        Self {
            topics,
            shard,
            slots: HashMap::default(),
        }
    }

    /// The topic as the table has it, so that thousands of members share one text.
    pub(super) fn shared(&self, topic: &Topic) -> Topic {
        let known = self.slots.get_key_value(topic);
        known.map_or(topic, |(known, _)| known).clone()
    }

    pub(super) fn join(&mut self, topic: &Topic, slot: usize) -> oneshot::Receiver<()> {
        self.slots.entry(topic.clone()).or_default().insert(slot);
        self.topics.joined(topic, self.shard)
    }

    pub(super) fn leave(&mut self, topic: &Topic, slot: usize) {
        let Some(slots) = self.slots.get_mut(topic) else {
            return;
        };
        if !slots.remove(&slot) {
            return;
        }
        if slots.is_empty() {
            self.slots.remove(topic);
        }
        self.topics.left(topic, self.shard);
    }

    pub(super) fn of(&self, topic: &Topic) -> impl Iterator<Item = usize> {
        self.slots.get(topic).into_iter().flatten().copied()
    }
}
