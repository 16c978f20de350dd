//! The door: listeners, the accept loop, and hyper's HTTP/1 under warp's routes.
//!
//! A route that wants the socket of its request for good, as a WebSocket or an SSE stream does,
//! never answers: it leaves a `Settled` in the `Handover` of the request. Then the HTTP
//! connection is taken apart, and the client's answer is the first thing its shard writes.
//!
//! Its own accept loop and not warp's, for what warp cannot do: caps before a byte is read, a
//! header timeout, TCP_NODELAY, Unix sockets beside TCP, and an accept that fails for want of
//! file descriptors without taking the node with it. A handshake never runs in the accept loop.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use warp::http::{StatusCode, Version};

use crate::api::{ApiError, App, Routes};
use crate::config::Listen;
use crate::config::trusted_proxies::TrustedProxies;
use crate::edge::handshake::Settled;
use crate::edge::tcp;
use crate::local::admission::{Admission, Permit, Refusal};
use crate::local::shard::Socket;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// A request's headers must be here within this time, also the first ones on a new connection.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of headers; more is answered 431.
const HEADER_BYTES: usize = 16 * 1024;
/// Connections the kernel may hold for us to accept: a connect storm should wait, not fail.
const BACKLOG: i32 = 4_096;
/// Pause after a failed accept. The usual reason is a full table of file descriptors, and what
/// frees one is somebody else's close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The header that proxies list a request's hops in.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    content-length: 70\r\nretry-after: 5\r\nconnection: close\r\n\r\n\
    {\"error\":{\"code\":\"full\",\"message\":\"no more connections on this node\"}}";
const REFUSAL_LINE: &[u8] =
    b"{\"type\":\"error\",\"code\":\"full\",\"message\":\"no more connections on this node\"}\n";

/// Who is at the other end of a socket.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; none over a Unix socket.
    pub address: Option<IpAddr>,
    /// Its place under the node's caps.
    pub permit: Arc<Permit>,
}

/// Who sent a request, and by which way its socket can be had; in the request's extensions.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    /// The HTTP version of the request.
    pub(crate) version: Version,
    pub(crate) handover: Handover,
}

/// How a route takes the socket of its request.
#[derive(Clone, Default)]
pub(crate) struct Handover(Arc<Slot>);

#[derive(Default)]
struct Slot {
    settled: Mutex<Option<Box<Settled>>>,
    filled: Notify,
}

impl Handover {
    /// Hands the request's socket over to its shard. Does not come back: whoever calls it is
    /// dropped with the HTTP connection. If the client is gone by then, so is `settled`.
    pub(crate) async fn take<T>(&self, settled: Settled) -> T {
        *self.0.settled() = Some(Box::new(settled));
        self.0.filled.notify_one();
        std::future::pending().await
    }

    /// Waits until a route wants the socket.
    async fn wanted(&self) -> Box<Settled> {
        loop {
            self.0.filled.notified().await;
            let settled = self.0.settled().take();
            if let Some(settled) = settled {
                return settled;
            }
        }
    }
}

impl Slot {
    fn settled(&self) -> MutexGuard<'_, Option<Box<Settled>>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener with its port or path taken.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener, SocketAddr),
    /// A Unix socket; its file goes when this is dropped.
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have taken it away already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Takes the port or path.
    ///
    /// # Errors
    /// When it is taken already or may not be used.
    pub fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let domain = Domain::for_address(*address);
                let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
                // A restarted node takes its port again while old connections still end.
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                let listener = TcpListener::from_std(socket.into())?;
                let address = listener.local_addr()?;
                Ok(Self::Tcp(listener, address))
            }
            Listen::Unix(path) => {
                remove_dead_socket(path);
                Ok(Self::Unix(
                    UnixListener::bind(path)?,
                    SocketFile(path.clone()),
                ))
            }
        }
    }

    /// Where it listens, as a person or a program would write it.
    #[must_use]
    pub fn address(&self) -> Listen {
        match self {
            Self::Tcp(_, address) => Listen::Tcp(*address),
            Self::Unix(_, file) => Listen::Unix(file.0.clone()),
        }
    }
}

