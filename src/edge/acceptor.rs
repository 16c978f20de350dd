//! The accept loop, and hyper's HTTP/1 under warp's routes.
//!
//! The loop is ours and not warp's, for what warp cannot do: caps before a byte is read, time
//! limits, TCP_NODELAY, Unix sockets beside TCP, and an accept that fails for want of file
//! descriptors without ending the node. The accept loop waits for no handshake: the first steps of a
//! connection are taken in it if no other one is there, and what has to wait goes on in a task.
//!
//! A request that was read is carried out, whether or not its sender still listens: see
//! [`http_stream`](crate::edge::http_stream).

mod proxied;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use warp::http::header::CONNECTION;
use warp::http::{HeaderName, HeaderValue, StatusCode, Version};
use warp::reply::Response;

use crate::app::App;
use crate::config::address_header::AddressHeader;
use crate::config::hosts::OwnNames;
use crate::config::trusted_proxies::TrustedProxies;
use crate::edge::accept::{Accepted, accept, accept_further, the_rest};
use crate::edge::caller::Caller;
use crate::edge::error::{HttpError, Routes};
use crate::edge::http_stream::{HttpEnding, HttpPatience, HttpStream, Turn};
use crate::edge::listeners::Listener;
use crate::edge::peer::{HEADER_TIMEOUT, Peer, Stream, last_words};
use crate::edge::push_lane::{PushLane, Rest};
use crate::edge::request_body::{BodyHead, WatchedBody};
use crate::edge::tcp;
use crate::edge::upgrade::{RequestContext, Takeover, UpgradeSlot};
use crate::edge::ws::{self, Judgement, WsRequest};
use crate::local::admission::{AddressKey, Admission, Refusal};
use crate::shutdown::{Shutdown, UnderWay};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::Throttle;

/// Most bytes of headers; more is answered 431.
const HEADER_BYTES: usize = 16 * 1024;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Between two lines in the log about accepts that failed.
const COMPLAINTS: Duration = Duration::from_secs(60);
/// Pause after a failed accept. The usual reason is a full table of file descriptors, and only the
/// close of another one frees an entry.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 70\r\nretry-after: 5\r\nconnection: close\r\n\r\n\
    {\"error\":{\"code\":\"full\",\"message\":\"no more connections on this node\"}}";
/// How a client of HTTP/2 begins (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const HTTP2_REFUSAL: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: application/json\r\ncontent-length: 83\r\nconnection: close\r\n\r\n\
    {\"error\":{\"code\":\"http_version\",\"message\":\"this node speaks HTTP/1.1, not HTTP/2\"}}";
const REFUSAL_LINE: &[u8] =
    b"{\"type\":\"error\",\"code\":\"full\",\"message\":\"no more connections on this node\"}\n";

/// What is spoken on a listener.
#[derive(Clone)]
pub(crate) enum Service {
    /// HTTP, by these routes; usual pushes and handshakes by a way of their own.
    Http(Routes, Option<PushLane>),
    /// Lines of JSON, from clients.
    Lines(Arc<App>),
}

/// Serves one connection to its end, or into its shard. In a box: on its way it is moved often.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The answer to the first request that hyper reads, where the fast lane has judged that.
type FirstAnswer = Mutex<Option<Box<Response>>>;

/// What the accept loops of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    pub(crate) admission: Arc<Admission>,
    /// From when on an answer is the last on its connection.
    pub(crate) leaving: Shutdown,
    /// When to stop accepting.
    pub(crate) closing: Shutdown,
    pub(crate) proxies: Arc<TrustedProxies>,
    /// The header in which they name their clients.
    pub(crate) address_header: AddressHeader,
    /// Complaints about connections without a PROXY header.
    pub(crate) unnamed: Arc<Throttle>,
    pub(crate) names: Arc<OwnNames>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) patience: HttpPatience,
    /// Requests that the node's end waits for.
    pub(crate) under_way: UnderWay,
}

