//! A node: its parts, put together, and its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::access::authenticator::Gate;
use crate::access::connection_limits::Places;
use crate::access::recheck::Doubts;
use crate::access::session_watch::Sessions;
use crate::api::App;
use crate::auth::ApiKeys;
use crate::backplane::{
    Backplane, Embedded, Exchange, Fatal, NodeRecord, NodeState, Redis, RedisSettings,
};
use crate::cluster::balance::Balance;
use crate::cluster::inbound::{Inbound, Probes};
use crate::cluster::pending::{Outbound, Replies};
use crate::cluster::questions::Respond;
use crate::cluster::survey::Survey;
use crate::config::Config;
use crate::delivery::call::Caller;
use crate::delivery::router::Router;
use crate::edge::acceptor::{Door, Serving};
use crate::edge::listeners::Listeners;
use crate::edge::requests::Desk;
use crate::edge::upstream::Upstream;
use crate::local::admission::Admission;
use crate::local::connection::Settings;
use crate::local::dirty_rows::Changes;
use crate::local::event_queue::Events;
use crate::local::hub::calls::Calls;
use crate::local::hub::{Hub, Topics};
use crate::local::replay::page::{Bounds, Reader};
use crate::local::shard::Outlets;
use crate::presence::Presence;
use crate::protocol::client::websocket::Limits;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::NodeId;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Trace;

/// Most fragments of one message from a client.
const MAX_FRAGMENTS: u32 = 64;
/// Beyond the drain window, the longest wait for the last clients to go.
const LAST_WAIT: Duration = Duration::from_secs(6);
/// Between two rounds of closing connections in a drain.
const DRAIN_STEP: Duration = Duration::from_millis(50);

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
    /// The cluster says that this node must not be.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Runs a node until `shutdown` resolves (or it is told to drain), then sends its clients away.
///
/// `exchange` connects several nodes of one process where there is no Redis; tests use it.
///
/// # Errors
/// When the node cannot start or must not go on.
pub async fn run(
    config: Config,
    node: NodeId,
    listeners: Listeners,
    exchange: Option<Exchange>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new());
    let leaving = Shutdown::default();
    let (asks, asked) = mpsc::unbounded_channel();
    let (requests, requested) = mpsc::unbounded_channel();
    let outlets = Outlets { asks, requests };
    let hub = start_hub(&config, &node, &outlets, &metrics)?;

    let (fatal, mut must_stop) = watch::channel(None);
    let (replies, probes) = (Arc::new(Replies::default()), Arc::new(Probes::default()));
    let outbound = Outbound::default();
    let calls = Arc::new(Calls::new(hub.clone(), metrics.clone()));
    let respond = Respond::new(
        hub.clone(),
        calls.clone(),
        outbound.clone(),
        leaving.clone(),
        metrics.clone(),
    );
    let respond = Arc::new(respond);
    let inbound = Inbound::new(
        hub.clone(),
        replies.clone(),
        outbound.clone(),
        respond.clone(),
        probes.clone(),
        leaving.clone(),
        metrics.clone(),
    );
    let backplane = start_backplane(&config, &hub, inbound, probes, exchange, &metrics, fatal)?;
    outbound.connect(&backplane);
    let survey = Survey::new(node.clone(), backplane.clone(), replies.clone(), respond);

    let reader = Reader::new(hub.clone(), backplane.clone(), metrics.clone());
    let reader = tokio::spawn(reader.serve(asked));
    let upstream = Upstream::new(
        node.clone(),
        config.upstream_routes.clone(),
        config.upstream_backlog,
        backplane.clone(),
        metrics.clone(),
    );
    let gate = Gate::start(&config, backplane.clone()).map_err(RunError::Keys)?;
    let gate = Arc::new(gate);
    let sessions = Arc::new(Sessions::new(hub.clone(), backplane.clone()));
    let watch = tokio::spawn(sessions.clone().keep());
    let doubts = Doubts {
        hub: hub.clone(),
        backplane: backplane.clone(),
        sessions: sessions.clone(),
        bans: config.bans,
    };
    let doubts = tokio::spawn(doubts.settle());
    let presence = Presence::new(&hub, &backplane, config.presence_grace_seconds);
    let presence = tokio::spawn(presence.serve());
    let desk = Desk {
        hub: hub.clone(),
        upstream,
        gate: gate.clone(),
        sessions: sessions.clone(),
    };
    let desk = tokio::spawn(desk.serve(requested));

    let router = Router::new(hub.clone(), backplane.clone(), replies, metrics.clone());
    let app = Arc::new(App {
        api_keys: ApiKeys::new(&config.api_keys),
        router: Arc::new(router),
        caller: Caller::new(
            hub.clone(),
            backplane.clone(),
            survey.clone(),
            calls,
            metrics.clone(),
        ),
        survey,
        gate,
        sessions,
        places: Places::new(&config),
        hub: hub.clone(),
        backplane: backplane.clone(),
        balance: Balance::default(),
        metrics: metrics.clone(),
        shutdown: leaving.clone(),
        config,
    });
    // Operators look as long as the node lives, also while it is leaving.
    let ended = Shutdown::default();
    open_doors(&app, listeners, &leaving, &ended);

    let stopped = tokio::select! {
        () = shutdown => Ok(()),
        () = leaving.begun() => Ok(()),
        // Fails only when the backplane is gone, which outlives this.
        Ok(reason) = must_stop.wait_for(Option::is_some) => Err(reason.clone().expect("some")),
    };
    leaving.begin();
    drain(&app, stopped.is_ok()).await;
    ended.begin();
    reader.abort();
    desk.abort();
    watch.abort();
    doubts.abort();
    presence.abort();
    Ok(stopped?)
}

