//! Topics of this node: how many connections of each shard are in which.
//!
//! The shards know which connections those are, each of its own. So a push to a topic is one
//! command for each shard that has members, and never an iteration of a map here. What must stay
//! true: only the shards change the counts, and before the row is marked, so that the registry
//! never writes a number older than the mark.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::local::dirty_rows::DirtyRows;
use crate::local::live_rules::LiveRules;
use crate::local::map::Map;
use crate::local::presence_queue::PresenceQueue;
use crate::protocol::ids::{Fd, Subject, Topic, UserId};
use crate::protocol::info::Info;
use crate::protocol::position::Since;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::protocol::topic_rules::{
    EntryRule, HistoryRule, PresenceRule, SubscribeRule, TopicRules,
};

/// Connections in a topic.
#[derive(Debug, Clone)]
struct TopicCounts {
    by_shard: SmallVec<[u32; 4]>,
    /// Whether the row has been written since the first of them came. Not used of watchers, of whom
    /// a row says only that there are some.
    is_written: bool,
}

impl TopicCounts {
    fn none(shards: usize) -> Self {
        Self {
            by_shard: SmallVec::from_elem(0, shards),
            is_written: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.by_shard.iter().all(|count| *count == 0)
    }
}

/// What the shards and the hub share of topics.
#[derive(Debug)]
pub(crate) struct Topics {
    counts: Map<Topic, TopicCounts>,
    /// Of those, the connections that hear who comes and goes.
    watchers: Map<Topic, TopicCounts>,
    notices: PresenceQueue,
    shards: usize,
    pub(in crate::local) changes: Arc<DirtyRows>,
    grants: Arc<TopicPatterns>,
    rules: LiveRules,
    most: usize,
    /// Whether there are logs, which connections can follow.
    keeps: bool,
}

impl Topics {
    /// No topics yet, as the settings say.
    pub(crate) fn new(shards: usize, changes: Arc<DirtyRows>, config: &Config) -> Self {
        Self {
            counts: Map::default(),
            watchers: Map::default(),
            notices: PresenceQueue::default(),
            shards,
            changes,
            grants: config.topics.clone(),
            rules: LiveRules::new(config.topic_rules.clone()),
            most: config.max_topics,
            keeps: config.keep_messages > 0,
        }
    }

    /// Whether pushes to topics can be kept.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// From where a new member that asks for nothing is given the log of a topic.
    pub(crate) fn entry(&self, topic: &Topic) -> Since {
        match self.rules.find(topic).map(|rule| rule.entry) {
            None | Some(EntryRule::None) => Since::Now,
            Some(EntryRule::Last) => Since::Last(1),
            Some(EntryRule::All) => Since::Beginning,
        }
    }

    /// Whether members of a topic may hear of each other, be it their number alone.
    pub(crate) fn tells_members(&self, topic: &Topic) -> bool {
        let rule = self.rules.find(topic);
        rule.is_none_or(|rule| rule.presence != PresenceRule::NoClient)
    }

    /// Whether members may follow the log of a topic.
    pub(crate) fn is_followed(&self, topic: &Topic) -> bool {
        let rule = || self.rules.find(topic);
        self.keeps && rule().is_none_or(|rule| rule.history == HistoryRule::Members)
    }

    /// Whether a user may subscribe to a topic by itself. `grants` are those of its token; without
    /// them the settings hold.
    pub(crate) fn allows(
        &self,
        topic: &Topic,
        user: &UserId,
        grants: Option<&TopicPatterns>,
    ) -> bool {
        let is_granted = || grants.unwrap_or(&self.grants).allows(topic, user);
        let Some(rule) = self.rules.find(topic) else {
            return is_granted();
        };
        match rule.subscribe {
            SubscribeRule::Grant => is_granted(),
            SubscribeRule::Anyone => rule.pattern.fits_for(topic, user) || is_granted(),
            // Its answer is an `Asker` of its own.
            SubscribeRule::Hook | SubscribeRule::NoClient => false,
        }
    }

    /// Whether a hook decides who may subscribe to a topic.
    pub(crate) fn asks_hook(&self, topic: &Topic) -> bool {
        let rule = self.rules.find(topic);
        rule.is_some_and(|rule| rule.subscribe == SubscribeRule::Hook)
    }

    /// Takes other rules in place of those before.
    pub(in crate::local) fn replace_rules(&self, rules: Arc<TopicRules>) {
        self.rules.replace(rules);
        // Where there were no rules before, none of these topics has looked for its own.
        for topic in self.counts.iter() {
            self.rules.hold(topic.key());
        }
    }

    /// The rules of topics.
    pub(crate) fn rules(&self) -> &LiveRules {
        &self.rules
    }

