//! Reading a request's body: bounded in bytes and in time, independently of what its headers say.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reject::Rejection;
use warp::reply::Response;

use crate::api::filters::with_key;
use crate::app::App;
use crate::edge::error::{HttpError, Routes};
use crate::protocol::InvalidInput;

/// Largest body.
const MAX_BYTES: usize = 1024 * 1024;
/// A body must be here within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// A route whose body senders with a key POST: `parse` reads it, `carry_out` answers it. `path` is
/// the route's path, [documented](crate::api::openapi::documented).
pub(super) fn posted<P, T, C, F>(
    app: &Arc<App>,
    path: P,
    parse: fn(&[u8]) -> Result<T, InvalidInput>,
    carry_out: C,
) -> Routes
where
    P: Filter<Extract = (Method,), Error = Rejection> + Clone + Send + Sync + 'static,
    T: Send + 'static,
    C: Fn(Arc<App>, T) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = Response> + Send,
{
    path.and(with_key(app))
        .and(warp::body::stream())
        .then(move |_method, app: Arc<App>, stream| async move {
            let body = match read(stream).await {
                Ok(body) => body,
                Err(error) => return error.reply(),
            };
            match parse(&body) {
                Ok(request) => carry_out(app, request).await,
                Err(fault) => HttpError::from(fault).reply(),
            }
        })
        .boxed()
}

pub(super) async fn read<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Bytes, HttpError> {
    let gathered = tokio::time::timeout(PATIENCE, gather(body)).await;
    gathered.unwrap_or_else(|_| {
        Err(HttpError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the body took over 10 seconds",
        ))
    })
}

async fn gather<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Bytes, HttpError> {
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| HttpError::bad_request("the body ended early"))?;
        if whole.len() + chunk.remaining() > MAX_BYTES {
            let words = "the body has over 1 MiB";
            return Err(HttpError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                words,
            ));
        }
        // The usual body is one chunk, which hyper can hand over without a copy.
        if whole.is_empty() && body.size_hint() == (0, Some(0)) {
            return Ok(chunk.copy_to_bytes(chunk.remaining()));
        }
        while chunk.has_remaining() {
            let part = chunk.chunk();
            whole.extend_from_slice(part);
            let length = part.len();
            chunk.advance(length);
        }
    }
    Ok(whole.freeze())
}
