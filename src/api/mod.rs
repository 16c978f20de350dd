//! HTTP: the routes of clients, senders and operators, the one place that turns errors into
//! replies, and the one that counts what senders are refused. One file per noun. Errors have one
//! shape and never show internals. Which methods a path takes stands in `openapi.json` only, where
//! `documented` looks.

pub mod bans;
pub mod body;
pub mod call;
pub mod commands;
pub mod connections;
pub mod gauges;
pub mod node_choice;
pub mod nodes;
pub mod openapi;
pub mod operations;
pub mod page;
pub mod presence;
pub mod push;
pub mod reply;
pub mod sessions;
pub mod topics;
pub mod trace;
pub mod users;

use std::sync::Arc;

use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderName, HeaderValue, StatusCode};
use warp::reject::Rejection;
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::access::authenticator::Gate;
use crate::access::connection_limits::Places;
use crate::access::session_watch::Sessions;
use crate::api::openapi::documented;
use crate::auth::{ApiKeys, Denial};
use crate::backplane::Backplane;
use crate::cluster::balance::Balance;
use crate::cluster::survey::Survey;
use crate::config::Config;
use crate::delivery::call::CallService;
use crate::delivery::router::Router;
use crate::edge::acceptor;
use crate::edge::sse;
use crate::edge::ws;
use crate::edge::ws::Handshake;
use crate::local::hub::Hub;
use crate::protocol::error_object;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// What routes work with. One for each node.
pub struct App {
    /// The settings.
    pub config: Config,
    /// Keys of senders.
    pub api_keys: ApiKeys,
    /// Who is here.
    pub hub: Arc<Hub>,
    /// Where the others are.
    pub backplane: Arc<Backplane>,
    /// Chooses nodes for clients.
    pub balance: Balance,
    /// Carries out pushes.
    pub router: Arc<Router>,
    /// Asks nodes and collects their answers.
    pub survey: Survey,
    /// Carries out calls.
    pub caller: CallService,
    /// Who may come in.
    pub gate: Arc<Gate>,
    /// Sessions that connections here rest on.
    pub sessions: Arc<Sessions>,
    /// How many connections a user may have.
    pub places: Places,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether the node is leaving.
    pub shutdown: Shutdown,
}

/// An error as a sender or client sees it.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// For programs.
    pub(crate) code: &'static str,
    /// For people.
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self {
            status,
            code,
            message: message.to_owned(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("only {allowed} here");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            &message,
        )
        .header(ALLOW, allowed)
    }

    fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).retry_after(1)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.push((RETRY_AFTER, seconds.into()));
        self
    }

    /// Why a client is not let in.
    pub(crate) fn denied(denial: Denial) -> Self {
        let error = |status| Self::new(status, denial.code(), denial.message());
        match denial {
            // RFC 6750, 3: without a token there is no error to tell of.
            Denial::Missing => error(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, "Bearer"),
            Denial::Invalid(_) | Denial::Expired => error(StatusCode::UNAUTHORIZED)
                .header(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#),
            Denial::KeysUnavailable | Denial::SessionsUnavailable => {
                error(StatusCode::SERVICE_UNAVAILABLE).retry_after(1)
            }
            Denial::WrongUser => error(StatusCode::BAD_REQUEST),
            Denial::Banned => error(StatusCode::FORBIDDEN),
        }
    }

    /// The value of `error` in replies and in the results of a batch.
    fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            code: self.code,
            message: &self.message,
        }
    }

    /// As an object of ours, for a client that did not come by HTTP.
    pub(crate) fn object(&self) -> String {
        error_object(None, self.code, &self.message)
    }

    pub(crate) fn reply(self) -> Response {
        let told = Told(self.code);
        let mut response = self.outcome();
        response.extensions_mut().insert(told);
        response
    }

    /// As [`ApiError::reply`], for what came of a request that was carried out: no refusal.
    fn outcome(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: ErrorBody<'a>,
        }
        let mut response = json(self.status, &Body { error: self.body() });
        response.headers_mut().extend(self.headers);
        response
    }
}

/// The code that stands in a refusal, for the count.
#[derive(Debug, Clone, Copy)]
struct Told(&'static str);

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
}

