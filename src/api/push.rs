//! `POST /v1/push`: one push, a JSON array of them, or one a line (NDJSON).
//!
//! A batch is answered in the form it came in, one result for each item, in order. A bad item gets
//! a result of its own and does not affect the others.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use warp::Filter;
use warp::http::StatusCode;
use warp::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::reply::Response;

use crate::api::body;
use crate::api::filters::with_key;
use crate::api::openapi::documented;
use crate::app::App;
use crate::delivery::answer::Answer;
use crate::edge::error::{HttpError, Routes, json_text};
use crate::edge::push_reply::{self, UNROUTED_RETRY, parse};
use crate::edge::request_body::{Form, LINES};
use crate::protocol::{self, InvalidInput, PushRequest};

/// Most pushes in one batch.
const MAX_BATCH: usize = 10_000;
/// Bytes of an answer that are written in one turn.
const TURN_BYTES: usize = 64 * 1024;

pub(super) fn route(app: &Arc<App>) -> Routes {
    warp::path!("v1" / "push")
        .and(documented("/v1/push"))
        .and(with_key(app))
        .and(body::declared())
        .and(warp::body::stream())
        .then(async |_method, app: Arc<App>, declared, stream| {
            let reply = match body::read_declared(&app, declared, stream).await {
                Err(error) => Err(error),
                Ok((Form::Lines, body)) => push_lines(&app, &body).await,
                Ok((Form::Json, body)) if body.trim_ascii_start().starts_with(b"[") => {
                    push_array(&app, &body).await
                }
                Ok((Form::Json, body)) => push_one(&app, &body).await,
            };
            reply.unwrap_or_else(HttpError::reply)
        })
        .boxed()
}

async fn push_one(app: &App, body: &[u8]) -> Result<Response, HttpError> {
    let request = parse(app, body)?;
    Ok(reply(&app.router.push(&request).await))
}

/// The outcome of a push, or of another command to a user's connections.
pub(super) fn reply(answer: &Answer) -> Response {
    let mut body = Vec::with_capacity(128);
    let status = push_reply::write(answer, &mut body);
    let mut reply = json_text(status, body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply
            .headers_mut()
            .insert(RETRY_AFTER, UNROUTED_RETRY.into());
    }
    reply
}

/// The result of one item of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum ItemOutcome {
    Answer(Answer),
    Refused {
        status: &'static str,
        error: ItemError,
    },
}

#[derive(Serialize)]
struct ItemError {
    code: &'static str,
    message: String,
}

async fn push_array(app: &App, body: &[u8]) -> Result<Response, HttpError> {
    let items: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| HttpError::bad_request(format!("the array is not JSON: {error}")))?;
    check_count(items.len())?;
    let items = items
        .into_iter()
        .map(|item| parse(app, item.get().as_bytes()));
    let outcomes = push_batch(app, items).await;
    let mut out = vec![b'['];
    write_outcomes(&mut out, &outcomes, b',').await;
    if out.last() == Some(&b',') {
        out.pop();
    }
    out.push(b']');
    Ok(batch(out, "application/json"))
}

async fn push_lines(app: &App, body: &[u8]) -> Result<Response, HttpError> {
    let lines = || {
        protocol::lines(body)
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty())
    };
    check_count(lines().count())?;
    let outcomes = push_batch(app, lines().map(|line| parse(app, line))).await;
    let mut out = Vec::with_capacity(outcomes.len() * 64);
    write_outcomes(&mut out, &outcomes, b'\n').await;
    Ok(batch(out, LINES[0]))
}

/// Writes outcomes, each with `end` after it. An answer may have many megabytes: others get their
/// turn meanwhile.
async fn write_outcomes(out: &mut Vec<u8>, outcomes: &[ItemOutcome], end: u8) {
    let mut written = 0;
    for outcome in outcomes {
        serde_json::to_writer(&mut *out, outcome).expect("our own types become JSON");
        out.push(end);
        if out.len() > written + TURN_BYTES {
            written = out.len();
            tokio::task::yield_now().await;
        }
    }
}

fn batch(body: Vec<u8>, media_type: &'static str) -> Response {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn check_count(count: usize) -> Result<(), HttpError> {
    if count <= MAX_BATCH {
        return Ok(());
    }
    let words = format!("the batch has {count} pushes; {MAX_BATCH} at most");
    Err(HttpError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_many",
        words,
    ))
}

async fn push_batch(
    app: &App,
    items: impl Iterator<Item = Result<PushRequest, InvalidInput>>,
) -> Vec<ItemOutcome> {
    let mut requests = Vec::new();
    let mut outcomes: Vec<Option<ItemOutcome>> = Vec::new();
    for item in items {
        outcomes.push(match item {
            Ok(request) => {
                requests.push(request);
                None
            }
            Err(fault) => {
                app.metrics.refused("bad_item");
                let error = ItemError {
                    code: "bad_request",
                    message: fault.to_string(),
                };
                Some(ItemOutcome::Refused {
                    status: "error",
                    error,
                })
            }
        });
    }
    let mut answers = app.router.push_all(&requests).await.into_iter();
    let answered = outcomes.into_iter().map(|outcome| {
        outcome.unwrap_or_else(|| ItemOutcome::Answer(answers.next().expect("an answer for each")))
    });
    answered.collect()
}
