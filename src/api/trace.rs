//! `GET /v1/users/{user}/trace`: what happened to a user's messages lately, and in one sentence
//! what became of one of them.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::{ApiError, App, Routes, json, methods, with_key};
use crate::backplane::Row;
use crate::names::{NodeId, UserId};
use crate::protocol::MAX_ID_BYTES;
use crate::trace::{self, Event};

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String / "trace")
        .and(methods("GET"))
        .and(with_key(app))
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .then(
            async |user: String, _method, app: Arc<App>, query: String| {
                let user = percent_encoding::percent_decode_str(&user).decode_utf8_lossy();
                let reply = match user.parse() {
                    Err(error) => Err(ApiError::bad_request(&format!("{error}"))),
                    Ok(user) => show(&app, user, &query).await,
                };
                reply.unwrap_or_else(ApiError::reply)
            },
        )
        .boxed()
}

#[derive(Serialize)]
struct Body {
    user: UserId,
    online: bool,
    connections: Vec<Row>,
    /// Why `connections` are those of this node alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The nodes whose events these are.
    nodes: Vec<NodeId>,
    /// Older events may be missing, from before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    events: Vec<Event>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
}

async fn show(app: &App, user: UserId, query: &str) -> Result<Response, ApiError> {
    let id = wanted_id(query)?;
    let trace = app.hub.trace();
    if !trace.is_on() {
        return Err(ApiError::not_found("nothing is traced (PUSH_TRACE is 0)"));
    }
    let nodes = vec![app.hub.node().clone()];
    let events = trace.collect(&user, id.as_deref());
    let verdict = id.as_deref().map(|id| trace::verdict(id, &events, &nodes));
    let (connections, reason) = match app.backplane.rows(&user).await {
        Ok(rows) => (rows, None),
        Err(unavailable) => (here(app, &user), Some(unavailable.0)),
    };
    Ok(json(
        StatusCode::OK,
        &Body {
            online: !connections.is_empty(),
            connections,
            reason,
            nodes,
            since: trace.since(&user),
            events,
            verdict,
            user,
        },
    ))
}

/// The message that is asked for.
fn wanted_id(query: &str) -> Result<Option<String>, ApiError> {
    let mut id = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "id" {
            return Err(ApiError::bad_request("the only parameter is id"));
        }
        if value.is_empty() || value.len() > MAX_ID_BYTES {
            return Err(ApiError::bad_request("id must have 1 to 128 bytes"));
        }
        id = Some(value.into_owned());
    }
    Ok(id)
}

/// The user's connections on this node, where the registry cannot be asked.
fn here(app: &App, user: &UserId) -> Vec<Row> {
    let seats = app.hub.seats(user);
    let rows = seats.iter().map(|seat| Row::of(app.hub.node(), seat));
    rows.collect()
}
