//! The numbers of payloads: where an outbox that is opened again goes on.

use std::collections::{HashMap, HashSet};

/// Numbers of closed outboxes that are remembered, of nodes and of other names.
const NUMBERS: usize = 4_096;

/// The last numbers used for channels. They outlive the outbox.
#[derive(Debug, Default)]
pub(super) struct ChannelNumbers {
    nodes: HashMap<String, u64>,
    /// Of other names.
    strangers: HashMap<String, u64>,
    /// The highest number of a stranger that was forgotten: where the others begin.
    forgotten: u64,
}

impl ChannelNumbers {
    /// The last number, and whether it was used.
    pub(super) fn get(&self, channel: &str, is_stranger: bool) -> (u64, bool) {
        let last = self.nodes.get(channel);
        match last.or_else(|| self.strangers.get(channel)) {
            Some(last) => (*last, true),
            None if is_stranger => (self.forgotten, false),
            None => (0, false),
        }
    }

    /// Remembers a number. Strangers are forgotten if there are many. Of nodes there is one entry
    /// for each boot that this node has sent to.
    pub(super) fn set(&mut self, channel: String, number: u64, is_stranger: bool) {
        if !is_stranger || self.nodes.contains_key(&channel) {
            self.strangers.remove(&channel);
            self.nodes.insert(channel, number);
            return;
        }
        if self.strangers.len() >= NUMBERS {
            let highest = self.strangers.drain().map(|(_, number)| number).max();
            self.forgotten = self.forgotten.max(highest.unwrap_or(0));
        }
        self.strangers.insert(channel, number);
    }

    /// Forgets dead nodes, if there are many.
    pub(super) fn prune(&mut self, live: impl FnOnce() -> HashSet<String>) {
        if self.nodes.len() >= NUMBERS {
            let live = live();
            self.nodes.retain(|channel, _| live.contains(channel));
        }
    }
}
