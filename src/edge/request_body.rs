//! A request's body as the acceptor sees it: what its head says of it, and whether it was read.
//!
//! A sender that is refused in the middle of a long body goes on sending. If the node closed the
//! connection then, the kernel would answer with a reset, which destroys the answer on its way. So
//! the connection knows whether something is left, says `Connection: close`, and lingers: see
//! [`http_stream`](crate::edge::http_stream).

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Request};
use tokio::time::Instant;
use warp::http::HeaderName;
use warp::http::header::{CONTENT_ENCODING, EXPECT};

use crate::edge::http_stream::Turn;

/// So much of a body that no route reads hyper drains by itself, with one read.
const DRAINED_BYTES: u64 = 8 * 1024;

/// A body up to this size is not counted in the node's memory: the buffer of a connection holds it.
pub(crate) const UNCOUNTED_BYTES: usize = 16 * 1024;

/// The media types of lines, the first of them in answers.
pub(crate) const LINES: [&str; 3] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
];

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    /// One JSON value a line.
    Lines,
}

/// The `Content-Type` of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Nothing,
    Form(Form),
    /// None that we read.
    Other,
}

impl Media {
    pub(crate) fn of(value: &[u8]) -> Self {
        let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
        let is = |one: &&str| essence.trim_ascii().eq_ignore_ascii_case(one.as_bytes());
        if ["application/json", "text/json"].iter().any(is) {
            Self::Form(Form::Json)
        } else if LINES.iter().any(is) {
            Self::Form(Form::Lines)
        } else {
            Self::Other
        }
    }
}

/// What the head of a request says of its body, before any of it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyHead {
    /// When its sender's time for the body began, if that was before hyper read the head.
    pub(crate) begun: Option<Instant>,
    /// None if it comes in chunks.
    pub(crate) length: Option<u64>,
    /// It has a `Content-Encoding`, none of which is understood.
    pub(crate) is_encoded: bool,
    /// The sender waits for `100 Continue`.
    is_held_back: bool,
}

impl BodyHead {
    pub(crate) fn of(headers: &HeaderMap, body: &Incoming, begun: Option<Instant>) -> Self {
        let is_there = |name: &HeaderName| headers.contains_key(name);
        let identity = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
        let encoding = headers.get(CONTENT_ENCODING);
        Self {
            begun,
            length: body.size_hint().exact(),
            is_encoded: encoding.is_some_and(|value| !identity(value.as_bytes())),
            is_held_back: is_there(&EXPECT),
        }
    }

    /// Whether the rest of an unread body is more than is cheaply drained.
    pub(crate) fn is_long(&self) -> bool {
        self.is_held_back || self.length.is_none_or(|length| length > DRAINED_BYTES)
    }
}

/// A body that notes when it has been read.
#[derive(Debug)]
pub(crate) struct WatchedBody {
    body: Incoming,
    turn: Turn,
}

impl WatchedBody {
    /// The request with its body watched.
    pub(crate) fn within(request: Request<Incoming>, turn: &Turn) -> Request<Self> {
        turn.set_unread(!request.body().is_end_stream());
        request.map(|body| Self {
            body,
            turn: turn.clone(),
        })
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.turn.set_unread(false);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
