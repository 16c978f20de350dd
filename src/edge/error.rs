//! Errors as senders and clients see them: a status, a code for programs, words for people.
//!
//! The one place that turns errors into HTTP replies. All have one shape, and none shows internals:
//! a reply says what its code says, never what a library's error says.

use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderName, HeaderValue, StatusCode};
use warp::reply::Response;

use crate::access::connect_hook::ConnectRefusal;
use crate::access::subscribe_hook::SubscribeRefusal;
use crate::auth::Denial;
use crate::backplane::answers::Unavailable;
use crate::protocol::{InvalidInput, error_object};

/// The routes of one kind of listener.
pub(crate) type Routes = BoxedFilter<(Response,)>;

/// An error on its way to a sender or client.
#[derive(Debug, Clone)]
pub(crate) struct HttpError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    message: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HttpError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn method_not_allowed(allowed: &'static str) -> Self {
        let message = format!("only {allowed} here");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
        .header(ALLOW, allowed)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).retry_after(1)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.push((RETRY_AFTER, seconds.into()));
        self
    }

    /// For people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// As an object of `pushnode.v1`, for a client that did not connect by HTTP.
    pub(crate) fn object(&self) -> String {
        error_object(None, self.code, &self.message)
    }

    pub(crate) fn reply(self) -> Response {
        let told = RefusalCode(self.code);
        let mut response = self.outcome();
        response.extensions_mut().insert(told);
        response
    }

    /// As [`HttpError::reply`], for the outcome of a request that was carried out. It is not
    /// counted as a refusal.
    pub(crate) fn outcome(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: ErrorBody<'a>,
        }
        let error = ErrorBody {
            code: self.code,
            message: &self.message,
        };
        let mut response = json(self.status, &Body { error });
        response.headers_mut().extend(self.headers);
        response
    }
}

/// Why a client is not let in.
impl From<Denial> for HttpError {
    fn from(denial: Denial) -> Self {
        let error = |status| Self::new(status, denial.code(), denial.message());
        match denial {
            // RFC 6750, 3: without a token there is no error to tell of.
            Denial::Missing => error(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, "Bearer"),
            Denial::Invalid(_) | Denial::Claim(_) | Denial::Expired => {
                error(StatusCode::UNAUTHORIZED)
                    .header(WWW_AUTHENTICATE, r#"Bearer error="invalid_token""#)
            }
            Denial::KeysUnavailable | Denial::SessionsUnavailable => {
                error(StatusCode::SERVICE_UNAVAILABLE).retry_after(1)
            }
            Denial::WrongUser => error(StatusCode::BAD_REQUEST),
            Denial::Banned => error(StatusCode::FORBIDDEN),
        }
    }
}

impl From<SubscribeRefusal> for HttpError {
    fn from(refusal: SubscribeRefusal) -> Self {
        match refusal {
            SubscribeRefusal::Forbidden(reason) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", reason)
            }
            SubscribeRefusal::Unavailable => {
                Self::unavailable("the application cannot say now whether you may subscribe")
            }
        }
    }
}

impl From<ConnectRefusal> for HttpError {
    fn from(refusal: ConnectRefusal) -> Self {
        match refusal {
            ConnectRefusal::Unauthorized(reason) => {
                Self::new(StatusCode::UNAUTHORIZED, "unauthorized", reason)
                    .header(WWW_AUTHENTICATE, "Bearer")
            }
            ConnectRefusal::Forbidden(reason) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", reason)
            }
            ConnectRefusal::Unavailable => {
                Self::unavailable("the application cannot say now who this client is")
            }
        }
    }
}

impl From<InvalidInput> for HttpError {
    fn from(fault: InvalidInput) -> Self {
        Self::bad_request(fault.to_string())
    }
}

impl From<Unavailable> for HttpError {
    fn from(Unavailable(reason): Unavailable) -> Self {
        Self::unavailable(reason)
    }
}

/// The code that stands in a refusal, kept with the reply for the count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusalCode(pub(crate) &'static str);

/// The value of `error` in replies and in the results of a batch.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody<'a> {
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
}

/// A JSON reply.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    json_text(
        status,
        serde_json::to_vec(body).expect("our own types become JSON"),
    )
}

/// As [`json`], for a body that is JSON already.
pub(crate) fn json_text(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
