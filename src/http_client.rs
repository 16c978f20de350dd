//! The one HTTP client of a node: it fetches the keys of tokens and calls hooks.
//!
//! What must stay true: a server costs a bounded time and a bounded number of bytes, whatever it
//! answers. No redirect is followed here, no proxy of the environment is used, no cookie is kept.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

/// How long an unused connection is kept: less than most servers keep theirs (Node: 5 s), so that
/// a request seldom meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(4);
/// Maximum bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const AGENT: &str = concat!("pushnode/", env!("CARGO_PKG_VERSION"));

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct HttpUrl(Uri);

impl HttpUrl {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: hyper::http::uri::InvalidUri| error.to_string())
    }

    /// Without its query, which may hold a key; for a log.
    pub(crate) fn shown(&self) -> String {
        let host = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        format!("{host}{}", self.0.path())
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    /// The header `Location`, if it is text.
    pub(crate) location: Option<String>,
    pub(crate) body: Bytes,
}

/// Why there is no answer. The texts name neither the URL nor anything that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpFailure {
    /// Nothing was sent.
    #[error("no connection")]
    Unreachable,
    #[error("the connection broke, or the answer is not HTTP")]
    Broken,
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer is too long")]
    TooLong,
}

/// The bounds of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpBounds {
    /// From the beginning of the request to the end of the answer.
    pub(crate) time: Duration,
    /// Of the body of the answer.
    pub(crate) bytes: usize,
}

/// Clones share their connections.
#[derive(Clone)]
pub(crate) struct HttpClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpClient {
    /// Trusts the certificates of this system, or those in `SSL_CERT_FILE`, as for Redis. Keeps up
    /// to `idle` unused connections to each server.
    pub(crate) fn new(idle: usize) -> Self {
        let mut roots = RootCertStore::empty();
        // One that cannot be read is no reason to trust none.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = rustls::crypto::ring::default_provider();
        let tls = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            .http1_max_buf_size(MAX_HEAD_BYTES)
            .build(connector);
        Self(client)
    }

    /// Requests a URL.
    pub(crate) async fn get(
        &self,
        url: &HttpUrl,
        bounds: HttpBounds,
    ) -> Result<HttpAnswer, HttpFailure> {
        let request = request(Method::GET, url, Bytes::new());
        self.call(request, bounds).await
    }

    /// Posts JSON to a URL, with these further headers.
    pub(crate) async fn post(
        &self,
        url: &HttpUrl,
        headers: [(&'static str, &str); 2],
        json: Bytes,
        bounds: HttpBounds,
    ) -> Result<HttpAnswer, HttpFailure> {
        let mut request = request(Method::POST, url, json);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header of ours is ASCII");
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        self.call(request, bounds).await
    }

    async fn call(
        &self,
        request: Request<Full<Bytes>>,
        bounds: HttpBounds,
    ) -> Result<HttpAnswer, HttpFailure> {
        let called = async {
            let answer = self.0.request(request).await;
            let (head, body) = answer.map_err(|error| failure(&error))?.into_parts();
            let body = Limited::new(body, bounds.bytes).collect().await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => HttpFailure::TooLong,
                false => HttpFailure::Broken,
            })?;
            let location = head.headers.get(LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            Ok(HttpAnswer {
                status: head.status.as_u16(),
                location: location.map(str::to_owned),
                body: body.to_bytes(),
            })
        };
        let in_time = tokio::time::timeout(bounds.time, called).await;
        in_time.unwrap_or(Err(HttpFailure::TimedOut))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

fn request(method: Method, url: &HttpUrl, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url.0.clone();
    let agent = HeaderValue::from_static(AGENT);
    request.headers_mut().insert(USER_AGENT, agent);
    request
}

fn failure(error: &hyper_util::client::legacy::Error) -> HttpFailure {
    match error.is_connect() {
        true => HttpFailure::Unreachable,
        false => HttpFailure::Broken,
    }
}
