//! Kept messages: what connections do that follow an inbox or a log.

use std::sync::Arc;

use crate::clock;
use crate::local::receipt::Receipt;
use crate::local::replay::follower::{PageAsk, Verdict};
use crate::local::replay::page::Page;
use crate::local::replay::stumbles::Tryout;
use crate::local::shard::task::ShardTask;
use crate::protocol::Message;
use crate::protocol::ids::{Subject, Topic};

impl ShardTask {
    /// As `offer`, for a message that is kept: a connection that follows its inbox or log gets
    /// it in its turn, and a full queue is no harm.
    pub(crate) fn offer_kept(
        &mut self,
        slot: usize,
        message: &Arc<Message>,
        receipt: Option<&Receipt>,
    ) {
        let bound = self.settings.queue_bytes;
        let connection = &mut self.places[slot].connection;
        let frame = connection.kept_frame(message);
        let fits = !connection.queue.is_full(&frame, bound);
        match connection.hear_kept(message, fits) {
            Verdict::Take => self.offer(slot, frame, message, receipt),
            Verdict::Old => self.metrics.left_to_inbox("old"),
            Verdict::Later => {
                self.metrics.left_to_inbox("later");
                self.touch(slot);
            }
        }
    }

    /// Counts a kept message as given, although it is not.
    pub(crate) fn pass(&mut self, slot: usize, message: &Message) {
        let connection = &mut self.places[slot].connection;
        if connection.hear_kept(message, true) == Verdict::Later {
            self.touch(slot);
        }
    }

    /// As [`ShardTask::pass`], for the members of a topic.
    pub(crate) fn skip_in_topic(&mut self, topic: &Topic, message: &Message) {
        let slots: Vec<usize> = self.members.of(topic).collect();
        slots.into_iter().for_each(|slot| self.pass(slot, message));
    }

    /// Messages may have passed a connection by.
    pub(crate) fn missed(&mut self, slot: usize) {
        self.places[slot].connection.missed();
        self.touch(slot);
    }

    /// Redis may have lost all that it kept. Most clients hear so in turns. Not those that took the
    /// first message of an inbox or log a moment ago: they may come back before their turn, and would
    /// be told that they have missed nothing.
    pub(crate) fn doubt_kept(&mut self) {
        let now_ms = clock::shared_ms();
        for slot in 0..self.places.capacity() {
            let place = self.places.get_mut(slot);
            if place.is_some_and(|place| place.connection.doubt_kept(now_ms)) {
                self.missed(slot);
            }
        }
    }

    /// Looks into inbox and logs as soon as the client has taken what waits for it.
    pub(crate) fn look(&mut self, slot: usize) {
        self.places[slot].connection.distrust_all();
        self.touch(slot);
    }

    /// As [`ShardTask::look`], for the inbox alone.
    pub(crate) fn check_inbox(&mut self, slot: usize) {
        self.places[slot].connection.distrust_inbox();
        self.touch(slot);
    }

    /// As [`ShardTask::look`], for the members of a topic and its log.
    pub(crate) fn check_log(&mut self, topic: &Topic) {
        let slots: Vec<usize> = self.members.of(topic).collect();
        for slot in slots {
            self.places[slot].connection.distrust_log(topic);
            self.touch(slot);
        }
    }

    /// Hands on how far a client has read, if that is new.
    pub(crate) fn save_bookmark(&mut self, slot: usize) {
        if let Some(saved) = self.places[slot].connection.take_bookmark(self.now) {
            // Without room its client gets messages again if it comes back too soon.
            let _ = self.outlets.bookmarks.try_send(saved);
        }
    }

    /// The page that a connection asked for.
    pub(crate) fn on_page(
        &mut self,
        slot: usize,
        subject: &Subject,
        ask: PageAsk,
        page: &Page,
        tryout: Option<Box<Tryout>>,
    ) {
        let is_told = tryout.is_some();
        let Tryout { passed, trial } = tryout.map_or_else(Tryout::default, |tryout| *tryout);
        let connection = &mut self.places[slot].connection;
        if let Some(resync) = connection.take_page(subject, ask, page) {
            if !(page.is_continuous || is_told) {
                self.metrics.catch_up_gaps.inc();
                if let Some(resync) = resync {
                    connection.say(&resync);
                }
            }
            let topic = match subject {
                Subject::User(_) => None,
                Subject::Topic(topic) => Some(topic),
            };
            // What it sent itself it gets only where it asked for the log.
            let others = match is_told {
                true => None,
                false => page.without(&self.node, connection.fd),
            };
            let page = others.as_ref().unwrap_or(page);
            passed.iter().for_each(|one| connection.tell_passed(one));
            self.delivered += connection.queue_page(topic, page, trial, &self.metrics);
            self.lose_passed(slot, &passed);
        }
        self.touch(slot);
    }

    /// Accounts for messages that are passed over, as their client could not take them.
    pub(crate) fn lose_passed(&self, slot: usize, passed: &[Arc<Message>]) {
        for message in passed {
            self.metrics.offered.inc();
            self.lose_one(slot, "passed_over", message);
            let connection = &self.places[slot].connection;
            let (user, fd, id) = (&connection.user, connection.fd, message.id());
            let bytes = message.data().len();
            tracing::info!(%user, %fd, id, bytes, "passed over a kept message that ended connects");
        }
    }
}
