//! Rules of topics, as far as other settings bound them.

use std::sync::Arc;

use crate::config::Config;
use crate::config::faults::Faults;
use crate::protocol::topic_rules::{SubscribeRule, TopicRule, TopicRules, name_of};

/// Reads the rules themselves.
pub(crate) fn topic_rules(text: &str) -> Result<Arc<TopicRules>, String> {
    let rules = TopicRules::parse(text);
    rules.map(Arc::new).map_err(|faults| faults.join("; "))
}

impl Config {
    /// Refuses rules that these settings make impossible.
    pub(super) fn check_topic_rules(&self, faults: &mut Faults) {
        for fault in self.faults_of_rules(&self.topic_rules) {
            faults.add(self.rules_variable(), fault);
        }
    }

    /// From where the rules come.
    pub(crate) fn rules_variable(&self) -> &'static str {
        match self.topic_rules_file {
            Some(_) => "PUSH_TOPIC_RULES_FILE",
            None => "PUSH_TOPIC_RULES",
        }
    }

    /// What these settings make impossible of some rules, a sentence each.
    pub(crate) fn faults_of_rules(&self, rules: &TopicRules) -> Vec<String> {
        let mut faults = Vec::new();
        for (place, rule) in rules.iter().enumerate() {
            let name = name_of(place + 1, Some(rule.pattern.as_str()));
            let found = self.faults_of_rule(rule).into_iter();
            faults.extend(found.map(|fault| format!("{name}: {fault}")));
        }
        faults
    }

    fn faults_of_rule(&self, rule: &TopicRule) -> Vec<String> {
        let mut faults = Vec::new();
        // The one place that knows whether this node can ask a hook.
        if rule.subscribe == SubscribeRule::Hook && self.subscribe_hook.is_empty() {
            faults.push("\"subscribe\": \"hook\" needs PUSH_SUBSCRIBE_HOOK".to_owned());
        }
        let keeps = rule.keep != Default::default() || rule.entry != Default::default();
        if keeps && self.keep_messages == 0 {
            let words = "keep and entry need PUSH_KEEP_MESSAGES over 0, which turns logs on";
            faults.push(words.to_owned());
        }
        if let Some(send) = rule.send {
            let (rate, most) = (send.rate.unwrap_or(0), self.client_rate);
            if most > 0 && rate > most {
                faults.push(format!(
                    "rate is {rate}, over PUSH_CLIENT_RATE ({most}), at which a client is closed"
                ));
            }
            let (bytes, most) = (send.max_bytes.unwrap_or(0), self.max_message_bytes);
            if bytes > most {
                faults.push(format!(
                    "max_bytes is {bytes}, over PUSH_MAX_MESSAGE_BYTES ({most})"
                ));
            }
        }
        faults
    }
}