impl Acceptor {
    /// Accepts on one listener and serves its clients, until the node closes its doors.
    pub(crate) async fn serve(self, listener: Listener, service: Service) {
        // Shared by all connections: what it holds is not counted up and down for each.
        let this = Arc::new(self);
        let port = listener.port();
        let complaints = Throttle::new(COMPLAINTS);
        let mut next = None;
        loop {
            let accepted = match next.take() {
                Some(accepted) => accepted,
                None => tokio::select! {
                    accepted = accept(&listener) => accepted,
                    () = this.closing.begun() => {
                        let rest = the_rest(listener).into_iter();
                        let rest = rest.filter_map(|accepted| this.take(accepted, port, &service));
                        return rest.for_each(|serving| drop(tokio::spawn(serving)));
                    }
                },
            };
            match accepted {
                Ok(accepted) => {
                    let Some(serving) = this.take(accepted, port, &service) else {
                        continue;
                    };
                    // Each further one is served in parallel.
                    next = accept_further(&listener);
                    match next {
                        Some(_) => drop(tokio::spawn(serving)),
                        None => begin(serving),
                    }
                }
                // The client gave up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    this.metrics.accept_errors.inc();
                    if let Some(unlogged) = complaints.pass() {
                        tracing::warn!(%error, unlogged, "accept failed");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// What is to be done with a connection, if that is not begun already.
    fn take(
        self: &Arc<Self>,
        accepted: Accepted,
        port: Option<u16>,
        service: &Service,
    ) -> Option<Serving> {
        match accepted {
            Accepted::Tcp(stream, address) if self.proxies.trusts(Some(address.ip())) => {
                match stream.into_watched() {
                    Ok(stream) => self.admit_trusted(stream, address.ip(), port, service),
                    Err(error) => {
                        self.metrics.accept_errors.inc();
                        tracing::debug!(%error, "a proxy's connection was lost");
                    }
                }
                None
            }
            Accepted::Tcp(stream, address) => self.admit(stream, Some(address.ip()), port, service),
            Accepted::Proxied(stream, address) => {
                self.admit_proxied(stream, address.ip(), port, service);
                None
            }
            Accepted::Unix(stream) => self.admit(stream, None, port, service),
        }
    }

    fn admit<S: Stream>(
        self: &Arc<Self>,
        stream: S,
        address: Option<IpAddr>,
        port: Option<u16>,
        service: &Service,
    ) -> Option<Serving> {
        let counted = address.map(|address| AddressKey::of(Some(address)));
        match self.admission.admit(counted) {
            Ok(permit) => {
                let permit = Arc::new(permit);
                Some(self.serving(stream, Peer { address, permit }, port, service))
            }
            Err(refusal) => {
                self.refuse(stream, refusal, service);
                None
            }
        }
    }

    /// What serves a connection that is let in.
    fn serving<S: Stream>(
        self: &Arc<Self>,
        stream: S,
        peer: Peer,
        port: Option<u16>,
        service: &Service,
    ) -> Serving {
        match service {
            Service::Http(routes, lane) => {
                let (routes, acceptor) = ((routes.clone(), lane.clone()), self.clone());
                Box::pin(serve_connection(stream, peer, port, routes, acceptor))
            }
            Service::Lines(app) => Box::pin(tcp::connect(app.clone(), stream, peer)),
        }
    }

    /// Judges an opening handshake that was read by the fast lane.
    async fn judge(
        &self,
        app: &Arc<App>,
        request: &hyper::Request<()>,
        peer: &Peer,
        port: Option<u16>,
    ) -> Judgement {
        self.metrics.handshakes_fast.inc();
        let (caller, peer) = match self.examine(request, peer, port) {
            Ok(examined) => examined,
            Err(error) => return Judgement::Answer(error.reply().into()),
        };
        let request = WsRequest {
            method: request.method(),
            version: request.version(),
            headers: request.headers(),
            query: request.uri().query().unwrap_or_default(),
            caller: &caller,
            peer: &peer,
        };
        ws::judge(app, request).await
    }

    /// Who sent this request, before any route sees it.
    fn examine<B>(
        &self,
        request: &hyper::Request<B>,
        peer: &Peer,
        port: Option<u16>,
    ) -> Result<(Caller, Peer), HttpError> {
        let caller = Caller::of(request, &self.names, port)?;
        Ok((caller, self.sender(request, peer)?))
    }

    /// As `examine`; an answer that is there already comes first.
    fn examine_next<B>(
        &self,
        first: &FirstAnswer,
        request: &hyper::Request<B>,
        peer: &Peer,
        port: Option<u16>,
    ) -> Result<(Caller, Peer), Box<Response>> {
        match first.lock().take() {
            Some(answer) => Err(answer),
            None => (self.examine(request, peer, port)).map_err(|error| error.reply().into()),
        }
    }

    /// The peer that sent this request: the one at the socket, or a client of that proxy.
    fn sender<B>(&self, request: &hyper::Request<B>, peer: &Peer) -> Result<Peer, HttpError> {
        if !self.proxies.trusts(peer.address) {
            return Ok(peer.clone());
        }
        let named = request.headers().get_all(self.address_header.name()).iter();
        let named = named.map(HeaderValue::as_bytes);
        let form = self.address_header.form();
        let address = self.proxies.client(peer.address, form, named);
        // Also if it is the proxy's own: who cannot be told apart shares one limit.
        let source = AddressKey::of(address);
        let permit = self.admission.admit_behind(&peer.permit, source);
        let permit = permit.map_err(|refusal| {
            self.count_refusal(refusal);
            let words = "no more connections from this address on this node";
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "full", words).retry_after(5)
        })?;
        Ok(Peer { address, permit })
    }

    fn count_refusal(&self, refusal: Refusal) {
        let label = refusal.label().into();
        self.metrics.accepts_refused.get_or_create(&label).inc();
    }

    fn refuse<S: Stream>(&self, stream: S, refusal: Refusal, service: &Service) {
        self.count_refusal(refusal);
        let words = match service {
            Service::Http(..) => REFUSAL,
            Service::Lines(_) => REFUSAL_LINE,
        };
        tokio::spawn(last_words(stream, words));
    }
}

/// Serves a connection as far as it gets without waiting, which is mostly into its shard. A task for
/// that would cost more than it does, above all by waking another thread.
fn begin(serving: Serving) {
    // As in a task of its own: the listener is not lost with one connection.
    let mut serving = AssertUnwindSafe(serving).catch_unwind();
    if (&mut serving).now_or_never().is_none() {
        tokio::spawn(serving);
    }
}

/// Serves the requests of one socket, until it is closed or handed over.
async fn serve_connection(
    stream: impl Stream,
    peer: Peer,
    port: Option<u16>,
    (routes, lane): (Routes, Option<PushLane>),
    acceptor: Arc<Acceptor>,
) {
    let turn = Turn::default();
    let ending = HttpEnding::new(acceptor.closing.clone(), acceptor.under_way.begin());
    let mut stream = HttpStream::new(stream, acceptor.patience.clone(), turn.clone(), ending);
    let mut first = None;
    if let Some(lane) = lane {
        match lane.serve(&mut stream, &turn, &peer, port).await {
            Rest::Over => return,
            Rest::Unread(read) => stream.replay(read),
            Rest::Handshake(handshake) => {
                stream.hold(acceptor.under_way.begin());
                let request = &handshake.request;
                // Apart, because its state is large: not each connection is a client's.
                match Box::pin(acceptor.judge(&lane.app, request, &peer, port)).await {
                    Judgement::Takeover(takeover) => {
                        let _telling = acceptor.under_way.begin();
                        let (stream, _) = stream.into_inner();
                        return hand_over(takeover, stream, handshake.leftover()).await;
                    }
                    Judgement::Answer(answer) => first = Some(answer),
                }
                stream.replay(handshake.read);
            }
        }
    }
    let routes = (routes, Mutex::new(first));
    // Apart, too: the usual client gets by without, and its task is moved several times.
    Box::pin(serve_by_hyper(stream, turn, (peer, port), routes, acceptor)).await;
}

/// As [`serve_connection`], without the fast lane.
async fn serve_by_hyper(
    stream: HttpStream<impl Stream>,
    turn: Turn,
    (peer, port): (Peer, Option<u16>),
    (routes, first): (Routes, FirstAnswer),
    acceptor: Arc<Acceptor>,
) {
    let (closing, under_way) = (acceptor.closing.clone(), acceptor.under_way.clone());
    let routes = TowerToHyperService::new(warp::service(routes));
    let slot = UpgradeSlot::default();
    let shared = slot.clone();
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            turn.begin();
            let turn = turn.clone();
            let body = BodyHead::of(request.headers(), request.body(), turn.take_head());
            let mut request = WatchedBody::within(request, &turn);
            let work = acceptor.under_way.begin();
            let keep_alive = stays_open(&request).then(|| acceptor.patience.header.clone());
            let leaving = acceptor.leaving.clone();
            let answer = acceptor.examine_next(&first, &request, &peer, port);
            let answer = answer.map(|(caller, peer)| {
                let context = RequestContext {
                    peer,
                    caller,
                    version: request.version(),
                    body,
                    slot: shared.clone(),
                };
                request.extensions_mut().insert(context);
                routes.call(request)
            });
            async move {
                let mut answer = match answer {
                    Ok(answer) => answer.await.unwrap_or_else(|never| match never {}),
                    Err(answer) => *answer,
                };
                let closes = leaving.has_begun() || turn.is_unread() && body.is_long();
                tell_stay(&mut answer, closes, keep_alive);
                turn.end();
                drop(work);
                Ok::<_, Infallible>(answer)
            }
        });
    let mut connection = http1::Builder::new()
        // A sender that has shut its side down still gets its answer (RFC 9112, 6.3). This also
        // keeps hyper from dropping the work of a sender that is gone.
        .half_close(true)
        // The stream has its own limits on time.
        .header_read_timeout(None)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut is_closing = false;
    let takeover = loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP connection ended");
                    let parts = connection.into_parts();
                    let (stream, _) = parts.io.into_inner().into_inner();
                    refuse_http2(stream, &parts.read_buf).await;
                }
                return;
            }
            takeover = slot.filled() => break takeover,
            // Then the stream is read again, and ends if there is no request on it. Not by hyper's
            // `graceful_shutdown`, which drops a request that has come and was not read.
            () = closing.begun(), if !is_closing => is_closing = true,
        }
    };
    let _telling = under_way.begin();
    let parts = connection.into_parts();
    drop(parts.service); // It shares the permit, which the shard is to have alone.
    let (stream, unread) = parts.io.into_inner().into_inner();
    let leftover = match unread.is_empty() {
        true => parts.read_buf,
        false => [parts.read_buf, unread].concat().into(),
    };
    hand_over(*takeover, stream, leftover).await;
}

