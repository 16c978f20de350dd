//! What few connections have: in one box, made for the first of it. All others pay a pointer.

use crate::local::connection::bookmark::Bookmark;
use crate::local::connection::subscriptions::Subscriptions;
use crate::local::connection::trials::Trials;
use crate::local::replay::follower::Follower;
use crate::protocol::StreamPosition;

#[derive(Debug, Default)]
struct Parts {
    inbox: Option<Box<Follower>>,
    stream: Option<Box<StreamPosition>>,
    bookmark: Option<Box<Bookmark>>,
    subscriptions: Option<Box<Subscriptions>>,
    trials: Option<Box<Trials>>,
}

impl Parts {
    fn is_void(&self) -> bool {
        let Self {
            inbox,
            stream,
            bookmark,
            subscriptions,
            trials,
        } = self;
        let is_reader = inbox.is_some() || stream.is_some() || bookmark.is_some();
        !is_reader && subscriptions.is_none() && trials.is_none()
    }
}

/// The parts of a connection that most do not have.
#[derive(Debug, Default)]
pub(super) struct Extras(Option<Box<Parts>>);

impl Extras {
    /// If it follows its user's inbox.
    pub(super) fn inbox(&mut self) -> Option<&mut Follower> {
        self.0.as_mut()?.inbox.as_deref_mut()
    }

    pub(super) fn set_inbox(&mut self, inbox: Option<Follower>) {
        self.set(inbox, |parts| &mut parts.inbox);
    }

    /// How far it has been given inbox and logs, if it is an event stream that resumes logs.
    pub(super) fn stream(&self) -> Option<&StreamPosition> {
        self.0.as_ref()?.stream.as_deref()
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut StreamPosition> {
        self.0.as_mut()?.stream.as_deref_mut()
    }

    pub(super) fn set_stream(&mut self, stream: Option<StreamPosition>) {
        self.set(stream, |parts| &mut parts.stream);
    }

    /// If its node remembers how far it has read.
    pub(super) fn bookmark(&mut self) -> Option<&mut Bookmark> {
        self.0.as_mut()?.bookmark.as_deref_mut()
    }

    pub(super) fn set_bookmark(&mut self, bookmark: Bookmark) {
        self.set(Some(bookmark), |parts| &mut parts.bookmark);
    }

    /// What it may subscribe to and what it is subscribed to, unless there is nothing to say.
    pub(super) fn subscriptions(&self) -> Option<&Subscriptions> {
        self.0.as_ref()?.subscriptions.as_deref()
    }

    pub(super) fn subscriptions_mut(&mut self) -> Option<&mut Subscriptions> {
        self.0.as_mut()?.subscriptions.as_deref_mut()
    }

    pub(super) fn need_subscriptions(&mut self) -> &mut Subscriptions {
        let parts = self.0.get_or_insert_default();
        parts.subscriptions.get_or_insert_default()
    }

    pub(super) fn take_subscriptions(&mut self) -> Option<Subscriptions> {
        self.take(|parts| &mut parts.subscriptions)
    }

    /// Kept messages that it may not be able to take, if it came back for such.
    pub(super) fn trials(&mut self) -> Option<&mut Trials> {
        self.0.as_mut()?.trials.as_deref_mut()
    }

    pub(super) fn need_trials(&mut self) -> &mut Trials {
        let parts = self.0.get_or_insert_default();
        parts.trials.get_or_insert_default()
    }

    pub(super) fn take_trials(&mut self) -> Option<Trials> {
        self.take(|parts| &mut parts.trials)
    }

    fn set<T>(&mut self, part: Option<T>, place: impl FnOnce(&mut Parts) -> &mut Option<Box<T>>) {
        match part {
            Some(part) => *place(self.0.get_or_insert_default()) = Some(Box::new(part)),
            None => drop(self.take(place)),
        }
    }

    /// Takes a part out, and the box with it if that was all.
    fn take<T>(&mut self, place: impl FnOnce(&mut Parts) -> &mut Option<Box<T>>) -> Option<T> {
        let part = place(self.0.as_mut()?).take();
        self.0 = self.0.take().filter(|parts| !parts.is_void());
        part.map(|part| *part)
    }
}
