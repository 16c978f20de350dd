//! `GET /openapi.json`: what the routes are, for programs; and the one table of their methods.
//!
//! The document is `openapi.json` in this folder. A route begins with its path and [`documented`],
//! which takes the path's methods from the document: a route that is not in it cannot be built.
//! To add one, write its path, statuses and error codes there and provoke each of them in
//! `tests/node/openapi` (or in `tests/cluster/openapi.rs`, if that takes Redis), which fails until
//! every one has been seen, and at anything that the document does not say. "A new route" in
//! ARCHITECTURE.md tells more.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::IgnoredAny;
use warp::Filter;
use warp::http::Method;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reject::Rejection;
use warp::reply::Response;

use crate::edge::error::Routes;

const DOCUMENT: &str = include_str!("openapi.json");

/// The paths whose GET answers a connection.
const STREAMS: [&str; 2] = ["/ws", "/sse"];

/// The methods of each path, as `Allow` lists them.
static METHODS: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        paths: HashMap<&'a str, HashMap<&'a str, IgnoredAny>>,
    }
    let document: Document<'_> = serde_json::from_str(DOCUMENT).expect("the tests read it too");
    let listed = |(path, item): (_, HashMap<&str, _>)| {
        let known = ["get", "head", "post", "put", "delete", "patch", "options"];
        // RFC 9110, 9.3.2; a stream has no end at which its head could be told.
        let has_head = item.contains_key("get") && !STREAMS.contains(&path);
        let is_listed = |method: &str| item.contains_key(method) || (method == "head" && has_head);
        let methods = known.iter().filter(|method| is_listed(method));
        let methods: Vec<_> = methods.map(|method| method.to_ascii_uppercase()).collect();
        (path, methods.join(", "))
    };
    document.paths.into_iter().map(listed).collect()
});

/// A route's path fits, its method does not.
#[derive(Debug)]
pub(super) struct NotAllowed(pub(super) &'static str);

impl warp::reject::Reject for NotAllowed {}

/// Passes only the methods that the document has for this path, and HEAD, as GET, where it has GET;
/// comes after the path. Panics at the
/// start of the node if the document does not have the path.
pub(super) fn documented(
    path: &str,
) -> impl Filter<Extract = (Method,), Error = Rejection> + Copy + use<> {
    let allowed: &'static str = METHODS.get(path).unwrap_or_else(|| {
        panic!("{path} is not in src/api/openapi.json; see \"A new route\" in ARCHITECTURE.md")
    });
    warp::method().and_then(move |method: Method| async move {
        let fits = allowed.split(", ").any(|one| one == method.as_str());
        if fits && method == Method::HEAD {
            // hyper leaves the body out.
            Ok(Method::GET)
        } else if fits {
            Ok(method)
        } else {
            Err(warp::reject::custom(NotAllowed(allowed)))
        }
    })
}

pub(super) fn route() -> Routes {
    warp::path!("openapi.json")
        .and(documented("/openapi.json"))
        .map(|_| {
            let mut response = Response::new(DOCUMENT.into());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        })
        .boxed()
}
