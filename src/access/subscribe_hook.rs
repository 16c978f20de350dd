//! Topics whose rule says `"subscribe": "hook"`: a backend is asked whether a connection may
//! subscribe, and again when its answer has expired.
//!
//! What must stay true: without an answer no connection gets a topic; one that has it keeps it for
//! a while if the backend gives none.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::access::renewals::Renewals;
use crate::hooks::{Hook, HookAnswer};
use crate::local::connection::subscriptions::Asker;
use crate::local::hub::Hub;
use crate::protocol::hooks::{SubscribeAnswer, refusal_words, subscribe_question};
use crate::protocol::ids::{Fd, Topic, UserId};
use crate::protocol::info::Info;

/// A topic that the backend lets a connection have.
#[derive(Debug)]
pub(crate) struct ApprovedTopic {
    topic: Topic,
    /// What the connection shows of itself there.
    pub(crate) info: Option<Info>,
    expires_in: Option<Duration>,
}

impl ApprovedTopic {
    /// The topic and what the connection shows of itself there, if the backend says that.
    pub(crate) fn shown(&self) -> Option<(Topic, Info)> {
        Some((self.topic.clone(), self.info.clone()?))
    }
}

/// Why a connection gets no topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubscribeRefusal {
    /// The backend says no; its reason.
    Forbidden(String),
    /// The backend gave no answer.
    Unavailable,
}

/// The subscribe hook of a node, and the subscriptions that it is to be asked about again.
#[derive(Debug)]
pub(crate) struct SubscribeHook {
    hook: Hook,
    hub: Arc<Hub>,
    renewals: Renewals<(Fd, Topic), UserId>,
}

impl SubscribeHook {
    pub(crate) fn new(hook: Hook, hub: Arc<Hub>) -> Self {
        Self {
            hook,
            hub,
            renewals: Renewals::new(),
        }
    }

    /// Asks whether a connection may have a topic. While a client is still on its way in, its
    /// connection has no number.
    pub(crate) async fn ask(
        &self,
        user: &UserId,
        fd: Option<Fd>,
        topic: &Topic,
    ) -> Result<ApprovedTopic, SubscribeRefusal> {
        let connection = fd.map(|fd| self.hub.connection_id(fd));
        let question = subscribe_question(user, connection.as_ref(), topic, false);
        let no = |reason: Option<String>| {
            let words = || format!("you may not subscribe to the topic {topic}");
            SubscribeRefusal::Forbidden(reason.unwrap_or_else(words))
        };
        match self.hook.ask(question, SubscribeAnswer::parse).await {
            Ok(HookAnswer::Given(answer)) if answer.allow => Ok(ApprovedTopic {
                topic: topic.clone(),
                info: answer.info,
                expires_in: answer.expires_in,
            }),
            Ok(HookAnswer::Given(answer)) => Err(no(answer.reason)),
            Ok(HookAnswer::Refused(_, body)) => Err(no(refusal_words(&body, "reason"))),
            Err(failure) => {
                if let Some(fd) = fd {
                    let trace = self.hub.trace();
                    trace.hook_failed(user, fd, "subscribe", failure.label());
                }
                Err(SubscribeRefusal::Unavailable)
            }
        }
    }

    /// As [`SubscribeHook::ask`], of all that a new client comes with and that need it.
    pub(crate) async fn ask_all(
        &self,
        user: &UserId,
        topics: &[Topic],
    ) -> Result<Vec<ApprovedTopic>, SubscribeRefusal> {
        let needed = topics.iter();
        let needed = needed.filter(|topic| self.hub.topics().asks_hook(topic));
        let asked = needed.map(|topic| self.ask(user, None, topic));
        join_all(asked).await.into_iter().collect()
    }

    /// A connection here has this topic.
    pub(crate) fn watch(&self, fd: Fd, user: &UserId, approved: ApprovedTopic) {
        let key = (fd, approved.topic);
        self.renewals.put(key, user.clone(), approved.expires_in);
    }

    /// As [`SubscribeHook::watch`], of all these topics.
    pub(crate) fn watch_all(&self, fd: Fd, user: &UserId, approved: Vec<ApprovedTopic>) {
        let approved = approved.into_iter();
        approved.for_each(|one| self.watch(fd, user, one));
    }

    /// A connection here has left this topic.
    pub(crate) fn forget(&self, fd: Fd, topic: &Topic) {
        self.renewals.forget(&(fd, topic.clone()));
    }

    /// Asks again what is due, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let renew = |key| {
            let hook = self.clone();
            async move { hook.renew(key).await }
        };
        self.renewals
            .keep(|(fd, _)| self.hub.holds(*fd), renew)
            .await;
    }

    async fn renew(&self, key: (Fd, Topic)) {
        let known = self.renewals.value(&key);
        let Some(user) = known else { return };
        let (fd, topic) = &key;
        if !self.hub.holds(*fd) {
            return self.forget(*fd, topic);
        }
        let connection = self.hub.connection_id(*fd);
        let question = subscribe_question(&user, Some(&connection), topic, true);
        let asked = self.hook.ask(question, SubscribeAnswer::parse).await;
        // It has left the topic meanwhile.
        if self.renewals.value(&key).is_none() {
            return;
        }
        let still_counts = match asked {
            Ok(HookAnswer::Given(answer)) if answer.allow => {
                self.renewals.put(key.clone(), user, answer.expires_in);
                self.hub.introduce(*fd, topic, answer.info).await;
                true
            }
            Ok(_) => false,
            Err(failure) => {
                let trace = self.hub.trace();
                trace.hook_failed(&user, *fd, "subscribe", failure.label());
                self.renewals.retry(key.clone())
            }
        };
        if !still_counts {
            self.forget(*fd, topic);
            self.hub.unsubscribe(*fd, topic.clone(), Asker::Hook).await;
        }
    }
}
