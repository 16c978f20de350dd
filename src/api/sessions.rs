//! `/v1/sessions`: opening a session (POST), and ending it with all its connections (DELETE).
//!
//! The token is told once, to whoever opened the session; what is stored is its digest.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::{ApiError, App, Routes, body, documented, json, with_key};
use crate::auth::{Claims, SessionId};
use crate::protocol::ids::UserId;
use crate::protocol::{SessionRequest, session_to_end};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "sessions")
        .and(documented("/v1/sessions"))
        .and(with_key(app))
        .and(warp::body::stream())
        .then(async |method: Method, app: Arc<App>, stream| {
            let body = match body::read(stream).await {
                Ok(body) => body,
                Err(error) => return error.reply(),
            };
            let reply = if !app.gate.takes_sessions() {
                let words = "sessions let nobody in here (PUSH_AUTH)";
                Err(ApiError::new(StatusCode::CONFLICT, "sessions_off", words))
            } else if method == Method::POST {
                open(&app, &body).await
            } else {
                end(&app, &body).await
            };
            reply.unwrap_or_else(ApiError::reply)
        })
        .boxed()
}

async fn open(app: &App, body: &Bytes) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Opened {
        token: String,
        session: String,
        user: UserId,
        expires_in: u64,
    }
    let request = SessionRequest::parse(body);
    let request = request.map_err(|fault| ApiError::bad_request(&fault.to_string()))?;
    let claims = request.claims();
    if claims.starts_with('{') {
        // What would be refused at the door is refused here.
        Claims::parse(claims.as_bytes()).map_err(ApiError::bad_request)?;
    }
    let mut random = [0; TOKEN_BYTES];
    getrandom::fill(&mut random).map_err(|_| ApiError::unavailable("no random bytes"))?;
    let token = BASE64.encode(random);
    let id = SessionId::of(&token);
    let written = app.backplane.open_session(id, claims, request.lasts());
    let away = |reason: crate::backplane::Unavailable| ApiError::unavailable(&reason.to_string());
    written.await.map_err(away)?;
    let opened = Opened {
        token,
        session: id.to_string(),
        user: request.user,
        expires_in: request.ttl_seconds,
    };
    Ok(json(StatusCode::CREATED, &opened))
}

async fn end(app: &App, body: &Bytes) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Ended {
        session: String,
        /// Whether it was there.
        ended: bool,
    }
    let id = session_to_end(body);
    let id = id.map_err(|fault| ApiError::bad_request(&fault.to_string()))?;
    let away = |reason: crate::backplane::Unavailable| ApiError::unavailable(&reason.to_string());
    let ended = app.backplane.close_session(id).await.map_err(away)?;
    // Also if it was not: its connections may be there still.
    app.router.revoke(id).await.map_err(away)?;
    let session = id.to_string();
    Ok(json(StatusCode::OK, &Ended { session, ended }))
}