/// A killed node leaves its socket file behind. One that nobody answers at is removed; anything
/// else stays, and then binding says so.
fn remove_dead_socket(path: &Path) {
    let is_socket = path
        .metadata()
        .is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

/// What is spoken on a listener.
#[derive(Clone)]
pub enum Serving {
    /// HTTP, by these routes.
    Http(Routes),
    /// Lines of JSON, from clients.
    Lines(Arc<App>),
}

/// What the accept loops of a node share.
#[derive(Debug, Clone)]
pub struct Door {
    /// The caps.
    pub admission: Arc<Admission>,
    /// When to stop accepting.
    pub shutdown: Shutdown,
    /// Whose word counts for a client's address.
    pub proxies: Arc<TrustedProxies>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Door {
    /// Accepts on one listener and serves its clients, until the node is leaving.
    pub async fn serve(self, listener: Listener, serving: Serving) {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = self.shutdown.begun() => return,
            };
            match accepted {
                Ok(Accepted::Tcp(stream, address)) => {
                    // Only fails on a socket that is gone already, which reading will show.
                    let _ = stream.set_nodelay(true);
                    self.admit(stream, Some(address.ip()), &serving);
                }
                Ok(Accepted::Unix(stream)) => self.admit(stream, None, &serving),
                // The client gave up before we came to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit<S: Stream>(&self, stream: S, address: Option<IpAddr>, serving: &Serving) {
        // Clients of a proxy are counted when it has told who they are, which it cannot by lines.
        let counted = address.filter(|_| !self.proxies.trusts(address));
        let permit = match self.admission.admit(counted) {
            Ok(permit) => Arc::new(permit),
            Err(refusal) => return self.refuse(stream, refusal, serving),
        };
        let peer = Peer { address, permit };
        match serving {
            Serving::Http(routes) => {
                tokio::spawn(serve_connection(stream, peer, routes.clone(), self.clone()));
            }
            Serving::Lines(app) => {
                tokio::spawn(tcp::connect(app.clone(), stream, peer));
            }
        }
    }

    /// Who sends this request over the socket of `peer`.
    fn sender<B>(&self, request: &hyper::Request<B>, peer: &Peer) -> Result<Peer, ApiError> {
        if !self.proxies.trusts(peer.address) {
            return Ok(peer.clone());
        }
        let forwarded = request.headers().get_all(FORWARDED_FOR).iter();
        // A value that is not text ends the list, as one that names no address does.
        let forwarded = forwarded.map(|value| value.to_str().unwrap_or_default());
        let address = self.proxies.client(peer.address, forwarded);
        let counted = address.filter(|_| !self.proxies.trusts(address));
        let permit = self.admission.admit_behind(&peer.permit, counted);
        let permit = permit.map_err(|refusal| {
            self.count_refusal(refusal);
            let words = "no more connections from this address on this node";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "full", words).retry_after(5)
        })?;
        Ok(Peer { address, permit })
    }

    fn count_refusal(&self, refusal: Refusal) {
        let label = refusal.label().into();
        self.metrics.accepts_refused.get_or_create(&label).inc();
    }

    fn refuse<S: Stream>(&self, stream: S, refusal: Refusal, serving: &Serving) {
        self.count_refusal(refusal);
        let words = match serving {
            Serving::Http(_) => REFUSAL,
            Serving::Lines(_) => REFUSAL_LINE,
        };
        tokio::spawn(last_words(stream, words));
    }
}

/// Tells a client something and closes its socket.
pub(crate) async fn last_words(mut stream: impl Stream, words: impl AsRef<[u8]>) {
    let told = tokio::time::timeout(REFUSAL_TIMEOUT, async {
        stream.write_all(words.as_ref()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would send a reset, which can overtake the answer.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    });
    // Whether or not it has taken them: it has had its time.
    let _ = told.await;
}

/// A socket that was accepted, over TCP or a Unix socket.
pub(crate) trait Stream:
    AsyncRead + AsyncWrite + Unpin + Send + TryInto<Socket, Error = io::Error> + 'static
{
}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

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
async fn serve_connection(stream: impl Stream, peer: Peer, routes: Routes, door: Door) {
    let shutdown = door.shutdown.clone();
    let routes = TowerToHyperService::new(warp::service(routes));
    let handover = Handover::default();
    let taker = handover.clone();
    let service =
        hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            let answer = door.sender(&request, &peer).map(|peer| {
                let caller = Caller {
                    peer,
                    version: request.version(),
                    handover: taker.clone(),
                };
                request.extensions_mut().insert(caller);
                routes.call(request)
            });
            async move {
                Ok::<_, Infallible>(match answer {
                    Ok(answer) => answer.await.unwrap_or_else(|never| match never {}),
                    Err(error) => error.reply(),
                })
            }
        });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut is_leaving = false;
    let settled = loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP connection ended");
                }
                return;
            }
            settled = handover.wanted() => break settled,
            () = shutdown.begun(), if !is_leaving => {
                // The request under way gets its answer, and no other comes.
                is_leaving = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    match parts.io.into_inner().try_into() {
        Ok(socket) => settled.attach(socket, parts.read_buf).await,
        Err(error) => tracing::warn!(%error, "socket lost in the handshake"),
    }
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

    #[tokio::test]
    async fn a_dead_nodes_socket_file_is_taken_over_and_a_live_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let listen = Listen::Unix(folder.path().join("node.sock"));
        let dead = std::os::unix::net::UnixListener::bind(folder.path().join("node.sock")).unwrap();
        drop(dead);
        let alive = Listener::bind(&listen).unwrap();
        let error = Listener::bind(&listen).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(alive);
        assert!(!folder.path().join("node.sock").exists());
    }
}
