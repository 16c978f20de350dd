//! The parts of a node that a client's handshake and the HTTP routes work with.
//!
//! One for each node, put together in `node`. Below `edge` and `api`, so that both take it by value
//! and neither knows how a node is wired.

use std::sync::Arc;

use crate::access::authenticator::Authenticator;
use crate::access::connect_hook::ConnectHook;
use crate::access::connection_limits::ConnectionLimits;
use crate::access::late_checks::LateChecks;
use crate::access::session_watch::Sessions;
use crate::access::subscribe_hook::SubscribeHook;
use crate::auth::ApiKeys;
use crate::backplane::Backplane;
use crate::cluster::balance::Balance;
use crate::cluster::survey::Survey;
use crate::config::Config;
use crate::delivery::call::CallService;
use crate::delivery::router::Router;
use crate::hooks::Hooks;
use crate::local::hub::Hub;
use crate::shutdown::{Shutdown, UnderWay};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

pub(crate) struct App {
    pub(crate) config: Config,
    /// Keys of senders.
    pub(crate) api_keys: ApiKeys,
    /// The connections here.
    pub(crate) hub: Arc<Hub>,
    /// The other nodes.
    pub(crate) backplane: Arc<Backplane>,
    /// Chooses nodes for clients.
    pub(crate) balance: Balance,
    /// Carries out pushes.
    pub(crate) router: Arc<Router>,
    /// Asks nodes and collects their answers.
    pub(crate) survey: Survey,
    /// Carries out senders' calls.
    pub(crate) call_service: CallService,
    pub(crate) authenticator: Arc<Authenticator>,
    /// Sessions that connections here depend on.
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) connection_limits: ConnectionLimits,
    /// Asked who clients are, if there is one.
    pub(crate) connect_hook: Option<Arc<ConnectHook>>,
    /// Asked who may have topics whose rule says so, if there is one.
    pub(crate) subscribe_hook: Option<Arc<SubscribeHook>>,
    pub(crate) hooks: Arc<Hooks>,
    /// Checks of clients that were let in while Redis could not be read.
    pub(crate) late_checks: Arc<LateChecks>,
    pub(crate) metrics: Arc<Metrics>,
    /// Log lines about requests of pages from elsewhere.
    pub(crate) refused_origins: Throttle,
    /// Log lines about requests to other names.
    pub(crate) refused_hosts: Throttle,
    /// Whether the node is leaving.
    pub(crate) shutdown: Shutdown,
    /// Whether it takes no more clients in.
    pub(crate) closing: Shutdown,
    /// Requests of senders and clients that are being carried out.
    pub(crate) under_way: UnderWay,
}
