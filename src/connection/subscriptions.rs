//! The topics of one connection. Most have none, and then they cost a pointer.

use std::sync::Arc;

use super::Connection;
use crate::auth::Grants;
use crate::hub::Topics;
use crate::names::Topic;
use crate::shard::{Asker, NotSubscribed};

#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    /// What the client may subscribe to, if that is not what the settings say.
    grants: Option<Arc<Grants>>,
    topics: Vec<Topic>,
}

impl Connection {
    /// What the client may subscribe to, if its token says so.
    pub(crate) fn grant(&mut self, grants: Arc<Grants>) {
        self.subscriptions.get_or_insert_default().grants = Some(grants);
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
        let subscriptions = self.subscriptions.as_deref();
        if by == Asker::Client {
            let own = subscriptions.and_then(|subscriptions| subscriptions.grants.as_ref());
            if !own.unwrap_or(topics.grants()).allows(topic, &self.user) {
                return Err(NotSubscribed::Forbidden);
            }
        }
        if subscriptions.is_some_and(|subscriptions| subscriptions.topics.contains(topic)) {
            return Ok(false);
        }
        if subscriptions.map_or(0, |subscriptions| subscriptions.topics.len()) >= topics.most() {
            return Err(NotSubscribed::TooMany(topics.most()));
        }
        let subscriptions = self.subscriptions.get_or_insert_default();
        subscriptions.topics.push(topic.clone());
        Ok(true)
    }

    /// Takes the connection out of a topic; answers whether it was there.
    pub(crate) fn unsubscribe(&mut self, topic: &Topic) -> bool {
        let Some(subscriptions) = &mut self.subscriptions else {
            return false;
        };
        let place = subscriptions.topics.iter().position(|one| one == topic);
        if let Some(place) = place {
            subscriptions.topics.swap_remove(place);
        }
        if subscriptions.topics.is_empty() && subscriptions.grants.is_none() {
            self.subscriptions = None;
        }
        place.is_some()
    }

    /// Takes the connection out of all its topics; answers which those were.
    pub(crate) fn take_topics(&mut self) -> Vec<Topic> {
        self.subscriptions
            .take()
            .map_or_else(Vec::new, |subscriptions| subscriptions.topics)
    }
}
