//! The rules of topics that hold now. They can be replaced while the node runs.
//!
//! A topic with members here finds its rule once, when the first of them comes; a push to it looks
//! up what was found. What must stay true: without rules a push to a topic pays one look at a
//! flag, and what was found is found again before new rules are said to hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::local::map::Map;
use crate::protocol::ids::Topic;
use crate::protocol::topic_rules::{TopicRule, TopicRules};

/// A handle to the rules; all clones have the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveRules(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rules: RwLock<Arc<TopicRules>>,
    has_rules: AtomicBool,
    /// What was found for the topics that have members here.
    found: Map<Topic, Option<Arc<TopicRule>>>,
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
        let shared = rules.clone();
        *now = rules;
        drop(now);
        if shared.is_empty() {
            return self.0.found.clear();
        }
        // A topic that is held meanwhile is found by these rules, or is here already.
        for mut found in self.0.found.iter_mut() {
            let rule = shared.find(found.key()).cloned();
            *found.value_mut() = rule;
        }
    }

    /// Finds the rule of a topic that has members here from now on, and remembers it.
    pub(in crate::local) fn hold(&self, topic: &Topic) {
        if self.has_rules() {
            let found = self.0.found.entry(topic.clone());
            found.or_insert_with(|| self.look(topic));
        }
    }

    /// A topic has no members here any more.
    pub(in crate::local) fn release(&self, topic: &Topic) {
        if self.has_rules() {
            self.0.found.remove(topic);
        }
    }

    /// The rule of a topic; none if the settings hold for it.
    pub(crate) fn find(&self, topic: &Topic) -> Option<Arc<TopicRule>> {
        if !self.has_rules() {
            return None;
        }
        match self.0.found.get(topic) {
            Some(found) => found.clone(),
            None => self.look(topic),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Arc<TopicRules> {
        self.0.rules.read().clone()
    }

    fn has_rules(&self) -> bool {
        self.0.has_rules.load(Ordering::Acquire)
    }

    fn look(&self, topic: &Topic) -> Option<Arc<TopicRule>> {
        self.0.rules.read().find(topic).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Arc<TopicRules> {
        Arc::new(TopicRules::parse(json).expect("rules"))
    }

    #[test]
    fn a_topic_keeps_the_rule_that_it_found_until_there_are_others() {
        let live = LiveRules::new(rules(r#"[{"match":"chat.**","keep":{"messages":1}}]"#));
        let topic = |name: &str| -> Topic { name.parse().expect("a topic") };
        let (chat, other) = (topic("chat.1"), topic("other"));
        let most = |topic: &Topic| live.find(topic).and_then(|rule| rule.keep.messages);
        live.hold(&chat);
        live.hold(&other);
        assert_eq!(live.0.found.len(), 2);
        assert_eq!((most(&chat), most(&other)), (Some(1), None));
        live.replace(rules(r#"[{"match":"**","keep":{"messages":2}}]"#));
        assert_eq!((most(&chat), most(&other)), (Some(2), Some(2)));
        live.release(&chat);
        assert_eq!(live.0.found.len(), 1);
        assert_eq!(most(&chat), Some(2), "without members it is looked up");
        live.replace(Arc::default());
        assert_eq!((most(&chat), live.0.found.len()), (None, 0));
        live.hold(&chat);
        assert_eq!(
            live.0.found.len(),
            0,
            "without rules there is nothing to remember"
        );
    }
}
