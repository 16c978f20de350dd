//! What the routes have in common: access to the node's parts, the senders' key, text in paths and
//! queries, and replies to requests that no route took.
//!
//! Each sender's route is `path, documented, with_key, ...`, in this order: a wrong method or key
//! counts only where the path fits.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use warp::http::StatusCode;
use warp::http::header::WWW_AUTHENTICATE;
use warp::reject::Rejection;
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::api::openapi::NotAllowed;
use crate::app::App;
use crate::edge::error::{HttpError, RefusalCode, Routes};
use crate::protocol::ids::BadName;

/// Gives a route the node's parts.
pub(super) fn with(
    app: &Arc<App>,
) -> impl Filter<Extract = (Arc<App>,), Error = Infallible> + Clone + use<> {
    let app = app.clone();
    warp::any().map(move || app.clone())
}

/// Passes only senders with a key; comes after the path and the method.
pub(super) fn with_key(
    app: &Arc<App>,
) -> impl Filter<Extract = (Arc<App>,), Error = Rejection> + Clone + use<> {
    with(app)
        .and(warp::header::optional::<String>("authorization"))
        .and_then(|app: Arc<App>, authorization: Option<String>| async move {
            if app.api_keys.allow(authorization.as_deref()) {
                Ok(app)
            } else {
                Err(warp::reject::custom(NoKey))
            }
        })
}

/// A sender without a valid key.
#[derive(Debug)]
struct NoKey;

impl warp::reject::Reject for NoKey {}

/// The query of a request; empty if it has none.
pub(super) fn query() -> impl Filter<Extract = (String,), Error = Infallible> + Copy {
    warp::query::raw().or(warp::any().map(String::new)).unify()
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
    } else if let Some(NotAllowed(allowed)) = rejection.find() {
        HttpError::method_not_allowed(allowed)
    } else if rejection.is_not_found() {
        HttpError::not_found("no such path")
    } else {
        HttpError::bad_request("the request was not understood")
    };
    error.reply()
}
