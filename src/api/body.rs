//! Reading a request's body: bounded in bytes and in time, independently of what its headers say.
//! What its headers already rule out is refused before any of it is read, so that a sender that
//! waits for `100 Continue` sends nothing in vain.
//!
//! Its `Content-Type` must be one that a web page cannot send to another host without asking first
//! (by a CORS preflight, which senders' routes do not answer). So forms and plain text are refused,
//! and so is a missing type unless a key has shown that the sender is no such page.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::time::Instant;
use warp::Filter;
use warp::http::{HeaderValue, Method, StatusCode};
use warp::reject::Rejection;
use warp::reply::Response;

use crate::api::filters::with_key;
use crate::app::App;
use crate::edge::error::{HttpError, Routes};
use crate::edge::request_body::{BodyHead, Form, Media, UNCOUNTED_BYTES};
use crate::edge::upgrade::RequestContext;
use crate::local::budget::{Budget, Claim};
use crate::protocol::InvalidInput;

const TYPES: &str = "send Content-Type: application/json, or application/x-ndjson for pushes one \
    a line";
const ENCODED: &str = "Content-Encoding is not supported: send the body uncompressed";
/// What some editors and shells begin a text with.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
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
        .and(declared())
        .and(warp::body::stream())
        .then(move |_method, app: Arc<App>, declared, stream| async move {
            let body = match read_json(&app, declared, stream).await {
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

/// What a request says of its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    media: Media,
    head: BodyHead,
}

/// What the head of the request says of its body.
pub(super) fn declared() -> impl Filter<Extract = (Declared,), Error = Rejection> + Copy {
    warp::header::value("content-type")
        .map(|value: HeaderValue| Media::of(value.as_bytes()))
        .or(warp::any().map(|| Media::Nothing))
        .unify()
        .and(warp::ext::get::<RequestContext>())
        .map(|media, context: RequestContext| Declared {
            media,
            head: context.body,
        })
}

/// Reads a body of JSON.
pub(super) async fn read_json<B: Buf>(
    app: &App,
    declared: Declared,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<Bytes, HttpError> {
    if declared.media == Media::Form(Form::Lines) {
        return Err(bad_type("send Content-Type: application/json"));
    }
    Ok(read_declared(app, declared, body).await?.1)
}

/// Reads a body, whose form is what the request says. A missing body is JSON without a value.
pub(super) async fn read_declared<B: Buf>(
    app: &App,
    declared: Declared,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Result<(Form, Bytes), HttpError> {
    let form = match declared.media {
        Media::Form(form) => form,
        Media::Nothing => Form::Json,
        Media::Other => return Err(bad_type(TYPES)),
    };
    if declared.head.is_encoded {
        return Err(bad_type(ENCODED));
    }
    if declared
        .head
        .length
        .is_some_and(|length| length > MAX_BYTES as u64)
    {
        return Err(too_large());
    }
    let memory = BodyMemory::of(app, declared.head.length)?;
    let mut body = read(body, declared.head.begun, memory).await?;
    // RFC 8259, 8.1: a reader may skip it instead of calling it an error.
    if body.starts_with(BYTE_ORDER_MARK) {
        body.advance(BYTE_ORDER_MARK.len());
    }
    if declared.media == Media::Nothing && app.api_keys.is_empty() && !body.is_empty() {
        return Err(bad_type(TYPES));
    }
    Ok((form, body))
}

fn bad_type(words: &str) -> HttpError {
    HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", words)
}

fn too_large() -> HttpError {
    let words = "the body has over 1 MiB";
    HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", words)
}

/// What a body takes of the memory that all of a node's may hold together. A large one that does not
/// fit is refused, as early as that is known.
struct BodyMemory<'a> {
    app: &'a App,
    claim: Option<Claim>,
}

impl<'a> BodyMemory<'a> {
    /// For a body that has so many bytes, by what its head says.
    fn of(app: &'a App, length: Option<u64>) -> Result<Self, HttpError> {
        let mut memory = Self { app, claim: None };
        memory.grow_to(length.unwrap_or_default() as usize)?;
        Ok(memory)
    }

    fn grow_to(&mut self, bytes: usize) -> Result<(), HttpError> {
        let whole: &Arc<Budget> = self.app.hub.memory();
        let fits = match &mut self.claim {
            None if bytes <= UNCOUNTED_BYTES => true,
            None => {
                self.claim = whole.try_claim(bytes);
                self.claim.is_some()
            }
            Some(claim) => claim.grow_to(bytes),
        };
        if fits {
            return Ok(());
        }
        self.app.metrics.bodies_refused.inc();
        let words = "this node holds as much as it may (PUSH_MEMORY_BYTES); send it again later";
        Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "full", words).retry_after(1))
    }

    /// The body, counted for as long as it is used.
    fn hold(self, body: Bytes) -> Bytes {
        match self.claim {
            None => body,
            Some(claim) => Bytes::from_owner(CountedBody {
                body,
                _claim: claim,
            }),
        }
    }
}

struct CountedBody {
    body: Bytes,
    _claim: Claim,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

async fn read<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
    begun: Option<Instant>,
    memory: BodyMemory<'_>,
) -> Result<Bytes, HttpError> {
    let deadline = begun.unwrap_or_else(Instant::now) + PATIENCE;
    let gathered = tokio::time::timeout_at(deadline, gather(body, memory)).await;
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
    mut memory: BodyMemory<'_>,
) -> Result<Bytes, HttpError> {
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| HttpError::bad_request("the body ended early"))?;
        if whole.len() + chunk.remaining() > MAX_BYTES {
            return Err(too_large());
        }
        memory.grow_to(whole.len() + chunk.remaining())?;
        // The usual body is one chunk, which hyper can hand over without a copy.
        if whole.is_empty() && body.size_hint() == (0, Some(0)) {
            return Ok(memory.hold(chunk.copy_to_bytes(chunk.remaining())));
        }
        while chunk.has_remaining() {
            let part = chunk.chunk();
            whole.extend_from_slice(part);
            let length = part.len();
            chunk.advance(length);
        }
    }
    Ok(memory.hold(whole.freeze()))
}
