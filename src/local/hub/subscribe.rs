//! Topics: subscriptions of connections here, pushes to them, and who watches them.
//!
//! What must stay true: a log is followed only after the topic's row is written, so that what is
//! kept after the first page finds the connection.

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::local::connection::subscriptions::{Asker, NotSubscribed};
use crate::local::hub::Hub;
use crate::local::hub::await_rows::ROW_PATIENCE;
use crate::local::hub::deliver::Arrived;
use crate::local::receipt::Receipt;
use crate::local::replay::follower::PageAsk;
use crate::local::replay::page::Page;
use crate::local::replay::stumbles::{KeptReader, Tryout};
use crate::local::shard::command::{Command, Subscribed};
use crate::local::shard::outlets::PageRequest;
use crate::local::topics::{Member, Topics};
use crate::protocol::ids::{Fd, Subject, Topic, UserId};
use crate::protocol::info::{Info, Infos};
use crate::protocol::position::Since;
use crate::protocol::topic_rules::{HistoryRule, PolicyRule, TopicRules};
use crate::protocol::{Message, Push, Target};

impl Hub {
    /// What this node knows of topics.
    pub(crate) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Takes other rules of topics. Connections leave topics that they chose themselves and that
    /// these rules keep from them.
    pub(crate) async fn replace_rules(&self, rules: Arc<TopicRules>) {
        self.topics.replace_rules(rules);
        for shard in &self.shards {
            shard.send(Command::CheckGrants).await;
        }
    }

    /// Subscribes a connection. If that has it [follow](Subscribed::follows) the topic's log, the
    /// caller owes a `Hub::first_page` from there.
    ///
    /// # Errors
    /// Why it is not subscribed.
    pub(crate) async fn subscribe(
        &self,
        fd: Fd,
        topic: Topic,
        since: Option<Since>,
        by: Asker,
    ) -> Result<Subscribed, NotSubscribed> {
        let subscribed = self.send_subscribe(fd, topic, since, (by, None)).await;
        // Without an answer the node is ending.
        subscribed.await.unwrap_or(Err(NotSubscribed::Gone))
    }

    /// As [`Hub::subscribe`] for a client that a hook lets have the topic, and of whom it says what
    /// the other members may see.
    ///
    /// # Errors
    /// Why it is not subscribed.
    pub(crate) async fn subscribe_approved(
        &self,
        fd: Fd,
        topic: Topic,
        since: Option<Since>,
        info: Option<Info>,
    ) -> Result<Subscribed, NotSubscribed> {
        let by = (Asker::Hook, info);
        let subscribed = self.send_subscribe(fd, topic, since, by).await;
        // Without an answer the node is ending.
        subscribed.await.unwrap_or(Err(NotSubscribed::Gone))
    }

    /// A connection shows this of itself in a topic from now on, if it is there.
    pub(crate) async fn introduce(&self, fd: Fd, topic: &Topic, info: Option<Info>) {
        let topic = topic.clone();
        self.tell(fd, Command::Introduce { fd, topic, info }).await;
    }

    /// Reads the first page of a log for a connection that has just been subscribed. To be called
    /// when the row is there: then what is kept after the page finds the connection. No sender may
    /// be told of the subscription before: a message that is kept before the page is read, and
    /// handed over after it, counts as old. `None` if the page does not come in time; then it
    /// goes to the connection when it comes.
    pub(crate) async fn first_page(
        &self,
        fd: Fd,
        topic: &Topic,
        ask: PageAsk,
        deadline: Instant,
    ) -> Option<Arc<Page>> {
        let (told, mut page) = oneshot::channel();
        let request = PageRequest {
            fd,
            subject: Subject::Topic(topic.clone()),
            ask,
            told: Some(told),
        };
        // Closed only when the node is ending.
        let _ = self.asks.send(request);
        match tokio::time::timeout_at(deadline, &mut page).await {
            Ok(page) => page.ok(),
            Err(_) => {
                page.close();
                // Given to us at the last moment.
                page.try_recv().ok()
            }
        }
    }

    /// Has a connection follow the log of a topic from there on. To be called, and waited for, as
    /// [`Hub::first_page`]; answers whether that came in time.
    pub(crate) async fn follow_log(
        &self,
        fd: Fd,
        topic: &Topic,
        ask: PageAsk,
        deadline: Instant,
    ) -> bool {
        let page = self.first_page(fd, topic, ask, deadline).await;
        let Some(page) = page else { return false };
        let command = Command::Page {
            fd,
            subject: Subject::Topic(topic.clone()),
            ask,
            page,
            // A newcomer has no state that could be out of date.
            tryout: Some(Box::default()),
        };
        self.tell(fd, command).await;
        true
    }

    /// Takes out of the first page of a log what a connection that came back could not take.
    pub(crate) fn judge(
        &self,
        fd: Fd,
        user: &UserId,
        topic: &Topic,
        page: &mut Arc<Page>,
    ) -> Tryout {
        let seats = self.seats(user);
        let seat = seats.iter().find(|seat| seat.fd == fd);
        let reader = KeptReader {
            user: user.clone(),
            device: seat.and_then(|seat| seat.device()).map(Into::into),
            topic: Some(topic.clone()),
        };
        self.stumbles.judge(reader, Arc::make_mut(page))
    }

