//! The backplane over Redis: keys, clients, and the tasks that keep both current.
//!
//! `keys` names keys and channels. There are two kinds of connections. Those for commands are
//! routed by `servers` to the server that has the key: a lean one (`wire`) for what each push needs,
//! one of fred for all else. The one for the subscription, lean too, is replaced when it goes deaf
//! or its channel moves. The `lease` task proves that this node lives,
//! `registry` writes the rows of its users, `bus` listens, `outbox` publishes, `sweep` removes
//! what dead nodes left, and `sentinel` or `cluster` tracks which server serves which keys.
//! Redis holds no data of these tasks that they could not write again.

pub(crate) mod bus;
pub(crate) mod checkup;
pub(crate) mod keys;
pub(crate) mod registry;
pub(crate) mod servers;
pub(crate) mod store;
pub(crate) mod wire;

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fred::prelude::{
    Builder, Client, Config as FredConfig, ConnectionConfig, PerformanceConfig, ReconnectPolicy,
    TcpConfig,
};
use fred::types::RespVersion;
use fred::types::config::{ServerConfig, UnresponsiveConfig};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use crate::backplane::answers::Unavailable;
use crate::backplane::nodes::{Health, NodeRecord};
use crate::backplane::redis::bus::outbox::Outboxes;
use crate::backplane::redis::bus::subscriber::Subscriber;
use crate::backplane::redis::bus::subscription::{BACKLOG, Bus};
use crate::backplane::redis::keys::Keys;
use crate::backplane::redis::registry::lease::Lease;
use crate::backplane::redis::registry::offer::RowOffer;
use crate::backplane::redis::registry::sweep::Sweeper;
use crate::backplane::redis::registry::unwritten::UnwrittenRows;
use crate::backplane::redis::registry::verify::Verifier;
use crate::backplane::redis::registry::write::Registry;
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::eviction::EvictionWatch;
use crate::backplane::redis::servers::exclusive::ConnectionPool;
use crate::backplane::redis::servers::login::words_of;
use crate::backplane::redis::servers::tls;
use crate::backplane::redis::servers::vouch::Destination;
use crate::backplane::redis::store::access::AccessStore;
use crate::backplane::redis::store::events::EventLog;
use crate::backplane::redis::store::kept::KeptStore;
use crate::backplane::redis::store::upstream::Streams;
use crate::config::redis_url::{RedisUrl, TlsFiles, Topology};
use crate::local::hub::Hub;
use crate::local::live_rules::LiveRules;
use crate::local::replay::page::Bounds;
use crate::protocol::ClusterKeys;
use crate::protocol::ids::NodeId;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Maximum wait for the answer to one command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that owes an answer for this long is replaced.
const UNRESPONSIVE: Duration = Duration::from_secs(2);
/// Commands that may wait while Redis is unavailable; further ones are refused at once.
const COMMAND_BUFFER: usize = 100_000;
/// The same for a connection of one task, which sends a dozen commands at a time.
const EXCLUSIVE_BUFFER: usize = 64;
/// A row's TTL in Redis: a safety net for rows that no node swept. Rows are rewritten long before.
const ROW_TTL_SECONDS: i64 = 24 * 3600;
/// Follows the number in a topic's row if clients of that node watch joins and leaves.
const WATCHED: &str = "watch";

const AWAY: Unavailable = Unavailable("Redis does not answer");

/// The settings of this backplane.
#[derive(Debug, Clone)]
pub(crate) struct RedisSettings {
    /// The URL of Redis.
    pub url: RedisUrl,
    /// The prefix of keys and channels.
    pub prefix: String,
    /// By which nodes know each other's lines.
    pub secrets: ClusterKeys,
    /// The bounds of inboxes and logs.
    pub inboxes: Bounds,
    /// Where topics have others.
    pub rules: LiveRules,
    /// How many replicas must have a kept message.
    pub keep_replicas: u32,
    /// Approximately how many entries the stream of a service holds.
    pub upstream_length: u64,
    /// Approximately how many events the stream of events holds.
    pub events_length: i64,
    /// Approximately how many bytes the stream of events takes.
    pub events_bytes: u64,
}

