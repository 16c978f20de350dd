//! For operators: `/healthz` (the process runs), `/readyz` (it should get clients), `/metrics`.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::api::filters::with_operator;
use crate::api::gauges;
use crate::api::openapi::documented;
use crate::app::App;
use crate::backplane::nodes::Health;
use crate::edge::caller::Caller;
use crate::edge::error::{Routes, json};

pub(super) fn routes(app: &Arc<App>) -> Routes {
    // By any name: a check that fails for its `Host` would take all nodes out of service.
    let health = warp::path!("healthz")
        .and(documented("/healthz"))
        .and(with_operator(app, Caller::check_foreign))
        .map(|_, _| {
            json(
                StatusCode::OK,
                &State {
                    status: "ok",
                    reason: None,
                },
            )
        });
    let ready = warp::path!("readyz")
        .and(documented("/readyz"))
        .and(with_operator(app, Caller::check_foreign))
        .map(|_, app: Arc<App>| {
            let (code, status, reason) = readiness(&app);
            json(code, &State { status, reason })
        });
    let metrics = warp::path!("metrics")
        .and(documented("/metrics"))
        .and(with_operator(app, Caller::check_stranger))
        .then(async |_method, app: Arc<App>| {
            let most = app.config.queue_bytes;
            gauges::read(
                &app.hub,
                &app.backplane,
                app.survey.replies(),
                most,
                &app.metrics,
            )
            .await;
            let mut response = Response::new(app.metrics.render().into());
            let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(text));
            response
        });
    health.or(ready).unify().or(metrics).unify().boxed()
}

/// Whether the node should get clients. Without Redis it serves them all the same, and so do the
/// others: if all said no, a balancer would have none left.
fn readiness(app: &App) -> (StatusCode, &'static str, Option<&'static str>) {
    let takes_clients = || app.config.ready_without_redis && app.backplane.may_take_clients();
    match *app.backplane.health().borrow() {
        _ if app.shutdown.has_begun() => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready",
            Some("the node is leaving"),
        ),
        // Nothing that keeps clients away, but something to mend.
        Health::Ready => (StatusCode::OK, "ready", app.backplane.warning()),
        Health::Down(reason) if takes_clients() => (StatusCode::OK, "degraded", Some(reason)),
        Health::Down(reason) => (StatusCode::SERVICE_UNAVAILABLE, "not ready", Some(reason)),
    }
}

#[derive(Serialize)]
struct State {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}