/// Gives a socket to the route that took it. `leftover` is what was read from it after the request.
async fn hand_over(takeover: Takeover, stream: impl Stream, leftover: Bytes) {
    let upgrade = match takeover {
        Takeover::Client(upgrade) => upgrade,
        Takeover::Refused(words) => return last_words(stream, words).await,
    };
    match stream.try_into() {
        Ok(socket) => upgrade.attach(socket, leftover).await,
        Err(error) => tracing::warn!(%error, "socket lost in the handshake"),
    }
}

/// Tells the sender whether its connection stays open.
fn tell_stay(answer: &mut Response, closes: bool, keep_alive: Option<HeaderValue>) {
    if closes {
        answer.headers_mut().insert(CONNECTION, CLOSE);
    } else if let Some(value) = keep_alive {
        answer.headers_mut().insert(KEEP_ALIVE, value);
    }
}

/// hyper closes such a connection without a word. `read` is what came.
async fn refuse_http2(stream: impl Stream, read: &[u8]) {
    if read.starts_with(HTTP2_PREFACE) {
        last_words(stream, HTTP2_REFUSAL).await;
    }
}

/// Whether the sender expects to send further requests on its connection.
fn stays_open<B>(request: &hyper::Request<B>) -> bool {
    let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    request.version() == Version::HTTP_11 && !request.headers().get(CONNECTION).is_some_and(closes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_own_length() {
        for refusal in [REFUSAL, HTTP2_REFUSAL] {
            let text = std::str::from_utf8(refusal).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("content-length: {}\r\n", body.len())),
                "{} bytes",
                body.len()
            );
        }
    }
}
