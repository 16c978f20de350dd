//! Reading a request's body: bounded in bytes and in time, whatever its headers claim.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use warp::http::StatusCode;

use super::ApiError;

/// Largest body.
const MAX_BYTES: usize = 1024 * 1024;
/// A body must be here within this time.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn read<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Bytes, ApiError> {
    let gathered = tokio::time::timeout(PATIENCE, gather(body)).await;
    gathered.unwrap_or_else(|_| {
        Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the body took over 10 seconds",
        ))
    })
}

async fn gather<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Bytes, ApiError> {
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| ApiError::bad_request("the body ended early"))?;
        if whole.len() + chunk.remaining() > MAX_BYTES {
            let words = "the body has over 1 MiB";
            return Err(ApiError::new(
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
