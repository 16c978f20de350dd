//! `/v1/sessions`: opening a session (POST), and ending it with all its connections (DELETE).
//!
//! The token is told once, to the sender that opened the session; its digest is what is stored.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::body;
use crate::api::filters::with_key;
use crate::api::openapi::documented;
use crate::app::App;
use crate::auth::claims::{Claims, UserClaim};
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::ids::UserId;
use crate::protocol::session_id::SessionId;
use crate::protocol::{SessionRequest, session_to_end};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "sessions")
        .and(documented("/v1/sessions"))
        .and(with_key(app))
        .and(body::declared())
        .and(warp::body::stream())
        .then(async |method: Method, app: Arc<App>, declared, stream| {
            let body = match body::read_json(&app, declared, stream).await {
                Ok(body) => body,
                Err(error) => return error.reply(),
            };
            let reply = if !app.authenticator.takes_sessions() {
                let words = "sessions are not accepted here (PUSH_AUTH)";
                Err(HttpError::new(StatusCode::CONFLICT, "sessions_off", words))
            } else if method == Method::POST {
                open(&app, &body).await
            } else {
                end(&app, &body).await
            };
            reply.unwrap_or_else(HttpError::reply)
        })
        .boxed()
}

async fn open(app: &App, body: &Bytes) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Opened {
        token: String,
        session: String,
        user: UserId,
        expires_in: u64,
    }
    let request = SessionRequest::parse(body)?;
    let claims = request.claims();
    if claims.starts_with('{') {
        // What the handshake would refuse is refused here.
        Claims::parse(claims.as_bytes(), &UserClaim::default()).map_err(HttpError::bad_request)?;
    }
    let mut random = [0; TOKEN_BYTES];
    getrandom::fill(&mut random).map_err(|_| HttpError::unavailable("no random bytes"))?;
    let token = BASE64.encode(random);
    let id = SessionId::of(&token);
    let written = app.backplane.open_session(id, claims, request.lasts());
    written.await?;
    let opened = Opened {
        token,
        session: id.to_string(),
        user: request.user,
        expires_in: request.ttl_seconds,
    };
    Ok(json(StatusCode::CREATED, &opened))
}

async fn end(app: &App, body: &Bytes) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Ended {
        session: String,
        /// Whether there was one.
        ended: bool,
    }
    let id = session_to_end(body)?;
    let ended = app.backplane.close_session(id).await?;
    // Also if there was none: its connections may still be open.
    app.router.revoke(id).await?;
    let session = id.to_string();
    Ok(json(StatusCode::OK, &Ended { session, ended }))
}
