//! Which way a line goes: to one node, or to all of them.

use fred::types::Value;
use tokio::time::Instant;

use crate::backplane::answers::{Published, Unavailable};
use crate::backplane::nodes::Standing;
use crate::backplane::redis::Redis;
use crate::protocol;
use crate::protocol::ids::NodeId;

impl Redis {
    pub(crate) async fn publish(
        &self,
        node: &NodeId,
        line: String,
        deadline: Instant,
    ) -> Published {
        if self.is_counted_in_vain(node).await {
            return Published::now(Ok(0));
        }
        self.outboxes.publish(Some(node), line, deadline).await
    }

    pub(crate) async fn publish_together(
        &self,
        node: &NodeId,
        lines: Vec<(String, Instant)>,
    ) -> Vec<Published> {
        if self.is_counted_in_vain(node).await {
            return lines.iter().map(|_| Published::now(Ok(0))).collect();
        }
        self.outboxes.publish_together(node, lines).await
    }

    /// Whether the node is dead: Redis may still count it as a receiver, and no process reads what
    /// it is sent.
    async fn is_counted_in_vain(&self, node: &NodeId) -> bool {
        // Boxed: rare, and every push would carry its room.
        self.is_believed_dead(node) && Box::pin(self.standing(node)).await == Ok(Standing::Dead)
    }

    pub(crate) async fn publish_all(&self, line: String, deadline: Instant) -> Published {
        if self.servers.is_clustered() {
            return Published::now(Box::pin(self.publish_to_each(line, deadline)).await);
        }
        self.outboxes.publish(None, line, deadline).await
    }

    /// In a cluster, PUBLISH is answered before all servers have passed the payload on, so a later
    /// line to one user could overtake it. Here every node gets the line on its own channel, in
    /// order with all other lines. Nodes that do not listen there get it on the channel of all.
    async fn publish_to_each(&self, line: String, deadline: Instant) -> Result<u32, Unavailable> {
        // The table of the last beat lacks the newest nodes; Redis lacks those it just forgot.
        let boots = self.servers.call("SMEMBERS", &self.keys.boots(), &[]).await;
        let boots: Vec<String> = boots
            .and_then(Value::convert)
            .map_err(|error| self.away(&error))?;
        let mut nodes: Vec<NodeId> = boots.iter().filter_map(|node| node.parse().ok()).collect();
        nodes.extend(self.lease.nodes().iter().map(|record| record.node.clone()));
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|node| node != self.lease.node());
        let mut sent = Vec::with_capacity(nodes.len());
        for node in nodes {
            let published = self.publish(&node, line.clone(), deadline).await;
            sent.push((node, published));
        }
        let mut served = Vec::with_capacity(sent.len());
        for (node, published) in sent {
            // A node that does not listen may listen again in a moment, or is dead.
            if published.receivers(deadline).await? > 0 {
                served.push(node);
            }
        }
        let line = protocol::line_but(&line, &served);
        let published = self.outboxes.publish(None, line, deadline).await;
        // That count covers only the subscribers of one server. The 1 below is this node.
        published.receivers(deadline).await?;
        Ok(served.len() as u32 + 1)
    }
}
