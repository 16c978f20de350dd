//! `/v1/users/{user}/ban`: banning a user (PUT), reading the ban (GET), and lifting it (DELETE).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::body;
use crate::api::filters::{name, with_key};
use crate::api::openapi::documented;
use crate::app::App;
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::BanRequest;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::{NodeId, UserId};

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "users" / String / "ban")
        .and(documented("/v1/users/{user}/ban"))
        .and(with_key(app))
        .and(body::declared())
        .and(warp::body::stream())
        .then(
            async |user: String, method: Method, app: Arc<App>, declared, stream| {
                // The body of other methods is not read.
                let body = match method == Method::PUT {
                    true => body::read_json(&app, declared, stream).await,
                    false => Ok(Bytes::new()),
                };
                let body = match body {
                    Ok(body) => body,
                    Err(error) => return error.reply(),
                };
                let reply = match name(&user) {
                    Err(error) => Err(error),
                    Ok::<UserId, _>(_) if !app.config.bans => {
                        let words = "bans are not checked here (PUSH_BANS)";
                        Err(HttpError::new(StatusCode::CONFLICT, "bans_off", words))
                    }
                    Ok(user) if method == Method::PUT => put(&app, user, &body).await,
                    Ok(user) if method == Method::DELETE => lift(&app, user).await,
                    Ok(user) => show(&app, user).await,
                };
                reply.unwrap_or_else(HttpError::reply)
            },
        )
        .boxed()
}

/// A ban as it stands.
#[derive(Serialize)]
struct Shown {
    user: UserId,
    banned: bool,
    /// Until it ends; none for a ban without end, which only another program can write.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

async fn put(app: &App, user: UserId, body: &Bytes) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Banned {
        #[serde(flatten)]
        ban: Shown,
        /// How many connections are proven to be closed.
        connections: u32,
        nodes: u32,
        /// Nodes that may hold connections and did not report.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        missing: Vec<NodeId>,
        /// Why some connections may be open.
        #[serde(skip_serializing_if = "Option::is_none")]
        unproven: Option<&'static str>,
    }
    let BanRequest { seconds, reason } = BanRequest::parse(body)?;
    let lasts = Duration::from_secs(seconds);
    // The ban first: a client that connects after the kick finds it.
    let written = app.backplane.put_ban(&user, reason.clone(), lasts);
    written.await?;
    let kicked = app.router.kick_user(&user, CloseReason::Banned).await;
    let ban = Shown {
        user,
        banned: true,
        seconds: Some(seconds),
        reason,
    };
    let banned = Banned {
        ban,
        connections: kicked.connections(),
        nodes: kicked.nodes,
        unproven: kicked.answer.reason,
        missing: kicked.missing,
    };
    Ok(json(StatusCode::OK, &banned))
}

async fn lift(app: &App, user: UserId) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Lifted {
        user: UserId,
        banned: bool,
        /// Whether there was one.
        lifted: bool,
    }
    let lifted = app.backplane.lift_ban(&user).await?;
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

async fn show(app: &App, user: UserId) -> Result<Response, HttpError> {
    let ban = app.backplane.ban(&user).await?;
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
