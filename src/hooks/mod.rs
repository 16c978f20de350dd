//! Hooks: questions that a node asks a backend by HTTP, and what keeps a bad backend from costing
//! more than those who need it.
//!
//! One POST of JSON, a JSON answer, a deadline. Each hook (a use and a URL) has its own slots, its
//! own queue and its own breaker, so that a backend that hangs delays only those who ask it. What
//! must stay true: nothing waits without bound; nothing that a client said stands in a log.

mod breaker;

mod signer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::clock::since_1970;
use crate::config::Config;
use crate::hooks::breaker::{Breaker, BreakerTurn};
use crate::hooks::signer::Signer;
use crate::http_client::{
    HttpAnswer, HttpBounds, HttpClient, HttpFailure, HttpPool, HttpUrl, Over,
};
use crate::protocol::InvalidInput;
use crate::protocol::ids::NodeId;
use crate::protocol::secret::Secret;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::ThrottleByKind;

/// Maximum bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Questions that may wait for each slot of a hook.
const WAITING_PER_SLOT: usize = 64;
/// How long a question waits for a slot.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two lines in the log about one kind of failure of a hook.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// What a hook is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookKind {
    /// Who a client is, and whether it may stay.
    Connect,
    /// Whether a connection may have a topic.
    Subscribe,
    /// What a service says to what a client sends.
    Send,
}

impl HookKind {
    /// As in metrics, logs and traces.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Send => "send",
        }
    }

    /// Whether a question may be asked twice if the connection breaks. What a client sends is
    /// carried out at most once.
    const fn may_repeat(self) -> bool {
        matches!(self, Self::Connect | Self::Subscribe)
    }

    /// Whether this status is an answer of the backend: no.
    const fn is_refusal(self, status: u16) -> bool {
        match self {
            Self::Connect | Self::Subscribe => matches!(status, 401 | 403),
            Self::Send => 400 <= status && status < 500,
        }
    }
}

/// What a hook answered.
#[derive(Debug)]
pub(crate) enum HookAnswer<T> {
    Given(T),
    /// With this status, and this body.
    Refused(u16, Bytes),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookFailure {
    /// Too many questions wait, or this one has waited too long.
    Full,
    /// The breaker is open.
    Open,
    /// The status says that the backend has failed, or that it is not the backend.
    Status(u16),
    /// The answer is not what it should be.
    Invalid,
    Http(HttpFailure),
}

impl HookFailure {
    /// As in metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Open => "open",
            Self::Status(_) => "failed",
            Self::Invalid | Self::Http(HttpFailure::TooLong) => "invalid",
            Self::Http(HttpFailure::TimedOut) => "timeout",
            Self::Http(HttpFailure::Unreachable) => "unreachable",
            Self::Http(HttpFailure::Broken) => "broken",
        }
    }

    /// Whether the backend has certainly not seen the question.
    pub(crate) const fn is_unasked(self) -> bool {
        matches!(
            self,
            Self::Full | Self::Open | Self::Http(HttpFailure::Unreachable)
        )
    }
}

