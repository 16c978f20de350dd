//! Which server takes which command, and the connections to all servers.
//!
//! With one server there is one route. With Sentinels or a cluster, `sentinel` or `cluster` keeps
//! the routes current; `commands` sends. Each server has its own client, which knows no other
//! server. What must stay true: each send looks up its route again, so that no command goes to a
//! server that has been replaced.
//!
//! fred 10.1: its cluster mode takes the next answer on a busy connection for the answer to
//! ASKING, and its transactions wait without end on a frozen server. So neither is used.

pub(crate) mod cluster;
pub(crate) mod commands;
pub(crate) mod errors;
pub(crate) mod eviction;
pub(crate) mod exclusive;
pub(crate) mod login;
pub(crate) mod sentinel;
pub(crate) mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::interfaces::MetricsInterface;
use fred::prelude::{Client, ClientLike, EventInterface};
use fred::util::redis_keyslot;
use futures::future::join_all;
use parking_lot::RwLock;
use tokio::sync::{Notify, broadcast::error::RecvError, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use crate::backplane::redis::servers::commands::{
    OVERTAKEN, asking, exec, multi, queue,
};
use crate::backplane::redis::servers::errors::{Complaints, redacted};
use crate::backplane::redis::{COMMAND_BUFFER, COMMAND_TIMEOUT, build};
use crate::config::redis_url::{Host, RedisUrl, ServerUrl, Topology};
use crate::telemetry::metrics::Metrics;

/// Maximum number of rows looked up in one pipeline.
pub(crate) const LOOKUPS: usize = 512;
/// Hash slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;
/// A slot that no server serves.
pub(crate) const UNSERVED: u16 = u16::MAX;
/// How long a new server may take to accept the connection before commands are routed to it.
const WELCOME: Duration = Duration::from_millis(700);
/// Payloads that fred may hold for a connection that only publishes: it receives none.
const NO_MESSAGES: usize = 512;

/// A handle; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Servers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: RedisUrl,
    /// This node's channel: the server that has it also gets the broadcasts.
    own: String,
    global: String,
    routes: RwLock<Arc<SlotMap>>,
    /// Counts events after which Redis may have forgotten this node: reconnects and new servers.
    breaks: watch::Sender<u64>,
    /// Counts changes of the routes.
    turns: watch::Sender<u64>,
    /// Woken by errors that may mean that the routes are out of date.
    doubt: Notify,
    /// When a server was last replaced by one that may have less data.
    turned: RwLock<Option<Instant>>,
    complaints: Complaints,
    /// Live nodes, as of the last beat.
    population: AtomicU32,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(crate) struct SlotMap {
    servers: Vec<Arc<Server>>,
    /// For each slot an index into `servers`, or [`UNSERVED`]. `None`: the first has all keys.
    slots: Option<Box<[u16]>>,
}

/// One connection for commands. Dropping it closes the connection without QUIT, which a frozen
/// server would not receive.
#[derive(Debug)]
pub(crate) struct Server {
    /// `None` for the server whose URL is the whole configuration.
    pub(crate) host: Option<Host>,
    pub(crate) client: Client,
    connection: JoinHandle<Result<(), Error>>,
    watch: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.connection.abort();
        self.watch.abort();
    }
}

impl SlotMap {
    fn index(&self, key: &str) -> usize {
        let owner = |slots: &[u16]| slots[usize::from(redis_keyslot(key.as_bytes()))];
        match self.slots.as_deref().map_or(0, owner) {
            // Any server answers with the reason.
            UNSERVED => 0,
            index => usize::from(index),
        }
    }

    fn server(&self, key: &str) -> &Arc<Server> {
        &self.servers[self.index(key)]
    }
}

impl Servers {
    /// Starts connecting if there is only one server. Otherwise commands fail until
    /// [`Servers::lead`] or [`Servers::lead_to`] sets the routes.
    pub(crate) fn new(
        url: &RedisUrl,
        own: String,
        global: String,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let (breaks, _) = watch::channel(0);
        let one = *url.topology() == Topology::One;
        // Until the routes are known, a client without a connection refuses commands.
        let (waiting, doubt) = (if one { COMMAND_BUFFER } else { 1 }, Notify::new());
        let client = build(&url.one(), NO_MESSAGES, waiting)?;
        let server = if one {
            started(client, None, breaks.clone(), metrics.clone())
        } else {
            let (connection, watch) = (
                tokio::spawn(std::future::ready(Ok(()))),
                tokio::spawn(async {}),
            );
            Server {
                host: None,
                client,
                connection,
                watch,
            }
        };
        let routes = SlotMap {
            servers: vec![Arc::new(server)],
            slots: None,
        };
        Ok(Self(Arc::new(Shared {
            url: url.clone(),
            own,
            global,
            routes: RwLock::new(Arc::new(routes)),
            breaks,
            turns: watch::channel(0).0,
            doubt,
            turned: RwLock::default(),
            complaints: Complaints::default(),
            population: AtomicU32::new(0),
            metrics,
        })))
    }