/// Why the node must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Another live process has this node's name.
    #[error(
        "the name {name:?} is taken by the live node {by}; give each node its own PUSH_NODE_NAME"
    )]
    NameTaken {
        /// The name that both have.
        name: String,
        /// The id of the other node.
        by: NodeId,
    },
}

/// One node's connection to the cluster.
#[derive(Debug)]
pub(crate) struct Redis {
    hub: Arc<Hub>,
    servers: Servers,
    keys: Keys,
    lease: Arc<Lease>,
    outboxes: Outboxes,
    registry: Registry,
    pub(crate) kept: KeptStore,
    pub(crate) streams: Streams,
    pub(crate) access: AccessStore,
    eviction: Arc<EvictionWatch>,
    /// Connections that watch a row while a dead node is removed from it.
    watching: ConnectionPool,
    /// How many bytes were received and not yet processed.
    backlog: Arc<AtomicUsize>,
    health: watch::Receiver<Health>,
    /// Tells the bus to stop listening, and tells when it has stopped.
    stop: Shutdown,
    stopped: Shutdown,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Redis {
    /// Starts connecting and returns at once; `Redis::health` tells when the node is ready.
    /// `fatal` receives the reason if the node must end.
    ///
    /// # Errors
    /// What is wrong with the URL or the TLS set-up of this machine.
    pub(crate) fn start(
        settings: &RedisSettings,
        hub: &Arc<Hub>,
        record: NodeRecord,
        fatal: watch::Sender<Option<Fatal>>,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, Subscriber), String> {
        let keys = Keys::new(&settings.prefix, settings.url.database());
        let (own, global) = (keys.node_channel(hub.node()), keys.global_channel());
        let servers = Servers::new(&settings.url, own.clone(), global, metrics.clone());
        let servers = servers.map_err(|error| error.to_string())?;
        let unwritten = UnwrittenRows::default();
        let lease = Arc::new(Lease::new(
            servers.clone(),
            keys.clone(),
            (record, unwritten.clone()),
            hub.clone(),
            settings.secrets.clone(),
            fatal,
        ));
        let outboxes = Outboxes::new(
            servers.clone(),
            lease.clone(),
            keys.clone(),
            settings.secrets.clone(),
            metrics.clone(),
        );
        let offer = RowOffer::default();
        let registry = Registry::new(&servers, &keys, hub, (&offer, &unwritten), metrics);
        let kept = KeptStore::new(servers.clone(), keys.clone(), settings);
        let streams = Streams::new(servers.clone(), keys.clone(), settings.upstream_length);
        let access = AccessStore::new(servers.clone(), keys.clone());
        let (health_sender, health) = watch::channel(Health::Down("not connected to Redis yet"));
        let (stop, stopped) = (Shutdown::default(), Shutdown::default());
        let backlog = Arc::<AtomicUsize>::default();
        let bus = Bus {
            servers: servers.clone(),
            own,
            probes: Arc::default(),
            backlog: backlog.clone(),
            hub: hub.clone(),
            lease: lease.clone(),
            offer,
            health: health_sender,
            stop: stop.clone(),
            stopped: stopped.clone(),
            metrics: metrics.clone(),
        };
        let log = EventLog::new(servers.clone(), &keys, settings);
        let eviction = Arc::new(EvictionWatch::new(servers.clone(), metrics.clone()));
        let mut tasks = vec![
            tokio::spawn(registry.clone().write()),
            tokio::spawn(Sweeper::new(&servers, &keys, &lease, &log, metrics).watch()),
            tokio::spawn(log.write(hub.clone())),
            tokio::spawn(kept.epoch().keep(eviction.evicted(), hub.clone())),
            tokio::spawn(eviction.clone().watch()),
        ];
        tasks.push(verify_rows(&servers, &keys, hub, &eviction, &registry));
        tasks.extend(keep_lease(&lease));
        tasks.push(follow_servers(&settings.url, &servers));
        let redis = Self {
            hub: hub.clone(),
            watching: ConnectionPool::new(servers.clone()),
            servers,
            keys,
            lease,
            outboxes,
            registry,
            kept,
            streams,
            access,
            eviction,
            backlog,
            health,
            stop,
            stopped,
            tasks,
        };
        Ok((redis, Subscriber::new(bus)))
    }

    fn away(&self, error: &fred::error::Error) -> Unavailable {
        self.servers.note(error);
        AWAY
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<NodeRecord>> {
        self.lease.nodes()
    }

    /// The names of this node's channel and of that of all nodes.
    pub(crate) fn channels(&self) -> [String; 2] {
        let own = self.keys.node_channel(self.lease.node());
        [own, self.keys.global_channel()]
    }

    pub(crate) fn requires_signatures(&self) -> bool {
        self.lease.requires_signatures()
    }

    pub(crate) fn note_stranger(&self, node: &NodeId) {
        if self.is_believed_dead(node) || !self.lease.knows(node) {
            self.lease.look_soon();
        }
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.outboxes.unanswered()
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    pub(crate) fn may_take_clients(&self) -> bool {
        self.lease.isolation.may_take_clients()
    }

    pub(crate) fn warning(&self) -> Option<&'static str> {
        self.eviction.warning().or(self.lease.warning())
    }

    pub(crate) fn gauge(&self, metrics: &Metrics) {
        let (lines, fullest) = self.outboxes.load();
        metrics.lines_under_way.set(lines as i64);
        metrics.queue("outbox", fullest, bus::lane::QUEUE);
        metrics.queue("bus", self.backlog.load(Ordering::Relaxed), BACKLOG);
        self.servers.gauge();
        metrics.lease_age.set(self.lease.age().as_secs_f64());
        metrics.nodes.set(self.lease.nodes().len() as i64);
    }

    pub(crate) async fn announce_draining(&self, patience: Duration) -> bool {
        // Without Redis, no other node can be told.
        let announced = self.lease.announce_draining();
        let patience = COMMAND_TIMEOUT.min(patience);
        let is_told = tokio::time::timeout(patience, announced).await == Ok(true);
        self.registry.mark_leaving();
        if is_told {
            self.registry.settle(COMMAND_TIMEOUT).await;
        }
        is_told
    }

    /// The order matters: a lookup finds no row of this node before its channel falls silent,
    /// and lines published until then are still received and answered.
    pub(crate) async fn leave(&self, patience: Duration) {
        let left = async {
            let clean = self.registry.settle(COMMAND_TIMEOUT).await;
            EventLog::settle(&self.hub, COMMAND_TIMEOUT).await;
            self.lease.give_up(clean).await;
            self.stop.begin();
            self.stopped.begun().await;
            self.outboxes.settle(COMMAND_TIMEOUT).await;
            self.servers.quit().await;
        };
        let in_time = tokio::time::timeout(patience, left).await.is_ok();
        let unsent = self.unanswered();
        if !in_time || unsent > 0 {
            tracing::warn!(unsent, "left before everything received was processed");
        }
    }
}

/// The tasks that prove that this node lives, and ask whether others do.
fn keep_lease(lease: &Arc<Lease>) -> [tokio::task::JoinHandle<()>; 2] {
    let (keep, inquire) = (lease.clone().keep(), lease.clone().inquire());
    [tokio::spawn(keep), tokio::spawn(inquire)]
}

/// The task that finds rows that Redis lost.
fn verify_rows(
    servers: &Servers,
    keys: &Keys,
    hub: &Arc<Hub>,
    eviction: &EvictionWatch,
    registry: &Registry,
) -> tokio::task::JoinHandle<()> {
    let (servers, keys, hub) = (servers.clone(), keys.clone(), hub.clone());
    let verifier = Verifier::new(servers, keys, hub, eviction.evicted(), registry.lost_rows());
    tokio::spawn(verifier.watch())
}

/// The task that follows which server serves what.
fn follow_servers(url: &RedisUrl, servers: &Servers) -> tokio::task::JoinHandle<()> {
    let servers = servers.clone();
    match url.topology().clone() {
        Topology::One => tokio::spawn(servers::primary::follow(servers)),
        Topology::Sentinel { sentinels, master } => {
            tokio::spawn(servers::sentinel::follow(servers, sentinels, master))
        }
        Topology::Cluster { seeds } => tokio::spawn(servers::cluster::follow(servers, seeds)),
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A client in which every default that loses commands or hangs is replaced.
///
/// At most `messages` wait for the listener, and `commands` for a
/// connection.
fn build(
    server: &Destination,
    messages: usize,
    commands: usize,
) -> Result<Client, fred::error::Error> {
    let mut builder = builder(server, messages, commands)?;
    builder.set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2));
    builder.build()
}

/// As [`build`], for a connection that one task has to itself; it does not connect again.
fn build_once(server: &Destination) -> Result<Client, fred::error::Error> {
    // It receives no messages, and its task sends one pipeline at a time. fred 10.1: a connect that
    // fails is told twice, and where only one fits, the reason is lost.
    let mut builder = builder(server, 2, EXCLUSIVE_BUFFER)?;
    // fred 10.1: otherwise the first connect, too, follows the policy, of which there is none.
    builder.with_config(|config| config.fail_fast = true);
    builder.build()
}

fn builder(
    destination: &Destination,
    messages: usize,
    commands: usize,
) -> Result<Builder, fred::error::Error> {
    let server = &destination.url;
    let mut config = FredConfig::from_url(&server.url)?;
    config.version = RespVersion::RESP3;
    if let ServerConfig::Unix { path } = &mut config.server {
        let text = path.to_string_lossy().into_owned();
        *path = OsString::from_vec(percent_decode_str(&text).collect()).into();
    }
    if let (Some(address), ServerConfig::Centralized { server: name }) =
        (server.at, &mut config.server)
    {
        // A certificate is for the name.
        name.tls_server_name = Some(name.host.clone());
        // fred 10.1: puts host and port together as they are.
        name.host = match address {
            IpAddr::V4(address) => address.to_string().into(),
            IpAddr::V6(address) => format!("[{address}]").into(),
        };
    }
    config.database = Some(server.database).filter(|number| *number != 0);
    (config.username, config.password) = words_of(server.login.as_ref());
    config.credential_provider = destination.provider();
    if config.tls.is_some() && server.tls != TlsFiles::default() {
        config.tls = Some(tls::connector(&server.tls)?.into());
    }
    // Redis may be down when the node starts: keep trying.
    config.fail_fast = false;
    let connection = ConnectionConfig {
        connection_timeout: COMMAND_TIMEOUT,
        internal_command_timeout: COMMAND_TIMEOUT,
        // fred must not repeat a PUBLISH that may have been executed: the outbox repeats it under
        // the same number, so that its receiver can tell.
        max_command_attempts: 1,
        max_command_buffer_len: commands,
        reconnect_on_auth_error: true,
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(UNRESPONSIVE),
            interval: UNRESPONSIVE / 4,
        },
        ..ConnectionConfig::default()
    };
    let performance = PerformanceConfig {
        default_command_timeout: COMMAND_TIMEOUT,
        broadcast_channel_capacity: messages,
        ..PerformanceConfig::default()
    };
    let mut builder = Builder::from_config(config);
    builder
        .set_connection_config(connection)
        .set_performance_config(performance);
    Ok(builder)
}
