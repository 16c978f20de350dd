//! What a shard hands on: requests of clients, and pages to be read for them.
//!
//! Neither is bounded by a queue: a connection has one request under way at most, and one page
//! of its inbox and one of its logs.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::local::replay::page::Page;
use crate::protocol::Request;
use crate::protocol::ids::{Fd, Subject, UserId};
use crate::protocol::position::Since;

/// What a client asks of its node.
#[derive(Debug)]
pub(crate) struct ClientRequest {
    pub(crate) fd: Fd,
    pub(crate) user: UserId,
    pub(crate) request: Request,
}

/// A connection wants the next page.
#[derive(Debug)]
pub(crate) struct PageRequest {
    pub(crate) fd: Fd,
    /// Whose inbox, or which topic's log.
    pub(crate) subject: Subject,
    pub(crate) since: Since,
    /// Gets the page instead of the connection, if it still waits then.
    pub(crate) told: Option<oneshot::Sender<Arc<Page>>>,
}

/// Where shards hand on what others are to do.
#[derive(Debug, Clone)]
pub(crate) struct ShardOutputs {
    /// What connections want to read of inboxes and logs.
    pub(crate) asks: mpsc::UnboundedSender<PageRequest>,
    /// What clients ask of the node.
    pub(crate) requests: mpsc::UnboundedSender<ClientRequest>,
}