    async fn send_subscribe(
        &self,
        fd: Fd,
        topic: Topic,
        since: Option<Since>,
        (by, info): (Asker, Option<Info>),
    ) -> oneshot::Receiver<Result<Subscribed, NotSubscribed>> {
        let (done, subscribed) = oneshot::channel();
        let command = Command::Subscribe {
            fd,
            topic,
            since,
            by,
            info,
            done,
        };
        self.tell(fd, command).await;
        subscribed
    }

    /// Takes a connection's subscription back: from the answer on it gets nothing of the topic.
    pub(crate) async fn unsubscribe(&self, fd: Fd, topic: Topic, by: Asker) {
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

    /// Waits for the row of a subscription that the client did not ask for, and has the connection
    /// follow the log; answers whether both came in time.
    pub(crate) async fn complete(
        self: &Arc<Self>,
        fd: Fd,
        topic: &Topic,
        Subscribed { row, follows }: Subscribed,
        deadline: Instant,
    ) -> bool {
        let mut in_time = self.await_rows(fd, row.into(), deadline).await;
        if let Some(ask) = follows {
            in_time &= self.follow_log(fd, topic, ask, deadline).await;
        }
        in_time
    }

    /// Subscribes the local connections of `target` on behalf of a sender, or takes that back;
    /// answers how many there are. Receipts are written once the row is, and the log is followed.
    pub(crate) async fn enroll(
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
                let subscribed = self
                    .send_subscribe(fd, topic.clone(), None, (by, None))
                    .await;
                tokio::spawn(async move {
                    let Ok(Ok(subscribed)) = subscribed.await else {
                        return;
                    };
                    let deadline = Instant::now() + ROW_PATIENCE;
                    let in_time = hub.complete(fd, &topic, subscribed, deadline).await;
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
    /// that have members here.
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
                Arrived::Unmatched | Arrived::LeftOut => {}
            }
        }
        match count {
            Some(count) => Arrived::Handed(count),
            None if repeated => Arrived::Repeat,
            None => Arrived::Unmatched,
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
            return Arrived::Unmatched;
        }
        if self.is_repeat(&Target::Topic(topic.clone()), push) {
            if push.message.position().is_some() {
                // Kept twice: a connection that follows the log must not wait for the second one.
                let message = &push.message;
                self.tell_members(topic, || Command::SkipInTopic {
                    topic: topic.clone(),
                    message: message.clone(),
                })
                .await;
            }
            return Arrived::Repeat;
        }
        let message = self.under_rule(topic, &push.message);
        for (shard, _) in &shards {
            let command = Command::Publish {
                topic: topic.clone(),
                message: message.clone(),
                except: push.except.clone(),
                receipt: receipt.cloned(),
            };
            self.shards[*shard].send(command).await;
        }
        Arrived::Handed(shards.iter().map(|(_, count)| count).sum())
    }

    /// A message as the rule of its topic has it: of a log that members may not read they get no
    /// position, and for a slow receiver the rule counts if the sender says nothing.
    fn under_rule(&self, topic: &Topic, message: &Arc<Message>) -> Arc<Message> {
        let Some(rule) = self.topics.rules().find(topic) else {
            return message.clone();
        };
        let is_kept = message.position().is_some();
        if is_kept && rule.history == HistoryRule::NoClient {
            return Arc::new(message.unkept());
        }
        match rule.policy {
            PolicyRule::Close => message.clone(),
            _ if is_kept || message.has_policy() => message.clone(),
            policy => Arc::new(message.under(policy)),
        }
    }

    /// Makes the connections that are in a topic look into its log.
    pub(crate) async fn check_log(&self, topic: &Topic) {
        self.tell_members(topic, || Command::CheckLog {
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
    pub(crate) async fn members(&self, topic: &Topic) -> Vec<Member> {
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
        // Counted before the shard hears of it, which counts down if nothing comes of it: so no
        // connection waits for news without being counted.
        self.topics.watched(&topic, shard);
        self.tell(fd, Command::Watch { fd, topic, object }).await;
    }

    /// Tells the connections that watch a topic here.
    pub(crate) async fn tell_watchers(&self, topic: &Topic, object: Arc<str>) {
        for (shard, _) in self.topics.watchers_by_shard(topic) {
            let command = Command::TellWatchers {
                topic: topic.clone(),
                object: object.clone(),
            };
            self.shards[shard].send(command).await;
        }
    }

    /// The users with local connections in a topic, by name, and how many each has there; and what
    /// they show of themselves, each by its newest connection that shows something.
    pub(crate) async fn users_in(&self, topic: &Topic) -> (Vec<(UserId, u32)>, Infos) {
        let (mut users, mut infos): (Vec<(UserId, u32)>, _) = (Vec::new(), Infos::new());
        for Member { user, info, .. } in self.members(topic).await {
            if let Some(info) = info {
                infos.insert(user.clone(), info);
            }
            match users.last_mut() {
                Some((last, count)) if *last == user => *count += 1,
                _ => users.push((user, 1)),
            }
        }
        (users, infos)
    }
}
