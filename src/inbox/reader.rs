//! Reads inboxes for connections that are behind.
//!
//! One task for the node; so many reads at a time and no more, so that ten thousand clients
//! that must look at their inboxes do not keep Redis from anything else.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use super::Since;
use crate::backplane::Backplane;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::names::{Fd, UserId};
use crate::shard::Command;

/// Reads at a time.
const AT_ONCE: usize = 64;
/// Between two attempts while the inbox cannot be read.
const RETRY: Duration = Duration::from_millis(250);

/// A connection wants the next page.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) fd: Fd,
    pub(crate) user: UserId,
    pub(crate) since: Since,
}

/// Serves what shards ask for, until they are gone. Each connection has one ask open at most.
pub(crate) async fn serve(
    asks: mpsc::UnboundedReceiver<Ask>,
    hub: Arc<Hub>,
    backplane: Arc<Backplane>,
    metrics: Arc<Metrics>,
) {
    let asks = futures::stream::unfold(asks, async |mut asks| {
        let ask = asks.recv().await?;
        Some((ask, asks))
    });
    asks.for_each_concurrent(AT_ONCE, |Ask { fd, user, since }| {
        let (hub, backplane, metrics) = (&hub, &backplane, &metrics);
        async move {
            metrics.catch_ups.inc();
            while hub.holds(fd) {
                match backplane.read_inbox(&user, since).await {
                    Ok(page) => {
                        let messages = page.messages.len() as u64;
                        let trace = hub.trace();
                        trace.caught_up(&user, fd, messages, page.is_continuous);
                        hub.tell(fd, Command::Page { fd, page }).await;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%fd, %error, "inbox not read; trying on");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            metrics.inbox_asks.dec();
        }
    })
    .await;
}
