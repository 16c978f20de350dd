//! What the routes have in common: access to the node's parts, the senders' key, text in paths and
//! queries, and replies to requests that no route took.
//!
//! Each sender's route is `path, documented, with_key, ...`, in this order: a wrong method or key
//! counts only where the path fits.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use url::form_urlencoded::Parse;
use warp::http::StatusCode;
use warp::http::header::WWW_AUTHENTICATE;
use warp::reject::Rejection;
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::api::openapi::NotAllowed;
use crate::app::App;
use crate::edge::caller::{Caller, SenderFault};
use crate::edge::error::{HttpError, RefusalCode, Routes};
use crate::edge::upgrade::RequestContext;
use crate::protocol::ids::BadName;

/// Gives a route the node's parts.
pub(super) fn with(
    app: &Arc<App>,
) -> impl Filter<Extract = (Arc<App>,), Error = Infallible> + Clone + use<> {
    let app = app.clone();
    warp::any().map(move || app.clone())
}

/// Passes only senders with a key, and without keys no web pages from elsewhere; comes after the
/// path and the method.
pub(super) fn with_key(
    app: &Arc<App>,
) -> impl Filter<Extract = (Arc<App>,), Error = Rejection> + Clone + use<> {
    with(app)
        .and(warp::header::optional::<String>("authorization"))
        .and(warp::ext::get::<RequestContext>())
        .and_then(
            |app: Arc<App>, authorization: Option<String>, context: RequestContext| async move {
                match context.caller.check_sender(&app, authorization.as_deref()) {
                    Ok(()) => Ok(app),
                    Err(SenderFault::NoKey) => Err(warp::reject::custom(NoKey)),
                    Err(SenderFault::Stranger(error)) => Err(warp::reject::custom(Refused(error))),
                }
            },
        )
}

/// Passes only requests that are not of web pages from elsewhere: what operators look at has no
/// key.
pub(super) fn with_operator(
    app: &Arc<App>,
    check: fn(&Caller, &App) -> Result<(), HttpError>,
) -> impl Filter<Extract = (Arc<App>,), Error = Rejection> + Clone + use<> {
    with(app).and(warp::ext::get::<RequestContext>()).and_then(
        move |app: Arc<App>, context: RequestContext| async move {
            match check(&context.caller, &app) {
                Ok(()) => Ok(app),
                Err(error) => Err(warp::reject::custom(Refused(error))),
            }
        },
    )
}

/// A request that comes from elsewhere.
#[derive(Debug)]
struct Refused(HttpError);

impl warp::reject::Reject for Refused {}

/// A sender without a valid key.
#[derive(Debug)]
struct NoKey;

impl warp::reject::Reject for NoKey {}

/// The query of a request; empty if it has none.
pub(super) fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Copy {
    warp::query::raw().or(warp::any().map(String::new)).unify()
}

/// The parameters of a query. Those of which only one can count must not be repeated.
pub(super) fn parameters<'a>(query: &'a str, single: &[&str]) -> Result<Parse<'a>, HttpError> {
    let all = url::form_urlencoded::parse(query.as_bytes());
    for name in single {
        if all.filter(|(one, _)| one == name).nth(1).is_some() {
            return Err(HttpError::bad_request(format!("{name} must be there once")));
        }
    }
    Ok(all)
}

/// A user, topic or connection in a path or query.
pub(super) fn name<T: FromStr<Err = BadName>>(text: &str) -> Result<T, HttpError> {
    // warp hands out the path as it came.
    let text = percent_decode_str(text).decode_utf8();
    let text = text.map_err(|_| HttpError::bad_request("the path is not UTF-8"))?;
    text.parse()
        .map_err(|error: BadName| HttpError::bad_request(error.to_string()))
}

/// Counts what senders are refused, by the code that they are told.
pub(super) fn counted(app: &Arc<App>, routes: Routes) -> Routes {
    let metrics = app.metrics.clone();
    let refuse = async |rejection: Rejection| {
        if rejection.is_not_found() {
            // It may be the path of another route.
            Err(rejection)
        } else {
            Ok(explain(&rejection))
        }
    };
    routes
        .recover(refuse)
        .map(move |reply| {
            let response = Reply::into_response(reply);
            if let Some(RefusalCode(code)) = response.extensions().get() {
                metrics.refused(code);
            }
            response
        })
        .boxed()
}

/// Answers requests that no route took.
pub(super) fn finish(routes: Routes) -> Routes {
    let answer = async |rejection: Rejection| Ok::<_, Infallible>(explain(&rejection));
    routes.recover(answer).map(Reply::into_response).boxed()
}

fn explain(rejection: &Rejection) -> Response {
    // The order matters: another route's 404 is listed together with this route's own reason.
    let error = if rejection.find::<NoKey>().is_some() {
        HttpError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a valid API key is needed: Authorization: Bearer <key>",
        )
        .header(WWW_AUTHENTICATE, "Bearer")
    } else if let Some(Refused(error)) = rejection.find() {
        error.clone()
    } else if let Some(NotAllowed(allowed)) = rejection.find() {
        HttpError::method_not_allowed(allowed)
    } else if rejection.is_not_found() {
        HttpError::not_found("no such path")
    } else {
        HttpError::bad_request("the request was not understood")
    };
    error.reply()
}
