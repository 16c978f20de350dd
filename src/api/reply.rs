//! `POST /v1/reply`: a service's reply to a client that sent it something.

use std::sync::Arc;

use warp::Filter;

use crate::api::body;
use crate::api::openapi::documented;
use crate::api::push;
use crate::app::App;
use crate::edge::error::Routes;
use crate::protocol::PushRequest;

pub(super) fn route(app: &Arc<App>) -> Routes {
    let path = warp::path!("v1" / "reply").and(documented("/v1/reply"));
    body::posted(app, path, PushRequest::parse_reply, async |app, request| {
        push::reply(&app.router.push(&request).await)
    })
}
