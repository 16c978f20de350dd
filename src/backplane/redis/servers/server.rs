//! One connection for commands.
//!
//! What must stay true: its end does not wait for tasks that still hold it, nor for the server, and
//! it tells nothing any more afterwards.

use fred::error::Error;
use fred::prelude::{Client, ClientLike};
use tokio::task::JoinHandle;

use crate::backplane::redis::servers::link::{Link, LinkWatch, WatchedLink};
use crate::config::redis_url::Host;

/// Dropping it closes the connection without QUIT, which a frozen server would not receive.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: Option<Host>,
    pub(crate) client: Client,
    connection: JoinHandle<Result<(), Error>>,
    /// None before the first server is known.
    watch: Option<WatchedLink>,
}

impl Server {
    /// Starts connecting. `host` is `None` for the server whose URL is the whole configuration.
    pub(crate) fn connect(client: Client, host: Option<Host>, watch: LinkWatch) -> Self {
        let at = host.as_ref();
        let at = at.map_or(String::new(), |(host, port)| format!(" at {host}:{port}"));
        let watch = watch.start(Link::Commands, client.clone(), at);
        Self {
            connection: client.connect(),
            host,
            client,
            watch: Some(watch),
        }
    }

    /// Stands for a server that is not known yet; its client does not connect.
    pub(crate) fn unknown(client: Client) -> Self {
        Self {
            host: None,
            client,
            connection: tokio::spawn(std::future::ready(Ok(()))),
            watch: None,
        }
    }

    /// Closes the connection, although tasks may hold it: their commands fail.
    pub(crate) fn end(&self) {
        self.connection.abort();
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
