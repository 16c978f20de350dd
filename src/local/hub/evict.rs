//! Sending clients away; which connections rest on which session, and who was sent away a moment
//! ago.
//!
//! A client is looked up in Redis before it joins the hub. A ban or a revocation may come in
//! between: it finds nobody to close, and the look-up was too early. So what is heard is
//! remembered for longer than a handshake may take, and looked at again behind the join.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::auth::{Identity, SessionId};
use crate::local::hub::{Hub, Map};
use crate::local::receipt::Receipt;
use crate::local::shard::Command;
use crate::protocol::Target;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, UserId};

/// How long it is remembered who was sent away: longer than any handshake waits for Redis.
const REMEMBERED: Duration = Duration::from_secs(10);
/// And so many at most, the newest.
const MOST_REMEMBERED: usize = 16_384;

/// Sessions that have connections here.
#[derive(Debug, Default)]
pub(crate) struct Bearers(Map<SessionId, SmallVec<[Fd; 1]>>);

impl Bearers {
    pub(crate) fn add(&self, session: SessionId, fd: Fd) {
        self.0.entry(session).or_default().push(fd);
    }

    pub(crate) fn remove(&self, session: SessionId, fd: Fd) {
        // Under the entry's lock, as in `Hub::leave`.
        self.0.remove_if_mut(&session, |_, fds| {
            fds.retain(|one| *one != fd);
            fds.is_empty()
        });
    }

    pub(crate) fn of(&self, session: SessionId) -> SmallVec<[Fd; 1]> {
        let fds = self.0.get(&session);
        fds.map(|fds| fds.clone()).unwrap_or_default()
    }
}

/// Who was sent away.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Barred {
    User(UserId),
    Session(SessionId),
}

/// Who was sent away a moment ago, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recently(Mutex<VecDeque<(Instant, Barred)>>);

impl Recently {
    pub(crate) fn bar_user(&self, user: &UserId) {
        self.note(Barred::User(user.clone()));
    }

    pub(crate) fn bar_session(&self, session: SessionId) {
        self.note(Barred::Session(session));
    }

    fn note(&self, who: Barred) {
        let mut barred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        barred.push_back((Instant::now(), who));
        while barred.len() > MOST_REMEMBERED {
            barred.pop_front();
        }
    }

    /// Why this user, or whoever has this session, was sent away.
    pub(crate) fn why(&self, user: &UserId, session: Option<SessionId>) -> Option<CloseReason> {
        let mut barred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while barred
            .front()
            .is_some_and(|(at, _)| at.elapsed() > REMEMBERED)
        {
            barred.pop_front();
        }
        barred.iter().find_map(|(_, who)| match who {
            Barred::User(one) if one == user => Some(CloseReason::Banned),
            Barred::Session(one) if Some(*one) == session => Some(CloseReason::TokenExpired),
            _ => None,
        })
    }
}

impl Hub {
    /// Ends the local connections of `target`; answers how many. Their receipts are written
    /// once the close is under way.
    pub async fn kick(
        &self,
        target: &Target,
        reason: CloseReason,
        receipt: Option<&Receipt>,
    ) -> u32 {
        // Before the look: whoever joins behind it will see this.
        match target {
            Target::User(user) if reason == CloseReason::Banned => self.recently.bar_user(user),
            Target::Users(users) if reason == CloseReason::Banned => {
                users.iter().for_each(|user| self.recently.bar_user(user));
            }
            _ => {}
        }
        let fds = match target {
            Target::All => self
                .connections
                .iter()
                .map(|e| (*e.key(), e.value().clone()))
                .collect(),
            other => self.matching(other),
        };
        for (fd, _) in &fds {
            self.close(*fd, reason, receipt).await;
        }
        fds.len() as u32
    }

    /// Ends one connection.
    pub async fn close(&self, fd: Fd, reason: CloseReason, receipt: Option<&Receipt>) {
        self.tell(
            fd,
            Command::Close {
                fd,
                reason,
                receipt: receipt.cloned(),
            },
        )
        .await;
    }

    /// Words may have been lost on their way here: somebody may have to go who is still here.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Waits for the next doubt. One that arose while nobody waited counts.
    pub(crate) async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// The sessions that have connections here. A snapshot.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionId> {
        self.bearers.0.iter().map(|entry| *entry.key()).collect()
    }

    /// The connections that rest on this session.
    #[must_use]
    pub fn bearers(&self, session: SessionId) -> SmallVec<[Fd; 1]> {
        self.bearers.of(session)
    }

    /// A connection rests on another token from now on. Nothing happens if it has left.
    pub async fn renew(&self, fd: Fd, user: &UserId, renewed: &Identity) {
        {
            // Under the user's lock, so that a leave can not slip in between and leave the
            // session behind.
            let Some(mut seats) = self.users.get_mut(user) else {
                return;
            };
            let Some(seat) = seats.iter_mut().find(|seat| seat.fd == fd) else {
                return;
            };
            if let Some(old) = seat.rest_on(renewed.session) {
                self.bearers.remove(old, fd);
            }
            if let Some(new) = renewed.session {
                self.bearers.add(new, fd);
            }
        }
        // The end of a session is watched from elsewhere.
        let expires = renewed.expires.filter(|_| renewed.session.is_none());
        let grants = renewed.grants.clone();
        let renew = Command::Renew {
            fd,
            expires,
            grants,
        };
        self.tell(fd, renew).await;
    }

    /// Ends all connections that rest on this session; answers how many.
    pub async fn revoke(&self, session: SessionId) -> usize {
        // Before the look: whoever joins behind it will see this.
        self.recently.bar_session(session);
        let fds = self.bearers(session);
        for fd in &fds {
            self.close(*fd, CloseReason::TokenExpired, None).await;
        }
        fds.len()
    }

    /// Why whoever has just joined may have to leave: it was banned, or its session revoked, a
    /// moment ago.
    #[must_use]
    pub fn barred(&self, user: &UserId, session: Option<SessionId>) -> Option<CloseReason> {
        self.recently.why(user, session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_sent_away_is_remembered_for_a_while() {
        let recently = Recently::default();
        let [ann, bob]: [UserId; 2] = ["ann", "bob"].map(|user| user.parse().unwrap());
        let session = SessionId::of("token");
        recently.bar_user(&ann);
        recently.bar_session(session);
        assert_eq!(recently.why(&ann, None), Some(CloseReason::Banned));
        assert_eq!(recently.why(&bob, None), None);
        assert_eq!(
            recently.why(&bob, Some(session)),
            Some(CloseReason::TokenExpired)
        );
        tokio::time::advance(REMEMBERED + Duration::from_secs(1)).await;
        assert_eq!(recently.why(&bob, Some(session)), None);
    }

    #[test]
    fn sessions_forget_connections_that_left() {
        let bearers = Bearers::default();
        let session = SessionId::of("token");
        bearers.add(session, Fd(1));
        bearers.add(session, Fd(2));
        bearers.remove(session, Fd(1));
        assert_eq!(bearers.of(session)[..], [Fd(2)]);
        bearers.remove(session, Fd(2));
        assert!(bearers.of(session).is_empty() && bearers.0.is_empty());
    }
}
