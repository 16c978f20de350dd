//! Topics of this node: how many connections of each shard are in which.
//!
//! Which those are the shards know, each of its own; so a push to a topic is one command for
//! each shard that has members, and never an iteration of a map here. What must stay true: the
//! counts are changed by the shards only, before the row is marked, so that the registry never
//! writes a number older than the mark.

use std::sync::Arc;

use futures::future::join_all;
use serde::Serialize;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::auth::Grants;
use crate::config::Config;
use crate::local::dirty_rows::Changes;
use crate::local::hub::deliver::Arrived;
use crate::local::hub::{Hub, Map, Notices, ROW_PATIENCE};
use crate::local::receipt::Receipt;
use crate::local::replay::page::{Ask, Page, Since};
use crate::local::shard::{Asker, Command, NotSubscribed, Subscribed};
use crate::protocol::ids::{Fd, Subject, Topic, UserId};
use crate::protocol::{Push, Target};

/// Connections in a topic, by shard.
type Counts = SmallVec<[u32; 4]>;

/// What the shards and the hub share of topics.
#[derive(Debug)]
pub struct Topics {
    counts: Map<Topic, Counts>,
    /// Of those, the connections that hear who comes and goes.
    watchers: Map<Topic, Counts>,
    notices: Notices,
    shards: usize,
    pub(crate) changes: Arc<Changes>,
    grants: Arc<Grants>,
    most: usize,
    /// Whether there are logs, which connections can follow.
    keeps: bool,
}

impl Topics {
    /// No topics yet, as the settings say.
    #[must_use]
    pub fn new(shards: usize, changes: Arc<Changes>, config: &Config) -> Self {
        Self {
            counts: Map::default(),
            watchers: Map::default(),
            notices: Notices::default(),
            shards,
            changes,
            grants: config.topics.clone(),
            most: config.max_topics,
            keeps: config.keep_messages > 0,
        }
    }

    /// Whether pushes to topics can be kept.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// What clients without grants of their own may subscribe to.
    #[must_use]
    pub fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// Most topics of one connection.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// A connection of this shard is in the topic. Resolves as [`Changes::joined`] does.
    pub(crate) fn joined(&self, topic: &Topic, shard: usize) -> oneshot::Receiver<()> {
        let is_new = self.count_up(&self.counts, topic, shard);
        if is_new {
            // Whoever watches the topic elsewhere has left its mark in the row.
            self.notices.appeared(topic, self.row(topic));
        }
        self.notices.changed(topic);
        self.row(topic)
    }

    /// Answers whether it is the first one.
    fn count_up(&self, counts: &Map<Topic, Counts>, topic: &Topic, shard: usize) -> bool {
        let fresh = || SmallVec::from_elem(0, self.shards);
        let mut counts = counts.entry(topic.clone()).or_insert_with(fresh);
        let is_new = counts.iter().all(|count| *count == 0);
        counts[shard] += 1;
        is_new
    }

    /// As [`Topics::joined`] for one that was there already.
    pub(crate) fn row(&self, topic: &Topic) -> oneshot::Receiver<()> {
        self.changes.joined(Subject::Topic(topic.clone()))
    }

    /// A connection of this shard is no longer in the topic.
    pub(crate) fn left(&self, topic: &Topic, shard: usize) {
        let emptied = Self::count_down(&self.counts, topic, shard);
        self.changes.counted(topic, emptied);
        self.notices.changed(topic);
    }

    /// Answers whether it was the last one.
    fn count_down(counts: &Map<Topic, Counts>, topic: &Topic, shard: usize) -> bool {
        // Under the entry's lock: nobody can join between emptying and removing it.
        let emptied = counts.remove_if_mut(topic, |_, counts| {
            counts[shard] -= 1;
            counts.iter().all(|count| *count == 0)
        });
        emptied.is_some()
    }

    /// What the presence task must hear of.
    #[must_use]
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Whether clients of this node watch the topic, as the rows say.
    #[must_use]
    pub fn is_watched(&self, topic: &Topic) -> bool {
        self.notices.is_watched(topic)
    }

    /// Whether a connection here hears who comes and goes, or is about to.
    pub(crate) fn has_watchers(&self, topic: &Topic) -> bool {
        self.watchers.contains_key(topic)
    }

    /// A connection of this shard does not hear who comes and goes, or no longer.
    pub(crate) fn unwatched(&self, topic: &Topic, shard: usize) {
        Self::count_down(&self.watchers, topic, shard);
    }

    /// How many connections of this node are in the topic.
    #[must_use]
    pub fn count(&self, topic: &Topic) -> u32 {
        self.counts
            .get(topic)
            .map_or(0, |counts| counts.iter().sum())
    }

    /// Those shards that have some of them, and how many.
    fn by_shard(&self, topic: &Topic) -> SmallVec<[(usize, u32); 8]> {
        Self::shards_of(&self.counts, topic)
    }

