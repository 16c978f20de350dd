//! Which server takes which command, and the connections to all servers.
//!
//! With one server there is one route, and `primary` looks whether its name still leads to the
//! primary. With Sentinels or a cluster, `sentinel` or `cluster` keeps the routes current;
//! `commands` sends. Each server has its own client, which knows no other
//! server. What must stay true: each send looks up its route again, so that no command goes to a
//! server that has been replaced.
//!
//! fred 10.1: its cluster mode takes the next answer on a busy connection for the answer to
//! ASKING, and its transactions wait without end on a frozen server. So neither is used.

mod addresses;
mod asked;
pub(crate) mod cluster;
pub(crate) mod commands;
pub(crate) mod dial;
pub(crate) mod errors;
pub(crate) mod eviction;
pub(crate) mod exclusive;
pub(crate) mod link;
pub(crate) mod login;
pub(crate) mod primary;
pub(crate) mod pushes;
pub(crate) mod role;
pub(crate) mod sentinel;
pub(crate) mod server;
mod silence;
pub(crate) mod tls;
pub(crate) mod vouch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::interfaces::MetricsInterface;
use fred::prelude::{Client, ClientLike};
use fred::util::redis_keyslot;
use futures::future::join_all;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::backplane::redis::servers::addresses::AddressBook;
pub(crate) use crate::backplane::redis::servers::commands::{OVERTAKEN, exec, multi, queue};
use crate::backplane::redis::servers::errors::{Complaints, redacted};
use crate::backplane::redis::servers::link::{Link, LinkFaults, LinkWatch};
use crate::backplane::redis::servers::server::Server;
use crate::backplane::redis::servers::vouch::{Destination, Vouchers};
use crate::backplane::redis::{COMMAND_BUFFER, COMMAND_TIMEOUT, build};
use crate::config::redis_url::{Host, RedisUrl, ServerUrl, Topology};
use crate::telemetry::metrics::Metrics;

/// Maximum number of rows looked up in one pipeline.
pub(crate) const LOOKUPS: usize = 512;
/// Hash slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;
/// A slot that no server serves.
pub(crate) const UNSERVED: u16 = u16::MAX;
/// How long other nodes may take to follow to a new primary.
const FOLLOWED: Duration = Duration::from_secs(5);
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
    faults: Arc<LinkFaults>,
    routes: RwLock<Arc<SlotMap>>,
    /// Counts events after which Redis may have forgotten this node: reconnects and new servers.
    breaks: watch::Sender<u64>,
    /// Counts changes of the routes.
    turns: watch::Sender<u64>,
    /// Woken by errors that may mean that the routes are out of date.
    doubt: Arc<Notify>,
    /// Who vouches for a server; `None` without Sentinels.
    vouchers: Option<Vouchers>,
    /// How often the only server's name was looked up again because it led to a replica.
    searches: AtomicU64,
    /// Which addresses of the servers' names answered.
    addresses: AddressBook,
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

