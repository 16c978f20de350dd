//! Bans and ended sessions that this node may not have heard of.
//!
//! Other nodes announce a ban or an ended session once, to the nodes that listen at that moment. So
//! after a possible loss on the way here, every user and session here is looked up again. What must
//! stay true: a suspicion ends only when all that were here have been looked up since it arose.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::access::session_watch::Sessions;
use crate::backplane::Backplane;
use crate::backplane::lanes::in_lanes;
use crate::local::hub::Hub;
use crate::protocol::Target;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;

/// Users looked up together. Between two batches other work gets its turn.
const BATCH: usize = 512;
/// After a look-up that failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct AccessRecheck {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) sessions: Arc<Sessions>,
    /// Whether bans are looked at.
    pub(crate) bans: bool,
}

impl AccessRecheck {
    /// Looks after each possible loss, for ever. Those who cannot be looked up are tried again
    /// meanwhile, and keep no later suspicion waiting.
    pub(crate) async fn serve(self) {
        let mut unknown = Vec::new();
        loop {
            let is_new = tokio::select! {
                () = self.hub.doubted() => true,
                () = tokio::time::sleep(RETRY), if !unknown.is_empty() => false,
            };
            if is_new {
                self.sessions.look_at_all();
                // The unknown are among them, if they are still here.
                unknown = match self.bans {
                    true => self.hub.users(),
                    false => Vec::new(),
                };
            }
            unknown.retain(|user| !self.hub.seats(user).is_empty());
            unknown = self.look_for_bans(unknown).await;
        }
    }

    /// Sends away those of these users who are banned; answers who could not be looked up. The
    /// servers are read side by side: one that is away holds up no user of another.
    async fn look_for_bans(&self, users: Vec<UserId>) -> Vec<UserId> {
        let lanes = in_lanes(users, |user| self.backplane.ban_lane(user));
        let looks = lanes
            .iter()
            .map(async |users| self.look_in_lane(users).await);
        join_all(looks).await.concat()
    }

    /// As [`AccessRecheck::look_for_bans`], for users of one server.
    async fn look_in_lane(&self, users: &[UserId]) -> Vec<UserId> {
        let mut unknown = Vec::new();
        let mut batches = users.chunks(BATCH);
        for users in batches.by_ref() {
            let banned = self.backplane.banned(users).await;
            let is_away = banned.iter().all(Result::is_err);
            for (user, banned) in users.iter().zip(banned) {
                match banned {
                    Ok(true) => {
                        let user = Target::User(user.clone());
                        self.hub.kick(&user, CloseReason::Banned, None).await;
                    }
                    Ok(false) => {}
                    Err(_) => unknown.push(user.clone()),
                }
            }
            // Others would be waited for in vain.
            if is_away {
                break;
            }
        }
        unknown.extend(batches.flatten().cloned());
        unknown
    }
}