    /// Most topics of one connection.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// A connection of this shard is in the topic. Resolves as [`DirtyRows::joined`] does.
    pub(crate) fn joined(&self, topic: &Topic, shard: usize) -> oneshot::Receiver<()> {
        let is_new = self.count_up(&self.counts, topic, shard, || self.rules.hold(topic));
        if is_new {
            // A node that watches the topic has left its mark in the row.
            self.notices.appeared(topic, self.row(topic));
        }
        self.notices.changed(topic);
        self.row(topic)
    }

    /// Answers whether it is the first one, for which it calls `begin`.
    fn count_up(
        &self,
        counts: &Map<Topic, TopicCounts>,
        topic: &Topic,
        shard: usize,
        begin: impl FnOnce(),
    ) -> bool {
        let fresh = || {
            begin();
            TopicCounts::none(self.shards)
        };
        let mut counts = counts.entry(topic.clone()).or_insert_with(fresh);
        let is_new = counts.is_empty();
        counts.by_shard[shard] += 1;
        is_new
    }

    /// As [`Topics::joined`] for one that was there already.
    pub(crate) fn row(&self, topic: &Topic) -> oneshot::Receiver<()> {
        self.changes.joined(Subject::Topic(topic.clone()))
    }

    /// A connection of this shard is no longer in the topic.
    pub(crate) fn left(&self, topic: &Topic, shard: usize) {
        let emptied = Self::count_down(&self.counts, topic, shard, || self.rules.release(topic));
        self.changes.counted(topic, emptied);
        self.notices.changed(topic);
    }

    /// Answers whether it was the last one, for which it calls `end`.
    fn count_down(
        counts: &Map<Topic, TopicCounts>,
        topic: &Topic,
        shard: usize,
        end: impl FnOnce(),
    ) -> bool {
        // Under the entry's lock: no connection can join between emptying and removing it.
        let emptied = counts.remove_if_mut(topic, |_, counts| {
            counts.by_shard[shard] -= 1;
            let is_empty = counts.is_empty();
            if is_empty {
                end();
            }
            is_empty
        });
        emptied.is_some()
    }

    /// What the presence task must hear of.
    pub(crate) fn notices(&self) -> &PresenceQueue {
        &self.notices
    }

    /// Whether clients of this node watch the topic, as the rows say.
    pub(crate) fn is_watched(&self, topic: &Topic) -> bool {
        self.notices.is_watched(topic)
    }

    /// Whether a connection here hears who comes and goes, or is about to.
    pub(crate) fn has_watchers(&self, topic: &Topic) -> bool {
        self.watchers.contains_key(topic)
    }

    /// A connection of this shard is about to hear who comes and goes. The shard counts it down
    /// again by [`Topics::unwatched`].
    pub(in crate::local) fn watched(&self, topic: &Topic, shard: usize) {
        self.count_up(&self.watchers, topic, shard, || {});
    }

    /// A connection of this shard does not hear who comes and goes, or no longer.
    pub(crate) fn unwatched(&self, topic: &Topic, shard: usize) {
        Self::count_down(&self.watchers, topic, shard, || {});
    }

    /// How many connections of this node are in the topic.
    pub(crate) fn count(&self, topic: &Topic) -> u32 {
        self.counts
            .get(topic)
            .map_or(0, |counts| counts.by_shard.iter().sum())
    }

    /// Whether the topic's row is known to have said that there are connections here.
    pub(crate) fn is_written(&self, topic: &Topic) -> bool {
        let counts = self.counts.get(topic);
        counts.is_some_and(|counts| counts.is_written)
    }

    /// The topic's row has been written with connections of this node.
    pub(crate) fn note_written(&self, topic: &Topic) {
        if let Some(mut counts) = self.counts.get_mut(topic) {
            counts.is_written = true;
        }
    }

    /// Those shards that have some of them, and how many.
    pub(in crate::local) fn by_shard(&self, topic: &Topic) -> SmallVec<[(usize, u32); 8]> {
        Self::shards_of(&self.counts, topic)
    }

    /// As [`Topics::by_shard`], for the connections that hear who comes and goes.
    pub(in crate::local) fn watchers_by_shard(&self, topic: &Topic) -> SmallVec<[(usize, u32); 8]> {
        Self::shards_of(&self.watchers, topic)
    }

    fn shards_of(counts: &Map<Topic, TopicCounts>, topic: &Topic) -> SmallVec<[(usize, u32); 8]> {
        let counts = counts.get(topic).map(|counts| counts.by_shard.clone());
        let counts = counts.into_iter().flatten().enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Whether no topic has a connection here.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Every topic with a connection here. A snapshot.
    pub(crate) fn all(&self) -> Vec<Topic> {
        self.counts
            .iter()
            .map(|entry| entry.key().clone())
            .collect()
    }
}

/// A connection that is in a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    /// Whose it is.
    pub user: UserId,
    /// Its number on its node.
    pub fd: Fd,
    /// What it shows of itself.
    pub info: Option<Info>,
}
