//! `DELETE /v1/connections/{node}/{fd}`: ending one connection.

use std::sync::Arc;

use warp::Filter;

use crate::api::filters::with_key;
use crate::api::openapi::documented;
use crate::api::push;
use crate::app::App;
use crate::edge::error::{HttpError, Routes};
use crate::protocol::Status;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::ConnectionId;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "connections" / String / String)
        .and(documented("/v1/connections/{node}/{fd}"))
        .and(with_key(app))
        .then(async |node: String, fd: String, _method, app: Arc<App>| {
            let id: ConnectionId = match format!("{node}/{fd}").parse() {
                Ok(id) => id,
                Err(error) => return HttpError::bad_request(format!("{error}")).reply(),
            };
            let answer = app.router.kick_connection(&id, CloseReason::Kicked).await;
            match answer.status {
                Status::Offline => HttpError::not_found("no such connection").reply(),
                _ => push::reply(&answer),
            }
        })
        .boxed()
}
