//! `/v1/users/{user}`: where a user is connected (GET), and sending them away (DELETE).

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::presence::Extent;
use crate::api::{ApiError, App, Routes, documented, json, push, with_key};
use crate::backplane::Row;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String)
        .and(documented("/v1/users/{user}"))
        .and(with_key(app))
        .then(async |user: String, method: Method, app: Arc<App>| {
            let reply = match user_of(&user) {
                Err(error) => Err(error),
                Ok(user) if method == Method::DELETE => {
                    let kicked = app.router.kick_user(&user, CloseReason::Kicked).await;
                    Ok(push::reply(&kicked))
                }
                Ok(user) => show(&app, user).await,
            };
            reply.unwrap_or_else(ApiError::reply)
        })
        .boxed()
}

/// The user in a path.
pub(super) fn user_of(segment: &str) -> Result<UserId, ApiError> {
    // warp hands out the path as it came. What is no UTF-8 is no user id either.
    let user = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
    user.parse()
        .map_err(|error| ApiError::bad_request(&format!("{error}")))
}

async fn show(app: &App, user: UserId) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Body {
        user: UserId,
        online: bool,
        #[serde(flatten)]
        extent: Extent,
        connections: Vec<Row>,
    }
    let connections = app.backplane.rows(&user).await;
    let connections = connections.map_err(|reason| ApiError::unavailable(&reason.to_string()))?;
    let online = !connections.is_empty();
    Ok(json(
        StatusCode::OK,
        &Body {
            user,
            online,
            extent: Extent::of(&connections),
            connections,
        },
    ))
}