    pub(crate) fn url(&self) -> &RedisUrl {
        &self.0.url
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn is_clustered(&self) -> bool {
        matches!(self.0.url.topology(), Topology::Cluster { .. })
    }

    fn routes(&self) -> Arc<SlotMap> {
        self.0.routes.read().clone()
    }

    /// The connection to the server that has this key now.
    pub(crate) fn at(&self, key: &str) -> Client {
        let routes = self.0.routes.read();
        routes.server(key).client.clone()
    }

    /// Where a key is now; used to detect a move.
    pub(crate) fn host_of(&self, key: &str) -> Option<Host> {
        self.routes().server(key).host.clone()
    }

    /// The server that has this key now.
    pub(crate) fn url_of(&self, key: &str) -> Option<ServerUrl> {
        match self.host_of(key) {
            Some(host) => self.0.url.server(&host),
            None if *self.0.url.topology() == Topology::One => Some(self.0.url.one()),
            // Not known yet.
            None => None,
        }
    }

    /// All servers, for questions that each must answer.
    pub(crate) fn servers(&self) -> Vec<Arc<Server>> {
        self.routes().servers.clone()
    }

    /// Sets the gauges of connections and of the commands that wait for them.
    pub(crate) fn gauge(&self) {
        let (servers, metrics) = (self.servers(), &self.0.metrics);
        let connected = servers.iter().filter(|server| server.client.is_connected());
        metrics.redis_connected.set(connected.count() as i64);
        metrics.redis_servers.set(servers.len() as i64);
        let waiting = servers
            .iter()
            .map(|server| server.client.command_queue_len());
        metrics.queue("redis", waiting.max().unwrap_or(0), COMMAND_BUFFER);
    }

    /// Wakes at each change of the routes.
    pub(crate) fn turns(&self) -> watch::Receiver<u64> {
        self.0.turns.subscribe()
    }

    /// Wakes whenever Redis may have forgotten this node.
    pub(crate) fn breaks(&self) -> watch::Receiver<u64> {
        self.0.breaks.subscribe()
    }

    /// Whether a server was replaced within this time: other nodes may still be rewriting rows.
    pub(crate) fn has_turned_within(&self, time: Duration) -> bool {
        let turned = *self.0.turned.read();
        turned.is_some_and(|at| at.elapsed() < time)
    }

    /// Notes how many nodes are live.
    pub(crate) fn note_population(&self, nodes: usize) {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        self.0.population.store(nodes, Ordering::Relaxed);
    }

    /// Notes a failure. If it may mean that the routes are out of date, wakes their check.
    pub(crate) fn note(&self, error: &Error) {
        self.0.complaints.note(error);
        let kind = errors::kind(error);
        self.0
            .metrics
            .redis_errors
            .get_or_create(&kind.into())
            .inc();
        let stale = matches!(
            error.kind(),
            ErrorKind::Cluster | ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled
        ) || ["READONLY", "MASTERDOWN", "LOADING"]
            .iter()
            .any(|word| error.details().starts_with(word));
        if stale {
            self.0.doubt.notify_one();
        }
    }

    /// Waits until a failure puts the routes in doubt.
    pub(crate) async fn doubted(&self) {
        self.0.doubt.notified().await;
    }

    /// Routes commands to these servers from now on. Connections to servers that stay are kept,
    /// others are closed; new servers get a moment to connect first.
    pub(crate) async fn lead(&self, hosts: Vec<Host>, slots: Box<[u16]>) {
        let old = self.routes();
        let mut servers = Vec::with_capacity(hosts.len());
        let mut new = Vec::new();
        for host in hosts {
            let kept = old
                .servers
                .iter()
                .find(|server| server.host.as_ref() == Some(&host));
            let server = match kept {
                Some(server) => server.clone(),
                None => match self.dial(host).map(Arc::new) {
                    Some(server) => {
                        new.push(server.clone());
                        server
                    }
                    // Its name is not a valid address.
                    None => return,
                },
            };
            servers.push(server);
        }
        let welcomes = new.iter().map(|server| server.client.wait_for_connect());
        let _ = tokio::time::timeout(WELCOME, join_all(welcomes)).await;
        let slots = Some(slots);
        if !new.is_empty() {
            self.note_turn();
        }
        self.install(SlotMap { servers, slots });
        if !new.is_empty() {
            self.0.breaks.send_modify(|count| *count += 1);
        }
    }

    /// Routes all commands to this one server.
    pub(crate) fn lead_to(&self, server: Server) {
        self.note_turn();
        self.install(SlotMap {
            servers: vec![Arc::new(server)],
            slots: None,
        });
        self.0.breaks.send_modify(|count| *count += 1);
    }

    /// A connection to a server, not yet part of the routes.
    pub(crate) fn dial(&self, host: Host) -> Option<Server> {
        let url = self.0.url.server(&host)?;
        let client = build(&url, NO_MESSAGES, COMMAND_BUFFER)
            .inspect_err(
                |error| tracing::error!(error = %redacted(error), "cannot connect to Redis"),
            )
            .ok()?;
        let (breaks, metrics) = (self.0.breaks.clone(), self.0.metrics.clone());
        Some(started(client, Some(host), breaks, metrics))
    }

    /// Opens a new connection to a server that is silent although its connection is up. The old
    /// connection is closed with all waiting commands, whose callers get an error.
    ///
    /// fred 10.1: measures from the last write, so a connection in use never counts as dead.
    /// Compare <https://github.com/aembke/fred.rs/issues/307> (disconnect not always detected).
    pub(crate) fn replace(&self, silent: Option<&Host>) {
        let routes = self.routes();
        let Some(index) = routes
            .servers
            .iter()
            .position(|server| server.host.as_ref() == silent)
        else {
            return;
        };
        let server = match silent {
            Some(host) => self.dial(host.clone()),
            None => build(&self.0.url.one(), NO_MESSAGES, COMMAND_BUFFER)
                .ok()
                .map(|client| {
                    let (breaks, metrics) = (self.0.breaks.clone(), self.0.metrics.clone());
                    started(client, None, breaks, metrics)
                }),
        };
        let Some(server) = server else {
            return;
        };
        let mut servers = routes.servers.clone();
        servers[index] = Arc::new(server);
        let slots = routes.slots.clone();
        self.install(SlotMap { servers, slots });
    }

    /// Set before the new routes, so that no reader trusts rows missing at the new server.
    fn note_turn(&self) {
        // The first server that is found replaces no other.
        if self.routes().servers[0].host.is_some() {
            let mut turned = self.0.turned.write();
            *turned = Some(Instant::now());
        }
    }

    fn install(&self, routes: SlotMap) {
        *self.0.routes.write() = Arc::new(routes);
        self.0.turns.send_modify(|count| *count += 1);
        self.0.metrics.redis_turns.inc();
    }

    /// Closes all connections with QUIT.
    pub(crate) async fn quit(&self) {
        let servers = self.servers();
        let goodbyes = servers.iter().map(|server| server.client.quit());
        let _ = tokio::time::timeout(COMMAND_TIMEOUT, join_all(goodbyes)).await;
    }
}

fn started(
    client: Client,
    host: Option<Host>,
    breaks: watch::Sender<u64>,
    metrics: Arc<Metrics>,
) -> Server {
    let watch = watch_connection(client.clone(), host.clone(), breaks, metrics);
    let watch = tokio::spawn(watch);
    Server {
        connection: client.connect(),
        host,
        client,
        watch,
    }
}

/// Logs once that the connection broke and once that it is back, not at each attempt.
async fn watch_connection(
    client: Client,
    host: Option<Host>,
    breaks: watch::Sender<u64>,
    metrics: Arc<Metrics>,
) {
    let mut errors = client.error_rx();
    let mut connects = client.reconnect_rx();
    let mut down = false;
    let server = host.map_or(String::new(), |(host, port)| format!(" at {host}:{port}"));
    loop {
        tokio::select! {
            error = errors.recv() => match error {
                Ok((error, _)) if !down => {
                    down = true;
                    tracing::warn!(error = %redacted(&error), "no connection to Redis{server}; retrying");
                }
                Err(RecvError::Closed) => return,
                _ => {}
            },
            connected = connects.recv() => match connected {
                Ok(_) => {
                    down = false;
                    metrics.redis_connects.inc();
                    tracing::info!("connected to Redis{server}");
                    breaks.send_modify(|count| *count += 1);
                }
                Err(RecvError::Closed) => return,
                Err(_) => {}
            },
        }
    }
}