    fn shards_of(counts: &Map<Topic, Counts>, topic: &Topic) -> SmallVec<[(usize, u32); 8]> {
        let counts = counts.get(topic).map(|counts| counts.clone());
        let counts = counts.into_iter().flatten().enumerate();
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Every topic with a connection here. A snapshot.
    #[must_use]
    pub fn all(&self) -> Vec<Topic> {
        self.counts
            .iter()
            .map(|entry| entry.key().clone())
            .collect()
    }
}

/// A connection that is in a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Member {
    /// Whose it is.
    pub user: UserId,
    /// Its number on its node.
    pub fd: Fd,
}

impl Hub {
    /// What this node knows of topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Subscribes a connection. If that has it [follow](Subscribed::follows) the topic's log, the
    /// caller owes a `Hub::first_page` from `since`, or from now.
    ///
    /// # Errors
    /// Why it is not subscribed.
    pub async fn subscribe(
        &self,
        fd: Fd,
        topic: Topic,
        since: Option<Since>,
        by: Asker,
    ) -> Result<Subscribed, NotSubscribed> {
        let subscribed = self.send_subscribe(fd, topic, since, by).await;
        // Without an answer the node is ending.
        subscribed.await.unwrap_or(Err(NotSubscribed::Gone))
    }

    /// Reads the first page of a log for a connection that has just been subscribed. To be called
    /// when the row is there: then what is kept behind the page finds the connection. Nobody may
    /// be told of the subscription before: a message that is kept before the page is read, and
    /// handed over behind it, counts as old. `None` if the page does not come in time; then it
    /// goes to the connection when it comes.
    pub(crate) async fn first_page(
        &self,
        fd: Fd,
        topic: &Topic,
        since: Since,
        deadline: Instant,
    ) -> Option<Arc<Page>> {
        let (told, mut page) = oneshot::channel();
        let ask = Ask {
            fd,
            subject: Subject::Topic(topic.clone()),
            since,
            told: Some(told),
        };
        // Closed only when the node is ending.
        let _ = self.asks.send(ask);
        match tokio::time::timeout_at(deadline, &mut page).await {
            Ok(page) => page.ok(),
            Err(_) => {
                page.close();
                // Given to us at the last moment.
                page.try_recv().ok()
            }
        }
    }

    /// Has a connection follow the log of a topic from now on. To be called, and waited for, as
    /// [`Hub::first_page`]; answers whether that came in time.
    pub(crate) async fn follow_log(&self, fd: Fd, topic: &Topic, deadline: Instant) -> bool {
        let page = self.first_page(fd, topic, Since::Now, deadline).await;
        let Some(page) = page else { return false };
        let command = Command::Page {
            fd,
            subject: Subject::Topic(topic.clone()),
            since: Since::Now,
            page,
            is_told: false,
        };
        self.tell(fd, command).await;
        true
    }

    async fn send_subscribe(
        &self,
        fd: Fd,
        topic: Topic,
        since: Option<Since>,
        by: Asker,
    ) -> oneshot::Receiver<Result<Subscribed, NotSubscribed>> {
        let (done, subscribed) = oneshot::channel();
        let command = Command::Subscribe {
            fd,
            topic,
            since,
            by,
            done,
        };
        self.tell(fd, command).await;
        subscribed
    }

    /// Takes a connection's subscription back: from the answer on it gets nothing of the topic.
    pub async fn unsubscribe(&self, fd: Fd, topic: Topic, by: Asker) {
        // Without an answer the node is ending.
        let _ = self.send_unsubscribe(fd, topic, by).await.await;
    }

    async fn send_unsubscribe(&self, fd: Fd, topic: Topic, by: Asker) -> oneshot::Receiver<()> {
        let (done, unsubscribed) = oneshot::channel();
        let command = Command::Unsubscribe {
            fd,
            topic,
            by,
            done,
        };
        self.tell(fd, command).await;
        unsubscribed
    }

    /// Subscribes the local connections of `target` on behalf of a sender, or takes that back;
    /// answers how many there are. Receipts are written once the row is, and the log is followed.
    pub async fn enroll(
        self: &Arc<Self>,
        target: &Target,
        topic: &Topic,
        joins: bool,
        receipt: Option<&Receipt>,
    ) -> u32 {
        let found = self.matching(target);
        let count = found.len() as u32;
        let by = Asker::Server;
        for (fd, _) in found {
            let (hub, topic) = (self.clone(), topic.clone());
            let receipt = receipt.cloned();
            if joins {
                // Handed over here and in order; only the row is waited for elsewhere.
                let subscribed = self.send_subscribe(fd, topic.clone(), None, by).await;
                tokio::spawn(async move {
                    let Ok(Ok(Subscribed { row, follows })) = subscribed.await else {
                        return;
                    };
                    let deadline = Instant::now() + ROW_PATIENCE;
                    let mut in_time = hub.await_rows(fd, row.into(), deadline).await;
                    if follows {
                        in_time &= hub.follow_log(fd, &topic, deadline).await;
                    }
                    if let Some(receipt) = receipt.filter(|_| in_time) {
                        receipt.written();
                    }
                });
            } else {
                let unsubscribed = self.send_unsubscribe(fd, topic, by).await;
                tokio::spawn(async move {
                    if unsubscribed.await.is_ok()
                        && let Some(receipt) = receipt
                    {
                        receipt.written();
                    }
                });
            }
        }
        count
    }

