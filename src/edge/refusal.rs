//! How a client that may not connect is told, whatever its transport: the one place where refused
//! handshakes are counted.
//!
//! A browser shows a page neither the status nor the body of a WebSocket handshake that is refused.
//! A client that asks for it (`refuse=frame`) is therefore told after the upgrade.

use bytes::Bytes;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::App;
use crate::edge::cors::Reader;
use crate::edge::error::HttpError;
use crate::local::retry::retry_after;
use crate::protocol::{RefusalReason, refusal_frames};

/// As the answer to its request.
pub(crate) fn answer(app: &App, error: HttpError, reader: &Reader) -> Response {
    app.metrics.handshake_refused(error.code);
    reader.allow(error.reply())
}

/// As its only line.
pub(crate) fn line(app: &App, error: &HttpError) -> String {
    app.metrics.handshake_refused(error.code);
    error.object() + "\n"
}

/// As the frames behind `head`, which accepts the upgrade.
pub(crate) fn frames(app: &App, error: &HttpError, head: String) -> Bytes {
    app.metrics.handshake_refused(error.code);
    let reason = match error.status {
        StatusCode::UNAUTHORIZED => RefusalReason::Unauthorized,
        StatusCode::FORBIDDEN => RefusalReason::Forbidden,
        StatusCode::CONFLICT => RefusalReason::TooMany,
        StatusCode::SERVICE_UNAVAILABLE => RefusalReason::Unavailable,
        _ => RefusalReason::BadRequest,
    };
    let retry = reason.retry().then(retry_after);
    let mut bytes = Vec::from(head);
    for frame in refusal_frames(reason, error.code, error.message(), retry) {
        bytes.extend_from_slice(&frame);
    }
    bytes.into()
}

/// Whether the query asks for frames.
pub(crate) fn wants_frames(query: &str) -> bool {
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    parameters.any(|(name, value)| name == "refuse" && value == "frame")
}
