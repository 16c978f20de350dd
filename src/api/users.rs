//! `/v1/users/{user}`: a user's connections (GET), and closing all of them (DELETE).

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::filters::{name, with_key};
use crate::api::openapi::documented;
use crate::api::presence::Extent;
use crate::api::push;
use crate::app::App;
use crate::backplane::rows::Row;
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String)
        .and(documented("/v1/users/{user}"))
        .and(with_key(app))
        .then(async |user: String, method: Method, app: Arc<App>| {
            let reply = match name(&user) {
                Err(error) => Err(error),
                Ok(user) if method == Method::DELETE => {
                    let kicked = app.router.kick_user(&user, CloseReason::Kicked).await;
                    Ok(push::reply(&kicked.answer))
                }
                Ok(user) => show(&app, user).await,
            };
            reply.unwrap_or_else(HttpError::reply)
        })
        .boxed()
}

async fn show(app: &App, user: UserId) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Body {
        user: UserId,
        online: bool,
        #[serde(flatten)]
        extent: Extent,
        connections: Vec<Row>,
    }
    let connections = app.backplane.rows(&user).await?;
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
