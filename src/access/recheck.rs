//! Bans and ended sessions that this node may not have been told of.
//!
//! That somebody is to be sent away is said once, and to whoever listens. So when words may have
//! been lost on their way here, everybody who is here is looked up again. What must stay true: a
//! doubt ends only when all who were here have been looked up since it arose.

use std::sync::Arc;
use std::time::Duration;

use crate::access::session_watch::Sessions;
use crate::backplane::{Backplane, Unavailable};
use crate::local::hub::Hub;
use crate::protocol::Target;
use crate::protocol::close::CloseReason;

/// Looked up together. Between two such lots others get their turn.
const LOT: usize = 512;
/// After a look-up that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Doubts {
    pub(crate) hub: Arc<Hub>,
    pub(crate) backplane: Arc<Backplane>,
    pub(crate) sessions: Arc<Sessions>,
    /// Whether bans are looked at.
    pub(crate) bans: bool,
}

impl Doubts {
    /// Looks whenever there is a doubt, for ever.
    pub(crate) async fn settle(self) {
        loop {
            self.hub.doubted().await;
            self.sessions.look_at_all();
            while self.bans && self.look_for_bans().await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn look_for_bans(&self) -> Result<(), Unavailable> {
        for users in self.hub.users().chunks(LOT) {
            let banned = self.backplane.banned(users).await?;
            for (user, _) in users.iter().zip(banned).filter(|(_, banned)| *banned) {
                let user = Target::User(user.clone());
                self.hub.kick(&user, CloseReason::Banned, None).await;
            }
        }
        Ok(())
    }
}
