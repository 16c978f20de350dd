//! What a shard hands on: requests of clients, pages to be read for them, and how far they have
//! read.
//!
//! Of these, requests and pages are not bounded by a queue: a connection has one request under way
//! at most, and one page of its inbox and one of its logs.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::local::connection::bookmark::SavedBookmark;
use crate::local::replay::follower::PageAsk;
use crate::local::replay::page::Page;
use crate::protocol::Request;
use crate::protocol::ids::{Fd, Subject, UserId};

/// Most positions that wait to be saved.
const BOOKMARKS: usize = 8_192;

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
    pub(crate) ask: PageAsk,
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
    /// How far clients have read. One that finds no room is saved again with the next.
    pub(crate) bookmarks: mpsc::Sender<SavedBookmark>,
}

/// The other ends.
#[derive(Debug)]
pub(crate) struct ShardOrders {
    pub(crate) asks: mpsc::UnboundedReceiver<PageRequest>,
    pub(crate) requests: mpsc::UnboundedReceiver<ClientRequest>,
    pub(crate) bookmarks: mpsc::Receiver<SavedBookmark>,
}

impl ShardOutputs {
    pub(crate) fn new() -> (Self, ShardOrders) {
        let (asks, asked) = mpsc::unbounded_channel();
        let (requests, requested) = mpsc::unbounded_channel();
        let (bookmarks, saved) = mpsc::channel(BOOKMARKS);
        let outputs = Self {
            asks,
            requests,
            bookmarks,
        };
        let orders = ShardOrders {
            asks: asked,
            requests: requested,
            bookmarks: saved,
        };
        (outputs, orders)
    }
}
