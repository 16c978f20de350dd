//! Answers to the questions of other nodes.
//!
//! A question never makes the reader of the bus wait: each is answered in its own task, and their
//! number is limited. What must stay true: every question whose asker could be parsed gets an
//! answer, even if that is an error.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::nodes::Health;
use crate::local::hub::Hub;
use crate::local::hub::calls::Calls;
use crate::protocol;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;
use crate::protocol::{
    DRAINING_BODY, InvalidInput, MAX_ANSWER_BYTES, NodeAnswer, NodeMembers, NodeStats, Question,
    QueueStats, ReceiptRequest, TotalStats, error_body, kicked_body,
};
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Maximum number of questions of other nodes answered at once; further ones are refused.
const UNDER_WAY: usize = 4_096;

/// What a node needs to answer questions. One per node.
#[derive(Debug)]
pub(crate) struct Respond {
    hub: Arc<Hub>,
    calls: Arc<Calls>,
    backplane: Arc<Backplane>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    started: Instant,
    places: Arc<Semaphore>,
}

impl Respond {
    /// For the node of this hub.
    pub(crate) fn new(
        hub: Arc<Hub>,
        calls: Arc<Calls>,
        backplane: Arc<Backplane>,
        shutdown: Shutdown,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            calls,
            backplane,
            shutdown,
            metrics,
            started: Instant::now(),
            places: Arc::new(Semaphore::new(UNDER_WAY)),
        }
    }

    /// Answers a question from the bus; `under_way` is dropped when the answer is sent.
    pub(crate) fn hear(
        self: &Arc<Self>,
        question: Result<Question, InvalidInput>,
        reply: ReceiptRequest,
        under_way: Arc<()>,
    ) {
        let place = match &question {
            // Calls have their own limit: they wait for clients.
            Ok(Question::Call(_)) => Ok(None),
            _ => self.places.clone().try_acquire_owned().map(Some),
        };
        let this = self.clone();
        tokio::spawn(async move {
            let body = match (place, &question) {
                (Err(_), _) => error_body("busy", "too many questions at once"),
                (Ok(_), Err(fault)) => error_body("bad_question", &fault.to_string()),
                (Ok(place), Ok(question)) => {
                    let body = this.answer(question).await;
                    drop(place);
                    body
                }
            };
            let answer = NodeAnswer {
                reference: reply.reference,
                node: this.hub.node().clone(),
                body: body.into(),
            };
            let line = protocol::answer_line(&answer);
            this.backplane.send(&reply.node, line).await;
            drop(under_way);
        });
    }

    /// This node's answer: a JSON object. Questions are answered only here.
    pub(crate) async fn answer(&self, question: &Question) -> String {
        let body = match question {
            Question::Stats => self.stats(),
            Question::Kick(to) => kicked_body(self.hub.kick(to, CloseReason::Kicked, None).await),
            Question::Drain => {
                self.shutdown.begin();
                DRAINING_BODY.to_owned()
            }
            Question::Call(call) => self.calls.put(call).await.to_body(),
            Question::Trace { user, id } => self.trace(user, id.as_deref()),
            Question::Members(topic) => {
                let (users, info) = self.hub.users_in(topic).await;
                NodeMembers::new(users, info).to_body()
            }
        };
        if body.len() > MAX_ANSWER_BYTES {
            let words = format!("the answer has {} bytes; 1 MiB at most", body.len());
            return error_body("too_large", &words);
        }
        body
    }

    fn trace(&self, user: &UserId, id: Option<&str>) -> String {
        let trace = self.hub.trace();
        if !trace.is_on() {
            return error_body("not_traced", "nothing is traced (PUSH_TRACE is 0)");
        }
        let known = trace.collect(user, id);
        serde_json::to_string(&known).expect("our own types become JSON")
    }

    fn stats(&self) -> String {
        let reason = match *self.backplane.health().borrow() {
            Health::Ready => None,
            Health::Down(reason) => Some(reason),
        };
        let metrics = &self.metrics;
        let stats = NodeStats {
            version: env!("CARGO_PKG_VERSION"),
            state: if self.shutdown.has_begun() {
                "draining"
            } else {
                "up"
            },
            uptime_ms: self.started.elapsed().as_millis() as u64,
            connections: self.hub.len(),
            users: self.hub.user_count(),
            ready: reason.is_none() && !self.shutdown.has_begun(),
            reason,
            backplane: match *self.backplane {
                Backplane::Redis(_) => "redis",
                Backplane::Standalone(_) => "embedded",
            },
            queues: QueueStats {
                shards: self.hub.waiting_commands(),
                outbox: self.backplane.unanswered(),
                rows: self.hub.changes().unwritten(),
                calls: self.calls.waiting(),
            },
            totals: TotalStats {
                connects: metrics.connects.get(),
                deliveries: metrics.deliveries.get(),
                written: metrics.written.get(),
                received: metrics.received.get(),
                envelopes: metrics.envelopes.get(),
            },
        };
        serde_json::to_string(&stats).expect("our own types become JSON")
    }
}
