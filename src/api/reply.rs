//! `POST /v1/reply`: a service's reply to a client that sent it something.

use std::sync::Arc;

use warp::Filter;

use super::{ApiError, App, Routes, body, methods, push, with_key};
use crate::protocol::PushRequest;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "reply")
        .and(methods("POST"))
        .and(with_key(app))
        .and(warp::body::stream())
        .then(async |_method, app: Arc<App>, stream| {
            let body = match body::read(stream).await {
                Ok(body) => body,
                Err(error) => return error.reply(),
            };
            match PushRequest::parse_reply(&body) {
                Ok(request) => push::carry_out(&app, &request).await,
                Err(fault) => ApiError::bad_request(&fault.to_string()).reply(),
            }
        })
        .boxed()
}
