//! `GET /pushnode.js`: the client for pages, as `npm run served` in `clients/js` builds it.
//!
//! The built file stands here, so that no Node.js is needed to build a node. A test of
//! `clients/js` says when it is not what the sources make.

use std::fmt::Write as _;
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};
use warp::Filter;
use warp::http::StatusCode;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use warp::reply::Response;

use crate::api::openapi::documented;
use crate::edge::error::Routes;

const SCRIPT: &str = include_str!("pushnode.js");
/// Used for five minutes, and then asked for by its tag: a page has a new node's script soon.
const CACHING: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Quoted, as it stands in the headers.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let digest = Sha256::digest(SCRIPT);
    let hex = digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!("\"{hex}\"")
});

pub(super) fn route() -> Routes {
    warp::path!("pushnode.js")
        .and(documented("/pushnode.js"))
        .and(warp::header::optional("if-none-match"))
        .map(|_, known: Option<String>| {
            // A proxy that compresses makes the tag a weak one, `W/"..."`.
            let is_known = known.is_some_and(|known| known.contains(TAG.as_str()));
            let mut response = Response::new(if is_known { "" } else { SCRIPT }.into());
            if is_known {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
            }
            let headers = response.headers_mut();
            let tag = HeaderValue::from_str(&TAG).expect("hexadecimal digits");
            headers.insert(ETAG, tag);
            headers.insert(CACHE_CONTROL, CACHING);
            if !is_known {
                let script = HeaderValue::from_static("text/javascript; charset=utf-8");
                headers.insert(CONTENT_TYPE, script);
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            response
        })
        .boxed()
}
