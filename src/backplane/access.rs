//! Access data in the backplane: sessions, bans, and the order in which a user's connections
//! were opened.

use std::time::Duration;

use crate::backplane::Backplane;
use crate::backplane::answers::Unavailable;
use crate::protocol::ids::UserId;
use crate::protocol::position::EntryId;
use crate::protocol::session_id::SessionId;

/// A session: its claims, and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// A user id, or claims as JSON; not parsed here.
    pub claims: String,
    /// The time until it ends; `None` if it does not end.
    pub left: Option<Duration>,
}

/// A ban of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ban {
    /// The reason as the operator gave it; may be empty.
    pub reason: String,
    /// The time until it ends; `None` if it does not end.
    pub left: Option<Duration>,
}

/// Ordinals per millisecond. Further ones are equal; then the connection's name decides.
const PER_MS: u64 = 1_000;

/// An entry id as one number that is still exact where all numbers are doubles.
pub(super) fn ordinal(id: EntryId) -> u64 {
    id.ms * PER_MS + id.seq.min(PER_MS - 1)
}

impl Backplane {
    /// These sessions, in this order; `None` where there is no session of that name, an error where
    /// it cannot be read.
    pub(crate) async fn sessions(
        &self,
        ids: &[SessionId],
    ) -> Vec<Result<Option<Session>, Unavailable>> {
        match self {
            Self::Standalone(standalone) => {
                let sessions = standalone.access().sessions(ids);
                sessions.into_iter().map(Ok).collect()
            }
            Self::Redis(redis) => redis.access.sessions(ids).await,
        }
    }

    /// Equal for sessions that are read from the same server.
    pub(crate) fn session_lane(&self, id: SessionId) -> usize {
        match self {
            Self::Standalone(_) => 0,
            Self::Redis(redis) => redis.access.session_lane(id),
        }
    }

    /// Equal for users whose bans are read from the same server.
    pub(crate) fn ban_lane(&self, user: &UserId) -> usize {
        match self {
            Self::Standalone(_) => 0,
            Self::Redis(redis) => redis.access.ban_lane(user),
        }
    }

    /// Writes a session.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be there.
    pub(crate) async fn open_session(
        &self,
        id: SessionId,
        claims: String,
        lasts: Duration,
    ) -> Result<(), Unavailable> {
        match self {
            Self::Standalone(standalone) => {
                standalone.access().open_session(id, claims, lasts);
                Ok(())
            }
            Self::Redis(redis) => redis.access.open_session(id, claims, lasts).await,
        }
    }

    /// Removes a session; returns whether it existed.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be there.
    pub(crate) async fn close_session(&self, id: SessionId) -> Result<bool, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.access().close_session(id)),
            Self::Redis(redis) => redis.access.close_session(id).await,
        }
    }

    /// The user's ban.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn ban(&self, user: &UserId) -> Result<Option<Ban>, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.access().ban(user)),
            Self::Redis(redis) => redis.access.ban(user).await,
        }
    }

    /// Whether the user is banned.
    ///
    /// # Errors
    /// When the ban cannot be read.
    pub(crate) async fn is_banned(&self, user: &UserId) -> Result<bool, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.access().ban(user).is_some()),
            Self::Redis(redis) => redis.access.is_banned(user).await,
        }
    }

    /// Which of these users are banned, in this order; an error where the ban cannot be read.
    pub(crate) async fn banned(&self, users: &[UserId]) -> Vec<Result<bool, Unavailable>> {
        match self {
            Self::Standalone(standalone) => {
                let banned = |user| Ok(standalone.access().ban(user).is_some());
                users.iter().map(banned).collect()
            }
            Self::Redis(redis) => redis.access.banned(users).await,
        }
    }

    /// Bans a user from now on, for a while. Existing connections stay open.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may or may not be banned.
    pub(crate) async fn put_ban(
        &self,
        user: &UserId,
        reason: String,
        lasts: Duration,
    ) -> Result<(), Unavailable> {
        match self {
            Self::Standalone(standalone) => {
                standalone.access().put_ban(user, reason, lasts);
                Ok(())
            }
            Self::Redis(redis) => redis.access.put_ban(user, reason, lasts).await,
        }
    }

    /// Lifts a ban; returns whether there was one.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be lifted.
    pub(crate) async fn lift_ban(&self, user: &UserId) -> Result<bool, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.access().lift_ban(user)),
            Self::Redis(redis) => redis.access.lift_ban(user).await,
        }
    }

    /// The next place in the order of a user's connections: higher than all before it, on any
    /// node.
    ///
    /// # Errors
    /// When no ordinal can be assigned.
    pub(crate) async fn next_ordinal(&self, user: &UserId) -> Result<u64, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.access().next_ordinal()),
            Self::Redis(redis) => redis.access.next_ordinal(user).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_exact_as_doubles_and_grow() {
        let year_2100 = EntryId {
            ms: 4_102_444_800_000,
            seq: u64::MAX,
        };
        assert!(ordinal(year_2100) < 1 << 53);
        let ids = [(5, 0), (5, 1), (5, 999), (6, 0)].map(|(ms, seq)| ordinal(EntryId { ms, seq }));
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
