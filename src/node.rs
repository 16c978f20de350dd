//! A node: its parts, put together, and its run from start to end.
//!
//! The order of the start matters: listeners are bound before this begins, and served only when all
//! parts run. The order of the end is in `drain`.

mod client_side;

mod drain;

mod secrets;

mod file_limit;

mod memory_limit;

mod reload;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::app::App;
use crate::auth::ApiKeys;
use crate::backplane::nodes::{NodeRecord, NodeState};
use crate::backplane::redis::Fatal;
use crate::backplane::redis::{Redis, RedisSettings};
use crate::backplane::standalone::Standalone;
use crate::backplane::{Backplane, Feed};
use crate::cluster::balance::Balance;
use crate::cluster::inbound::Inbound;
use crate::cluster::pending::Replies;
use crate::cluster::questions::Respond;
use crate::cluster::survey::Survey;
use crate::config::Config;
use crate::config::hosts::OwnNames;
use crate::delivery::bookmark_writer;
use crate::delivery::call::CallService;
use crate::delivery::replay_reader::ReplayReader;
use crate::delivery::router::Router;
use crate::edge::acceptor::{Acceptor, Service};
use crate::edge::http_stream::HttpPatience;
use crate::edge::listeners::Listeners;
use crate::edge::push_lane::{ExpectedRequests, PushLane};
use crate::hooks::Hooks;
use crate::local::admission::Admission;
use crate::local::budget::Budget;
use crate::local::connection::Settings;
use crate::local::dirty_rows::DirtyRows;
use crate::local::event_queue::Events;
use crate::local::hub::Hub;
use crate::local::hub::calls::Calls;
use crate::local::replay::page::Bounds;
use crate::local::shard::outlets::ShardOutputs;
use crate::local::topics::Topics;
use crate::presence::Presence;
use crate::protocol::ClusterKeys;
use crate::protocol::client::websocket::Limits;
use crate::protocol::ids::NodeId;
use crate::protocol::secret::Secret;
use crate::shutdown::{Shutdown, UnderWay};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;
use crate::telemetry::trace::Trace;

/// Between two lines in the log about pages or names that are refused.
const REFUSED: Duration = Duration::from_secs(60);

/// The longest wait for the accept loops at the end.
const LAST_ACCEPTS: Duration = Duration::from_secs(1);

/// Why a node could not run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The Redis client could not be set up.
    #[error("Redis: {0}")]
    Redis(String),
    /// A key that tokens are checked with cannot be read.
    #[error("{0}")]
    Keys(String),
    /// The operating system refused something a node needs.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// The cluster says that this node must not run.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Runs a node until `shutdown` resolves (or it is told to drain), then sends its clients away. For
/// each of `reloads` it reads again what can change while it runs.
///
/// # Errors
/// When the node cannot start or must not go on.
pub async fn run(
    config: Config,
    node: NodeId,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send + 'static,
    reloads: mpsc::Receiver<()>,
) -> Result<(), RunError> {
    let leaving = Shutdown::default();
    let (fatal, mut must_stop) = watch::channel(None);
    let Node { app, mut tasks } = Node::start(config, &node, &leaving, fatal)?;
    tell_names(&app, &listeners);
    // Operators look as long as the node lives, also while it is leaving.
    let ended = Shutdown::default();
    tasks.spawn(reload::serve(app.clone(), reloads));
    let mut acceptors = start_acceptors(&app, listeners, &ended);

    let stopped = tokio::select! {
        () = shutdown => Ok(()),
        () = leaving.begun() => Ok(()),
        // Fails only when the backplane is gone, which outlives this.
        Ok(reason) = must_stop.wait_for(Option::is_some) => Err(reason.clone().expect("some")),
    };
    leaving.begin();
    drain::drain(&app, stopped.is_ok()).await;
    ended.begin();
    // Each takes the file of its Unix socket with it.
    let all = async { while acceptors.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ACCEPTS, all).await;
    tasks.abort_all();
    Ok(stopped?)
}

/// A node whose parts run, before its listeners are served.
struct Node {
    app: Arc<App>,
    /// What ends only with the node.
    tasks: JoinSet<()>,
}

