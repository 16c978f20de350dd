//! `GET /v1/route`: which node a client should connect to.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::header::CACHE_CONTROL;
use warp::http::{HeaderMap, Method, StatusCode};

use crate::api::filters::{parameters, query, with};
use crate::api::openapi::documented;
use crate::app::App;
use crate::cluster::balance::Strategy;
use crate::edge::cors::{Reader, preflight};
use crate::edge::error::{HttpError, Routes, json};
use crate::edge::upgrade::RequestContext;
use crate::protocol::ids::NodeId;

/// How long a client should wait before its first attempt to reconnect, and at most later.
const BACKOFF: Backoff = Backoff {
    min_ms: 500,
    max_ms: 30_000,
};

#[derive(Serialize)]
struct Backoff {
    min_ms: u32,
    max_ms: u32,
}

#[derive(Serialize)]
struct NodeChoice<'a> {
    url: &'a str,
    node: &'a NodeId,
    strategy: &'a str,
    backoff: Backoff,
}

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "route")
        .and(documented("/v1/route"))
        .and(with(app))
        .and(warp::header::headers_cloned())
        .and(query())
        .and(warp::ext::get::<RequestContext>())
        .then(
            async |method: Method, app: Arc<App>, headers: HeaderMap, query: String, context| {
                let RequestContext { caller, .. } = context;
                if method == Method::OPTIONS {
                    return preflight(&app, &headers, &caller);
                }
                let chosen = caller.check_page(&app, &headers);
                let chosen = chosen.and_then(|()| choose(&app, &query));
                let answer = chosen.unwrap_or_else(HttpError::reply);
                Reader::of(&app, &headers, &caller).allow(answer)
            },
        )
        .boxed()
}

fn choose(app: &App, query: &str) -> Result<warp::reply::Response, HttpError> {
    let mut strategy = Strategy::default();
    for (name, value) in parameters(query, &["strategy"])? {
        if name == "strategy" {
            let unknown = |()| {
                let names = Strategy::NAMES;
                HttpError::bad_request(format!("strategy must be one of {names}"))
            };
            strategy = value.parse().map_err(unknown)?;
        }
    }
    let nodes = app.backplane.nodes();
    let Some(node) = app.balance.choose(&nodes, strategy) else {
        let words = "no live node says where it can be reached (PUSH_PUBLIC_URL)";
        return Err(HttpError::unavailable(words));
    };
    let answer = NodeChoice {
        url: &node.url,
        node: &node.node,
        strategy: strategy.as_str(),
        backoff: BACKOFF,
    };
    let mut reply = json(StatusCode::OK, &answer);
    let headers = reply.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        warp::http::HeaderValue::from_static("no-store"),
    );
    Ok(reply)
}
