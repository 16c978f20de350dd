//! Watches the sessions of connections here, until they end.
//!
//! Any application may renew or remove a session by writing its key, without telling this node. So
//! the key is read again before its end, and every few minutes. A renewed session goes on; near the
//! end the client is warned; if the key is gone, its connections are closed. While a key cannot be
//! read, its connections stay open, and those of other sessions are looked at all the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::authenticator;
use crate::backplane::Backplane;
use crate::backplane::access::Session;
use crate::backplane::lanes::in_lanes;
use crate::local::hub::Hub;
use crate::local::shard::command::Command;
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::Fd;
use crate::protocol::session_id::SessionId;

/// How long before the end of its session a client is told so, unless half of a short life is over
/// later.
const WARNING: Duration = Duration::from_secs(30);
/// Between two looks at a session that is far from its end. A key that was removed without notice
/// is believed for this long.
const LOOK: Duration = Duration::from_secs(300);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Sessions looked up together.
const BATCH: usize = 512;
/// Between two looks at what is due.
const STEP: Duration = Duration::from_secs(1);
/// An end that moves by less than this is the same: it is read in whole milliseconds, and a look
/// takes its time.
const SAME_END: Duration = Duration::from_secs(1);

/// Whether the clients of a session have been warned of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Warning {
    /// They are to be, so long before it.
    Ahead(Duration),
    /// They were, of the end at this time.
    Told(Instant),
}

impl Warning {
    /// For a session that has so much time left from now on.
    fn of(left: Option<Duration>) -> Self {
        Self::Ahead(left.map_or(WARNING, |left| WARNING.min(left / 2)))
    }

    /// What holds of a session that is looked at now, and whether its clients are to be warned.
    fn look(self, left: Option<Duration>, now: Instant) -> (Self, bool) {
        let Some(left) = left else {
            return (Self::of(None), false);
        };
        let end = now + left;
        let ahead = match self {
            Self::Told(told) if end <= told + SAME_END => return (self, false),
            Self::Ahead(ahead) if left < 2 * WARNING => ahead,
            // Renewed, or far from its end.
            _ => WARNING.min(left / 2),
        };
        match left <= ahead {
            true => (Self::Told(end), true),
            false => (Self::Ahead(ahead), false),
        }
    }

    /// When to look again.
    fn pause(self, left: Option<Duration>) -> Duration {
        match (self, left) {
            (_, None) => LOOK,
            // Just after its end: then it is gone, or was renewed.
            (Self::Told(_), Some(left)) => left,
            (Self::Ahead(ahead), Some(left)) => left.saturating_sub(ahead).min(LOOK),
        }
    }
}

/// When to look at which session.
#[derive(Debug, Default)]
struct Plan {
    due: BTreeSet<(Instant, SessionId)>,
    /// The moment in `due`, and whether the client has been warned of this end.
    known: HashMap<SessionId, (Instant, Warning)>,
}

impl Plan {
    fn put(&mut self, id: SessionId, at: Instant, warning: Warning) {
        if let Some((before, _)) = self.known.insert(id, (at, warning)) {
            self.due.remove(&(before, id));
        }
        self.due.insert((at, id));
    }

    /// Takes out what is due, each with whether its client has been warned.
    fn take(&mut self, now: Instant) -> Vec<(SessionId, Warning)> {
        let mut taken = Vec::new();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            let known = self.known.remove(&id);
            taken.push((id, known.map_or(Warning::of(None), |(_, warning)| warning)));
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
            let warning = Warning::of(left);
            plan.put(id, Instant::now() + warning.pause(left), warning);
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
            let known = plan.known.get(&id);
            let warning = known.map_or(Warning::of(None), |(_, warning)| *warning);
            plan.put(id, Instant::now(), warning);
        }
    }

    /// Looks at what is due, for ever. A look that waits for a server keeps none of what is due
    /// later waiting.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut beat = tokio::time::interval(STEP);
        let mut looks = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                Some(()) = looks.next() => continue,
            }
            let due = self.plan.lock().take(Instant::now());
            // Sessions whose clients have gone are forgotten.
            let due = (due.into_iter())
                .filter(|(id, _)| !self.hub.bearers(*id).is_empty())
                .collect();
            for due in in_lanes(due, |(id, _)| self.backplane.session_lane(*id)) {
                looks.push(self.look(due));
            }
        }
    }

    /// Looks at sessions of one server, batch by batch.
    async fn look(&self, due: Vec<(SessionId, Warning)>) {
        let mut batches = due.chunks(BATCH);
        for due in batches.by_ref() {
            let ids: Vec<SessionId> = due.iter().map(|(id, _)| *id).collect();
            let sessions = self.backplane.sessions(&ids).await;
            let is_away = sessions.iter().all(Result::is_err);
            for ((id, warning), session) in due.iter().zip(sessions) {
                match session {
                    Ok(Some(session)) => self.go_on(*id, &session, *warning).await,
                    Ok(None) => {
                        self.hub.revoke(*id).await;
                    }
                    Err(_) => self.plan(*id, RETRY, *warning),
                }
            }
            // Others would be waited for in vain.
            if is_away {
                break;
            }
        }
        for (id, warning) in batches.flatten() {
            self.plan(*id, RETRY, *warning);
        }
    }

    async fn go_on(&self, id: SessionId, session: &Session, warning: Warning) {
        let Ok(bearer) = authenticator::bearer(id, session) else {
            self.hub.revoke(id).await;
            return;
        };
        let left = (bearer.expires).map(|at| at.saturating_duration_since(Instant::now()));
        let (warning, is_due) = warning.look(left, Instant::now());
        let fds = self.hub.bearers(id);
        for fd in fds {
            if self.hub.user_of(fd).is_some_and(|user| user != bearer.user) {
                // Its key was given to another user.
                let reason = CloseReason::TokenExpired;
                self.hub.close(fd, reason, None).await;
            } else if let Some(left) = left.filter(|_| is_due) {
                let object = protocol::expiring_object(left).into();
                self.hub.tell(fd, Command::Say { fd, object }).await;
            }
        }
        self.plan(id, warning.pause(left), warning);
    }

    fn plan(&self, id: SessionId, pause: Duration, warning: Warning) {
        let mut plan = self.plan.lock();
        let at = Instant::now() + pause;
        // An earlier look may be wanted since this one began.
        let at = plan
            .known
            .get(&id)
            .map_or(at, |(sooner, _)| at.min(*sooner));
        plan.put(id, at, warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_warning_comes_once_and_not_before_half_of_a_short_life() {
        let now = Instant::now();
        for (life, before) in [(3600, 30), (50, 25), (8, 4)] {
            let first = Warning::of(Some(s(life)));
            assert_eq!(first, Warning::Ahead(s(before)));
            assert_eq!(first.pause(Some(s(life))), s(life - before).min(LOOK));
            let early = first.look(Some(s(before + 1)), now);
            assert_eq!(early, (first, false), "{life}");
            let (told, is_due) = first.look(Some(s(before)), now);
            assert!(is_due, "{life}");
            assert_eq!(told.look(Some(s(1)), now + s(before - 1)), (told, false));
            assert_eq!(told.pause(Some(s(1))), s(1));
            // Renewed by as much, it is told again, at half of what is left.
            let (again, is_due) = told.look(Some(s(life)), now + s(before));
            assert_eq!((again, is_due), (first, false), "{life}");
        }
        assert_eq!(
            Warning::of(None).look(None, now),
            (Warning::of(None), false)
        );
        let endless = Warning::Told(now).look(None, now).0;
        assert_eq!(endless.pause(None), LOOK);
    }
}
