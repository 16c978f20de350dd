//! Users and sessions that were sent away a moment ago.
//!
//! A client is looked up in Redis before it joins the hub. A ban or a revocation may come in
//! between: it finds no connection to close, and the look-up was too early. So each one is
//! remembered for longer than a handshake may take, and looked at again after the join.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;
use crate::protocol::session_id::SessionId;

/// How long an eviction is remembered: longer than any handshake waits for Redis.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most evictions remembered, the newest.
const MOST_REMEMBERED: usize = 16_384;

/// Who was sent away.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Evicted {
    User(UserId),
    Session(SessionId),
}

/// Who was sent away a moment ago, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecentEvictions(Mutex<VecDeque<(Instant, Evicted)>>);

impl RecentEvictions {
    pub(crate) fn bar_user(&self, user: &UserId) {
        self.note(Evicted::User(user.clone()));
    }

    pub(crate) fn bar_session(&self, session: SessionId) {
        self.note(Evicted::Session(session));
    }

    fn note(&self, who: Evicted) {
        let mut barred = self.0.lock();
        barred.push_back((Instant::now(), who));
        while barred.len() > MOST_REMEMBERED {
            barred.pop_front();
        }
    }

    /// Why this user, or the bearer of this session, was sent away.
    pub(crate) fn why(&self, user: &UserId, session: Option<SessionId>) -> Option<CloseReason> {
        let mut barred = self.0.lock();
        while barred
            .front()
            .is_some_and(|(at, _)| at.elapsed() > REMEMBERED)
        {
            barred.pop_front();
        }
        barred.iter().find_map(|(_, who)| match who {
            Evicted::User(one) if one == user => Some(CloseReason::Banned),
            Evicted::Session(one) if Some(*one) == session => Some(CloseReason::TokenExpired),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_sent_away_is_remembered_for_a_while() {
        let recently = RecentEvictions::default();
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
}