/// What all hooks of a node share.
pub(crate) struct Hooks {
    client: HttpClient,
    signer: Signer,
    node: NodeId,
    /// Questions asked so far, for their ids.
    asked: AtomicU64,
    slots: usize,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Hooks {
    pub(crate) fn new(config: &Config, node: &NodeId, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            client: HttpClient::new(),
            signer: Signer::new(&config.hook_secret),
            node: node.clone(),
            asked: AtomicU64::new(0),
            slots: config.hook_concurrency,
            timeout: config.hook_timeout_ms,
            metrics: metrics.clone(),
        })
    }

    /// Signs with other secrets from now on.
    pub(crate) fn replace_secrets(&self, secrets: &[Secret]) {
        self.signer.replace(secrets);
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// One hook.
#[derive(Debug)]
pub(crate) struct Hook {
    hooks: Arc<Hooks>,
    kind: HookKind,
    /// Its connections; one for each slot that is taken, at most.
    pool: HttpPool,
    slots: Semaphore,
    waiting: AtomicUsize,
    breaker: Breaker,
    failures: ThrottleByKind,
}

impl Hook {
    /// # Errors
    /// What is wrong with the URL.
    pub(crate) fn new(hooks: &Arc<Hooks>, kind: HookKind, url: &str) -> Result<Self, String> {
        let parsed = HttpUrl::parse(url);
        let url = parsed.map_err(|error| format!("the URL of a {} hook: {error}", kind.name()))?;
        Ok(Self {
            kind,
            pool: HttpPool::new(&hooks.client, url),
            slots: Semaphore::new(hooks.slots),
            waiting: AtomicUsize::new(0),
            breaker: Breaker::default(),
            failures: ThrottleByKind::new(LOG_PAUSE),
            hooks: hooks.clone(),
        })
    }

    /// Asks the backend; `read` makes something of its answer.
    pub(crate) async fn ask<T>(
        &self,
        question: String,
        read: impl FnOnce(&[u8]) -> Result<T, InvalidInput>,
    ) -> Result<HookAnswer<T>, HookFailure> {
        let asked = self.ask_in_turn(question.into(), read).await;
        let outcome = match &asked {
            Ok(HookAnswer::Given(_)) => "answered",
            Ok(HookAnswer::Refused(..)) => "refused",
            Err(failure) => failure.label(),
        };
        let metrics = &self.hooks.metrics;
        let counter = match self.kind {
            HookKind::Connect => &metrics.hook_connect,
            HookKind::Subscribe => &metrics.hook_subscribe,
            HookKind::Send => &metrics.hook_send,
        };
        counter.get_or_create(&outcome.into()).inc();
        if let Err(failure) = &asked {
            self.log_failure(*failure);
        }
        asked
    }

    async fn ask_in_turn<T>(
        &self,
        question: Bytes,
        read: impl FnOnce(&[u8]) -> Result<T, InvalidInput>,
    ) -> Result<HookAnswer<T>, HookFailure> {
        // Not counted as the one that is let through: it may wait long before it goes.
        if !self.breaker.may_let_through() {
            return Err(HookFailure::Open);
        }
        let _slot = self.slot().await?;
        if !self.breaker.lets_through() {
            return Err(HookFailure::Open);
        }
        let answer = self.post(question).await.map_err(HookFailure::Http);
        let judged = answer.and_then(|answer| self.judge(answer, read));
        match self.breaker.note(judged.is_ok()) {
            Some(BreakerTurn::Opened) => {
                let (hook, url) = (self.kind.name(), self.pool.url().shown());
                tracing::warn!(
                    hook,
                    url,
                    "hook fails; it is asked once a second until it answers"
                );
            }
            Some(BreakerTurn::Closed) => {
                let (hook, url) = (self.kind.name(), self.pool.url().shown());
                tracing::info!(hook, url, "hook answers again");
            }
            None => {}
        }
        judged
    }

    async fn slot(&self) -> Result<SemaphorePermit<'_>, HookFailure> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok(slot);
        }
        let _place = QueuePlace::take(&self.waiting, self.hooks.slots * WAITING_PER_SLOT)?;
        let slot = tokio::time::timeout(QUEUE_PATIENCE, self.slots.acquire()).await;
        // Never closed.
        slot.ok().and_then(Result::ok).ok_or(HookFailure::Full)
    }

    /// Posts the question, again if the connection breaks and that does no harm: the backend may
    /// just have closed a connection that was not in use. It may close all others in the same
    /// moment, as one that restarts does, so the second time goes over a new one.
    async fn post(&self, question: Bytes) -> Result<HttpAnswer, HttpFailure> {
        let began = Instant::now();
        let id = self.hooks.asked.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{id}", self.hooks.node);
        let mut answer = self
            .post_once(&id, question.clone(), began, Over::Any)
            .await;
        if matches!(answer, Err(HttpFailure::Broken)) && self.kind.may_repeat() {
            answer = self.post_once(&id, question, began, Over::New).await;
        }
        let seconds = &self.hooks.metrics.hook_seconds;
        let seconds = seconds.get_or_create(&self.kind.name().into());
        seconds.observe(began.elapsed().as_secs_f64());
        answer
    }

    async fn post_once(
        &self,
        id: &str,
        question: Bytes,
        began: Instant,
        over: Over,
    ) -> Result<HttpAnswer, HttpFailure> {
        let signature = self.hooks.signer.header(since_1970().as_secs(), &question);
        let bounds = HttpBounds {
            time: self.hooks.timeout.saturating_sub(began.elapsed()),
            bytes: MAX_ANSWER_BYTES,
        };
        let headers = [("pushnode-id", id), ("pushnode-signature", &*signature)];
        self.pool.post(headers, question, bounds, over).await
    }

    fn judge<T>(
        &self,
        answer: HttpAnswer,
        read: impl FnOnce(&[u8]) -> Result<T, InvalidInput>,
    ) -> Result<HookAnswer<T>, HookFailure> {
        match answer.status {
            200..300 => match read(&answer.body) {
                Ok(given) => Ok(HookAnswer::Given(given)),
                Err(fault) => {
                    let fault = fault.unquoted();
                    tracing::debug!(hook = self.kind.name(), %fault, "answer of a hook not taken");
                    Err(HookFailure::Invalid)
                }
            },
            status if self.kind.is_refusal(status) => Ok(HookAnswer::Refused(status, answer.body)),
            status => Err(HookFailure::Status(status)),
        }
    }

    /// Any client can cause a question, as often as it likes.
    fn log_failure(&self, failure: HookFailure) {
        if let Some(unlogged) = self.failures.pass(failure.label()) {
            let (hook, url, count) = (self.kind.name(), self.pool.url().shown(), unlogged + 1);
            tracing::warn!(hook, url, reason = %failure, count, "hook gave no answer");
        }
    }
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("too many questions wait for it"),
            Self::Open => f.write_str("it has failed several times in a row"),
            Self::Status(status) => write!(f, "it answers the status {status}"),
            Self::Invalid => f.write_str("its answer is not what it should be"),
            Self::Http(failure) => failure.fmt(f),
        }
    }
}

/// A place in the queue of a hook.
struct QueuePlace<'a>(&'a AtomicUsize);

impl<'a> QueuePlace<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Result<Self, HookFailure> {
        let place = Self(waiting);
        match waiting.fetch_add(1, Ordering::Relaxed) < most {
            true => Ok(place),
            false => Err(HookFailure::Full),
        }
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
