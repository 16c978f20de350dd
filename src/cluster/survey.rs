//! Asks nodes a question and collects their answers by a deadline; nodes without one are named.
//!
//! Each node is asked on its own channel: lines for one node keep their order, and Redis reports
//! at once if the channel has no subscriber. This node answers itself directly, so it does so even
//! while Redis is unavailable.
//!
//! ```ignore
//! let collected = survey.ask(&survey.all_nodes(), &Question::Stats, deadline).await;
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::cluster::pending::{Expected, Replies};
use crate::cluster::questions::Respond;
use crate::cluster::reach::{Reached, judge, reach};
use crate::protocol;
use crate::protocol::ids::NodeId;
use crate::protocol::{NodeAnswer, Question, ReceiptRequest, Wait};

/// A node may be about to subscribe again; one that does not listen for this long is missing.
const DEAF: Duration = Duration::from_millis(500);
/// The time between two checks that a node that owes an answer still listens.
const LOOK: Duration = Duration::from_millis(500);
/// Checks in a row that must find it deaf. A subscription that Redis dropped returns sooner.
const DEAF_LOOKS: u32 = 3;

/// The collected answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Each node that answered, and its JSON object; in the order in which they were asked.
    pub answers: Vec<(NodeId, Box<str>)>,
    /// The nodes that did not answer, or not in time.
    pub missing: Vec<NodeId>,
}

/// The result of asking one node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its answer, a JSON object.
    Body(Box<str>),
    /// No answer by the deadline.
    Nothing,
    /// The channel has no subscriber, so the node has not received the question.
    Deaf,
    /// The same, and another sender waits for it already.
    Suspect,
    /// The node is dead, and has not received the question.
    Dead,
    /// Redis accepted the question for the node; then the channel lost its subscriber.
    Lost,
    /// Redis gives no answer, for this reason: the node may have received the question.
    Away(&'static str),
}

/// Asks on behalf of this node.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    node: NodeId,
    backplane: Arc<Backplane>,
    replies: Arc<Replies>,
    respond: Arc<Respond>,
}

impl Survey {
    /// A survey for the node that `respond` answers for.
    pub(crate) fn new(
        node: NodeId,
        backplane: Arc<Backplane>,
        replies: Arc<Replies>,
        respond: Arc<Respond>,
    ) -> Self {
        Self {
            node,
            backplane,
            replies,
            respond,
        }
    }

    /// The senders that wait for receipts and answers.
    pub(crate) fn replies(&self) -> &Replies {
        &self.replies
    }

    /// All live nodes, as of the last beat, and always this node.
    pub(crate) fn all_nodes(&self) -> Vec<NodeId> {
        let records = self.backplane.nodes();
        let mut nodes: Vec<NodeId> = records.iter().map(|record| record.node.clone()).collect();
        if !nodes.contains(&self.node) {
            nodes.push(self.node.clone());
        }
        nodes
    }

    /// Asks these nodes, and waits for their answers until the deadline at most.
    pub(crate) async fn ask(
        &self,
        nodes: &[NodeId],
        question: &Question,
        deadline: Instant,
    ) -> Collected {
        let here = async {
            if nodes.contains(&self.node) {
                Some(self.respond.answer(question).await.into())
            } else {
                None
            }
        };
        let (here, mut there) = tokio::join!(here, self.ask_others(nodes, question, deadline));
        there.extend(here.map(|body| (self.node.clone(), body)));
        let mut collected = Collected::default();
        for node in nodes {
            match there.iter().position(|(answered, _)| answered == node) {
                Some(at) => collected.answers.push(there.swap_remove(at)),
                None => collected.missing.push(node.clone()),
            }
        }
        collected
    }

    /// Asks one other node, once.
    pub(crate) async fn ask_one(
        &self,
        node: &NodeId,
        question: &Question,
        deadline: Instant,
    ) -> Said {
        let mut expected = self.replies.expect_answers(1);
        let line = self.line(question, &expected, deadline);
        let published = self.backplane.publish(node, line, deadline).await;
        match judge(&self.backplane, node, published, deadline).await {
            Reached::Heard => {}
            Reached::Dead => return Said::Dead,
            Reached::Deaf => return Said::Deaf,
            Reached::Suspect => return Said::Suspect,
            Reached::Away(reason) => return Said::Away(reason),
        }
        tokio::select! {
            biased;
            answer = tokio::time::timeout_at(deadline, expected.receipts.recv()) => match answer {
                Ok(Some(answer)) => Said::Body(answer.body),
                _ => Said::Nothing,
            },
            () = self.until_lost(node) => Said::Lost,
        }
    }

    /// Waits until a node has stopped listening. Redis counts a process as a receiver for a moment
    /// after its death, and a question accepted in that moment gets no answer.
    async fn until_lost(&self, node: &NodeId) {
        let mut deaf = 0;
        while deaf < DEAF_LOOKS {
            tokio::time::sleep(LOOK).await;
            match self.backplane.is_deaf(node).await {
                Ok(true) => deaf += 1,
                // While Redis does not answer, nothing is known.
                Ok(false) | Err(_) => deaf = 0,
            }
        }
    }

    fn line(
        &self,
        question: &Question,
        expected: &Expected<NodeAnswer>,
        deadline: Instant,
    ) -> String {
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = ReceiptRequest {
            node: self.node.clone(),
            reference: expected.reference.clone(),
            wait: Wait::Written,
            timeout_ms: left.as_millis() as u64,
        };
        protocol::ask_line(question, &reply)
    }

    async fn ask_others(
        &self,
        nodes: &[NodeId],
        question: &Question,
        deadline: Instant,
    ) -> Vec<(NodeId, Box<str>)> {
        let others: Vec<&NodeId> = nodes.iter().filter(|node| **node != self.node).collect();
        let mut expected = self.replies.expect_answers(others.len());
        let line = self.line(question, &expected, deadline);
        let asked = others.iter().map(async |node| {
            let reached = self.reach(node, &line, deadline).await;
            reached.then_some(*node)
        });
        let mut open: Vec<&NodeId> = join_all(asked).await.into_iter().flatten().collect();
        let mut answers = Vec::with_capacity(open.len());
        while !open.is_empty() {
            let answer = tokio::time::timeout_at(deadline, expected.receipts.recv()).await;
            let Ok(Some(answer)) = answer else { break };
            if let Some(at) = open.iter().position(|node| **node == answer.node) {
                open.swap_remove(at);
                answers.push((answer.node, answer.body));
            }
        }
        answers
    }

    /// Whether the question may have reached the node.
    async fn reach(&self, node: &NodeId, line: &str, deadline: Instant) -> bool {
        let patience = deadline.min(Instant::now() + DEAF);
        // If Redis gave no answer, the question may still have been published.
        let again = |reached| reached == Reached::Deaf;
        let reached = reach(&self.backplane, node, line, patience, deadline, again).await;
        matches!(reached, Reached::Heard | Reached::Away(_))
    }
}
