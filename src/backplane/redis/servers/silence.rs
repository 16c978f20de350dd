//! How long a server has said nothing on a connection for commands that counts as up.
//!
//! fred 10.1 measures from the last write, so a connection in use never counts as dead. Compare
//! <https://github.com/aembke/fred.rs/issues/307> (disconnect not always detected). What must stay
//! true: each task that asks a server regularly tells of it here, because the lean connections, which
//! find out by themselves, may work while fred's to the same server is silent.

use std::time::Duration;

use fred::prelude::{Client, ClientLike as _};
use tokio::time::Instant;

use crate::backplane::redis::servers::Servers;
use crate::config::redis_url::Host;

/// After so long another connection is opened. Longer than a command may take.
const SILENT: Duration = Duration::from_secs(4);

/// Of one server.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When it was first asked in vain.
    since: Option<Instant>,
}

impl Silence {
    /// Notes that it was asked over this connection and whether it answered. `host` names it, if
    /// its URL is not the whole configuration.
    pub(super) fn note(
        &mut self,
        servers: &Servers,
        host: Option<&Host>,
        client: &Client,
        answered: bool,
    ) {
        if answered || !client.is_connected() {
            self.since = None;
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > SILENT {
            self.since = None;
            let at = host.map_or(String::new(), |(host, port)| format!(" at {host}:{port}"));
            tracing::warn!("the connection to Redis{at} is silent; opening another");
            servers.replace(host);
        }
    }
}
