//! The rules of topics that hold now. They can be replaced while the node runs.
//!
//! What must stay true: without rules a push to a topic pays one look at a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::protocol::ids::Topic;
use crate::protocol::topic_rules::{TopicRule, TopicRules};

/// A handle to the rules; all clones have the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveRules(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rules: RwLock<Arc<TopicRules>>,
    has_rules: AtomicBool,
}

impl LiveRules {
    pub(crate) fn new(rules: Arc<TopicRules>) -> Self {
        let live = Self::default();
        live.replace(rules);
        live
    }

    /// Takes other rules in place of those before.
    pub(crate) fn replace(&self, rules: Arc<TopicRules>) {
        let mut now = self.0.rules.write();
        self.0.has_rules.store(!rules.is_empty(), Ordering::Release);
        *now = rules;
    }

    /// The rule of a topic; none if the settings hold for it.
    pub(crate) fn find(&self, topic: &Topic) -> Option<Arc<TopicRule>> {
        if !self.0.has_rules.load(Ordering::Acquire) {
            return None;
        }
        self.0.rules.read().find(topic).cloned()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Arc<TopicRules> {
        self.0.rules.read().clone()
    }
}
