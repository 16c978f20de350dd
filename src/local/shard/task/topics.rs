//! Subscriptions of a shard's connections, and pushes to topics.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::local::connection::subscriptions::{Asker, NotSubscribed};
use crate::local::receipt::Receipt;
use crate::local::replay::stumbles::Tryout;
use crate::local::shard::command::{Arrival, Subscribed};
use crate::local::shard::task::ShardTask;
use crate::local::topics::Member;
use crate::protocol;
use crate::protocol::ids::{Fd, Topic};
use crate::protocol::info::Info;
use crate::protocol::position::Since;
use crate::protocol::topic_pattern::TopicPatterns;
use crate::protocol::{Except, Message};

impl ShardTask {
    /// A new connection names the topics it wants. Whether it may was checked at the door.
    pub(crate) fn arrive(&mut self, slot: usize, arrival: Arrival) {
        if let Some(grants) = arrival.grants {
            self.places[slot].connection.grant(Some(grants));
        }
        self.places[slot].connection.show(arrival.info);
        let topics = arrival.topics.iter();
        let subscribed = topics.filter_map(|topic| {
            let by = match self.members.topics.asks_hook(topic) {
                true => Asker::Hook,
                false => Asker::Client,
            };
            // What it reads of the log before was read at the door.
            self.subscribe(slot, topic, Some(Since::Now), by).ok()
        });
        let subscribed = subscribed.collect();
        for (topic, info) in arrival.infos {
            self.introduce(slot, &topic, Some(info));
        }
        for (topic, start) in arrival.logs {
            let connection = &mut self.places[slot].connection;
            connection.go_on(&topic, start.follower);
            let Tryout { passed, trial } = start.tryout;
            passed.iter().for_each(|one| connection.tell_passed(one));
            if let Some(page) = start.page {
                self.delivered += connection.queue_page(Some(&topic), &page, trial, &self.metrics);
            }
            self.lose_passed(slot, &passed);
        }
        if arrival.watches {
            let fd = self.places[slot].connection.fd;
            for topic in &arrival.topics {
                self.members.topics.notices().ask(fd, topic.clone());
            }
        }
        // Closed if the handshake no longer waits.
        let _ = arrival.done.send(subscribed);
    }

    /// A connection has a new token: it leaves what it chose itself and may no longer have, and
    /// shows what the token says.
    pub(crate) fn regrant(
        &mut self,
        slot: usize,
        grants: Option<Arc<TopicPatterns>>,
        info: Option<Info>,
    ) {
        let connection = &mut self.places[slot].connection;
        connection.grant(grants);
        if connection.show(info) {
            let topics = connection.topics();
            topics.for_each(|topic| self.members.topics.notices().changed(topic));
        }
        self.drop_not_granted(slot);
    }

    /// A connection shows this of itself in a topic.
    pub(crate) fn introduce(&mut self, slot: usize, topic: &Topic, info: Option<Info>) {
        if self.places[slot].connection.show_in(topic, info) {
            self.members.topics.notices().changed(topic);
        }
    }

    /// There are other rules: every connection leaves what it may no longer have.
    pub(crate) fn check_grants(&mut self) {
        let slots: Vec<usize> = self.places.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.drop_not_granted(slot);
        }
    }

    fn drop_not_granted(&mut self, slot: usize) {
        let connection = &self.places[slot].connection;
        for topic in connection.not_granted(&self.members.topics) {
            self.drop_topic(slot, &topic, Asker::Server);
        }
    }

    /// Puts a connection into a topic.
    pub(crate) fn subscribe(
        &mut self,
        slot: usize,
        topic: &Topic,
        since: Option<Since>,
        by: Asker,
    ) -> Result<Subscribed, NotSubscribed> {
        let topic = self.members.shared(topic);
        let connection = &mut self.places[slot].connection;
        let is_new = connection.subscribe(&topic, by, &self.members.topics)?;
        let topics = &self.members.topics;
        let from = since.or_else(|| is_new.then(|| topics.entry(&topic)));
        let from = from.filter(|_| topics.is_followed(&topic));
        let follows = from.and_then(|from| connection.follow(&topic, from));
        let row = match is_new {
            true => self.members.join(&topic, slot),
            false => self.members.topics.row(&topic),
        };
        Ok(Subscribed { row, follows })
    }

    /// As a sender or the client itself asks for it. If a sender does, the client is told.
    pub(crate) fn on_subscribe(
        &mut self,
        fd: Fd,
        topic: &Topic,
        since: Option<Since>,
        (by, info): (Asker, Option<Info>),
        done: oneshot::Sender<Result<Subscribed, NotSubscribed>>,
    ) {
        let slot = self.slot_of(fd).ok_or(NotSubscribed::Gone);
        let subscribed = slot.and_then(|slot| {
            let subscribed = self.subscribe(slot, topic, since, by)?;
            // Another answer of the hook, or what the rest of its topics sees.
            if by == Asker::Hook {
                self.introduce(slot, topic, info);
            }
            if by == Asker::Server {
                self.tell_enrolled(slot, topic, true);
            }
            Ok(subscribed)
        });
        // Closed if the asker is gone.
        let _ = done.send(subscribed);
    }

    pub(crate) fn on_unsubscribe(
        &mut self,
        fd: Fd,
        topic: &Topic,
        by: Asker,
        done: oneshot::Sender<()>,
    ) {
        if let Some(slot) = self.slot_of(fd) {
            self.drop_topic(slot, topic, by);
        }
        let _ = done.send(());
    }

    fn drop_topic(&mut self, slot: usize, topic: &Topic, by: Asker) {
        // What a sender put it into, it does not lose with its own right to it.
        if by == Asker::Hook && !self.places[slot].connection.has_chosen(topic) {
            return;
        }
        if self.places[slot].connection.unsubscribe(topic) {
            self.members.leave(topic, slot);
            if by != Asker::Client {
                self.tell_enrolled(slot, topic, false);
            }
        }
    }

    fn tell_enrolled(&mut self, slot: usize, topic: &Topic, joins: bool) {
        let object = protocol::enrolled_object(topic, joins);
        self.places[slot].connection.say(&object);
        self.touch(slot);
    }

    /// Whatever ends a connection also ends its subscriptions.
    pub(crate) fn leave_topics(&mut self, slot: usize) {
        for topic in self.places[slot].connection.take_topics() {
            self.members.leave(&topic, slot);
        }
    }

    pub(crate) fn publish(
        &mut self,
        topic: &Topic,
        message: &Arc<Message>,
        except: Option<&Except>,
        receipt: Option<&Receipt>,
    ) {
        // Copied: ending a slow connection on the way changes the set.
        let slots: Vec<usize> = self.members.of(topic).collect();
        self.spread(slots, message, except, receipt);
    }

    pub(crate) fn members_of(&self, topic: &Topic) -> Vec<Member> {
        let member = |slot: usize| {
            let connection = &self.places[slot].connection;
            Member {
                user: connection.user.clone(),
                fd: connection.fd,
                info: connection.shown_in(topic).cloned(),
            }
        };
        self.members.of(topic).map(member).collect()
    }
}
