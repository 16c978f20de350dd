//! `GET /`: one page to try it with.

use warp::Filter;
use warp::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::api::openapi::documented;
use crate::edge::error::Routes;

const PAGE: &str = include_str!("page.html");
/// Nothing from elsewhere, nothing to elsewhere; `/pushnode.js` apart, all stands in the page.
const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

pub(super) fn route() -> Routes {
    warp::path::end()
        .and(documented("/"))
        .map(|_| {
            let mut response = Response::new(PAGE.into());
            let headers = response.headers_mut();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            );
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        })
        .boxed()
}