    /// As [`Hub::publish`], one topic after the other. It is a repeat if it is one in all of them
    /// where somebody is.
    pub(crate) async fn publish_to_each(
        &self,
        topics: &[Topic],
        push: &Push,
        receipt: Option<&Receipt>,
    ) -> Arrived {
        let (mut count, mut repeated) = (None, false);
        for (topic, push) in topics.iter().zip(push.to_each(topics)) {
            match self.publish(topic, &push, receipt).await {
                Arrived::Handed(more) => count = Some(count.unwrap_or(0) + more),
                Arrived::Repeat => repeated = true,
                Arrived::Nobody | Arrived::LeftOut => {}
            }
        }
        match count {
            Some(count) => Arrived::Handed(count),
            None if repeated => Arrived::Repeat,
            None => Arrived::Nobody,
        }
    }

    /// Hands a push to the local connections that are in its topic.
    pub(crate) async fn publish(
        &self,
        topic: &Topic,
        push: &Push,
        receipt: Option<&Receipt>,
    ) -> Arrived {
        let shards = self.topics.by_shard(topic);
        if shards.is_empty() {
            return Arrived::Nobody;
        }
        if self.is_repeat(&Target::Topic(topic.clone()), push) {
            if push.message.position().is_some() {
                // Kept twice: who follows the log must not wait for the second one.
                let message = &push.message;
                self.tell_members(topic, || Command::PassTopic {
                    topic: topic.clone(),
                    message: message.clone(),
                })
                .await;
            }
            return Arrived::Repeat;
        }
        for (shard, _) in &shards {
            let command = Command::Publish {
                topic: topic.clone(),
                message: push.message.clone(),
                except: push.except.clone(),
                receipt: receipt.cloned(),
            };
            self.shards[*shard].send(command).await;
        }
        Arrived::Handed(shards.iter().map(|(_, count)| count).sum())
    }

    /// Makes the connections that are in a topic look into its log.
    pub(crate) async fn look_into(&self, topic: &Topic) {
        self.tell_members(topic, || Command::LookInto {
            topic: topic.clone(),
        })
        .await;
    }

    async fn tell_members(&self, topic: &Topic, command: impl Fn() -> Command) {
        for (shard, _) in self.topics.by_shard(topic) {
            self.shards[shard].send(command()).await;
        }
    }

    /// The local connections that are in a topic, by user.
    pub async fn members(&self, topic: &Topic) -> Vec<Member> {
        let mut answers = Vec::new();
        for (shard, _) in self.topics.by_shard(topic) {
            let (answer, members) = oneshot::channel();
            let topic = topic.clone();
            let command = Command::Members { topic, answer };
            self.shards[shard].send(command).await;
            answers.push(members);
        }
        let members = join_all(answers).await;
        let mut members: Vec<Member> = members.into_iter().flatten().flatten().collect();
        members.sort_unstable();
        members
    }

    /// Has a connection hear who comes and goes in a topic that it is subscribed to, beginning
    /// with this object.
    pub(crate) async fn watch(&self, fd: Fd, topic: &Topic, object: Arc<str>) {
        let (shard, topic) = (self.shard_number(fd), topic.clone());
        let topics = &self.topics;
        // Counted before the shard hears of it, which counts down if nothing comes of it: so
        // nobody can wait for news unseen.
        topics.count_up(&topics.watchers, &topic, shard);
        self.tell(fd, Command::Watch { fd, topic, object }).await;
    }

    /// Tells whoever watches a topic here.
    pub(crate) async fn tell_watchers(&self, topic: &Topic, object: Arc<str>) {
        for (shard, _) in Topics::shards_of(&self.topics.watchers, topic) {
            let command = Command::TellWatchers {
                topic: topic.clone(),
                object: object.clone(),
            };
            self.shards[shard].send(command).await;
        }
    }

    /// The users with local connections in a topic, by name, and how many each has there.
    pub async fn users_in(&self, topic: &Topic) -> Vec<(UserId, u32)> {
        let mut users: Vec<(UserId, u32)> = Vec::new();
        for Member { user, .. } in self.members(topic).await {
            match users.last_mut() {
                Some((last, count)) if *last == user => *count += 1,
                _ => users.push((user, 1)),
            }
        }
        users
    }
}
