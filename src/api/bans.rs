//! `/v1/users/{user}/ban`: keeping a user out (PUT), looking (GET), and letting in again (DELETE).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::users::user_of;
use crate::api::{ApiError, App, Routes, body, documented, json, with_key};
use crate::backplane::Unavailable;
use crate::protocol::BanRequest;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::UserId;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String / "ban")
        .and(documented("/v1/users/{user}/ban"))
        .and(with_key(app))
        .and(warp::body::stream())
        .then(
            async |user: String, method: Method, app: Arc<App>, stream| {
                // The others have none that matters.
                let body = match method == Method::PUT {
                    true => body::read(stream).await,
                    false => Ok(Bytes::new()),
                };
                let body = match body {
                    Ok(body) => body,
                    Err(error) => return error.reply(),
                };
                let reply = match user_of(&user) {
                    Err(error) => Err(error),
                    Ok(_) if !app.config.bans => {
                        let words = "nobody looks at bans here (PUSH_BANS)";
                        Err(ApiError::new(StatusCode::CONFLICT, "bans_off", words))
                    }
                    Ok(user) if method == Method::PUT => put(&app, user, &body).await,
                    Ok(user) if method == Method::DELETE => lift(&app, user).await,
                    Ok(user) => show(&app, user).await,
                };
                reply.unwrap_or_else(ApiError::reply)
            },
        )
        .boxed()
}

/// A ban as it stands.
#[derive(Serialize)]
struct Shown {
    user: UserId,
    banned: bool,
    /// Until it ends; none for one without end, which only Redis can hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

fn away(reason: Unavailable) -> ApiError {
    ApiError::unavailable(reason.0)
}

async fn put(app: &App, user: UserId, body: &Bytes) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Banned {
        #[serde(flatten)]
        ban: Shown,
        /// How many connections were closed, as far as is proven.
        connections: u32,
        nodes: u32,
    }
    let request = BanRequest::parse(body);
    let BanRequest { seconds, reason } =
        request.map_err(|fault| ApiError::bad_request(&fault.to_string()))?;
    let lasts = Duration::from_secs(seconds);
    // The ban first: whoever connects behind the kick finds it.
    let written = app.backplane.put_ban(&user, reason.clone(), lasts).await;
    written.map_err(away)?;
    let kicked = app.router.kick_user(&user, CloseReason::Banned).await;
    let ban = Shown {
        user,
        banned: true,
        seconds: Some(seconds),
        reason,
    };
    let banned = Banned {
        ban,
        connections: kicked.connections,
        nodes: kicked.nodes,
    };
    Ok(json(StatusCode::OK, &banned))
}

async fn lift(app: &App, user: UserId) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Lifted {
        user: UserId,
        banned: bool,
        /// Whether there was one.
        lifted: bool,
    }
    let lifted = app.backplane.lift_ban(&user).await.map_err(away)?;
    let banned = false;
    Ok(json(
        StatusCode::OK,
        &Lifted {
            user,
            banned,
            lifted,
        },
    ))
}

async fn show(app: &App, user: UserId) -> Result<Response, ApiError> {
    let ban = app.backplane.ban(&user).await.map_err(away)?;
    let shown = Shown {
        user,
        banned: ban.is_some(),
        seconds: ban
            .as_ref()
            .and_then(|ban| ban.left)
            .map(|left| left.as_secs()),
        reason: ban.map_or(String::new(), |ban| ban.reason),
    };
    Ok(json(StatusCode::OK, &shown))
}
