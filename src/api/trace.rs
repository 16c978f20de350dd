//! `GET /v1/users/{user}/trace`: which messages did not reach a user lately and why, as far as any
//! live node knows, and for one of them its outcome in one sentence.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::filters::{name, parameters, query, with_key};
use crate::api::openapi::documented;
use crate::app::App;
use crate::backplane::rows::Row;
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::ids::{NodeId, UserId};
use crate::protocol::{MAX_ID_BYTES, Question};
use crate::telemetry::trace;
use crate::telemetry::trace::{Known, TraceEvent};

/// How long the other nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String / "trace")
        .and(documented("/v1/users/{user}/trace"))
        .and(with_key(app))
        .and(query())
        .then(
            async |user: String, _method, app: Arc<App>, query: String| {
                let reply = match name(&user) {
                    Err(error) => Err(error),
                    Ok(user) => show(&app, user, &query).await,
                };
                reply.unwrap_or_else(HttpError::reply)
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
    /// The live nodes that did not answer, or trace nothing.
    missing: Vec<NodeId>,
    /// Older events may be missing, from before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    events: Vec<TraceEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
}

async fn show(app: &App, user: UserId, query: &str) -> Result<Response, HttpError> {
    let id = wanted_id(query)?;
    if !app.hub.trace().is_on() {
        return Err(HttpError::not_found("nothing is traced (PUSH_TRACE is 0)"));
    }
    let (found, rows) = tokio::join!(ask(app, &user, id.as_deref()), app.backplane.rows(&user));
    let Gathered {
        nodes,
        missing,
        known: Known { since, events },
    } = found;
    let verdict = id.map(|id| trace::verdict(&id, &events, &missing));
    let (connections, reason) = match rows {
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
            missing,
            since,
            events,
            verdict,
            user,
        },
    ))
}

/// The answers of the nodes, in the order of their clocks.
struct Gathered {
    nodes: Vec<NodeId>,
    missing: Vec<NodeId>,
    known: Known,
}

async fn ask(app: &App, user: &UserId, id: Option<&str>) -> Gathered {
    let question = Question::Trace {
        user: user.clone(),
        id: id.map(Into::into),
    };
    let deadline = Instant::now() + PATIENCE;
    let asked = app.survey.all_nodes();
    let collected = app.survey.ask(&asked, &question, deadline).await;
    let mut found = Gathered {
        nodes: Vec::new(),
        missing: collected.missing,
        known: Known::default(),
    };
    for (node, body) in collected.answers {
        // A node of another version may not know the question.
        match serde_json::from_str::<Known>(&body) {
            Ok(known) => {
                found.nodes.push(node);
                found.known.since = found.known.since.max(known.since);
                found.known.events.extend(known.events);
            }
            Err(_) => found.missing.push(node),
        }
    }
    found.known.events.sort_by_key(|event| event.at);
    found
}

/// The message that is asked for.
fn wanted_id(query: &str) -> Result<Option<String>, HttpError> {
    let mut id = None;
    for (name, value) in parameters(query, &["id"])? {
        if name != "id" {
            return Err(HttpError::bad_request("the only parameter is id"));
        }
        let is_text = !value.chars().any(char::is_control);
        if value.is_empty() || value.len() > MAX_ID_BYTES || !is_text {
            let words = "id must be 1 to 128 bytes without control characters";
            return Err(HttpError::bad_request(words));
        }
        id = Some(value.into_owned());
    }
    Ok(id)
}

/// The user's connections on this node, for when the registry cannot be asked.
fn here(app: &App, user: &UserId) -> Vec<Row> {
    let seats = app.hub.seats(user);
    let rows = seats.iter().map(|seat| Row::of(app.hub.node(), seat));
    rows.collect()
}
