//! What clients send to services: which stream, whether there is room, and what to tell them.
//!
//! A service reads its stream at its own pace. So that nothing is thrown out unread, a node looks
//! how much of it is unread, at most a second before it adds something, and clients hear `busy`
//! where that is over the bound; the stream holds far more than the bound, because each node learns
//! a little late of what the others add. What must stay true: a client is told `accepted` only when
//! Redis has said so, and where nobody knows, that.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backplane::{Backplane, Unavailable, Unsent, UpstreamEntry};
use crate::config::UpstreamRoutes;
use crate::edge::requests::Refused;
use crate::protocol::ids::{ConnectionId, Fd, NodeId, UserId};
use crate::protocol::{ACCEPTED, Send};
use crate::telemetry::metrics::Metrics;

/// What is known of a backlog is good for this long.
const FRESH: Duration = Duration::from_secs(1);
/// And for this long where the bound is near.
const FRESH_WHEN_NEAR: Duration = Duration::from_millis(100);
/// How long a client may spend on one thing that it sends.
const PATIENCE: Duration = Duration::from_secs(3);
/// When a client that found no room may try again.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the stream of one service.
#[derive(Debug, Default)]
struct Gate {
    seen: Mutex<Seen>,
    /// Entries that this node has added, or is adding, since the last look.
    added: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    backlog: u64,
}

/// Takes what clients of this node send. One for each node.
#[derive(Debug)]
pub struct Upstream {
    node: NodeId,
    routes: UpstreamRoutes,
    gates: HashMap<Arc<str>, Gate>,
    most: u64,
    backplane: Arc<Backplane>,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// With these routes, and `most` unread entries in a service's stream.
    #[must_use]
    pub fn new(
        node: NodeId,
        routes: UpstreamRoutes,
        most: u64,
        backplane: Arc<Backplane>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let services = routes.services();
        let gates = services.map(|service| (service.clone(), Gate::default()));
        Self {
            node,
            gates: gates.collect(),
            routes,
            most,
            backplane,
            metrics,
        }
    }

    /// Adds what a client sends to the stream of its service; answers the fields of the reply.
    pub(crate) async fn send(
        &self,
        fd: Fd,
        user: &UserId,
        reference: Option<&str>,
        send: &Send,
    ) -> Result<String, Refused> {
        let sent = self.add(fd, user, reference, send).await;
        let outcome = match &sent {
            Ok(()) => "accepted",
            Err(refused) => refused.code,
        };
        self.metrics.upstream.get_or_create(&outcome.into()).inc();
        sent.map(|()| ACCEPTED.to_owned())
    }

    async fn add(
        &self,
        fd: Fd,
        user: &UserId,
        reference: Option<&str>,
        send: &Send,
    ) -> Result<(), Refused> {
        if self.routes.is_empty() {
            let words = "nothing can be sent here (PUSH_UPSTREAM_ROUTES)";
            return Err(Refused::new("no_upstream", words));
        }
        let Some((service, gate)) = self
            .routes
            .service(&send.route)
            .and_then(|service| self.gates.get_key_value(service))
        else {
            return Err(Refused::new("no_route", "no service takes this route"));
        };
        let deadline = Instant::now() + PATIENCE;
        if !self.has_room(service, gate, deadline).await? {
            let words = "the service is behind; nothing was added";
            return Err(Refused::new("busy", words).retry_after(RETRY));
        }
        gate.added.fetch_add(1, Ordering::Relaxed);
        let from = ConnectionId {
            node: self.node.clone(),
            fd,
        };
        let entry = UpstreamEntry {
            route: &send.route,
            user,
            from: &from,
            reference,
            data: &send.data,
        };
        let added = self.backplane.add_upstream(service, &entry, deadline).await;
        added.map_err(|unsent| match unsent {
            Unsent::Refused(Unavailable(reason)) => unavailable(reason),
            Unsent::Unknown => {
                let words = "Redis broke off: it may or may not have been added";
                Refused::new("unknown", words)
            }
        })
    }

    /// Whether the service may get one more. Looks at its stream if what is known is old.
    async fn has_room(
        &self,
        service: &str,
        gate: &Gate,
        deadline: Instant,
    ) -> Result<bool, Refused> {
        let mut seen = gate.seen.lock().await;
        let known = |seen: &Seen| seen.backlog + gate.added.load(Ordering::Relaxed);
        let fresh = if known(&seen) * 2 < self.most {
            FRESH
        } else {
            FRESH_WHEN_NEAR
        };
        if seen.at.is_none_or(|at| at.elapsed() >= fresh) {
            // What is added meanwhile may count twice, and never not at all.
            gate.added.store(0, Ordering::Relaxed);
            let backlog = self.backplane.upstream_backlog(service, self.most);
            let backlog = tokio::time::timeout_at(deadline, backlog).await;
            let backlog = backlog.unwrap_or(Err(Unavailable("no answer from Redis in time")));
            seen.backlog = backlog.map_err(|Unavailable(reason)| unavailable(reason))?;
            seen.at = Some(Instant::now());
        }
        Ok(known(&seen) < self.most)
    }
}

fn unavailable(reason: &str) -> Refused {
    let words = format!("{reason}; nothing was added");
    Refused::new("unavailable", words).retry_after(RETRY)
}