/// Where a key is; it changes when the key's server is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServerPlace {
    /// `None` for the server whose URL is the whole configuration.
    pub(crate) host: Option<Host>,
    /// How often that URL's name was looked up again because it led to a replica.
    search: u64,
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
        let faults = Arc::<LinkFaults>::default();
        let one = *url.topology() == Topology::One;
        // Until the routes are known, a client without a connection refuses commands.
        let waiting = if one { COMMAND_BUFFER } else { 1 };
        let client = build(&url.one().into(), NO_MESSAGES, waiting)?;
        let doubt = Arc::<Notify>::default();
        let has_sentinels = matches!(url.topology(), Topology::Sentinel { .. });
        let server = if one {
            let (faults, breaks, metrics) = (faults.clone(), breaks.clone(), metrics.clone());
            let watch = LinkWatch {
                faults,
                breaks,
                metrics,
            };
            Server::connect(client, &url.one().into(), None, watch)?
        } else {
            Server::unknown(client)
        };
        let routes = SlotMap {
            servers: vec![Arc::new(server)],
            slots: None,
        };
        Ok(Self(Arc::new(Shared {
            url: url.clone(),
            own,
            global,
            faults,
            routes: RwLock::new(Arc::new(routes)),
            breaks,
            turns: watch::channel(0).0,
            vouchers: has_sentinels.then(|| Vouchers::new(doubt.clone())),
            doubt,
            searches: AtomicU64::new(0),
            addresses: AddressBook::default(),
            turned: RwLock::default(),
            complaints: Complaints::default(),
            population: AtomicU32::new(0),
            metrics,
        })))
    }

    pub(crate) fn url(&self) -> &RedisUrl {
        &self.0.url
    }

    /// Whether another server can take over.
    pub(crate) fn are_several(&self) -> bool {
        *self.0.url.topology() != Topology::One
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

    /// What a connection of this node reports to.
    pub(crate) fn link_watch(&self) -> LinkWatch {
        LinkWatch {
            faults: self.0.faults.clone(),
            breaks: self.0.breaks.clone(),
            metrics: self.0.metrics.clone(),
        }
    }

    /// The subscription is another one, which works. Its predecessor has ended.
    pub(crate) fn note_resubscribed(&self) {
        self.0.faults.clear(Link::Subscription);
    }

    /// Why there is no connection, as far as that is known.
    pub(crate) fn link_fault(&self) -> Option<&'static str> {
        self.0.faults.reason()
    }

    /// The connection to the only server.
    pub(crate) fn only(&self) -> Client {
        self.first().client.clone()
    }

    /// The only server.
    fn first(&self) -> Arc<Server> {
        self.0.routes.read().servers[0].clone()
    }

    /// Whether all connections to the only server are up.
    pub(crate) fn is_connected(&self) -> bool {
        self.first().is_connected()
    }

    /// Where a key is now; used to detect a move.
    pub(crate) fn place_of(&self, key: &str) -> ServerPlace {
        ServerPlace {
            host: self.routes().server(key).host.clone(),
            search: self.0.searches.load(Ordering::Acquire),
        }
    }

    /// The server that has this key now.
    pub(crate) fn way_to(&self, key: &str) -> Option<Destination> {
        match self.place_of(key).host {
            Some(host) => self.destination(host),
            None if *self.0.url.topology() == Topology::One => Some(self.only_url().into()),
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
        let connected = servers.iter().filter(|server| server.is_connected());
        metrics.redis_connected.set(connected.count() as i64);
        metrics.redis_servers.set(servers.len() as i64);
        let waiting = |server: &Arc<Server>| {
            let waiting = server.client.command_queue_len();
            waiting.max(server.wire.waiting())
        };
        let waiting = servers.iter().map(waiting);
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

    /// Whether an answer of 0 to `PUBLISH` or `SPUBLISH` proves nothing, because nodes may still
    /// listen at the old primary. That is a replica now and passes on to them what is published at
    /// the new one. In a cluster it even takes new subscriptions.
    pub(crate) fn may_deny_falsely(&self) -> bool {
        self.has_turned_within(FOLLOWED)
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
        let welcomes = new.iter().map(|server| server.welcomed());
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
        if server.host.is_none() {
            self.0.searches.fetch_add(1, Ordering::Release);
        }
        self.note_turn();
        self.install(SlotMap {
            servers: vec![Arc::new(server)],
            slots: None,
        });
        self.0.breaks.send_modify(|count| *count += 1);
    }

    /// A connection to a server, not yet part of the routes.
    pub(crate) fn dial(&self, host: Host) -> Option<Server> {
        let destination = self.destination(host.clone())?;
        build(&destination, NO_MESSAGES, COMMAND_BUFFER)
            .and_then(|client| Server::connect(client, &destination, Some(host), self.link_watch()))
            .inspect_err(
                |error| tracing::error!(error = %redacted(error), "cannot connect to Redis"),
            )
            .ok()
    }

    /// A connection to the only server, by its name, not yet part of the routes.
    pub(crate) fn dial_by_name(&self) -> Option<Server> {
        let destination = Destination::from(self.only_url());
        let client = build(&destination, NO_MESSAGES, COMMAND_BUFFER).ok()?;
        Server::connect(client, &destination, None, self.link_watch()).ok()
    }

    /// The only server, at the address of its name that answered.
    pub(crate) fn only_url(&self) -> ServerUrl {
        self.0.addresses.pin(self.0.url.one())
    }

    fn addresses(&self) -> &AddressBook {
        &self.0.addresses
    }

    /// Opens a new connection to a server that is silent although its connection is up. The old
    /// connection is closed with all waiting commands, whose callers get an error.
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
            None => self.dial_by_name(),
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
        let has_one = *self.0.url.topology() == Topology::One;
        if has_one || self.routes().servers[0].host.is_some() {
            let mut turned = self.0.turned.write();
            *turned = Some(Instant::now());
        }
    }

    /// Servers that are in the routes no more are left at once, although a task may still hold the
    /// old routes: a command that waits for one could find it back, and empty.
    fn install(&self, routes: SlotMap) {
        let routes = Arc::new(routes);
        let old = std::mem::replace(&mut *self.0.routes.write(), routes.clone());
        let stays =
            |server: &Arc<Server>| routes.servers.iter().any(|one| Arc::ptr_eq(one, server));
        let left = old.servers.iter().filter(|server| !stays(server));
        left.for_each(|server| server.end());
        // Those may have failed since the new ones connected.
        if routes.servers.iter().all(|one| one.is_connected()) {
            self.0.faults.clear(Link::Commands);
            self.0.faults.clear(Link::Pushes);
        }
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

#[cfg(test)]
mod tests {
    use fred::prelude::KeysInterface;

    use super::*;

    #[tokio::test]
    async fn what_waits_for_a_server_that_is_left_is_not_carried_out_later() {
        // A port that refuses connections, so that commands wait.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let url = RedisUrl::parse(&format!("redis://127.0.0.1:{port}")).expect("a URL");
        let metrics = Arc::<Metrics>::default();
        let servers = Servers::new(&url, String::new(), String::new(), metrics).expect("servers");
        // As a task does that looks up rows.
        let held = servers.routes();
        let waits = {
            let client = held.servers[0].client.clone();
            tokio::spawn(async move { client.get::<Option<String>, _>("key").await })
        };
        while held.servers[0].client.command_queue_len() == 0 {
            tokio::task::yield_now().await;
        }
        servers.lead_to(servers.dial_by_name().expect("a server"));
        let answer = waits.await.expect("no panic");
        let error = answer.expect_err("it is not carried out");
        // It has not waited in vain until its time was over.
        assert_ne!(*error.kind(), ErrorKind::Timeout, "{error:?}");
    }
}
