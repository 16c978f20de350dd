//! Watches the sessions of connections here, until they end.
//!
//! Any application may renew or remove a session by writing its key, without telling this node. So
//! the key is read again before its end, and every few minutes. A renewed session goes on; near the
//! end the client is warned; if the key is gone, its connections are closed. While Redis is
//! unavailable they stay open.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::authenticator;
use crate::backplane::Backplane;
use crate::backplane::access::Session;
use crate::local::hub::Hub;
use crate::local::shard::command::Command;
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::Fd;
use crate::protocol::session_id::SessionId;

/// How long before the end of its session a client is told so.
const WARNING: Duration = Duration::from_secs(30);
/// Between two looks at a session that is far from its end. A key that was removed without notice
/// is believed for this long.
const LOOK: Duration = Duration::from_secs(300);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at what is due.
const STEP: Duration = Duration::from_secs(1);

/// When to look at which session.
#[derive(Debug, Default)]
struct Plan {
    due: BTreeSet<(Instant, SessionId)>,
    /// The moment in `due`, and whether the client has been warned of this end.
    known: HashMap<SessionId, (Instant, bool)>,
}

impl Plan {
    fn put(&mut self, id: SessionId, at: Instant, warned: bool) {
        if let Some((before, _)) = self.known.insert(id, (at, warned)) {
            self.due.remove(&(before, id));
        }
        self.due.insert((at, id));
    }

    /// Takes out what is due, each with whether its client has been warned.
    fn take(&mut self, now: Instant) -> Vec<(SessionId, bool)> {
        let mut taken = Vec::new();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            let warned = self.known.remove(&id).is_some_and(|(_, warned)| warned);
            taken.push((id, warned));
        }
        taken
    }
}

/// The sessions of one node's connections.
#[derive(Debug)]
pub(crate) struct Sessions {
    plan: Mutex<Plan>,
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
}

impl Sessions {
    pub(crate) fn new(hub: Arc<Hub>, backplane: Arc<Backplane>) -> Self {
        Self {
            plan: Mutex::default(),
            hub,
            backplane,
        }
    }

    /// A connection here depends on this session, which ends then, as far as is known.
    pub(crate) fn watch(&self, id: SessionId, expires: Option<Instant>) {
        let mut plan = self.plan.lock();
        if !plan.known.contains_key(&id) {
            let left = expires.map(|at| at.saturating_duration_since(Instant::now()));
            let (pause, is_near) = until_next(left);
            // A client whose session already nears its end is warned by the next look: at once.
            let pause = if is_near { Duration::ZERO } else { pause };
            plan.put(id, Instant::now() + pause, false);
        }
    }

    /// Has all of them looked at within a second.
    pub(crate) fn look_at_all(&self) {
        self.look_soon(self.hub.sessions());
    }

    /// Has the sessions of these connections looked at within a second.
    pub(crate) fn look_at(&self, fds: impl Iterator<Item = Fd>) {
        self.look_soon(fds.filter_map(|fd| self.hub.session_of(fd)));
    }

    fn look_soon(&self, ids: impl IntoIterator<Item = SessionId>) {
        let mut plan = self.plan.lock();
        for id in ids {
            let warned = plan.known.get(&id).is_some_and(|(_, warned)| *warned);
            plan.put(id, Instant::now(), warned);
        }
    }

    /// Looks at what is due, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut beat = tokio::time::interval(STEP);
        loop {
            beat.tick().await;
            let due = self.plan.lock().take(Instant::now());
            // Sessions whose clients have gone are forgotten.
            let due: Vec<_> = (due.into_iter())
                .filter(|(id, _)| !self.hub.bearers(*id).is_empty())
                .collect();
            if !due.is_empty() {
                self.look(&due).await;
            }
        }
    }

    async fn look(&self, due: &[(SessionId, bool)]) {
        let ids: Vec<SessionId> = due.iter().map(|(id, _)| *id).collect();
        let Ok(sessions) = self.backplane.sessions(&ids).await else {
            for (id, warned) in due {
                self.plan(*id, RETRY, *warned);
            }
            return;
        };
        for ((id, warned), session) in due.iter().zip(sessions) {
            match session {
                Some(session) => self.go_on(*id, &session, *warned).await,
                None => {
                    self.hub.revoke(*id).await;
                }
            }
        }
    }

    async fn go_on(&self, id: SessionId, session: &Session, warned: bool) {
        let Ok(bearer) = authenticator::bearer(id, session) else {
            self.hub.revoke(id).await;
            return;
        };
        let left = (bearer.expires).map(|at| at.saturating_duration_since(Instant::now()));
        let (pause, is_near) = until_next(left);
        let fds = self.hub.bearers(id);
        for fd in fds {
            if self.hub.user_of(fd).is_some_and(|user| user != bearer.user) {
                // Its key was given to another user.
                let reason = CloseReason::TokenExpired;
                self.hub.close(fd, reason, None).await;
            } else if let Some(left) = left.filter(|_| is_near && !warned) {
                let object = protocol::expiring_object(left).into();
                self.hub.tell(fd, Command::Say { fd, object }).await;
            }
        }
        self.plan(id, pause, is_near);
    }

    fn plan(&self, id: SessionId, pause: Duration, warned: bool) {
        let mut plan = self.plan.lock();
        let at = Instant::now() + pause;
        // An earlier look may be wanted since this one began.
        let at = plan
            .known
            .get(&id)
            .map_or(at, |(sooner, _)| at.min(*sooner));
        plan.put(id, at, warned);
    }
}

/// When to look again at a session that has so much time left, and whether its end is near.
fn until_next(left: Option<Duration>) -> (Duration, bool) {
    match left {
        None => (LOOK, false),
        // Looked at just after its end: then it is gone, or was renewed.
        Some(left) if left <= WARNING => (left, true),
        Some(left) => ((left - WARNING).min(LOOK), false),
    }
}
