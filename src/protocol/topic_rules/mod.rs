//! Rules for topics by pattern: who may subscribe, publish, read and see members, and what is kept.
//!
//! [`TopicRules`] is a table, of which the first rule that fits a topic counts. A topic that no
//! rule fits has the settings. What must stay true: a table is read whole or not at all, and a
//! rule that no topic can reach is a fault, because its author relies on it.

pub mod pattern;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::protocol::ids::Topic;
use crate::protocol::json::to_json;
use crate::protocol::topic_rules::pattern::RulePattern;

/// Most rules in a table: each push to a topic looks for its rule.
pub const MAX_RULES: usize = 256;
/// Hexadecimal digits by which nodes compare their rules.
const DIGEST_DIGITS: usize = 16;
/// The bounds of what can be kept, as of the settings `PUSH_KEEP_*`.
const MESSAGES: std::ops::RangeInclusive<u64> = 1..=1_000_000;
const BYTES: std::ops::RangeInclusive<u64> = 4096..=1_073_741_824;
const SECONDS: std::ops::RangeInclusive<u64> = 1..=31_536_000;
/// The bounds of what members may send.
const RATE: std::ops::RangeInclusive<u64> = 1..=1_000_000;
const SENT_BYTES: std::ops::RangeInclusive<u64> = 1..=1_073_741_824;

/// Which clients may subscribe by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubscribeRule {
    /// Those that a token or the settings allow.
    #[default]
    Grant,
    /// Those as well that the pattern fits, with their user in the place of `{user}`.
    Anyone,
    /// Those that a hook allows.
    Hook,
    /// None: only senders subscribe connections.
    #[serde(rename = "nobody")]
    NoClient,
}

/// What a new member gets of the log without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryRule {
    /// Nothing.
    #[default]
    None,
    /// The newest message.
    Last,
    /// All that is kept.
    All,
}

/// Which clients may read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HistoryRule {
    /// Those that are subscribed.
    #[default]
    Members,
    /// None; senders may.
    #[serde(rename = "nobody")]
    NoClient,
}

/// What members hear of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceRule {
    /// Their users.
    #[default]
    Members,
    /// How many users there are.
    Count,
    /// Nothing.
    #[serde(rename = "nobody")]
    NoClient,
}

/// What happens to a push that names no policy, where its receiver is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyRule {
    /// The connection is closed.
    #[default]
    Close,
    /// The message is left out.
    Drop,
    /// A newer message takes its place: of the same topic, event and, if members sent both, client.
    Latest,
}

/// What is kept of a topic. Absent bounds are those of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct KeepRule {
    /// Most messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<usize>,
    /// Most bytes, roughly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// How long a message is kept.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_seconds")]
    pub seconds: Option<Duration>,
    /// Whether each push is kept, whether its sender says so or not.
    pub every: bool,
}

/// What members may send. Absent bounds are those of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SendRule {
    /// Most messages a second from one connection to one topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Most bytes of the data of one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
}

/// What holds for the topics of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicRule {
    /// Its topics.
    #[serde(rename = "match")]
    pub pattern: RulePattern,
    /// Which clients may subscribe by themselves.
    pub subscribe: SubscribeRule,
    /// What is kept.
    pub keep: KeepRule,
    /// What a new member gets without asking.
    pub entry: EntryRule,
    /// Which clients may read what is kept.
    pub history: HistoryRule,
    /// What members hear of each other.
    pub presence: PresenceRule,
    /// What members may send; nothing if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<SendRule>,
    /// What happens to a push that names no policy, where its receiver is slow.
    pub policy: PolicyRule,
}

/// The rules in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicRules(Vec<Arc<TopicRule>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Senders {
    Members,
    #[default]
    #[serde(rename = "nobody")]
    NoClient,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepFields {
    messages: Option<u64>,
    bytes: Option<u64>,
    seconds: Option<u64>,
    #[serde(default)]
    every: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFields<'a> {
    #[serde(borrow)]
    r#match: Cow<'a, str>,
    #[serde(default)]
    subscribe: SubscribeRule,
    keep: Option<KeepFields>,
    #[serde(default)]
    entry: EntryRule,
    #[serde(default)]
    history: HistoryRule,
    #[serde(default)]
    presence: PresenceRule,
    #[serde(default)]
    send: Senders,
    rate: Option<u64>,
    max_bytes: Option<u64>,
    #[serde(default)]
    policy: PolicyRule,
}

