//! Asking nodes something and collecting their answers, by a deadline; who gave none is named.
//!
//! Each node is asked on its own channel: lines for one node keep their order, and Redis tells at
//! once where nobody listens. This node answers itself without a detour, so it does also while
//! Redis is away.
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
use crate::protocol::{NodeAnswer, Question, Reply, Wait};

/// A node may be subscribing anew; one that does not listen for this long is missing.
const DEAF: Duration = Duration::from_millis(500);
/// Between two looks whether a node that owes an answer still listens.
const LOOK: Duration = Duration::from_millis(500);
/// Looks in a row that must find it deaf. A subscription that Redis dropped is back before that.
const DEAF_LOOKS: u32 = 3;

/// What nodes said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Who answered, and a JSON object from each; in the order in which they were asked.
    pub answers: Vec<(NodeId, Box<str>)>,
    /// Who did not, or not in time.
    pub missing: Vec<NodeId>,
}

/// What came of asking one node.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Its answer, a JSON object.
    Body(Box<str>),
    /// Nothing by the deadline.
    Nothing,
    /// No subscriber on its channel, so it has not heard the question.
    Deaf,
    /// It is dead, and has not heard the question.
    Dead,
    /// Redis took the question for it, and then nobody listened on its channel any more.
    Lost,
    /// Redis does not say whether it has.
    Away(&'static str),
}

/// Asks on behalf of this node.
#[derive(Debug, Clone)]
pub struct Survey {
    node: NodeId,
    backplane: Arc<Backplane>,
    replies: Arc<Replies>,
    respond: Arc<Respond>,
}

impl Survey {
    /// For the node that `respond` answers for.
    #[must_use]
    pub fn new(
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

    /// Who waits for receipts and answers.
    #[must_use]
    pub fn replies(&self) -> &Replies {
        &self.replies
    }

    /// All live nodes, as of the last beat, and this one in any case.
    #[must_use]
    pub fn all_nodes(&self) -> Vec<NodeId> {
        let records = self.backplane.nodes();
        let mut nodes: Vec<NodeId> = records.iter().map(|record| record.node.clone()).collect();
        if !nodes.contains(&self.node) {
            nodes.push(self.node.clone());
        }
        nodes
    }

    /// Asks these nodes, and waits for their answers until the deadline at most.
    pub async fn ask(&self, nodes: &[NodeId], question: &Question, deadline: Instant) -> Collected {
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
    pub async fn ask_one(&self, node: &NodeId, question: &Question, deadline: Instant) -> Said {
        let mut expected = self.replies.expect_answers(1);
        let line = self.line(question, &expected, deadline);
        let published = self.backplane.publish(node, line, deadline).await;
        match judge(&self.backplane, node, published, deadline).await {
            Reached::Heard => {}
            Reached::Dead => return Said::Dead,
            Reached::Deaf => return Said::Deaf,
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

    /// Until a node has stopped listening. Redis counts a process as a receiver for a moment after
    /// its death, and a question taken in that moment gets no answer.
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
        let reply = Reply {
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

    /// Whether the question may have got to the node.
    async fn reach(&self, node: &NodeId, line: &str, deadline: Instant) -> bool {
        let patience = deadline.min(Instant::now() + DEAF);
        // Without an answer of Redis it may have been published all the same.
        let again = |reached| reached == Reached::Deaf;
        let reached = reach(&self.backplane, node, line, patience, deadline, again).await;
        matches!(reached, Reached::Heard | Reached::Away(_))
    }
}