/// A JSON reply.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("our own types become JSON");
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A route's path fits, its method does not.
#[derive(Debug)]
struct NotAllowed(&'static str);

impl warp::reject::Reject for NotAllowed {}

/// The routes of one kind of listener.
pub type Routes = BoxedFilter<(Response,)>;

/// Where clients connect; senders too, unless they have listeners of their own.
#[must_use]
pub fn client_routes(app: &Arc<App>) -> Routes {
    let clients = websocket(app, "ws", |app, handshake| {
        Box::pin(ws::connect(app, handshake))
    });
    #[cfg(feature = "echo")]
    let clients = clients
        .or(websocket(app, "echo", |app, handshake| {
            Box::pin(ws::echo(app, handshake))
        }))
        .unify()
        .boxed();
    let clients = clients.or(events(app)).unify().boxed();
    let clients = clients.or(page::route()).unify().boxed();
    let clients = clients.or(node_choice::route(app)).unify().boxed();
    if app.config.api_listen.is_empty() {
        // Routes are tried one after the other: pushes come first, which there are most of.
        let push = counted(app, push::route(app));
        let others = counted(app, other_senders(app));
        finish(push.or(clients).unify().or(others).unify().boxed())
    } else {
        finish(clients.or(openapi::route()).unify().boxed())
    }
}

/// Where senders call.
#[must_use]
pub fn sender_routes(app: &Arc<App>) -> Routes {
    let push = counted(app, push::route(app));
    let others = counted(app, other_senders(app));
    finish(push.or(others).unify().boxed())
}

/// Where operators look.
#[must_use]
pub fn admin_routes(app: &Arc<App>) -> Routes {
    finish(operations::routes(app))
}

/// All that senders call, but for pushes.
fn other_senders(app: &Arc<App>) -> Routes {
    users::route(app)
        .or(bans::route(app))
        .unify()
        .or(sessions::route(app))
        .unify()
        .or(trace::route(app))
        .unify()
        .or(connections::route(app))
        .unify()
        .or(nodes::routes(app))
        .unify()
        .or(commands::routes(app))
        .unify()
        .or(call::route(app))
        .unify()
        .or(topics::routes(app))
        .unify()
        .or(reply::route(app))
        .unify()
        .or(presence::route(app))
        .unify()
        .or(openapi::route())
        .unify()
        .boxed()
}

/// Counts whatever senders are refused, by the code that they are told.
fn counted(app: &Arc<App>, routes: Routes) -> Routes {
    let metrics = app.metrics.clone();
    let refuse = async |rejection: Rejection| {
        if rejection.is_not_found() {
            // Somebody else's path, perhaps.
            Err(rejection)
        } else {
            Ok(explain(&rejection))
        }
    };
    routes
        .recover(refuse)
        .map(move |reply| {
            let response = Reply::into_response(reply);
            if let Some(Told(code)) = response.extensions().get() {
                metrics.refused(code);
            }
            response
        })
        .boxed()
}

type Connecting = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

fn websocket(
    app: &Arc<App>,
    path: &'static str,
    connect: fn(Arc<App>, Handshake) -> Connecting,
) -> Routes {
    warp::path(path)
        .and(warp::path::end())
        .and(with(app))
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::ext::get::<acceptor::Caller>())
        .then(move |app, method, headers, query, caller| {
            connect(
                app,
                Handshake {
                    method,
                    headers,
                    query,
                    caller,
                },
            )
        })
        .boxed()
}

fn events(app: &Arc<App>) -> Routes {
    warp::path!("sse")
        .and(documented("/sse"))
        .and(with(app))
        .and(warp::header::headers_cloned())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::ext::get::<acceptor::Caller>())
        .then(|_method, app, headers, query, caller| {
            let request = sse::Request {
                headers,
                query,
                caller,
            };
            sse::connect(app, request)
        })
        .boxed()
}

/// Gives a route the node's parts.
fn with(
    app: &Arc<App>,
) -> impl Filter<Extract = (Arc<App>,), Error = std::convert::Infallible> + Clone + use<> {
    let app = app.clone();
    warp::any().map(move || app.clone())
}

/// Passes only senders with a key; comes behind the path and the method.
fn with_key(
    app: &Arc<App>,
) -> impl Filter<Extract = (Arc<App>,), Error = Rejection> + Clone + use<> {
    with(app)
        .and(warp::header::optional::<String>("authorization"))
        .and_then(|app: Arc<App>, authorization: Option<String>| async move {
            if app.api_keys.allow(authorization.as_deref()) {
                Ok(app)
            } else {
                Err(warp::reject::custom(Refused))
            }
        })
}

/// A sender without a valid key.
#[derive(Debug)]
struct Refused;

impl warp::reject::Reject for Refused {}

/// Turns what no route took into a reply.
fn finish(routes: Routes) -> Routes {
    let answer =
        async |rejection: Rejection| Ok::<_, std::convert::Infallible>(explain(&rejection));
    routes.recover(answer).map(Reply::into_response).boxed()
}

fn explain(rejection: &Rejection) -> Response {
    // The order matters: another route's 404 stands beside this route's own reason.
    let error = if rejection.find::<Refused>().is_some() {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a valid API key is needed: Authorization: Bearer <key>",
        )
        .header(WWW_AUTHENTICATE, "Bearer")
    } else if let Some(NotAllowed(allowed)) = rejection.find() {
        ApiError::method_not_allowed(allowed)
    } else if rejection.is_not_found() {
        ApiError::not_found("no such path")
    } else {
        ApiError::bad_request("the request was not understood")
    };
    error.reply()
}
