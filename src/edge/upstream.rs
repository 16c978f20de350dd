//! What clients send to services: which stream or hook, whether there is room, and what to tell
//! them.
//!
//! A service reads its stream at its own pace. So that nothing is discarded unread, a node looks
//! how much is unread, at most a second before it adds an entry, and clients hear `busy` where that
//! is over the bound. The stream holds far more than the bound, because each node learns a little
//! late what the others add. What must stay true: a client is told `accepted` only when Redis has
//! said so, and `unknown` where the outcome is not known.
//!
//! A service may be a hook instead. It is asked at most once, and the client hears its answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{LATE, Unavailable, Unsent, UpstreamBacklog, UpstreamEntry};
use crate::config::upstream_routes::{RouteTarget, UpstreamRoutes};
use crate::edge::client_error::ClientError;
use crate::hooks::{Hook, HookAnswer, HookFailure};
use crate::local::hub::Hub;
use crate::protocol::hooks::{
    refusal_words, send_answer_fields, send_failed_fields, send_question,
};
use crate::protocol::ids::{ConnectionId, Fd, UserId};
use crate::protocol::{ACCEPTED, Send};
use crate::telemetry::metrics::Metrics;

/// How long a node believes what it has read of a backlog.
const FRESH: Duration = Duration::from_secs(1);
/// And how long where the bound is near.
const FRESH_WHEN_NEAR: Duration = Duration::from_millis(100);
/// How long one `send` of a client may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// When a client that found no room may try again.
const RETRY: Duration = Duration::from_secs(1);

/// What an entry takes beside its longest fields, about: names of fields, `from`, `ref`.
const OVERHEAD: u64 = 100;

/// What a node knows of the stream of one service.
#[derive(Debug, Default)]
struct ServiceBacklog {
    seen: Mutex<Seen>,
    /// Entries that this node has added, or is adding, since the last look, and their bytes.
    added: AtomicU64,
    added_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    unread: UpstreamBacklog,
}

/// Takes what clients of this node send to services. One for each node.
#[derive(Debug)]
pub(crate) struct Upstream {
    hub: Arc<Hub>,
    /// By URL.
    hooks: HashMap<Arc<str>, Hook>,
    routes: UpstreamRoutes,
    backlogs: HashMap<Arc<str>, ServiceBacklog>,
    most: UpstreamBacklog,
    backplane: Arc<Backplane>,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// `most` is the bound of unread entries in a service's stream, and of its bytes.
    pub(crate) fn new(
        routes: UpstreamRoutes,
        hooks: HashMap<Arc<str>, Hook>,
        most: UpstreamBacklog,
        hub: Arc<Hub>,
        backplane: Arc<Backplane>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let services = routes.services();
        let backlogs = services.map(|service| (service.clone(), ServiceBacklog::default()));
        Self {
            hub,
            hooks,
            backlogs: backlogs.collect(),
            routes,
            most,
            backplane,
            metrics,
        }
    }

    /// Gives what a client sends to its service; answers the fields of the reply.
    pub(crate) async fn send(
        &self,
        fd: Fd,
        user: &UserId,
        reference: Option<&str>,
        send: &Send,
    ) -> Result<String, ClientError> {
        let from = self.hub.connection_id(fd);
        let sent = match self.routes.target(&send.route) {
            Some(RouteTarget::Hook(url)) => {
                let hook = &self.hooks[url];
                self.ask(hook, user, &from, reference, send).await
            }
            Some(RouteTarget::Service(service)) => {
                let added = self.add(service, user, &from, reference, send).await;
                added.map(|()| ("accepted", ACCEPTED.to_owned()))
            }
            None if self.routes.is_empty() => {
                let words = "nothing can be sent here (PUSH_UPSTREAM_ROUTES)";
                Err(ClientError::new("no_upstream", words))
            }
            None => {
                let words = "no service takes this route";
                Err(ClientError::new("no_route", words))
            }
        };
        let outcome = match &sent {
            Ok((outcome, _)) => *outcome,
            Err(refused) => refused.code,
        };
        self.metrics.upstream.get_or_create(&outcome.into()).inc();
        sent.map(|(_, fields)| fields)
    }

