//! Connections that leave a silent address of their server's name: those that only ask questions (of
//! a Sentinel, or of a node of a cluster that the URL names), and those for commands. What must stay
//! true: where one address of a name is silent, another one is dialled.

use std::time::Duration;

use fred::error::Error;
use fred::prelude::{Client, ClientLike};
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::{COMMAND_BUFFER, build};
use crate::config::redis_url::{Host, ServerUrl};

/// After this long without a connection, the addresses of the name are raced: one that answers has
/// mostly done so by then.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks for servers that commands are routed to and that have no connection.
const LOOK: Duration = Duration::from_millis(500);
/// Payloads that it may hold: it receives none.
const NO_MESSAGES: usize = 16;

pub(super) struct AskedServer {
    url: ServerUrl,
    client: Client,
    connection: JoinHandle<Result<(), Error>>,
    /// When there was last a connection, or the last look at the addresses.
    looked: Instant,
    /// Answers whether another address is to be dialled.
    look: Option<JoinHandle<bool>>,
}

impl Drop for AskedServer {
    fn drop(&mut self) {
        self.connection.abort();
        self.look.iter().for_each(JoinHandle::abort);
    }
}

impl AskedServer {
    /// Starts connecting. `None` if the URL cannot be used.
    pub(super) fn dial(servers: &Servers, url: ServerUrl) -> Option<Self> {
        let pinned = servers.addresses().pin(url.clone());
        let client = build(&pinned.into(), NO_MESSAGES, COMMAND_BUFFER).ok()?;
        Some(Self {
            url,
            connection: client.connect(),
            client,
            looked: Instant::now(),
            look: None,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Looks at the addresses of the name while there is no connection, and turns to another one
    /// that answers. Never waits.
    pub(super) fn check(&mut self, servers: &Servers) {
        if self.client.is_connected() {
            self.looked = Instant::now();
            self.look = None;
            return;
        }
        match self.look.as_mut().map(|look| look.now_or_never()) {
            None if self.looked.elapsed() < PATIENCE => {}
            None => {
                let (servers, url) = (servers.clone(), self.url.clone());
                let look = async move { servers.addresses().choose(&url).await };
                self.look = Some(tokio::spawn(look));
            }
            Some(None) => {}
            Some(Some(is_other)) => {
                (self.look, self.looked) = (None, Instant::now());
                if is_other.unwrap_or(false)
                    && let Some(new) = Self::dial(servers, self.url.clone())
                {
                    *self = new;
                }
            }
        }
    }
}

/// Has the connections for commands dial another address of a server's name, where one is silent,
/// until the node ends. For several servers: `primary` does it for the only one.
pub(super) async fn follow(servers: &Servers) {
    loop {
        tokio::time::sleep(LOOK).await;
        let all = servers.servers();
        let away = all.iter().filter(|server| !server.client.is_connected());
        let hosts = away.filter_map(|server| server.host.as_ref());
        join_all(hosts.map(|host| leave_silent_address(servers, host))).await;
    }
}

async fn leave_silent_address(servers: &Servers, host: &Host) {
    let Some(url) = servers.url().server(host) else {
        return;
    };
    if servers.addresses().choose(&url).await && !is_connected(servers, host) {
        let (name, port) = host;
        tracing::info!("an address of Redis at {name}:{port} answers; turning to it");
        servers.replace(Some(host));
    }
}

/// Whether the connection to this server is up.
fn is_connected(servers: &Servers, host: &Host) -> bool {
    let all = servers.servers();
    let mut all = all.iter();
    all.any(|server| server.host.as_ref() == Some(host) && server.client.is_connected())
}
