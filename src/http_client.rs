//! The one HTTP client of a node: it fetches the keys of tokens and calls hooks.
//!
//! What must stay true: a server costs a bounded time and a bounded number of bytes, whatever it
//! answers; at no time has an [`HttpPool`] more connections than calls; no request is sent twice.
//! No redirect is followed here, no proxy of the environment is used, no cookie is kept.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::service::Service as _;
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long an unused connection is kept: less than most servers keep theirs (Node: 5 s), so that
/// a request seldom meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(4);
/// Maximum bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const AGENT: &str = concat!("pushnode/", env!("CARGO_PKG_VERSION"));

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct HttpUrl {
    whole: Uri,
    /// As the header `Host` names it.
    host: HeaderValue,
    /// What a request names: path and query.
    target: Uri,
}

impl HttpUrl {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let whole: Uri = text
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| error.to_string())?;
        let name = whole.host().ok_or("has no host")?;
        let usual = match whole.scheme() == Some(&Scheme::HTTPS) {
            true => 443,
            false => 80,
        };
        let host = match whole.port_u16().filter(|port| *port != usual) {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let path = whole.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self {
            host: HeaderValue::from_str(&host).map_err(|error| error.to_string())?,
            target: path.into(),
            whole,
        })
    }

    /// Without its query, which may hold a key; for a log.
    pub(crate) fn shown(&self) -> String {
        let host = self.whole.authority();
        let host = host.map_or("", |authority| authority.as_str());
        format!("{host}{}", self.whole.path())
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

/// Opens connections. Clones share the certificates that they trust.
#[derive(Clone)]
pub(crate) struct HttpClient(TowerToHyperService<HttpsConnector<HttpConnector>>);

impl HttpClient {
    /// Trusts the certificates of this system, or those in `SSL_CERT_FILE`, as for Redis.
    pub(crate) fn new() -> Self {
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
        Self(TowerToHyperService::new((connector, tls).into()))
    }

    /// Requests a URL, on a connection of its own.
    pub(crate) async fn get(
        &self,
        url: &HttpUrl,
        bounds: HttpBounds,
    ) -> Result<HttpAnswer, HttpFailure> {
        let request = request(Method::GET, url, Bytes::new());
        in_time(bounds.time, async {
            let mut connection = self.connect(url).await?;
            let answer = connection.call(request, bounds.bytes).await;
            connection.close();
            answer.map_err(Unanswered::failure)
        })
        .await
    }

    async fn connect(&self, url: &HttpUrl) -> Result<Box<HttpConnection>, HttpFailure> {
        let stream = self.0.call(url.whole.clone()).await;
        let stream = stream.map_err(|_| HttpFailure::Unreachable)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD_BYTES);
        let (sender, driver) = builder
            .handshake(stream)
            .await
            .map_err(|_| HttpFailure::Broken)?;
        Ok(Box::new(HttpConnection {
            sender,
            driver: Some(driver),
        }))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

/// Which connection a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// One that was used before, if there is one.
    Any,
    /// One that was never used: the server may be closing all others.
    New,
}

/// Connections to one URL. A call takes the one that was used last, and opens one only if none is
/// unused: so there are never more than calls under way at once, which the caller bounds, and
/// under light traffic there are few.
///
/// hyper-util's pools (`legacy`, `cache`) do not promise this: a call that finds none unused opens
/// one and waits for another's too, and the one that comes second stays open beside it.
pub(crate) struct HttpPool {
    client: HttpClient,
    url: HttpUrl,
    unused: Arc<Mutex<Unused>>,
}

impl HttpPool {
    pub(crate) fn new(client: &HttpClient, url: HttpUrl) -> Self {
        Self {
            client: client.clone(),
            url,
            unused: Arc::default(),
        }
    }

    pub(crate) const fn url(&self) -> &HttpUrl {
        &self.url
    }

    /// Posts JSON, with these further headers.
    pub(crate) async fn post(
        &self,
        headers: [(&'static str, &str); 2],
        json: Bytes,
        bounds: HttpBounds,
        over: Over,
    ) -> Result<HttpAnswer, HttpFailure> {
        let mut request = request(Method::POST, &self.url, json);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header of ours is ASCII");
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        in_time(bounds.time, self.call(request, bounds.bytes, over)).await
    }

    async fn call(
        &self,
        mut request: Request<Full<Bytes>>,
        most: usize,
        over: Over,
    ) -> Result<HttpAnswer, HttpFailure> {
        loop {
            let mut unused = self.unused.lock().take();
            if over == Over::New
                && let Some(old) = unused.take()
            {
                // The new one takes its place: one beside it would be one too many.
                old.close();
            }
            let is_new = unused.is_none();
            let mut connection = match unused {
                Some(connection) => connection,
                None => self.client.connect(&self.url).await?,
            };
            match connection.call(request, most).await {
                Ok(answer) => {
                    self.keep(connection);
                    return Ok(answer);
                }
                // The server had closed it. The others may be closed too, and are tried as well:
                // one more beside them would be one too many.
                Err(Unanswered::Unsent(unsent)) if !is_new => request = *unsent,
                Err(unanswered) => return Err(unanswered.failure()),
            }
        }
    }

    fn keep(&self, mut connection: Box<HttpConnection>) {
        if !connection.is_ready() {
            return;
        }
        let mut unused = self.unused.lock();
        unused.connections.push((Instant::now(), connection));
        if !unused.is_watched {
            unused.is_watched = true;
            tokio::spawn(watch(Arc::downgrade(&self.unused)));
        }
    }
}

impl fmt::Debug for HttpPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpPool").field(&self.url.shown()).finish()
    }
}

/// The connections of a pool that no call uses.
#[derive(Default)]
struct Unused {
    /// Since when; the one that was used last stands last.
    connections: Vec<(Instant, Box<HttpConnection>)>,
    /// Whether a task closes them in time.
    is_watched: bool,
}

impl Unused {
    fn take(&mut self) -> Option<Box<HttpConnection>> {
        self.close_old();
        Some(self.connections.pop()?.1)
    }

    /// Closes them under the lock: a call that opens one must not be ahead.
    fn close_old(&mut self) {
        let is_old = |(since, _): &(Instant, _)| since.elapsed() >= IDLE;
        let count = self.connections.partition_point(is_old);
        for (_, connection) in self.connections.drain(..count) {
            connection.close();
        }
    }
}

/// Closes connections that no call has used for [`IDLE`], until none is left.
async fn watch(unused: Weak<Mutex<Unused>>) {
    loop {
        let Some(unused) = unused.upgrade() else {
            return;
        };
        let due = {
            let mut unused = unused.lock();
            unused.close_old();
            let Some((since, _)) = unused.connections.first() else {
                unused.is_watched = false;
                return;
            };
            *since + IDLE
        };
        drop(unused);
        tokio::time::sleep_until(due).await;
    }
}

/// Why a connection gave no answer.
enum Unanswered {
    /// Not a byte of this request was sent.
    Unsent(Box<Request<Full<Bytes>>>),
    Failed(HttpFailure),
}

impl Unanswered {
    fn failure(self) -> HttpFailure {
        match self {
            Self::Unsent(_) => HttpFailure::Broken,
            Self::Failed(failure) => failure,
        }
    }
}

/// One connection. Calls drive it themselves: no task does, so that it is closed as soon as it is
/// dropped, and an answer costs no switch between tasks. A call that ends early must drop it.
struct HttpConnection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// None once the connection is over: only the end of the driver gives back a request that it
    /// has not taken, and a call would wait for its answer in vain until its time is up.
    driver: Option<http1::Connection<MaybeHttpsStream<TokioIo<TcpStream>>, Full<Bytes>>>,
}

