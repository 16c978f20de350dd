//! Bans and ended sessions that this node may not have heard of.
//!
//! Other nodes announce a ban or an ended session once, to the nodes that listen at that moment. So
//! after a possible loss on the way here, every user and session here is looked up again. What must
//! stay true: a suspicion ends only when all that were here have been looked up since it arose.

use std::sync::Arc;
use std::time::Duration;

use crate::access::session_watch::Sessions;
use crate::backplane::Backplane;
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
    /// Looks after each possible loss, for ever.
    pub(crate) async fn serve(self) {
        loop {
            self.hub.doubted().await;
            self.sessions.look_at_all();
            let users = match self.bans {
                true => self.hub.users(),
                false => Vec::new(),
            };
            let mut unknown = self.look_for_bans(users).await;
            while !unknown.is_empty() {
                tokio::time::sleep(RETRY).await;
                unknown.retain(|user| !self.hub.seats(user).is_empty());
                unknown = self.look_for_bans(unknown).await;
            }
        }
    }

    /// Sends away those of these users who are banned; answers who could not be looked up.
    async fn look_for_bans(&self, users: Vec<UserId>) -> Vec<UserId> {
        let mut unknown = Vec::new();
        for users in users.chunks(BATCH) {
            let banned = self.backplane.banned(users).await;
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
        }
        unknown
    }
}
