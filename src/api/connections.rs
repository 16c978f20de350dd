//! `DELETE /v1/connections/{node}/{fd}`: ending one connection.

use std::sync::Arc;

use warp::Filter;
use warp::http::StatusCode;

use super::{ApiError, App, Routes, json, methods, with_key};
use crate::close::CloseReason;
use crate::names::ConnectionId;
use crate::protocol::Status;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "connections" / String / String)
        .and(methods("DELETE"))
        .and(with_key(app))
        .then(async |node: String, fd: String, _method, app: Arc<App>| {
            let id: ConnectionId = match format!("{node}/{fd}").parse() {
                Ok(id) => id,
                Err(error) => return ApiError::bad_request(&format!("{error}")).reply(),
            };
            let answer = app.router.kick_connection(&id, CloseReason::Kicked).await;
            match answer.status {
                Status::Offline => ApiError::not_found("no such connection").reply(),
                Status::Unrouted => {
                    ApiError::unavailable(answer.reason.unwrap_or("no way to its node")).reply()
                }
                _ => json(StatusCode::OK, &answer),
            }
        })
        .boxed()
}
