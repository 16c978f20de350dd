//! Checks of clients that were let in while Redis could not be read, or after a long handshake.
//!
//! Redis must not lock everybody out while it is unavailable, so a client is let in without a
//! look at its user's ban and at the connection limits. That is made up for here as soon as Redis
//! answers. A client whose handshake took long, as a hook was slow, is looked up once more. What
//! must stay true: a check that is owed is dropped only once it was carried out, or the connection
//! has left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::access::connection_limits::ConnectionLimits;
use crate::access::session_watch::Sessions;
use crate::backplane::Backplane;
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

/// A connection that owes a check.
type Owing<'a> = &'a (Fd, UserId);

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

    /// This connection was let in unchecked, or was checked too long ago.
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
            let (known, unknown) = self.check_access(batch).await;
            let settled = known.iter().map(|(fd, user)| self.settle(*fd, user));
            let settled = futures::future::join_all(settled).await;
            let those = known.into_iter().zip(settled);
            unchecked.extend(those.filter(|(_, settled)| !settled).map(|(one, _)| one));
            unchecked.extend(unknown);
        }
        if !unchecked.is_empty() {
            tracing::debug!(count = unchecked.len(), "clients not checked; retrying");
        }
        self.owed
            .lock()
            .extend(unchecked.iter().map(|one| (*one).clone()));
        unchecked.is_empty()
    }

    /// Sends away those whose user is banned, and has their sessions read again. Answers whose ban
    /// could be looked up, and whose could not.
    async fn check_access<'a>(
        &self,
        batch: &'a [(Fd, UserId)],
    ) -> (Vec<Owing<'a>>, Vec<Owing<'a>>) {
        let users: Vec<UserId> = batch.iter().map(|(_, user)| user.clone()).collect();
        let banned = match self.bans {
            true => self.backplane.banned(&users).await,
            false => vec![Ok(false); users.len()],
        };
        let (mut known, mut unknown) = (Vec::with_capacity(batch.len()), Vec::new());
        for ((one, user), banned) in batch.iter().zip(users).zip(banned) {
            match banned {
                Ok(true) => {
                    let user = Target::User(user);
                    self.hub.kick(&user, CloseReason::Banned, None).await;
                    known.push(one);
                }
                Ok(false) => known.push(one),
                Err(_) => unknown.push(one),
            }
        }
        self.sessions.look_at(known.iter().map(|(fd, _)| *fd));
        (known, unknown)
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