impl HttpConnection {
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    async fn call(
        &mut self,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<HttpAnswer, Unanswered> {
        let sent = self.sender.try_send_request(request);
        let answered = async {
            let answer = sent.await.map_err(|mut error| match error.take_message() {
                Some(unsent) => Unanswered::Unsent(Box::new(unsent)),
                None => Unanswered::Failed(HttpFailure::Broken),
            })?;
            read(answer, most).await.map_err(Unanswered::Failed)
        };
        let mut answered = pin!(answered);
        poll_fn(|cx| {
            self.drive(cx);
            answered.as_mut().poll(cx)
        })
        .await
    }

    /// Whether the server lets it be used again, and has sent nothing beyond its answer.
    fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Tells the server of the end, as TLS demands it.
    fn close(self: Box<Self>) {
        drop(self.sender);
        // What cannot be written at once is not waited for.
        if let Some(driver) = self.driver {
            let _ = driver.now_or_never();
        }
    }
}

async fn read(answer: Response<Incoming>, most: usize) -> Result<HttpAnswer, HttpFailure> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, most).collect().await;
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
}

async fn in_time<T>(
    time: Duration,
    called: impl Future<Output = Result<T, HttpFailure>>,
) -> Result<T, HttpFailure> {
    let in_time = tokio::time::timeout(time, called).await;
    in_time.unwrap_or(Err(HttpFailure::TimedOut))
}

fn request(method: Method, url: &HttpUrl, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url.target.clone();
    let headers = request.headers_mut();
    headers.insert(HOST, url.host.clone());
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    request
}

#[cfg(test)]
mod tests;
