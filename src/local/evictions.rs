//! Users and sessions that were sent away a moment ago.
//!
//! A client is looked up in Redis before it joins the hub. A ban or a revocation may come in
//! between: it finds no connection to close, and the look-up was too early. So each one is
//! remembered for a while, and looked at again after the join. What must stay true: where less is
//! remembered than since the look-up, [`RecentEvictions::reach_back_to`] says so, and the client
//! is looked up again.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;
use crate::protocol::session_id::SessionId;

/// How long an eviction is remembered: longer than any handshake waits for Redis. It may wait
/// longer for a hook.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most evictions remembered, the newest.
const MOST_REMEMBERED: usize = 16_384;

/// Who was sent away.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Evicted {
    User(UserId),
    Session(SessionId),
}

/// Who was sent away a moment ago.
#[derive(Debug, Default)]
pub(crate) struct RecentEvictions(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    /// The oldest first.
    evictions: VecDeque<(Instant, Evicted)>,
    /// When the newest was that is forgotten for want of room.
    crowded_out: Option<Instant>,
}

impl RecentEvictions {
    pub(crate) fn bar_user(&self, user: &UserId) {
        self.note(Evicted::User(user.clone()));
    }

    pub(crate) fn bar_session(&self, session: SessionId) {
        self.note(Evicted::Session(session));
    }

    fn note(&self, who: Evicted) {
        let mut barred = self.0.lock();
        barred.evictions.push_back((Instant::now(), who));
        while barred.evictions.len() > MOST_REMEMBERED {
            let oldest = barred.evictions.pop_front();
            barred.crowded_out = oldest.map(|(at, _)| at);
        }
    }

    /// Whether everyone is still remembered who was sent away after this moment.
    pub(crate) fn reach_back_to(&self, moment: Instant) -> bool {
        let crowded_out = self.0.lock().crowded_out;
        moment.elapsed() < REMEMBERED && crowded_out.is_none_or(|at| at < moment)
    }

    /// Why this user, or the bearer of this session, was sent away.
    pub(crate) fn why(&self, user: &UserId, session: Option<SessionId>) -> Option<CloseReason> {
        let barred = &mut self.0.lock().evictions;
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

    #[tokio::test(start_paused = true)]
    async fn it_is_known_how_far_back_evictions_are_remembered() {
        let recently = RecentEvictions::default();
        let began = Instant::now();
        assert!(recently.reach_back_to(began));
        tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
        assert!(recently.reach_back_to(began));
        let crowd: UserId = "crowd".parse().unwrap();
        (0..MOST_REMEMBERED).for_each(|_| recently.bar_user(&crowd));
        assert!(recently.reach_back_to(began), "all have room");
        recently.bar_user(&crowd);
        assert!(!recently.reach_back_to(began), "one has lost its room");
        tokio::time::advance(Duration::from_secs(1)).await;
        let later = Instant::now();
        assert!(recently.reach_back_to(later));
        tokio::time::advance(REMEMBERED).await;
        assert!(!recently.reach_back_to(later));
    }
}