    /// Asks the service, once; the client hears its answer. Answers the outcome and the fields of
    /// the reply.
    async fn ask(
        &self,
        hook: &Hook,
        user: &UserId,
        from: &ConnectionId,
        reference: Option<&str>,
        send: &Send,
    ) -> Result<(&'static str, String), ClientError> {
        let question = send_question(user, from, &send.route, reference, &send.data);
        let failed = |words: &str, retry| Ok(("failed", send_failed_fields(words, retry)));
        match hook.ask(question, send_answer_fields).await {
            Ok(HookAnswer::Given(fields)) => Ok(("answered", fields)),
            Ok(HookAnswer::Refused(status, body)) => {
                let words = refusal_words(&body, "error");
                let words = words.unwrap_or_else(|| format!("the service answers {status}"));
                failed(&words, None)
            }
            Err(failure) => {
                let trace = self.hub.trace();
                trace.hook_failed(user, from.fd, "send", failure.label());
                match failure {
                    HookFailure::Full => {
                        let words = "the service is behind; nothing was sent";
                        Err(ClientError::new("busy", words).retry_after(RETRY))
                    }
                    failure if failure.is_unasked() => {
                        let words = "the service cannot be reached; nothing was sent";
                        failed(words, Some(RETRY))
                    }
                    _ => {
                        let words = "the service gave no answer; it may or may not have acted";
                        failed(words, Some(RETRY))
                    }
                }
            }
        }
    }

    async fn add(
        &self,
        service: &Arc<str>,
        user: &UserId,
        from: &ConnectionId,
        reference: Option<&str>,
        send: &Send,
    ) -> Result<(), ClientError> {
        let backlog = &self.backlogs[service];
        let deadline = Instant::now() + PATIENCE;
        if !self.has_room(service, backlog, deadline).await? {
            let words = "the service is behind; nothing was added";
            return Err(ClientError::new("busy", words).retry_after(RETRY));
        }
        let bytes = (send.data.len() + send.route.len() + user.as_str().len()) as u64;
        backlog.added.fetch_add(1, Ordering::Relaxed);
        (backlog.added_bytes).fetch_add(bytes + OVERHEAD, Ordering::Relaxed);
        let entry = UpstreamEntry {
            route: &send.route,
            user,
            from,
            reference,
            data: &send.data,
        };
        let added = self.backplane.add_upstream(service, &entry, deadline).await;
        added.map_err(|unsent| match unsent {
            Unsent::Refused(Unavailable(reason)) => unavailable(reason),
            Unsent::Unknown => {
                let words = "Redis broke off: it may or may not have been added";
                ClientError::new("unknown", words)
            }
        })
    }

    /// Whether the service may get one more entry. Looks at its stream if what is known is old.
    async fn has_room(
        &self,
        service: &str,
        backlog: &ServiceBacklog,
        deadline: Instant,
    ) -> Result<bool, ClientError> {
        let mut seen = backlog.seen.lock().await;
        // The share of each bound that is taken, `times` over.
        let is_below = |seen: &Seen, times: u64| {
            let entries = seen.unread.entries + backlog.added.load(Ordering::Relaxed);
            let bytes = seen.unread.bytes + backlog.added_bytes.load(Ordering::Relaxed);
            entries * times < self.most.entries && bytes * times < self.most.bytes
        };
        let fresh = match is_below(&seen, 2) {
            true => FRESH,
            false => FRESH_WHEN_NEAR,
        };
        if seen.at.is_none_or(|at| at.elapsed() >= fresh) {
            // Entries added meanwhile may count twice, but never zero times.
            backlog.added.store(0, Ordering::Relaxed);
            backlog.added_bytes.store(0, Ordering::Relaxed);
            let unread = self.backplane.upstream_backlog(service, self.most.entries);
            let unread = tokio::time::timeout_at(deadline, unread).await;
            let unread = unread.unwrap_or(Err(Unavailable(LATE)));
            seen.unread = unread.map_err(|Unavailable(reason)| unavailable(reason))?;
            seen.at = Some(Instant::now());
        }
        Ok(is_below(&seen, 1))
    }
}

fn unavailable(reason: &str) -> ClientError {
    let words = format!("{reason}; nothing was added");
    ClientError::new("unavailable", words).retry_after(RETRY)
}
