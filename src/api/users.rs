//! `/v1/users/{user}`: where a user is connected (GET), and sending them away (DELETE).

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::{ApiError, App, Routes, documented, json, push, with_key};
use crate::backplane::Row;
use crate::names::UserId;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String)
        .and(documented("/v1/users/{user}"))
        .and(with_key(app))
        .then(async |user: String, method: Method, app: Arc<App>| {
            // warp hands out the path as it came. What is no UTF-8 is no user id either.
            let user = percent_encoding::percent_decode_str(&user).decode_utf8_lossy();
            let reply = match user.parse() {
                Err(error) => Err(ApiError::bad_request(&format!("{error}"))),
                Ok(user) if method == Method::DELETE => {
                    Ok(push::reply(&app.router.kick_user(&user).await))
                }
                Ok(user) => show(&app, user).await,
            };
            reply.unwrap_or_else(ApiError::reply)
        })
        .boxed()
}

async fn show(app: &App, user: UserId) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Body {
        user: UserId,
        online: bool,
        connections: Vec<Row>,
    }
    let connections = app
        .backplane
        .rows(&user)
        .await
        .map_err(|reason| ApiError::unavailable(&reason.to_string()))?;
    let online = !connections.is_empty();
    Ok(json(
        StatusCode::OK,
        &Body {
            user,
            online,
            connections,
        },
    ))
}
