//! What the routes of senders and the fast lane share: reading one push, and its outcome as an
//! answer over HTTP.

use serde::Serialize;
use warp::http::StatusCode;

use crate::app::App;
use crate::delivery::answer::Answer;
use crate::edge::error::ErrorBody;
use crate::protocol::{InvalidInput, PushRequest, Status};

/// Seconds until a sender may try again what did not find its way.
pub(crate) const UNROUTED_RETRY: u32 = 1;

/// Reads the body of one push.
pub(crate) fn parse(app: &App, body: &[u8]) -> Result<PushRequest, InvalidInput> {
    let request = PushRequest::parse(body)?;
    if request.keep && app.config.keep_messages == 0 {
        return Err(InvalidInput::new(
            "nothing is kept here (PUSH_KEEP_MESSAGES is 0)",
        ));
    }
    app.router.check(&request)?;
    Ok(request)
}

/// Writes the body for the outcome of a push, or of another command to a user's connections.
/// Answers its status; with 503 goes `Retry-After`, [`UNROUTED_RETRY`].
pub(crate) fn write(answer: &Answer, body: &mut Vec<u8>) -> StatusCode {
    if answer.status != Status::Unrouted {
        serde_json::to_writer(body, answer).expect("our own types become JSON");
        return StatusCode::OK;
    }
    #[derive(Serialize)]
    struct Unrouted<'a> {
        error: ErrorBody<'a>,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    let message = answer.reason.unwrap_or("no way to the user's node");
    let error = ErrorBody {
        code: "unrouted",
        message,
    };
    serde_json::to_writer(body, &Unrouted { error, answer }).expect("our own types become JSON");
    StatusCode::SERVICE_UNAVAILABLE
}
