//! The accept loop, and hyper's HTTP/1 under warp's routes.
//!
//! The loop is ours and not warp's, for what warp cannot do: caps before a byte is read, time
//! limits, TCP_NODELAY, Unix sockets beside TCP, and an accept that fails for want of file
//! descriptors without ending the node. A handshake never runs in the accept loop.
//!
//! A request that was read is carried out, whether or not its sender still listens: see
//! [`http_stream`](crate::edge::http_stream).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpStream, UnixStream};
use warp::http::header::CONNECTION;
use warp::http::{HeaderName, HeaderValue, StatusCode, Version};

use crate::app::App;
use crate::config::hosts::OwnNames;
use crate::config::trusted_proxies::TrustedProxies;
use crate::edge::caller::Caller;
use crate::edge::error::{HttpError, Routes};
use crate::edge::http_stream::{HttpPatience, HttpStream, Turn};
use crate::edge::listeners::Listener;
use crate::edge::peer::{Peer, Stream, last_words};
use crate::edge::tcp;
use crate::edge::upgrade::{RequestContext, Takeover, UpgradeSlot};
use crate::local::admission::{AddressKey, Admission, Refusal};
use crate::shutdown::{Shutdown, UnderWay};
use crate::telemetry::metrics::Metrics;

/// Most bytes of headers; more is answered 431.
const HEADER_BYTES: usize = 16 * 1024;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// The header that proxies list a request's hops in.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Pause after a failed accept. The usual reason is a full table of file descriptors, and only the
/// close of another one frees an entry.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 70\r\nretry-after: 5\r\nconnection: close\r\n\r\n\
    {\"error\":{\"code\":\"full\",\"message\":\"no more connections on this node\"}}";
const REFUSAL_LINE: &[u8] =
    b"{\"type\":\"error\",\"code\":\"full\",\"message\":\"no more connections on this node\"}\n";

/// What is spoken on a listener.
#[derive(Clone)]
pub(crate) enum Service {
    /// HTTP, by these routes.
    Http(Routes),
    /// Lines of JSON, from clients.
    Lines(Arc<App>),
}

/// What the accept loops of a node share.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    pub(crate) admission: Arc<Admission>,
    /// When to stop accepting.
    pub(crate) shutdown: Shutdown,
    pub(crate) proxies: Arc<TrustedProxies>,
    pub(crate) names: Arc<OwnNames>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) patience: HttpPatience,
    /// Requests that the node's end waits for.
    pub(crate) under_way: UnderWay,
}

impl Acceptor {
    /// Accepts on one listener and serves its clients, until the node is leaving.
    pub(crate) async fn serve(self, listener: Listener, service: Service) {
        let port = listener.port();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = self.shutdown.begun() => return,
            };
            match accepted {
                Ok(Accepted::Tcp(stream, address)) => {
                    // Only fails on a socket that is gone already, which reading will show.
                    let _ = stream.set_nodelay(true);
                    self.admit(stream, Some(address.ip()), port, &service);
                }
                Ok(Accepted::Unix(stream)) => self.admit(stream, None, port, &service),
                // The client gave up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit<S: Stream>(
        &self,
        stream: S,
        address: Option<IpAddr>,
        port: Option<u16>,
        service: &Service,
    ) {
        // A proxy's clients are counted once it has named them, which it cannot do over lines.
        let counted = address.filter(|_| !self.proxies.trusts(address));
        let counted = counted.map(|address| AddressKey::of(Some(address)));
        let permit = match self.admission.admit(counted) {
            Ok(permit) => Arc::new(permit),
            Err(refusal) => return self.refuse(stream, refusal, service),
        };
        let peer = Peer { address, permit };
        match service {
            Service::Http(routes) => {
                let (routes, acceptor) = (routes.clone(), self.clone());
                tokio::spawn(serve_connection(stream, peer, port, routes, acceptor));
            }
            Service::Lines(app) => {
                tokio::spawn(tcp::connect(app.clone(), stream, peer));
            }
        }
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

    /// The peer that sent this request: the one at the socket, or a client of that proxy.
    fn sender<B>(&self, request: &hyper::Request<B>, peer: &Peer) -> Result<Peer, HttpError> {
        if !self.proxies.trusts(peer.address) {
            return Ok(peer.clone());
        }
        let forwarded = request.headers().get_all(FORWARDED_FOR).iter();
        let forwarded = forwarded.map(HeaderValue::as_bytes);
        let address = self.proxies.client(peer.address, forwarded);
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
            Service::Http(_) => REFUSAL,
            Service::Lines(_) => REFUSAL_LINE,
        };
        tokio::spawn(last_words(stream, words));
    }
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener, _) => {
            let (stream, address) = listener.accept().await?;
            Ok(Accepted::Tcp(stream, address))
        }
        Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

/// Serves the requests of one socket, until it is closed or handed over.
async fn serve_connection(
    stream: impl Stream,
    peer: Peer,
    port: Option<u16>,
    routes: Routes,
    acceptor: Acceptor,
) {
    let (shutdown, under_way) = (acceptor.shutdown.clone(), acceptor.under_way.clone());
    let routes = TowerToHyperService::new(warp::service(routes));
    let slot = UpgradeSlot::default();
    let shared = slot.clone();
    let turn = Turn::default();
    let stream = HttpStream::new(stream, acceptor.patience.clone(), turn.clone());
    let service =
        hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            turn.begin();
            let turn = turn.clone();
            let work = acceptor.under_way.begin();
            let stays = stays_open(&request) && !acceptor.shutdown.has_begun();
            let keep_alive = stays.then(|| acceptor.patience.header.clone());
            let answer = acceptor.examine(&request, &peer, port);
            let answer = answer.map(|(caller, peer)| {
                let context = RequestContext {
                    peer,
                    caller,
                    version: request.version(),
                    slot: shared.clone(),
                };
                request.extensions_mut().insert(context);
                routes.call(request)
            });
            async move {
                let mut answer = match answer {
                    Ok(answer) => answer.await.unwrap_or_else(|never| match never {}),
                    Err(error) => error.reply(),
                };
                if let Some(value) = keep_alive {
                    answer.headers_mut().insert(KEEP_ALIVE, value);
                }
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
    let mut is_leaving = false;
    let takeover = loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP connection ended");
                }
                return;
            }
            takeover = slot.filled() => break takeover,
            () = shutdown.begun(), if !is_leaving => {
                // The current request gets its answer, and no further one is read.
                is_leaving = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let _telling = under_way.begin();
    let parts = connection.into_parts();
    hand_over(
        *takeover,
        parts.io.into_inner().into_inner(),
        parts.read_buf,
    )
    .await;
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

/// Whether the sender expects to send further requests on its connection.
fn stays_open<B>(request: &hyper::Request<B>) -> bool {
    let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    request.version() == Version::HTTP_11 && !request.headers().get(CONNECTION).is_some_and(closes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_its_own_length() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{} bytes",
            body.len()
        );
    }
}
