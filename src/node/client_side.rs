//! The parts of a node that decide who may be connected, and that carry what clients send.

use std::sync::Arc;

use futures::future::OptionFuture;

use crate::access::authenticator::Authenticator;
use crate::access::connect_hook::ConnectHook;
use crate::access::connection_limits::ConnectionLimits;
use crate::access::late_checks::LateChecks;
use crate::access::recheck::AccessRecheck;
use crate::access::session_watch::Sessions;
use crate::access::subscribe_hook::SubscribeHook;
use crate::app::App;
use crate::backplane::Backplane;
use crate::backplane::answers::UpstreamBacklog;
use crate::config::Config;
use crate::delivery::router::Router;
use crate::edge::requests::ClientRequests;
use crate::edge::upstream::Upstream;
use crate::hooks::{Hook, HookKind, Hooks};
use crate::local::hub::Hub;
use crate::telemetry::metrics::Metrics;

/// The parts that decide who may be connected.
pub(super) struct Access {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) connection_limits: ConnectionLimits,
    pub(super) late_checks: Arc<LateChecks>,
    pub(super) recheck: AccessRecheck,
    pub(super) connect_hook: Option<Arc<ConnectHook>>,
    pub(super) subscribe_hook: Option<Arc<SubscribeHook>>,
}

impl Access {
    fn new(
        config: &Config,
        hub: &Arc<Hub>,
        backplane: &Arc<Backplane>,
        router: &Arc<Router>,
        hooks: &Arc<Hooks>,
    ) -> Result<Self, String> {
        let authenticator = Authenticator::start(config, backplane.clone());
        let authenticator = Arc::new(authenticator?);
        let sessions = Arc::new(Sessions::new(hub.clone(), backplane.clone()));
        let connection_limits = ConnectionLimits::new(config);
        let late_checks = LateChecks::new(
            router.clone(),
            hub.clone(),
            backplane.clone(),
            sessions.clone(),
            connection_limits,
            config.bans,
        );
        let recheck = AccessRecheck {
            hub: hub.clone(),
            backplane: backplane.clone(),
            sessions: sessions.clone(),
            bans: config.bans,
        };
        let hook = |kind, url: &str| {
            let hook = (!url.is_empty()).then(|| Hook::new(hooks, kind, url));
            hook.transpose()
        };
        let connect_hook = hook(HookKind::Connect, &config.connect_hook)?;
        let connect_hook = connect_hook.map(|hook| Arc::new(ConnectHook::new(hook, hub.clone())));
        let subscribe_hook = hook(HookKind::Subscribe, &config.subscribe_hook)?;
        let subscribe_hook =
            subscribe_hook.map(|hook| Arc::new(SubscribeHook::new(hook, hub.clone())));
        Ok(Self {
            authenticator,
            sessions,
            connection_limits,
            late_checks: Arc::new(late_checks),
            recheck,
            connect_hook,
            subscribe_hook,
        })
    }
}

/// The part by which clients reach services.
fn start_upstream(
    config: &Config,
    hub: &Arc<Hub>,
    backplane: &Arc<Backplane>,
    hooks: &Arc<Hooks>,
    metrics: &Arc<Metrics>,
) -> Result<Upstream, String> {
    let most = UpstreamBacklog {
        entries: config.upstream_backlog,
        bytes: config.upstream_bytes,
    };
    let urls = config.upstream_routes.hooks();
    let hooks = urls.map(|url| Ok((url.clone(), Hook::new(hooks, HookKind::Send, url)?)));
    let hooks = hooks.collect::<Result<_, String>>();
    Ok(Upstream::new(
        config.upstream_routes.clone(),
        hooks?,
        most,
        hub.clone(),
        backplane.clone(),
        metrics.clone(),
    ))
}

/// Starts them.
pub(super) fn start(
    config: &Config,
    hub: &Arc<Hub>,
    backplane: &Arc<Backplane>,
    router: &Arc<Router>,
    hooks: &Arc<Hooks>,
    metrics: &Arc<Metrics>,
) -> Result<(Access, ClientRequests), String> {
    let access = Access::new(config, hub, backplane, router, hooks)?;
    let upstream = start_upstream(config, hub, backplane, hooks, metrics)?;
    let requests = ClientRequests {
        hub: hub.clone(),
        backplane: backplane.clone(),
        router: router.clone(),
        upstream,
        authenticator: access.authenticator.clone(),
        sessions: access.sessions.clone(),
        late_checks: access.late_checks.clone(),
        connect_hook: access.connect_hook.clone(),
        subscribe_hook: access.subscribe_hook.clone(),
    };
    Ok((access, requests))
}

/// Asks hooks again about connections that are here, for ever.
pub(super) async fn keep(app: Arc<App>) {
    let connects = app.connect_hook.clone().map(ConnectHook::keep);
    let subscribes = app.subscribe_hook.clone().map(SubscribeHook::keep);
    let (connects, subscribes) = (OptionFuture::from(connects), OptionFuture::from(subscribes));
    futures::join!(connects, subscribes);
}