impl Node {
    fn start(
        config: Config,
        node: &NodeId,
        leaving: &Shutdown,
        fatal: watch::Sender<Option<Fatal>>,
    ) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::new());
        let (outlets, orders) = ShardOutputs::new();
        let hub = start_hub(&config, node, &outlets, &metrics)?;
        let Cluster {
            backplane,
            replies,
            calls,
            survey,
            inbound,
            feed,
            keys,
        } = Cluster::join(&config, &hub, leaving, &metrics, fatal)?;

        let router = Router::new(hub.clone(), backplane.clone(), replies, metrics.clone());
        let router = Arc::new(router);
        let hooks = Hooks::new(&config, node, &metrics);
        let started = client_side::start(&config, &hub, &backplane, &router, &hooks, &metrics);
        let (access, requests) = started.map_err(RunError::Keys)?;
        let reader = ReplayReader::new(hub.clone(), backplane.clone(), metrics.clone());
        let presence = Presence::new(&hub, &backplane, config.presence_grace_seconds, &metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(inbound.run(feed));
        tasks.spawn(reader.serve(orders.asks));
        tasks.spawn(bookmark_writer::serve(backplane.clone(), orders.bookmarks));
        tasks.spawn(access.sessions.clone().keep());
        tasks.spawn(access.recheck.serve());
        tasks.spawn(access.late_checks.clone().serve());
        tasks.spawn(presence.serve());
        tasks.spawn(requests.serve(orders.requests));

        let call_service = CallService::new(
            hub.clone(),
            backplane.clone(),
            survey.clone(),
            calls,
            metrics.clone(),
        );
        let app = Arc::new(App {
            api_keys: ApiKeys::new(&config.api_keys),
            router,
            call_service,
            survey,
            authenticator: access.authenticator,
            sessions: access.sessions,
            connection_limits: access.connection_limits,
            late_checks: access.late_checks,
            connect_hook: access.connect_hook,
            subscribe_hook: access.subscribe_hook,
            hooks,
            hub,
            backplane,
            balance: Balance::default(),
            metrics,
            refused_origins: Throttle::new(REFUSED),
            refused_hosts: Throttle::new(REFUSED),
            shutdown: leaving.clone(),
            closing: Shutdown::default(),
            under_way: UnderWay::default(),
            config,
        });
        tasks.spawn(client_side::keep(app.clone()));
        tasks.spawn(secrets::watch(app.clone(), keys));
        Ok(Self { app, tasks })
    }
}

/// The parts by which a node reaches the others and hears them.
struct Cluster {
    backplane: Arc<Backplane>,
    replies: Arc<Replies>,
    calls: Arc<Calls>,
    survey: Survey,
    inbound: Inbound,
    /// What it acts on.
    feed: Feed,
    /// By which nodes know each other's lines.
    keys: ClusterKeys,
}

impl Cluster {
    fn join(
        config: &Config,
        hub: &Arc<Hub>,
        leaving: &Shutdown,
        metrics: &Arc<Metrics>,
        fatal: watch::Sender<Option<Fatal>>,
    ) -> Result<Self, RunError> {
        let secrets = ClusterKeys::new(config.cluster_secret.iter().map(Secret::reveal));
        if config.redis_url.is_some() && secrets.is_empty() {
            tracing::info!("PUSH_CLUSTER_SECRET is empty: every publisher can speak as a node");
        }
        let (backplane, feed) = start_backplane(config, hub, &secrets, metrics, fatal)?;
        let replies = Arc::new(Replies::default());
        let calls = Arc::new(Calls::new(hub.clone(), metrics.clone()));
        let respond = Arc::new(Respond::new(
            hub.clone(),
            calls.clone(),
            backplane.clone(),
            leaving.clone(),
            metrics.clone(),
        ));
        let inbound = Inbound::new(
            hub.clone(),
            replies.clone(),
            backplane.clone(),
            respond.clone(),
            secrets.clone(),
            leaving.clone(),
            metrics.clone(),
        );
        let node = hub.node().clone();
        let survey = Survey::new(node, backplane.clone(), replies.clone(), respond);
        Ok(Self {
            backplane,
            replies,
            calls,
            survey,
            inbound,
            feed,
            keys: secrets,
        })
    }
}

fn start_hub(
    config: &Config,
    node: &NodeId,
    outlets: &ShardOutputs,
    metrics: &Arc<Metrics>,
) -> std::io::Result<Arc<Hub>> {
    let seconds = |duration: Duration| duration.as_secs() as u32;
    let cores = config.thread_count();
    let memory = Budget::new(memory_limit::of(config), cores);
    let settings = Arc::new(Settings {
        queue_bytes: config.queue_bytes,
        memory: memory.clone(),
        uring: config.uring,
        limits: Limits::of(config.max_message_bytes),
        client_rate: config.client_rate,
        send_rate: config.send_rate,
        ping: seconds(config.ping_seconds),
        beat: seconds(config.sse_beat_seconds),
        pong: seconds(config.pong_seconds),
        write: seconds(config.write_seconds),
    });
    let changes = Arc::new(match config.redis_url {
        Some(_) => DirtyRows::tracked(),
        None => DirtyRows::ignored(),
    });
    let topics = Arc::new(Topics::new(cores, changes, config));
    let trace = Arc::new(Trace::new(node.clone(), config.trace));
    let shards =
        crate::local::shard::start(cores, node, &topics, &settings, outlets, &trace, metrics)?;
    Ok(Arc::new(Hub::new(
        node.clone(),
        (shards, memory),
        topics,
        outlets.asks.clone(),
        Events::new(config.events.clone(), metrics.clone()),
        trace,
        metrics.clone(),
    )))
}