fn start_hub(
    config: &Config,
    node: &NodeId,
    outlets: &Outlets,
    metrics: &Arc<Metrics>,
) -> std::io::Result<Arc<Hub>> {
    let seconds = |duration: Duration| duration.as_secs() as u32;
    let settings = Arc::new(Settings {
        queue_bytes: config.queue_bytes,
        limits: Limits {
            message_bytes: config.max_message_bytes,
            fragments: MAX_FRAGMENTS,
        },
        client_rate: config.client_rate,
        send_rate: config.send_rate,
        ping: seconds(config.ping_seconds),
        beat: seconds(config.sse_beat_seconds),
        pong: seconds(config.pong_seconds),
        write: seconds(config.write_seconds),
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let changes = Arc::new(match config.redis_url {
        Some(_) => Changes::tracked(),
        None => Changes::ignored(),
    });
    let topics = Arc::new(Topics::new(cores, changes, config));
    let trace = Arc::new(Trace::new(node.clone(), config.trace));
    let shards =
        crate::local::shard::start(cores, node, &topics, &settings, outlets, &trace, metrics)?;
    Ok(Arc::new(Hub::new(
        node.clone(),
        shards,
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
    inbound: Inbound,
    probes: Arc<Probes>,
    exchange: Option<Exchange>,
    metrics: &Arc<Metrics>,
    fatal: watch::Sender<Option<Fatal>>,
) -> Result<Arc<Backplane>, RunError> {
    let node = hub.node();
    let record = NodeRecord {
        node: node.clone(),
        name: node.name().to_owned(),
        boot: node.boot_part().to_owned(),
        state: NodeState::Up,
        connections: 0,
        started: crate::clock::unix_ms(),
        version: crate::VERSION.to_owned(),
        url: config.public_url.clone(),
        weight: config.weight,
    };
    let inboxes = Bounds {
        messages: config.keep_messages,
        bytes: config.keep_bytes,
        age: config.keep_seconds,
    };
    let backplane = match &config.redis_url {
        None => {
            let (embedded, feed) = Embedded::join(exchange, hub, record, inboxes);
            tokio::spawn(feed.read(inbound));
            metrics.redis_up.set(1);
            Backplane::Embedded(embedded)
        }
        Some(url) => {
            let settings = RedisSettings {
                url: url.clone(),
                prefix: config.prefix.clone(),
                inboxes,
                upstream_length: config.upstream_length,
                events_length: config.events_length,
            };
            let redis = Redis::start(&settings, hub, inbound, probes, record, fatal, metrics)
                .map_err(RunError::Redis)?;
            Backplane::Redis(redis)
        }
    };
    Ok(Arc::new(backplane))
}

fn open_doors(app: &Arc<App>, listeners: Listeners, leaving: &Shutdown, ended: &Shutdown) {
    let most = match app.config.max_connections {
        0 => file_limit() / 10 * 9,
        most => most,
    };
    let admission = Arc::new(Admission::new(most, app.config.max_connections_per_address));
    let public = Door {
        admission,
        shutdown: leaving.clone(),
        proxies: Arc::new(app.config.trusted_proxies.clone()),
        metrics: app.metrics.clone(),
    };
    // Senders and operators are few and trusted: clients must not be able to keep them out.
    let unlimited = Arc::new(Admission::new(usize::MAX, 0));
    let private = Door {
        admission: unlimited,
        ..public.clone()
    };
    let admin = Door {
        shutdown: ended.clone(),
        ..private.clone()
    };
    for listener in listeners.clients {
        let serving = Serving::Http(crate::api::client_routes(app));
        tokio::spawn(public.clone().serve(listener, serving));
    }
    for listener in listeners.lines {
        let serving = Serving::Lines(app.clone());
        tokio::spawn(public.clone().serve(listener, serving));
    }
    for listener in listeners.senders {
        let serving = Serving::Http(crate::api::sender_routes(app));
        tokio::spawn(private.clone().serve(listener, serving));
    }
    for listener in listeners.admin {
        let serving = Serving::Http(crate::api::admin_routes(app));
        tokio::spawn(admin.clone().serve(listener, serving));
    }
}

/// The process's limit on open files, raised as far as the system lets us.
fn file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current < maximum
        && setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
        .is_ok()
    {
        return maximum.map_or(usize::MAX, |limit| limit as usize);
    }
    current.map_or(usize::MAX, |limit| limit as usize)
}

/// Sends the clients away, spread over the window, and gives up the node's place.
async fn drain(app: &App, gracefully: bool) {
    let window = if gracefully {
        app.config.drain_seconds
    } else {
        Duration::ZERO
    };
    let hub = &app.hub;
    tracing::info!(connections = hub.len(), ?window, "leaving");
    if gracefully {
        app.backplane.announce_draining().await;
    }
    let fds = hub.fds();
    let steps = (window.as_millis() / DRAIN_STEP.as_millis()).max(1) as usize;
    let began = Instant::now();
    for (step, part) in fds.chunks(fds.len().div_ceil(steps).max(1)).enumerate() {
        tokio::time::sleep_until(began + DRAIN_STEP * step as u32).await;
        for fd in part {
            hub.close(*fd, CloseReason::Drain, None).await;
        }
    }
    let last = Instant::now() + LAST_WAIT;
    loop {
        // Whoever slipped in during the drain, through a handshake that was under way.
        for fd in hub.fds() {
            hub.close(fd, CloseReason::Drain, None).await;
        }
        if hub.is_flushed() || Instant::now() > last {
            break;
        }
        tokio::time::sleep(DRAIN_STEP).await;
    }
    if gracefully {
        app.backplane.leave().await;
    }
    tracing::info!(connections = hub.len(), "left");
}
