//! How many connections a user may have, in the whole cluster.
//!
//! Each connection has an ordinal from Redis in its row. After a node has written the row of a new
//! connection, it reads all rows of the user and sends away the connections that have no place, the
//! new one perhaps. Of several that come at the same moment on several nodes, the last to read sees
//! the rows of all. A row that the others do not see makes them only more lenient. So at most the
//! allowed number stays, and always the same ones. No clock decides. While Redis is unavailable
//! every connection is let in, and checked afterwards (`late_checks`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::backplane::Backplane;
use crate::backplane::rows::Row;
use crate::config::Config;
use crate::config::auth::SessionPolicy;
use crate::delivery::router::Router;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{ConnectionId, Fd, UserId};

/// Waited before a new connection is refused because of others that may just be leaving.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// The limits; 0 means no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    per_user: u32,
    /// For each device that the user's connections name; those that name none count as one device.
    per_device: u32,
    policy: SessionPolicy,
}

impl ConnectionLimits {
    pub(crate) const fn new(config: &Config) -> Self {
        Self {
            per_user: config.max_connections_per_user,
            per_device: config.max_connections_per_device,
            policy: config.session_policy,
        }
    }

    pub(crate) const fn is_limited(&self) -> bool {
        self.per_user > 0 || self.per_device > 0
    }

    /// The ordinal of a new connection among its user's; none without limits or without Redis.
    pub(crate) async fn ordinal(&self, backplane: &Backplane, user: &UserId) -> Option<u64> {
        if !self.is_limited() {
            return None;
        }
        Box::pin(backplane.next_ordinal(user)).await.ok()
    }

    /// As [`ConnectionLimits::ordinal`]; none also if Redis does not give it in time.
    pub(crate) async fn ordinal_by(
        &self,
        deadline: Instant,
        backplane: &Backplane,
        user: &UserId,
    ) -> Option<u64> {
        if !self.is_limited() {
            return None;
        }
        let ordinal = timeout_at(deadline, self.ordinal(backplane, user));
        ordinal.await.ok().flatten()
    }

    /// Sends away the connections that have no place, now that the row of `own` is written; answers
    /// whether `own` may stay, or nothing if the rows cannot be read.
    pub(crate) async fn settle(
        &self,
        router: &Arc<Router>,
        user: &UserId,
        own: Fd,
    ) -> Option<bool> {
        if !self.is_limited() {
            return Some(true);
        }
        let own = ConnectionId {
            node: router.node().clone(),
            fd: own,
        };
        let mut losers = Box::pin(self.losers(router, user)).await?;
        if self.policy == SessionPolicy::Oldest && losers.contains(&own) {
            tokio::time::sleep(SECOND_LOOK).await;
            losers = Box::pin(self.losers(router, user)).await?;
        }
        let stays = !losers.contains(&own);
        for loser in losers.into_iter().filter(|loser| *loser != own) {
            let router = router.clone();
            // Not awaited: its node may be frozen.
            tokio::spawn(async move {
                router.kick_connection(&loser, CloseReason::Replaced).await;
            });
        }
        Some(stays)
    }

    async fn losers(&self, router: &Router, user: &UserId) -> Option<Vec<ConnectionId>> {
        let rows = router.rows(user).await.ok()?;
        Some(self.choose(rows))
    }

    /// Those of these connections that have no place.
    fn choose(&self, mut rows: Vec<Row>) -> Vec<ConnectionId> {
        // A connection that is being sent to another node must not take its own place there.
        rows.retain(|row| !row.about.leaving);
        let order = |row: &Row| (row.about.n.unwrap_or(0), row.node.to_string(), row.fd);
        rows.sort_by_cached_key(order);
        if self.policy == SessionPolicy::Newest {
            rows.reverse();
        }
        let mut taken = 0;
        let mut by_device: HashMap<Option<String>, u32> = HashMap::new();
        let mut losers = Vec::new();
        for row in rows {
            let on_device = by_device.entry(row.about.device).or_default();
            let fits = (self.per_user == 0 || taken < self.per_user)
                && (self.per_device == 0 || *on_device < self.per_device);
            if fits {
                taken += 1;
                *on_device += 1;
            } else {
                losers.push(ConnectionId {
                    node: row.node,
                    fd: Fd(row.fd),
                });
            }
        }
        losers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::rows::RowValue;

    fn row(fd: u64, n: u64, device: &str) -> Row {
        Row {
            node: "a.1".parse().unwrap(),
            fd,
            about: RowValue {
                n: (n > 0).then_some(n),
                device: (!device.is_empty()).then(|| device.to_owned()),
                ..RowValue::default()
            },
        }
    }

    fn losers(per_user: u32, per_device: u32, policy: SessionPolicy, rows: &[Row]) -> Vec<u64> {
        let limits = ConnectionLimits {
            per_user,
            per_device,
            policy,
        };
        let losers = limits.choose(rows.to_vec());
        let mut fds: Vec<u64> = losers.into_iter().map(|id| id.fd.0).collect();
        fds.sort_unstable();
        fds
    }

    #[test]
    fn the_newest_or_the_oldest_stay() {
        use SessionPolicy::{Newest, Oldest};
        let rows = [row(1, 7, ""), row(2, 9, ""), row(3, 8, ""), row(4, 0, "")];
        assert_eq!(losers(2, 0, Newest, &rows), [1, 4]);
        assert_eq!(losers(2, 0, Oldest, &rows), [2, 3]);
        assert_eq!(losers(4, 0, Newest, &rows), [0; 0]);
        // Equal ordinals: the name decides, everywhere alike.
        let equal = [row(1, 5, ""), row(2, 5, "")];
        assert_eq!(losers(1, 0, Newest, &equal), [1]);
    }

    #[test]
    fn devices_are_counted_apart() {
        use SessionPolicy::{Newest, Oldest};
        let rows = [
            row(1, 1, "phone"),
            row(2, 2, "desk"),
            row(3, 3, "phone"),
            row(4, 4, ""),
            row(5, 5, ""),
        ];
        assert_eq!(losers(0, 1, Newest, &rows), [1, 4]);
        assert_eq!(losers(0, 1, Oldest, &rows), [3, 5]);
        assert_eq!(losers(2, 1, Newest, &rows), [1, 2, 4]);
    }

    #[test]
    fn who_leaves_anyway_takes_no_place() {
        let mut rows = [row(1, 1, ""), row(2, 2, "")];
        rows[0].about.leaving = true;
        assert_eq!(losers(1, 0, SessionPolicy::Oldest, &rows), [0; 0]);
    }

    #[test]
    fn a_row_that_is_missing_makes_the_choice_only_more_lenient() {
        use SessionPolicy::{Newest, Oldest};
        let rng = fastrand::Rng::with_seed(7);
        let mut rng = rng;
        for _ in 0..2_000 {
            let count = rng.u64(1..8);
            let rows: Vec<Row> = (1..=count)
                .map(|fd| row(fd, rng.u64(0..20), ["", "a", "b"][rng.usize(0..3)]))
                .collect();
            let missing = rng.usize(0..rows.len());
            let mut seen = rows.clone();
            seen.remove(missing);
            let (user, device) = (rng.u32(0..4), rng.u32(0..3));
            for policy in [Newest, Oldest] {
                let all = losers(user, device, policy, &rows);
                for loser in losers(user, device, policy, &seen) {
                    assert!(all.contains(&loser), "{rows:#?} without {missing}");
                }
            }
        }
    }
}
