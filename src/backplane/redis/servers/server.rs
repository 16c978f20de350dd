//! The connections for commands to one server: fred's, and the lean one of the pushes.
//!
//! What must stay true: their end does not wait for tasks that still hold them, nor for the
//! server, and they tell nothing any more afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fred::error::Error;
use fred::prelude::{Client, ClientLike, FredResult};
use tokio::task::JoinHandle;

use crate::backplane::redis::servers::dial::ServerDoor;
use crate::backplane::redis::servers::link::{Link, LinkWatch, WatchedLink};
use crate::backplane::redis::servers::vouch::Destination;
use crate::backplane::redis::wire::connection::{Wire, WireTask};
use crate::config::redis_url::Host;

/// Dropping it closes the connection without QUIT, which a frozen server would not receive.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: Option<Host>,
    pub(crate) client: Client,
    connection: JoinHandle<Result<(), Error>>,
    pub(crate) wire: Wire,
    wire_task: WireTask,
    is_over: Arc<AtomicBool>,
    /// None before the first server is known.
    watch: Option<WatchedLink>,
}

impl Server {
    /// Starts connecting. `host` is `None` for the server whose URL is the whole configuration.
    ///
    /// # Errors
    /// What is wrong with the URL or the TLS files.
    pub(crate) fn connect(
        client: Client,
        destination: &Destination,
        host: Option<Host>,
        watch: LinkWatch,
    ) -> FredResult<Self> {
        let at = host.as_ref();
        let at = at.map_or(String::new(), |(host, port)| format!(" at {host}:{port}"));
        let is_over = Arc::<AtomicBool>::default();
        let door = ServerDoor::new(
            destination,
            Link::Pushes,
            watch.clone(),
            at.clone(),
            is_over.clone(),
        )?;
        let (wire, wire_task) = Wire::open(door);
        let watch = watch.start(Link::Commands, client.clone(), at);
        Ok(Self {
            connection: client.connect(),
            host,
            client,
            wire,
            wire_task,
            is_over,
            watch: Some(watch),
        })
    }

    /// Stands for a server that is not known yet; its connections lead nowhere.
    pub(crate) fn unknown(client: Client) -> Self {
        let (wire, wire_task) = Wire::nowhere();
        Self {
            host: None,
            client,
            connection: tokio::spawn(std::future::ready(Ok(()))),
            wire,
            wire_task,
            is_over: Arc::default(),
            watch: None,
        }
    }

    /// Whether all its connections are up.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected() && self.wire.is_connected()
    }

    /// Waits until all its connections are up.
    pub(crate) async fn welcomed(&self) {
        let _ = self.client.wait_for_connect().await;
        self.wire.connected().await;
    }

    /// Closes the connections, although tasks may hold them: their commands fail.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.connection.abort();
        self.wire_task.end();
        if let Some(watch) = &self.watch {
            watch.end();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
