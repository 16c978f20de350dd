//! Checks of clients that were let in while Redis could not be read.
//!
//! Redis must not lock everybody out while it is unavailable, so a client is let in without a
//! look at its user's ban and at the connection limits. That is made up for here as soon as Redis
//! answers. What must stay true: a check that is owed is dropped only once it was carried out, or
//! the connection has left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::access::connection_limits::ConnectionLimits;
use crate::access::session_watch::Sessions;
use crate::backplane::Backplane;
use crate::backplane::answers::Unavailable;
use crate::delivery::router::Router;
use crate::local::hub::Hub;
use crate::local::hub::await_rows::ROW_PATIENCE;
use crate::protocol::Target;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{Fd, UserId};

/// Connections checked together. Between two batches other work gets its turn.
const BATCH: usize = 512;
/// After a look-up that failed.
const RETRY: Duration = Duration::from_millis(250);

/// The checks that connections here still owe. One for each node.
#[derive(Debug)]
pub(crate) struct LateChecks {
    /// Connections whose user's ban, session and limits were not looked up. Those that have left
    /// are removed with the next attempt.
    owed: Mutex<HashMap<Fd, UserId>>,
    notify: Notify,
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    router: Arc<Router>,
    sessions: Arc<Sessions>,
    limits: ConnectionLimits,
    /// Whether bans are looked at.
    bans: bool,
}

impl LateChecks {
    pub(crate) fn new(
        router: Arc<Router>,
        hub: Arc<Hub>,
        backplane: Arc<Backplane>,
        sessions: Arc<Sessions>,
        limits: ConnectionLimits,
        bans: bool,
    ) -> Self {
        Self {
            owed: Mutex::default(),
            notify: Notify::new(),
            hub,
            backplane,
            router,
            sessions,
            limits,
            bans,
        }
    }

    /// This connection was let in unchecked.
    pub(crate) fn owe(&self, fd: Fd, user: &UserId) {
        self.owed.lock().insert(fd, user.clone());
        self.notify.notify_one();
    }

    /// Carries out what is owed, for ever.
    pub(crate) async fn serve(self: Arc<Self>) {
        loop {
            self.notify.notified().await;
            while !self.check_all().await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Checks all connections that owe it; answers whether none is left.
    async fn check_all(&self) -> bool {
        let mut owed: Vec<(Fd, UserId)> = self.owed.lock().drain().collect();
        owed.retain(|(fd, _)| self.hub.holds(*fd));
        let mut unchecked = Vec::new();
        for batch in owed.chunks(BATCH) {
            match self.check_access(batch).await {
                Ok(()) => {
                    let settled = batch.iter().map(|(fd, user)| self.settle(*fd, user));
                    let settled = futures::future::join_all(settled).await;
                    let those = batch.iter().zip(settled);
                    unchecked.extend(those.filter(|(_, settled)| !settled).map(|(one, _)| one));
                }
                Err(error) => {
                    tracing::debug!(%error, "clients not checked; retrying");
                    unchecked.extend(batch);
                }
            }
        }
        self.owed
            .lock()
            .extend(unchecked.iter().map(|one| (*one).clone()));
        unchecked.is_empty()
    }

    /// Sends away those whose user is banned, and has their sessions read again.
    async fn check_access(&self, batch: &[(Fd, UserId)]) -> Result<(), Unavailable> {
        if self.bans {
            let users: Vec<UserId> = batch.iter().map(|(_, user)| user.clone()).collect();
            let banned = self.backplane.banned(&users).await?;
            for (user, _) in users.into_iter().zip(banned).filter(|(_, banned)| *banned) {
                let user = Target::User(user);
                self.hub.kick(&user, CloseReason::Banned, None).await;
            }
        }
        self.sessions.look_at(batch.iter().map(|(fd, _)| *fd));
        Ok(())
    }

    /// Sends away the connections of this user that have no place. Answers whether that could be
    /// decided.
    async fn settle(&self, fd: Fd, user: &UserId) -> bool {
        if self.limits.is_limited() && self.hub.lacks_ordinal(fd, user) {
            let Some(ordinal) = self.limits.ordinal(&self.backplane, user).await else {
                return false;
            };
            let Some(mut row) = self.hub.give_ordinal(fd, user, ordinal) else {
                return true;
            };
            if tokio::time::timeout(ROW_PATIENCE, row.written())
                .await
                .is_err()
            {
                return false;
            }
        }
        match self.limits.settle(&self.router, user, fd).await {
            Some(true) => true,
            Some(false) => {
                self.hub.close(fd, CloseReason::Replaced, None).await;
                true
            }
            None => false,
        }
    }
}
