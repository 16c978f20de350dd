//! Clients whose identity a backend knows: it is asked by a hook who they are, and again when its
//! answer has expired.
//!
//! What must stay true: a connection that the backend refuses again is closed; one that it cannot be
//! asked about stays for a while, so that a backend that restarts does not send everybody away.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::auth::identity::Identity;
use crate::hooks::{Hook, HookAnswer};
use crate::local::hub::Hub;
use crate::protocol::close::CloseReason;
use crate::protocol::hooks::{ConnectAnswer, Introduction, refusal_words};
use crate::protocol::ids::{ConnectionId, Fd, Topic, UserId};

/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(250);
/// Questions under way about connections that are here, so that new clients find slots.
const MOST_RENEWALS: usize = 16;
/// After a question without an answer; up to as much again by chance.
const RETRY: Duration = Duration::from_secs(5);
/// How long a connection stays without an answer, unless the last answer held for longer.
const GRACE: Duration = Duration::from_secs(60);
/// Between two looks for connections that have left.
const SWEEP: Duration = Duration::from_secs(60);

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

/// A connection whose answer expires.
#[derive(Debug, Clone)]
struct Expiring {
    user: UserId,
    introduction: Arc<Introduction>,
    /// For how long the last answer held.
    period: Duration,
    /// When it ended.
    expired: Instant,
    /// When to ask.
    due: Instant,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeSet<(Instant, Fd)>,
    /// Those that are being asked about are here, and not in `due`.
    known: HashMap<Fd, Expiring>,
}

impl State {
    fn put(&mut self, fd: Fd, watched: Expiring) {
        let due = watched.due;
        self.forget(fd);
        self.known.insert(fd, watched);
        self.due.insert((due, fd));
    }

    fn forget(&mut self, fd: Fd) {
        if let Some(before) = self.known.remove(&fd) {
            self.due.remove(&(before.due, fd));
        }
    }

    fn take(&mut self, now: Instant) -> Vec<Fd> {
        let mut taken = Vec::new();
        while let Some((due, fd)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            taken.push(fd);
        }
        taken
    }
}

/// The connect hook of a node, and the connections that it is to be asked about again.
#[derive(Debug)]
pub(crate) struct ConnectHook {
    hook: Hook,
    hub: Arc<Hub>,
    state: Mutex<State>,
    renewals: Arc<Semaphore>,
}

impl ConnectHook {
    pub(crate) fn new(hook: Hook, hub: Arc<Hub>) -> Self {
        Self {
            hook,
            hub,
            state: Mutex::default(),
            renewals: Arc::new(Semaphore::new(MOST_RENEWALS)),
        }
    }

    /// Asks who a client is.
    pub(crate) async fn ask(
        &self,
        introduction: Introduction,
    ) -> Result<Introduced, ConnectRefusal> {
        let asked = self.hook.ask(introduction.question(), ConnectAnswer::parse);
        match asked.await {
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
        let expired = Instant::now() + renewal.expires_in;
        let watched = Expiring {
            user: user.clone(),
            introduction: Arc::new(renewal.introduction),
            period: renewal.expires_in,
            expired,
            due: expired,
        };
        self.state.lock().put(fd, watched);
    }

    /// A connection here depends on something else from now on.
    pub(crate) fn forget(&self, fd: Fd) {
        self.state.lock().forget(fd);
    }

    /// Asks again whatever is due, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut beat = tokio::time::interval(STEP);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            beat.tick().await;
            let now = Instant::now();
            if now - swept >= SWEEP {
                swept = now;
                self.sweep();
            }
            let due = self.state.lock().take(now);
            for fd in due {
                let slot = self.renewals.clone().acquire_owned().await;
                let slot = slot.expect("never closed");
                let hook = self.clone();
                tokio::spawn(async move {
                    hook.renew(fd).await;
                    drop(slot);
                });
            }
        }
    }

    fn sweep(&self) {
        let mut state = self.state.lock();
        let State { due, known } = &mut *state;
        known.retain(|fd, watched| {
            let stays = self.hub.holds(*fd);
            if !stays {
                due.remove(&(watched.due, *fd));
            }
            stays
        });
    }

    async fn renew(&self, fd: Fd) {
        let watched = self.state.lock().known.get(&fd).cloned();
        let Some(watched) = watched else { return };
        if !self.hub.holds(fd) {
            return self.forget(fd);
        }
        let connection = ConnectionId {
            node: self.hub.node().clone(),
            fd,
        };
        let question = watched.introduction.renewal(&watched.user, &connection);
        let asked = self.hook.ask(question, ConnectAnswer::parse).await;
        // The client showed a token meanwhile, or has left.
        if !self.state.lock().known.contains_key(&fd) {
            return;
        }
        match asked {
            Ok(HookAnswer::Given(answer)) if answer.user == watched.user => {
                self.go_on(fd, watched, &answer).await;
            }
            Ok(_) => self.end(fd).await,
            Err(failure) => {
                let trace = self.hub.trace();
                trace.hook_failed(&watched.user, fd, "connect", failure.label());
                self.wait(fd, watched).await;
            }
        }
    }

    async fn go_on(&self, fd: Fd, watched: Expiring, answer: &ConnectAnswer) {
        self.hub.renew(fd, &watched.user, &identity(answer)).await;
        match answer.expires_in {
            None => self.forget(fd),
            Some(period) => {
                let expired = Instant::now() + period;
                let watched = Expiring {
                    period,
                    expired,
                    due: expired,
                    ..watched
                };
                self.state.lock().put(fd, watched);
            }
        }
    }

    /// There was no answer: asks again soon, or gives the connection up.
    async fn wait(&self, fd: Fd, watched: Expiring) {
        let now = Instant::now();
        if now >= watched.expired + watched.period.max(GRACE) {
            return self.end(fd).await;
        }
        let due = now + RETRY.mul_f64(1.0 + fastrand::f64());
        self.state.lock().put(fd, Expiring { due, ..watched });
    }

    async fn end(&self, fd: Fd) {
        self.forget(fd);
        self.hub.close(fd, CloseReason::TokenExpired, None).await;
    }
}

/// The end of an answer is watched here, and not by the connection.
fn identity(answer: &ConnectAnswer) -> Identity {
    Identity {
        grants: answer.grants.clone().map(Arc::new),
        ..Identity::claimed(answer.user.clone())
    }
}
