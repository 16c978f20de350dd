//! `POST /v1/commands`: a command or question to every node, with the answers collected.
//! `GET /v1/stats`: the same with the question how each node is.

use std::sync::Arc;

use tokio::time::Instant;
use warp::Filter;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::api::body;
use crate::api::filters::{query, with_key};
use crate::api::openapi::documented;
use crate::app::App;
use crate::edge::error::Routes;
use crate::protocol;
use crate::protocol::ids::NodeId;
use crate::protocol::{CommandRequest, DEFAULT_TIMEOUT, Question};

pub(super) fn routes(app: &Arc<App>) -> Routes {
    let stats = warp::path!("v1" / "stats")
        .and(documented("/v1/stats"))
        .and(with_key(app))
        .and(query())
        .then(async |_method, app: Arc<App>, query: String| {
            let named = |(name, value): (_, std::borrow::Cow<'_, str>)| {
                (name == "node").then(|| value.into_owned())
            };
            let nodes: Vec<String> = url::form_urlencoded::parse(query.as_bytes())
                .filter_map(named)
                .collect();
            let request = CommandRequest {
                question: Question::Stats,
                nodes: (!nodes.is_empty()).then_some(nodes),
                timeout: DEFAULT_TIMEOUT,
            };
            carry_out(&app, request).await
        });
    let path = warp::path!("v1" / "commands").and(documented("/v1/commands"));
    let commands = body::posted(app, path, CommandRequest::parse, async |app, request| {
        carry_out(&app, request).await
    });
    stats.or(commands).unify().boxed()
}

/// Asks the nodes. The status is 200 also if some are missing: the answer names them.
async fn carry_out(app: &App, request: CommandRequest) -> Response {
    let deadline = Instant::now() + request.timeout;
    let (nodes, unknown) = match request.nodes {
        None => (app.survey.all_nodes(), Vec::new()),
        Some(names) => find(app, names),
    };
    let collected = app.survey.ask(&nodes, &request.question, deadline).await;
    let missing = collected.missing.iter().map(NodeId::to_string);
    let missing: Vec<String> = missing.chain(unknown).collect();
    let mut response = Response::new(protocol::collected_body(&collected.answers, &missing).into());
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The live nodes of these names or ids, each once, and the names that no live node has.
fn find(app: &App, names: Vec<String>) -> (Vec<NodeId>, Vec<String>) {
    let live = app.survey.all_nodes();
    let (mut nodes, mut unknown) = (Vec::new(), Vec::new());
    for name in names {
        let found = live
            .iter()
            .find(|node| node.as_str() == name || node.name() == name);
        match found {
            Some(node) if !nodes.contains(node) => nodes.push(node.clone()),
            Some(_) => {}
            None if !unknown.contains(&name) => unknown.push(name),
            None => {}
        }
    }
    (nodes, unknown)
}