impl TopicRules {
    /// Reads a JSON array of rules. Empty text is an empty one.
    ///
    /// # Errors
    /// All that is wrong with it, a sentence each.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let items: Vec<&RawValue> = serde_json::from_str(text)
            .map_err(|error| vec![format!("must be a JSON array of rules: {error}")])?;
        if items.len() > MAX_RULES {
            let many = items.len();
            return Err(vec![format!("has {many} rules; {MAX_RULES} at most")]);
        }
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for (place, item) in items.iter().enumerate() {
            match read_rule(item) {
                Ok(rule) => rules.push((place + 1, Arc::new(rule))),
                Err(words) => {
                    let name = name_of(place + 1, written_pattern(item).as_deref());
                    faults.extend(words.into_iter().map(|words| format!("{name}: {words}")));
                }
            }
        }
        for (at, (place, rule)) in rules.iter().enumerate() {
            let before = rules[..at].iter();
            let mut covering = before.filter(|(_, other)| other.pattern.covers(&rule.pattern));
            if let Some((other, by)) = covering.next() {
                let name = name_of(*place, Some(rule.pattern.as_str()));
                let by = name_of(*other, Some(by.pattern.as_str()));
                faults.push(format!(
                    "{name}: can never match, {by} takes all its topics"
                ));
            }
        }
        match faults.is_empty() {
            true => Ok(Self(rules.into_iter().map(|(_, rule)| rule).collect())),
            false => Err(faults),
        }
    }

    /// The rule of a topic; none if the settings hold for it.
    #[must_use]
    pub fn find(&self, topic: &Topic) -> Option<&Arc<TopicRule>> {
        self.0.iter().find(|rule| rule.pattern.fits(topic))
    }

    /// All rules, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicRule>> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the settings hold for every topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By what nodes see that they have the same rules, however those are written. Empty without
    /// rules.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digits = String::new();
        if !self.is_empty() {
            let digest = Sha256::digest(to_json(&self.0));
            for byte in &digest[..DIGEST_DIGITS / 2] {
                let _ = write!(digits, "{byte:02x}");
            }
        }
        digits
    }
}

/// How a fault names a rule.
#[must_use]
pub fn name_of(place: usize, pattern: Option<&str>) -> String {
    match pattern {
        Some(pattern) => format!("rule {place} ({pattern})"),
        None => format!("rule {place}"),
    }
}

/// The pattern of a rule that cannot be read otherwise.
fn written_pattern(item: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Only {
        r#match: String,
    }
    let only: Only = serde_json::from_str(item.get()).ok()?;
    Some(only.r#match)
}

fn read_rule(item: &RawValue) -> Result<TopicRule, Vec<String>> {
    let fields: RuleFields<'_> = serde_json::from_str(item.get()).map_err(|error| {
        let words = error.to_string();
        // The place is within the rule, which is no help.
        let words = words.split(" at line ").next().unwrap_or_default();
        vec![words.to_owned()]
    })?;
    let mut faults = Vec::new();
    let pattern = RulePattern::parse(&fields.r#match);
    let pattern = pattern.map_err(|words| faults.push(words)).ok();
    let mut bound = |name: &str, number: Option<u64>, range: &std::ops::RangeInclusive<u64>| {
        if let Some(number) = number.filter(|number| !range.contains(number)) {
            let (least, most) = (range.start(), range.end());
            faults.push(format!(
                "{name} is {number}: must be from {least} to {most}"
            ));
        }
        number.and_then(|number| usize::try_from(number).ok())
    };
    let mut keep = KeepRule::default();
    if let Some(fields) = &fields.keep {
        keep = KeepRule {
            messages: bound("keep.messages", fields.messages, &MESSAGES),
            bytes: bound("keep.bytes", fields.bytes, &BYTES),
            seconds: bound("keep.seconds", fields.seconds, &SECONDS)
                .map(|seconds| Duration::from_secs(seconds as u64)),
            every: fields.every,
        };
    }
    let rate = bound("rate", fields.rate, &RATE).and_then(|rate| u32::try_from(rate).ok());
    let max_bytes = bound("max_bytes", fields.max_bytes, &SENT_BYTES);
    let may_send = fields.send == Senders::Members;
    for (name, is_set) in [("rate", rate.is_some()), ("max_bytes", max_bytes.is_some())] {
        if is_set && !may_send {
            faults.push(format!("{name} needs \"send\": \"members\""));
        }
    }
    if fields.entry != EntryRule::None && fields.history == HistoryRule::NoClient {
        faults.push("entry gives new members what history keeps from them".to_owned());
    }
    if fields.policy != PolicyRule::Close && keep.every {
        let words = "policy has no use beside keep.every: a slow client reads the log later";
        faults.push(words.to_owned());
    }
    match pattern {
        Some(pattern) if faults.is_empty() => Ok(TopicRule {
            pattern,
            subscribe: fields.subscribe,
            keep,
            entry: fields.entry,
            history: fields.history,
            presence: fields.presence,
            send: may_send.then_some(SendRule { rate, max_bytes }),
            policy: fields.policy,
        }),
        _ => Err(faults),
    }
}

fn as_seconds<S: Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    age.map(|age| age.as_secs()).serialize(serializer)
}

#[cfg(test)]
mod tests;
