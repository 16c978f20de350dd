//! How a connection follows its user's inbox and the logs of its topics.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::local::connection::Connection;
use crate::local::replay::follower::{PageAsk, Verdict};
use crate::local::replay::page::Page;
use crate::local::replay::stumbles::Trial;
use crate::protocol;
use crate::protocol::Message;
use crate::protocol::ids::{Subject, Topic};
use crate::telemetry::metrics::Metrics;

impl Connection {
    /// The bytes of a message, and for an event stream where it stands after it.
    pub(crate) fn kept_frame(&self, message: &Message) -> Bytes {
        if let (Some(stream), Some(position)) = (self.extras.stream(), message.position())
            && stream.covers(message.topic())
        {
            let mut stream = stream.clone();
            stream.advance(message.topic(), position);
            return message.event(self.dialect, &stream);
        }
        message.frame(self.dialect)
    }

    /// Puts the messages of a page of a topic's log, or of the inbox, into the queue; answers how
    /// many they are. `trial` watches whether the client takes the first of them.
    pub(crate) fn queue_page(
        &mut self,
        topic: Option<&Topic>,
        page: &Page,
        mut trial: Option<Trial>,
        metrics: &Metrics,
    ) -> u64 {
        for message in &page.messages {
            let frame = self.kept_frame(message);
            self.queue.push_message(frame);
            self.note_given(message);
            if let Some(trial) = trial.take() {
                self.watch(trial);
            }
        }
        if let Some(stream) = self.extras.stream_mut() {
            // Beyond the last message, if others after it were of no use.
            stream.advance(topic, page.end);
        }
        metrics
            .offered
            .inc_by(page.messages.len() as u64 + page.unreadable);
        metrics.dropped("unreadable", page.unreadable);
        metrics.replayed.inc_by(page.messages.len() as u64);
        page.messages.len() as u64
    }

    /// A kept message is in the queue, or counts as given.
    fn note_given(&mut self, message: &Message) {
        self.note_in_bookmark(message);
        if let (Some(stream), Some(position)) = (self.extras.stream_mut(), message.position()) {
            stream.advance(message.topic(), position);
        }
    }

    /// What to do with a kept message that is pushed; `fits` if the queue has room for it.
    pub(crate) fn hear_kept(&mut self, message: &Message, fits: bool) -> Verdict {
        let verdict = self.judge_kept(message, fits);
        if verdict == Verdict::Take {
            self.note_given(message);
        }
        verdict
    }

    fn judge_kept(&mut self, message: &Message, fits: bool) -> Verdict {
        let Some(position) = message.position() else {
            return Verdict::Take;
        };
        if let Some(topic) = message.topic() {
            let subscriptions = self.extras.subscriptions_mut();
            let verdict = subscriptions.and_then(|all| all.hear(topic, position, fits));
            return verdict.unwrap_or(Verdict::Take);
        }
        match self.extras.inbox() {
            Some(inbox) => inbox.hear(position, fits),
            // To this one it is a message like any other.
            None => Verdict::Take,
        }
    }

    /// Pushes may have been lost on the way here: inbox and logs must be read.
    pub(crate) fn distrust_all(&mut self) {
        self.distrust_inbox();
        if let Some(subscriptions) = self.extras.subscriptions_mut() {
            subscriptions.distrust(|_| true);
        }
    }

    /// Redis may have lost all that it had; answers whether the client must hear of it at once.
    pub(crate) fn doubt_kept(&mut self, now_ms: u64) -> bool {
        let inbox = self.extras.inbox();
        let mut must_hear = inbox.is_some_and(|inbox| inbox.doubt(now_ms));
        if let Some(subscriptions) = self.extras.subscriptions_mut() {
            must_hear |= subscriptions.doubt(now_ms);
        }
        must_hear
    }

    /// As [`Connection::distrust_all`], for the inbox alone.
    pub(crate) fn distrust_inbox(&mut self) {
        if let Some(inbox) = self.extras.inbox() {
            inbox.distrust();
        }
    }

    /// As [`Connection::distrust_all`], for one topic.
    pub(crate) fn distrust_log(&mut self, topic: &Topic) {
        if let Some(subscriptions) = self.extras.subscriptions_mut() {
            subscriptions.distrust(|one| one == topic);
        }
    }

    /// Messages may have passed it by: it hears so, and inbox and logs are read.
    pub(crate) fn missed(&mut self) {
        if !self.is_closing() {
            self.say(protocol::RESYNC);
        }
        self.distrust_all();
    }

    /// It is told that something may be missing. The page of each log that is read because of that
    /// need not say so again; one after it must.
    pub(crate) fn note_told(&mut self) {
        self.distrust_all();
        if let Some(subscriptions) = self.extras.subscriptions_mut() {
            subscriptions.note_told();
        }
        if let Some(inbox) = self.extras.inbox() {
            inbox.note_told();
        }
    }

    /// What to read next and from where, if that is due: the client has taken all that it was
    /// given. One page of the inbox and one of one log at a time.
    pub(crate) fn asks(&mut self) -> SmallVec<[(Subject, PageAsk); 2]> {
        let mut asks = SmallVec::new();
        if !self.is_open() || !self.queue.is_empty() {
            return asks;
        }
        if let Some(ask) = self.extras.inbox().and_then(|inbox| inbox.ask()) {
            asks.push((Subject::User(self.user.clone()), ask));
        }
        if let Some(subscriptions) = self.extras.subscriptions_mut()
            && let Some((topic, ask)) = subscriptions.ask()
        {
            asks.push((Subject::Topic(topic), ask));
        }
        asks
    }

    /// A page has come. Unless it is of no use any more, the client is to get it; answers what it
    /// hears first if something is missing before it, which may be nothing.
    pub(crate) fn take_page(
        &mut self,
        subject: &Subject,
        ask: PageAsk,
        page: &Page,
    ) -> Option<Option<String>> {
        let (follower, resync) = match subject {
            Subject::User(_) => (self.extras.inbox(), protocol::RESYNC.to_owned()),
            Subject::Topic(topic) => {
                let subscriptions = self.extras.subscriptions_mut();
                let follower = subscriptions.and_then(|all| all.follower(topic));
                (follower, protocol::resync_object(topic))
            }
        };
        // Asked for by a subscription that has ended meanwhile, though there may be a new one.
        let follower = follower.filter(|follower| follower.awaits(ask))?;
        let was_told = follower.take_told(page);
        let resync = (!was_told).then_some(resync);
        follower.take_page(page).then_some(resync)
    }
}
