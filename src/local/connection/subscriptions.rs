//! The topics of one connection. Most have none, and then they cost a pointer.

use std::sync::Arc;

use crate::local::connection::requests::NEXT_SECOND;
use crate::local::connection::timer_wheel::Tick;
use crate::local::connection::{Connection, Settings};
use crate::local::replay::follower::{Follower, PageAsk, Verdict};
use crate::local::topics::Topics;
use crate::protocol;
use crate::protocol::Publish;
use crate::protocol::ids::Topic;
use crate::protocol::info::Info;
use crate::protocol::position::{Position, Since};
use crate::protocol::topic_pattern::TopicPatterns;

/// Who asks for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// The client, within its grants.
    Client,
    /// The client, with the word of a hook that it may.
    Hook,
    /// A sender, who may decide as it likes; the client hears of it.
    Server,
}

/// Why a connection is not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSubscribed {
    /// The connection is no longer here.
    Gone,
    /// Its grants do not have this topic.
    Forbidden,
    /// A hook decides whether it may.
    AskHook,
    /// It has this many already, which is the limit.
    TooMany(usize),
}

/// Of so many topics that a connection left, it is remembered where it was in their logs.
const LEFT: usize = 32;

#[derive(Debug)]
struct Subscription {
    topic: Topic,
    /// Whether the client has it by its own wish alone, so that it must be allowed to.
    is_chosen: bool,
    /// Whether a hook let the client have it.
    is_approved: bool,
    /// If the connection follows the topic's log.
    log: Option<Box<Follower>>,
    /// What it shows of itself there, if that is not what it shows to all.
    info: Option<Box<Info>>,
    /// What it published there in this second.
    sent: (Tick, u32),
}

/// Why a connection may not publish to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotPublished {
    /// It is not subscribed to it.
    NoMember,
    /// The topic's rule lets no member publish.
    Forbidden,
    /// The data has more bytes than this, which is the limit.
    TooLarge(usize),
    /// It has published this many in this second, which is the limit.
    TooMany(u32),
}

