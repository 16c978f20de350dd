//! Sending clients away: by user, by session, or one connection.
//!
//! What must stay true: an eviction is noted in [`evictions`](crate::local::evictions) before
//! connections are looked up, so that a client that joins meanwhile is found by one of the two.

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::auth::identity::Identity;
use crate::local::hub::Hub;
use crate::local::receipt::Receipt;
use crate::local::row_wait::RowWait;
use crate::local::shard::command::Command;
use crate::protocol::Target;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, UserId};
use crate::protocol::session_id::SessionId;

impl Hub {
    /// Ends the local connections of `target`; answers how many. Their receipts are written
    /// once the close is under way.
    pub(crate) async fn kick(
        &self,
        target: &Target,
        reason: CloseReason,
        receipt: Option<&Receipt>,
    ) -> u32 {
        // Before the look: a client that joins after it will see this.
        match target {
            Target::User(user) if reason == CloseReason::Banned => self.recently.bar_user(user),
            Target::Users(users) if reason == CloseReason::Banned => {
                users.iter().for_each(|user| self.recently.bar_user(user));
            }
            _ => {}
        }
        let fds = match target {
            Target::All => self.directory.everyone(),
            other => self.matching(other),
        };
        for (fd, _) in &fds {
            self.close(*fd, reason, receipt).await;
        }
        fds.len() as u32
    }

    /// Ends one connection.
    pub(crate) async fn close(&self, fd: Fd, reason: CloseReason, receipt: Option<&Receipt>) {
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

    /// Commands may have been lost on their way here: a connection that is still here may have
    /// to go.
    pub(crate) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Waits for the next doubt. One that arose without a waiter counts.
    pub(crate) async fn doubted(&self) {
        self.doubts.notified().await;
    }

    /// The sessions that have connections here. A snapshot.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        self.directory.sessions()
    }

    /// The connections that rest on this session.
    pub(crate) fn bearers(&self, session: SessionId) -> SmallVec<[Fd; 1]> {
        self.directory.bearers(session)
    }

    /// The session that a connection rests on.
    pub(crate) fn session_of(&self, fd: Fd) -> Option<SessionId> {
        let user = self.user_of(fd)?;
        let seats = self.seats(&user);
        seats.iter().find(|seat| seat.fd == fd)?.session()
    }

    /// Whether a connection that is here has no place in the order of its user's connections.
    pub(crate) fn lacks_ordinal(&self, fd: Fd, user: &UserId) -> bool {
        let seats = self.seats(user);
        let seat = seats.iter().find(|seat| seat.fd == fd);
        seat.is_some_and(|seat| seat.ordinal().is_none())
    }

    /// Gives a connection its place in that order; the answer resolves once its row says so.
    /// Nothing if it has left.
    pub(crate) fn give_ordinal(&self, fd: Fd, user: &UserId, ordinal: u64) -> Option<RowWait> {
        self.directory.order(fd, user, ordinal).map(RowWait::from)
    }

    /// A connection rests on another token from now on. Nothing happens if it has left.
    pub(crate) async fn renew(&self, fd: Fd, user: &UserId, renewed: &Identity) {
        if !self.directory.rest_on(fd, user, renewed.session) {
            return;
        }
        // The end of a session is watched from elsewhere.
        let expires = renewed.expires.filter(|_| renewed.session.is_none());
        let grants = renewed.grants.clone();
        let renew = Command::Renew {
            fd,
            expires,
            grants,
            info: renewed.info.clone(),
        };
        self.tell(fd, renew).await;
    }

    /// Ends all connections that rest on this session; answers how many.
    pub(crate) async fn revoke(&self, session: SessionId) -> usize {
        // Before the look: a client that joins after it will see this.
        self.recently.bar_session(session);
        let fds = self.bearers(session);
        for fd in &fds {
            self.close(*fd, CloseReason::TokenExpired, None).await;
        }
        fds.len()
    }

    /// Why a client that has just joined may have to leave: it was banned, or its session revoked,
    /// a moment ago.
    pub(crate) fn barred(&self, user: &UserId, session: Option<SessionId>) -> Option<CloseReason> {
        self.recently.why(user, session)
    }

    /// Whether [`Hub::barred`] knows of everyone who was sent away since this moment.
    pub(crate) fn remembers_since(&self, moment: Instant) -> bool {
        self.recently.reach_back_to(moment)
    }
}
