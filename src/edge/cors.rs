//! Cross-origin requests of pages to the routes of clients (the Fetch standard, CORS protocol).
//!
//! Who may connect may read: the answers of all client routes, errors included, carry the same
//! headers. Without them a page cannot tell a token that has expired from a network that is down.

use std::fmt::Write as _;

use warp::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN,
    VARY,
};
use warp::http::{HeaderMap, HeaderValue, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::edge::caller::Caller;

/// What pages may send: a token, a position, and what some libraries add.
const HEADERS: &str = "authorization, cache-control, last-event-id";
/// What pages may read beside the body.
const EXPOSED: &str = "retry-after, www-authenticate";
/// How long a browser may remember a preflight; until then it does not see a changed list.
const MAX_AGE: &str = "600";

/// The page that may read an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reader {
    /// No page, or none that may.
    None,
    /// Any, without its user's cookies.
    Any,
    /// One that may not have an origin, and so is not told from others: without cookies.
    Null,
    /// The page of this origin.
    Page(HeaderValue),
}

impl Reader {
    pub(crate) fn of(app: &App, headers: &HeaderMap, caller: &Caller) -> Self {
        match headers.get(ORIGIN) {
            None => Self::None,
            Some(_) if app.config.origins.allow_any() => Self::Any,
            Some(_) if !caller.may_connect(app, headers) => Self::None,
            Some(origin) if origin == "null" => Self::Null,
            Some(origin) => Self::Page(origin.clone()),
        }
    }

    /// The value of `Access-Control-Allow-Origin`.
    fn origin(&self) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Null => Some(HeaderValue::from_static("null")),
            Self::Page(origin) => Some(origin.clone()),
        }
    }

    /// Adds the headers to an answer.
    pub(crate) fn allow(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        // Also without an origin: a cache must not give that answer to a page.
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = self.origin() else {
            return response;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
        if matches!(self, Self::Page(_)) {
            headers.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        response
    }

    /// As [`Reader::allow`], for a head that is written by hand.
    pub(crate) fn write(&self, head: &mut String) {
        head.push_str("vary: origin\r\n");
        let origin = self.origin();
        // What came in a header may not be text; it is not on any list then.
        let Some(origin) = origin.as_ref().and_then(|value| value.to_str().ok()) else {
            return;
        };
        let _ = write!(head, "access-control-allow-origin: {origin}\r\n");
        if matches!(self, Self::Page(_)) {
            head.push_str("access-control-allow-credentials: true\r\n");
        }
    }
}

/// The answer to a preflight.
pub(crate) fn preflight(app: &App, headers: &HeaderMap, caller: &Caller) -> Response {
    let mut response = match caller.check_page(app, headers) {
        Ok(()) => Response::default(),
        Err(error) => return Reader::None.allow(error.reply()),
    };
    *response.status_mut() = StatusCode::NO_CONTENT;
    let mut response = Reader::of(app, headers, caller).allow(response);
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