impl NotPublished {
    /// As clients and metrics have it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoMember | Self::Forbidden => "forbidden",
            Self::TooLarge(_) => "too_large",
            Self::TooMany(_) => "rate_limited",
        }
    }

    /// What the client is told.
    pub(crate) fn object(&self, reference: Option<&str>, topic: &Topic) -> String {
        let words = match self {
            Self::NoMember => format!("you are not subscribed to the topic {topic}"),
            Self::Forbidden => format!("members may not publish to the topic {topic}"),
            Self::TooLarge(most) => format!("the data has over {most} bytes"),
            Self::TooMany(most) => format!("over {most} messages to {topic} in a second"),
        };
        match self {
            Self::TooMany(_) => protocol::later_object(reference, self.code(), &words, NEXT_SECOND),
            _ => protocol::error_object(reference, self.code(), &words),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// What the client may subscribe to, if that is not what the settings say.
    grants: Option<Arc<TopicPatterns>>,
    /// What it shows of itself to the members of its topics.
    info: Option<Info>,
    list: Vec<Subscription>,
    /// Where it was in the logs of topics that it left, the latest last: if it comes back, a late line
    /// of before is not for it.
    left: Vec<(Topic, Position)>,
    /// How many followers of logs have ended: the number of the next one.
    ended: u32,
    /// A follower may have something to ask: else no write goes through the list.
    is_behind: bool,
}

impl Subscriptions {
    /// Whether there is nothing to remember.
    fn is_empty(&self) -> bool {
        let is_nowhere = self.list.is_empty() && self.left.is_empty() && self.ended == 0;
        is_nowhere && self.grants.is_none() && self.info.is_none()
    }

    /// What to do with a kept message that is pushed; none if its log is not followed.
    pub(crate) fn hear(
        &mut self,
        topic: &Topic,
        position: Position,
        fits: bool,
    ) -> Option<Verdict> {
        let verdict = self.log_of(topic)?.hear(position, fits);
        self.is_behind |= verdict == Verdict::Later;
        Some(verdict)
    }

    /// Pushes to these topics may have been lost.
    pub(crate) fn distrust(&mut self, chosen: impl Fn(&Topic) -> bool) {
        let chosen = self.list.iter_mut().filter(|one| chosen(&one.topic));
        for log in chosen.filter_map(|one| one.log.as_mut()) {
            log.distrust();
            self.is_behind = true;
        }
    }

    /// Redis may have lost all that it had; answers whether the client must hear of it at once.
    pub(crate) fn doubt(&mut self, now_ms: u64) -> bool {
        let mut must_hear = false;
        for log in self.list.iter_mut().filter_map(|one| one.log.as_mut()) {
            must_hear |= log.doubt(now_ms);
        }
        must_hear
    }

    /// The client hears that something may be missing in all of them.
    pub(crate) fn note_told(&mut self) {
        for log in self.list.iter_mut().filter_map(|one| one.log.as_mut()) {
            log.note_told();
        }
    }

    /// Which log to read next and from where: one at a time, so that a slow client has one page
    /// of them in memory.
    pub(crate) fn ask(&mut self) -> Option<(Topic, PageAsk)> {
        if !self.is_behind {
            return None;
        }
        let mut logs = self.list.iter().filter_map(|one| one.log.as_ref());
        if logs.any(|log| log.is_asking()) {
            return None;
        }
        let mut list = self.list.iter_mut();
        let ask = list.find_map(|one| Some((one.topic.clone(), one.log.as_mut()?.ask()?)));
        self.is_behind = ask.is_some();
        ask
    }

    /// The follower of a topic's log, to be given a page.
    pub(crate) fn follower(&mut self, topic: &Topic) -> Option<&mut Follower> {
        // Another page may be due after it, of this log or of one that waited.
        self.is_behind = true;
        self.log_of(topic)
    }

    /// Begins to follow the log of a topic that is in the list.
    fn follow(&mut self, topic: &Topic, since: Since) -> Option<PageAsk> {
        let one = self.list.iter_mut().find(|one| one.topic == *topic)?;
        if one.log.is_some() {
            self.ended += 1;
        }
        let ask = PageAsk {
            since,
            number: self.ended,
        };
        let left = self.left.iter().position(|(left, _)| left == topic);
        let left = left.map(|place| self.left.remove(place).1);
        let here = one.log.as_deref().and_then(Follower::reached);
        let log = Follower::asking_again(ask, here.or(left));
        one.log = Some(Box::new(log));
        Some(ask)
    }

    /// Remembers where the connection was in the log of a topic that it leaves.
    fn note_left(&mut self, one: Subscription) {
        self.ended += u32::from(one.log.is_some());
        let Some(place) = one.log.as_deref().and_then(Follower::reached) else {
            return;
        };
        if self.left.len() == LEFT {
            self.left.remove(0);
        }
        self.left.push((one.topic, place));
    }

    fn log_of(&mut self, topic: &Topic) -> Option<&mut Follower> {
        let one = self.list.iter_mut().find(|one| one.topic == *topic)?;
        one.log.as_deref_mut()
    }
}

impl Connection {
    /// What the client may subscribe to, if its token says so.
    pub(crate) fn grant(&mut self, grants: Option<Arc<TopicPatterns>>) {
        if grants.is_some() || self.extras.subscriptions().is_some() {
            self.extras.need_subscriptions().grants = grants;
        }
    }

    /// What the client shows of itself from now on; answers whether that is something else.
    pub(crate) fn show(&mut self, info: Option<Info>) -> bool {
        if info.is_none() && self.extras.subscriptions().is_none() {
            return false;
        }
        let shown = &mut self.extras.need_subscriptions().info;
        let is_new = *shown != info;
        *shown = info;
        is_new
    }

    /// What it shows of itself in a topic from now on, if it is there; answers whether that is
    /// something else.
    pub(crate) fn show_in(&mut self, topic: &Topic, info: Option<Info>) -> bool {
        let list = self.extras.subscriptions_mut().map(|all| &mut all.list);
        let mut list = list.into_iter().flatten();
        let Some(one) = list.find(|one| one.topic == *topic) else {
            return false;
        };
        let info = info.map(Box::new);
        let is_new = one.info != info;
        one.info = info;
        is_new
    }

    /// What it shows of itself in a topic.
    pub(crate) fn shown_in(&self, topic: &Topic) -> Option<&Info> {
        let subscriptions = self.extras.subscriptions()?;
        let mut list = subscriptions.list.iter();
        let own = list.find(|one| one.topic == *topic)?.info.as_deref();
        own.or(subscriptions.info.as_ref())
    }

    /// Its topics.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        let list = self.extras.subscriptions().map(|all| &all.list);
        list.into_iter().flatten().map(|one| &one.topic)
    }

    /// The topics that the client chose itself and that are not granted to it (any more).
    pub(crate) fn not_granted(&self, topics: &Topics) -> Vec<Topic> {
        let Some(subscriptions) = self.extras.subscriptions() else {
            return Vec::new();
        };
        let grants = subscriptions.grants.as_deref();
        let chosen = subscriptions.list.iter().filter(|one| one.is_chosen);
        let may_stay = |one: &&Subscription| match topics.asks_hook(&one.topic) {
            true => one.is_approved,
            false => topics.allows(&one.topic, &self.user, grants),
        };
        let lost = chosen.filter(|one| !may_stay(one));
        lost.map(|one| one.topic.clone()).collect()
    }

    /// Puts the connection into a topic; answers whether it was not there before.
    pub(crate) fn subscribe(
        &mut self,
        topic: &Topic,
        by: Asker,
        topics: &Topics,
    ) -> Result<bool, NotSubscribed> {
        if self.is_closing() {
            return Err(NotSubscribed::Gone);
        }
        let subscriptions = self.extras.subscriptions();
        if by == Asker::Client {
            let own = subscriptions.and_then(|subscriptions| subscriptions.grants.as_deref());
            if !topics.allows(topic, &self.user, own) {
                let mut list = subscriptions.iter().flat_map(|all| &all.list);
                match list.find(|one| one.topic == *topic) {
                    _ if !topics.asks_hook(topic) => return Err(NotSubscribed::Forbidden),
                    // It was asked when the client came to the topic.
                    Some(one) if one.is_approved => {}
                    _ => return Err(NotSubscribed::AskHook),
                }
            }
        }
        let mut list = self
            .extras
            .subscriptions_mut()
            .into_iter()
            .flat_map(|all| &mut all.list);
        if let Some(one) = list.find(|one| one.topic == *topic) {
            // What a sender put it into, it does not lose with its own right to it.
            one.is_chosen &= by != Asker::Server;
            one.is_approved |= by == Asker::Hook;
            return Ok(false);
        }
        let subscriptions = self.extras.subscriptions();
        if subscriptions.map_or(0, |subscriptions| subscriptions.list.len()) >= topics.most() {
            return Err(NotSubscribed::TooMany(topics.most()));
        }
        let subscriptions = self.extras.need_subscriptions();
        subscriptions.list.push(Subscription {
            topic: topic.clone(),
            is_chosen: by != Asker::Server,
            is_approved: by == Asker::Hook,
            log: None,
            info: None,
            sent: (0, 0),
        });
        if let Some(membership) = &self.membership {
            membership.subscribed(topic);
        }
        Ok(true)
    }

    /// Whether it is in a topic.
    pub(crate) fn is_in(&self, topic: &Topic) -> bool {
        let mut list = self
            .extras
            .subscriptions()
            .into_iter()
            .flat_map(|all| &all.list);
        list.any(|one| one.topic == *topic)
    }

    /// Whether the client may publish this now; counts it if so.
    pub(crate) fn try_publish(
        &mut self,
        publish: &Publish,
        topics: &Topics,
        settings: &Settings,
        now: Tick,
    ) -> Result<(), NotPublished> {
        let mut list = self
            .extras
            .subscriptions_mut()
            .into_iter()
            .flat_map(|all| &mut all.list);
        let one = list.find(|one| one.topic == publish.topic);
        let one = one.ok_or(NotPublished::NoMember)?;
        let rule = topics.rules().find(&publish.topic);
        let send = rule.and_then(|rule| rule.send);
        let send = send.ok_or(NotPublished::Forbidden)?;
        if let Some(most) = send.max_bytes
            && publish.data.len() > most
        {
            return Err(NotPublished::TooLarge(most));
        }
        let most = send.rate.unwrap_or(settings.send_rate);
        if one.sent.0 != now {
            one.sent = (now, 0);
        }
        if most > 0 && one.sent.1 >= most {
            return Err(NotPublished::TooMany(most));
        }
        one.sent.1 += 1;
        Ok(())
    }

    /// The topics it has been in since before its socket was here, told of only now that it is.
    pub(crate) fn tell_of_topics(&self) {
        let Some(membership) = &self.membership else {
            return;
        };
        for one in self
            .extras
            .subscriptions()
            .into_iter()
            .flat_map(|all| &all.list)
        {
            membership.subscribed(&one.topic);
        }
    }

    /// Begins to follow the log of a topic it is in, if it can. The caller owes it the page that is
    /// answered.
    pub(crate) fn follow(&mut self, topic: &Topic, since: Since) -> Option<PageAsk> {
        // A plain client cannot tell what is kept from what is not.
        if !self.dialect.has_objects() {
            return None;
        }
        self.extras.subscriptions_mut()?.follow(topic, since)
    }

    /// Follows the log of a topic it is in from where it was read already.
    pub(crate) fn go_on(&mut self, topic: &Topic, follower: Follower) {
        let mut list = self
            .extras
            .subscriptions_mut()
            .into_iter()
            .flat_map(|all| &mut all.list);
        if let Some(one) = list.find(|one| one.topic == *topic) {
            one.log = Some(Box::new(follower));
        }
        if let Some(subscriptions) = self.extras.subscriptions_mut() {
            // It may be one that has nothing read yet.
            subscriptions.is_behind = true;
        }
    }

    /// Whether the client has a topic by its own wish alone.
    pub(crate) fn has_chosen(&self, topic: &Topic) -> bool {
        let mut list = self
            .extras
            .subscriptions()
            .into_iter()
            .flat_map(|all| &all.list);
        list.any(|one| one.topic == *topic && one.is_chosen)
    }

    /// Takes the connection out of a topic; answers whether it was there.
    pub(crate) fn unsubscribe(&mut self, topic: &Topic) -> bool {
        let Some(subscriptions) = self.extras.subscriptions_mut() else {
            return false;
        };
        let place = subscriptions
            .list
            .iter()
            .position(|one| one.topic == *topic);
        if let Some(place) = place {
            if let Some(membership) = &self.membership {
                membership.unsubscribed(topic);
            }
            let left = subscriptions.list.swap_remove(place);
            subscriptions.note_left(left);
            // Its page may have been what others waited for.
            subscriptions.is_behind = true;
        }
        if subscriptions.is_empty() {
            self.extras.take_subscriptions();
        }
        place.is_some()
    }

    /// Takes the connection out of all its topics; answers which those were.
    pub(crate) fn take_topics(&mut self) -> Vec<Topic> {
        let list = self.extras.take_subscriptions().map(|all| all.list);
        let topics = list.into_iter().flatten().map(|one| one.topic);
        topics.collect()
    }
}