fn start_backplane(
    config: &Config,
    hub: &Arc<Hub>,
    secrets: &ClusterKeys,
    metrics: &Arc<Metrics>,
    fatal: watch::Sender<Option<Fatal>>,
) -> Result<(Arc<Backplane>, Feed), RunError> {
    let node = hub.node();
    let record = NodeRecord {
        node: node.clone(),
        name: node.name().to_owned(),
        boot: node.boot_part().to_owned(),
        state: NodeState::Up,
        connections: 0,
        started: crate::clock::unix_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        url: config.public_url.clone(),
        weight: config.weight,
        signs: !secrets.is_empty(),
        rules: config.topic_rules.digest(),
        degraded: false,
        unwritten: String::new(),
    };
    let inboxes = Bounds {
        messages: config.keep_messages,
        bytes: config.keep_bytes,
        age: config.keep_seconds,
    };
    let (backplane, feed) = match &config.redis_url {
        None => {
            let (standalone, heard) = Standalone::start(hub, record, inboxes);
            metrics.redis_up.set(1);
            (
                Backplane::Standalone(Box::new(standalone)),
                Feed::Standalone(heard),
            )
        }
        Some(url) => {
            let settings = RedisSettings {
                url: url.clone(),
                prefix: config.prefix.clone(),
                secrets: secrets.clone(),
                inboxes,
                rules: hub.topics().rules().clone(),
                keep_replicas: config.keep_replicas,
                upstream_length: config.upstream_length,
                events_length: config.events_length,
                events_bytes: config.events_bytes,
            };
            let (redis, subscriber) =
                Redis::start(&settings, hub, record, fatal, metrics).map_err(RunError::Redis)?;
            let feed = Feed::Redis(Box::new(subscriber));
            (Backplane::Redis(Box::new(redis)), feed)
        }
    };
    Ok((Arc::new(backplane), feed))
}

/// Says which requests are refused at listeners that other machines reach, where operators may have
/// names for this node that it does not know. Version 0.1.0 answered them.
fn tell_names(app: &App, listeners: &Listeners) {
    let mut open = listeners.admin();
    if app.api_keys.is_empty() {
        open.extend(listeners.senders());
    }
    open.retain(|listen| !listen.is_local());
    if open.is_empty() || !app.config.allowed_hosts.is_empty() {
        return;
    }
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    tracing::info!(
        listeners = open.join(" "),
        "without an API key, and for /metrics, requests are refused whose Host is a name with a \
        dot, unless PUSH_ALLOWED_HOSTS lists it"
    );
}

/// Serves the listeners until their doors close.
fn start_acceptors(app: &Arc<App>, listeners: Listeners, ended: &Shutdown) -> JoinSet<()> {
    let most = match app.config.max_connections {
        0 => file_limit::raise() / 10 * 9,
        most => most,
    };
    let admission = Arc::new(Admission::new(most, app.config.max_connections_per_address));
    let public = Acceptor {
        admission,
        leaving: app.shutdown.clone(),
        closing: app.closing.clone(),
        proxies: Arc::new(app.config.trusted_proxies.clone()),
        address_header: app.config.address_header.clone(),
        unnamed: Arc::new(Throttle::new(REFUSED)),
        names: Arc::new(OwnNames::new(&app.config)),
        metrics: app.metrics.clone(),
        patience: HttpPatience::new(app.config.keepalive_seconds, app.config.write_seconds),
        under_way: app.under_way.clone(),
    };
    // Senders and operators are few and trusted: clients must not be able to keep them out.
    let unlimited = Arc::new(Admission::new(usize::MAX, 0));
    let private = Acceptor {
        admission: unlimited,
        ..public.clone()
    };
    let admin = Acceptor {
        leaving: ended.clone(),
        closing: ended.clone(),
        // The end does not wait for operators' requests.
        under_way: UnderWay::default(),
        ..private.clone()
    };
    let lane = PushLane::new(app, &public.names, &public.patience);
    let mut acceptors = JoinSet::new();
    for listener in listeners.clients {
        let expected = ExpectedRequests {
            pushes: app.config.api_listen.is_empty(),
            clients: true,
        };
        let lane = Some(lane.expecting(expected));
        let service = Service::Http(crate::api::client_routes(app), lane);
        acceptors.spawn(public.clone().serve(listener, service));
    }
    for listener in listeners.lines {
        let service = Service::Lines(app.clone());
        acceptors.spawn(public.clone().serve(listener, service));
    }
    for listener in listeners.senders {
        let service = Service::Http(crate::api::sender_routes(app), Some(lane.clone()));
        acceptors.spawn(private.clone().serve(listener, service));
    }
    for listener in listeners.admin {
        let service = Service::Http(crate::api::admin_routes(app), None);
        acceptors.spawn(admin.clone().serve(listener, service));
    }
    acceptors
}
