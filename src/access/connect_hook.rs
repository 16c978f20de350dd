//! Clients whose identity a backend knows: it is asked by a hook who they are, and again when its
//! answer has expired.
//!
//! What must stay true: a connection that the backend refuses again is closed; one that it cannot
//! be asked about stays for a while, so that a backend that restarts does not send everybody away.

use std::sync::Arc;
use std::time::Duration;

use crate::access::renewals::Renewals;
use crate::auth::identity::Identity;
use crate::hooks::{Hook, HookAnswer};
use crate::local::hub::Hub;
use crate::protocol::close::CloseReason;
use crate::protocol::hooks::{ConnectAnswer, Introduction, refusal_words};
use crate::protocol::ids::{Fd, Topic, UserId};

/// A client that the backend knows.
#[derive(Debug)]
pub(crate) struct Introduced {
    pub(crate) identity: Identity,
    /// What it is subscribed to from its beginning.
    pub(crate) subscribe: Vec<Topic>,
    /// If the answer expires.
    pub(crate) renewal: Option<Renewal>,
}

/// What the backend is asked again, and when.
#[derive(Debug)]
pub(crate) struct Renewal {
    introduction: Introduction,
    expires_in: Duration,
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnectRefusal {
    /// The backend does not know it; its reason.
    Unauthorized(String),
    /// The backend knows it, and it may not connect; its reason.
    Forbidden(String),
    /// The backend gave no answer.
    Unavailable,
}

/// What the hook is asked about a connection that is here.
#[derive(Debug, Clone)]
struct KnownClient {
    user: UserId,
    introduction: Arc<Introduction>,
}

/// The connect hook of a node, and the connections that it is to be asked about again.
#[derive(Debug)]
pub(crate) struct ConnectHook {
    hook: Hook,
    hub: Arc<Hub>,
    renewals: Renewals<Fd, KnownClient>,
}

impl ConnectHook {
    pub(crate) fn new(hook: Hook, hub: Arc<Hub>) -> Self {
        Self {
            hook,
            hub,
            renewals: Renewals::new(),
        }
    }

    /// Asks who a client is.
    pub(crate) async fn ask(
        &self,
        introduction: Introduction,
    ) -> Result<Introduced, ConnectRefusal> {
        let asked = self.hook.ask(introduction.question(), ConnectAnswer::parse);
        match Box::pin(asked).await {
            Ok(HookAnswer::Given(answer)) => Ok(Introduced {
                identity: identity(&answer),
                subscribe: answer.subscribe,
                renewal: answer.expires_in.map(|expires_in| Renewal {
                    introduction,
                    expires_in,
                }),
            }),
            Ok(HookAnswer::Refused(status, body)) => {
                let reason = refusal_words(&body, "reason");
                Err(match status {
                    401 => {
                        let words = || "the application does not know this client".to_owned();
                        ConnectRefusal::Unauthorized(reason.unwrap_or_else(words))
                    }
                    _ => {
                        let words = || "the application does not let this client in".to_owned();
                        ConnectRefusal::Forbidden(reason.unwrap_or_else(words))
                    }
                })
            }
            Err(_) => Err(ConnectRefusal::Unavailable),
        }
    }

    /// A connection here depends on an answer that expires.
    pub(crate) fn watch(&self, fd: Fd, user: &UserId, renewal: Renewal) {
        let known = KnownClient {
            user: user.clone(),
            introduction: Arc::new(renewal.introduction),
        };
        self.renewals.put(fd, known, Some(renewal.expires_in));
    }

    /// A connection here depends on something else from now on.
    pub(crate) fn forget(&self, fd: Fd) {
        self.renewals.forget(&fd);
    }

    /// Asks again what is due, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let renew = |fd| {
            let hook = self.clone();
            async move { hook.renew(fd).await }
        };
        self.renewals.keep(|fd| self.hub.holds(*fd), renew).await;
    }

    async fn renew(&self, fd: Fd) {
        let known = self.renewals.value(&fd);
        let Some(KnownClient { user, introduction }) = known else {
            return;
        };
        if !self.hub.holds(fd) {
            return self.forget(fd);
        }
        let question = introduction.renewal(&user, &self.hub.connection_id(fd));
        let asked = self.hook.ask(question, ConnectAnswer::parse).await;
        // The client showed a token meanwhile, or has left.
        if self.renewals.value(&fd).is_none() {
            return;
        }
        let still_counts = match asked {
            Ok(HookAnswer::Given(answer)) if answer.user == user => {
                self.hub.renew(fd, &user, &identity(&answer)).await;
                let known = KnownClient { user, introduction };
                self.renewals.put(fd, known, answer.expires_in);
                true
            }
            Ok(_) => false,
            Err(failure) => {
                let trace = self.hub.trace();
                trace.hook_failed(&user, fd, "connect", failure.label());
                self.renewals.retry(fd)
            }
        };
        if !still_counts {
            self.forget(fd);
            self.hub.close(fd, CloseReason::TokenExpired, None).await;
        }
    }
}

/// The end of an answer is watched here, and not by the connection.
fn identity(answer: &ConnectAnswer) -> Identity {
    Identity {
        grants: answer.grants.clone().map(Arc::new),
        info: answer.info.clone(),
        ..Identity::claimed(answer.user.clone())
    }
}
