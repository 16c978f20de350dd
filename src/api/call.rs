//! `POST /v1/call`: a request to a client, and its answer.

use std::sync::Arc;

use warp::Filter;
use warp::http::StatusCode;

use crate::api::body;
use crate::api::openapi::documented;
use crate::app::App;
use crate::delivery::call::CallOutcome;
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::{Call, CallAnswer, CallStatus};

pub(super) fn route(app: &Arc<App>) -> Routes {
    let path = warp::path!("v1" / "call").and(documented("/v1/call"));
    body::posted(app, path, Call::parse, async |app, call| {
        let outcome = app.call_service.call(&call).await;
        if let Some(error) = refusal(&outcome) {
            return error.outcome();
        }
        let answer = CallAnswer {
            id: call.id.as_deref(),
            node: outcome.node.as_ref(),
            called: &outcome.called,
        };
        json(StatusCode::OK, &answer)
    })
}

/// What the sender is told where no client has answered.
fn refusal(outcome: &CallOutcome) -> Option<HttpError> {
    let status = outcome.called.status;
    let new = |http, words: &str| Some(HttpError::new(http, status.as_str(), words));
    match status {
        CallStatus::Answered | CallStatus::Failed => None,
        CallStatus::Offline => new(StatusCode::NOT_FOUND, "no client of this name is connected"),
        CallStatus::Plain => new(
            StatusCode::CONFLICT,
            "only connections without the subprotocol pushnode.v1 are there; they cannot answer",
        ),
        CallStatus::Gone => new(
            StatusCode::BAD_GATEWAY,
            "the client went before it answered; it may have done what it was asked",
        ),
        CallStatus::Timeout => new(
            StatusCode::GATEWAY_TIMEOUT,
            "no answer in time; the client may still do what it was asked",
        ),
        CallStatus::Busy | CallStatus::Unrouted => {
            let error = HttpError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                status.as_str(),
                outcome.reason,
            );
            Some(error.retry_after(1))
        }
    }
}
