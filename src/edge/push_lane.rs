//! The fast lane: the usual `POST /v1/push` of a program, read and answered without the HTTP
//! library and its routes, which take longer than the push itself.
//!
//! It takes what [`HeadReading`] takes, from senders that are let in and with a body that is one
//! push. The first request that is anything else goes to hyper with all that was read of it, and so
//! does the rest of its connection. So every refusal is worded in one place, and an answer does not
//! tell which way its request took. The socket is the same [`HttpStream`] in both: limits on time
//! and the end of the node are looked after there. The usual `GET /ws` is only read here, see
//! [`connect_lane`](crate::edge::connect_lane).

use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use warp::http::{Request, StatusCode};

use crate::app::App;
use crate::config::hosts::OwnNames;
use crate::delivery::answer::Answer;
use crate::edge::caller::Caller;
use crate::edge::connect_lane::{Handshake, HandshakeReading};
use crate::edge::http_stream::{HttpPatience, HttpStream, Turn};
use crate::edge::peer::{Peer, Stream};
use crate::edge::push_reply::{self, UNROUTED_RETRY};
use crate::edge::request_body::{Form, Media, UNCOUNTED_BYTES};
use crate::local::budget::Claim;
use crate::protocol::{HeadReading, KnownHead, PushHead};

/// Room for the next read. Most requests fit, and an allocator has such pieces at hand.
const READ_BYTES: usize = 1024;
/// As hyper's first read, where no push is expected: a head that is too long for it is so whether
/// or not the lane has looked at its beginning.
const FIRST_BYTES: usize = 8 * 1024;
/// Buffers with more room are not kept while a connection is idle.
const KEPT_BYTES: usize = 4 * READ_BYTES;
/// After so many other heads in a row, none is kept any more.
const MAX_MISSES: u8 = 8;

/// Which requests a listener's connections may bring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedRequests {
    pub(crate) pushes: bool,
    pub(crate) clients: bool,
}

/// Answers pushes on connections of senders, and reads the handshakes of clients.
#[derive(Clone)]
pub(crate) struct PushLane {
    pub(crate) app: Arc<App>,
    names: Arc<OwnNames>,
    /// The header that tells how long an idle connection stays open, as a line.
    keep_alive: Arc<str>,
    expected: ExpectedRequests,
}

/// What is left of a connection when the lane is through with it.
pub(crate) enum Rest {
    /// Nothing.
    Over,
    /// What was read and is not answered.
    Unread(Bytes),
    /// A client that wants to be let in.
    Handshake(Box<Handshake>),
}

/// What stands at the beginning of what was read.
enum LaneReading {
    Part,
    Push(RequestExtent),
    Handshake(Box<Request<()>>, usize),
    Other,
}

/// The bytes of a request whose head is taken.
#[derive(Debug)]
struct RequestExtent {
    head: usize,
    whole: usize,
    /// What it takes of the node's memory, if it is large and was not here at once.
    claim: Option<Claim>,
}

/// The last head that was let in on a connection.
#[derive(Default)]
struct LastHead {
    /// With the version of the senders' keys at that time.
    known: Option<(KnownHead, u64)>,
    /// How many heads in a row were others.
    misses: u8,
}

impl PushLane {
    pub(crate) fn new(app: &Arc<App>, names: &Arc<OwnNames>, patience: &HttpPatience) -> Self {
        let value = patience.header.to_str().expect("text");
        Self {
            app: app.clone(),
            names: names.clone(),
            keep_alive: format!("keep-alive: {value}\r\n").into(),
            expected: ExpectedRequests {
                pushes: true,
                clients: false,
            },
        }
    }

    /// The same for the connections of another listener.
    pub(crate) fn expecting(&self, expected: ExpectedRequests) -> Self {
        Self {
            expected,
            ..self.clone()
        }
    }

    /// Answers pushes until the connection ends, or something else comes.
    pub(crate) async fn serve<S: Stream>(
        &self,
        stream: &mut HttpStream<S>,
        turn: &Turn,
        peer: &Peer,
        port: Option<u16>,
    ) -> Rest {
        let (expected, room) = self.expects_of(peer);
        let mut closing = pin!(self.app.closing.begun());
        let mut is_closing = false;
        let mut input = BytesMut::new();
        let mut written = Written::default();
        let mut taken: Option<RequestExtent> = None;
        let mut last = LastHead::default();
        loop {
            if taken.is_none() {
                taken = match self.look(&input, expected, port, &mut last) {
                    LaneReading::Part => None,
                    LaneReading::Push(extent) => Some(extent),
                    LaneReading::Handshake(request, head) => {
                        let handshake = Handshake::new(request, input, head);
                        return Rest::Handshake(Box::new(handshake));
                    }
                    LaneReading::Other => return Rest::Unread(input.freeze()),
                };
                if let Some(taken) = &mut taken
                    && input.len() < taken.whole
                {
                    if !self.counts(taken) {
                        return Rest::Unread(input.freeze());
                    }
                    // From here on it is work under way, and the time for its body runs.
                    turn.note_head(Instant::now());
                    stream.hold(self.app.under_way.begin());
                }
            }
            if let Some(&RequestExtent { head, whole, .. }) = taken.as_ref()
                && input.len() >= whole
            {
                let body = &input[head..whole];
                let Some(closes) = self.carry_out(body, turn, &mut written).await else {
                    return Rest::Unread(input.freeze());
                };
                // It has no errors: a socket that is lost swallows what is written.
                let _ = stream.write_all(&written.bytes).await;
                if closes {
                    let _ = stream.shutdown().await;
                    return Rest::Over;
                }
                taken = None;
                input.advance(whole);
                if input.is_empty() && input.capacity() > KEPT_BYTES {
                    input = BytesMut::new();
                }
                if !input.is_empty() {
                    continue;
                }
            }
            let missing = taken.as_ref();
            let missing = missing.map_or(0, |taken| taken.whole - input.len());
            input.reserve(missing.max(room));
            let count = tokio::select! {
                biased;
                read = stream.read_buf(&mut input) => read.unwrap_or(0),
                // Then the stream is read again, and ends if there is no request on it.
                () = &mut closing, if !is_closing => {
                    is_closing = true;
                    continue;
                }
            };
            if count == 0 && input.is_empty() {
                let _ = stream.shutdown().await;
                return Rest::Over;
            }
            if count == 0 {
                return Rest::Unread(input.freeze());
            }
        }
    }

    /// Which requests a peer may bring, and the room for its next read.
    fn expects_of(&self, peer: &Peer) -> (ExpectedRequests, usize) {
        let mut expected = self.expected;
        // Each request of a proxy names a client of its own.
        expected.pushes &= !self.app.config.trusted_proxies.trusts(peer.address);
        let room = match expected.pushes {
            true => READ_BYTES,
            false => FIRST_BYTES,
        };
        (expected, room)
    }

    fn look(
        &self,
        input: &[u8],
        expected: ExpectedRequests,
        port: Option<u16>,
        last: &mut LastHead,
    ) -> LaneReading {
        if expected.pushes {
            let keys = self.app.api_keys.version();
            if let Some(extent) = last.extent(input, keys) {
                return LaneReading::Push(extent);
            }
            match HeadReading::read(input) {
                HeadReading::Part => return LaneReading::Part,
                HeadReading::Push(head) if self.admits(&head, port) => {
                    last.keep(input, &head, keys);
                    return LaneReading::Push(RequestExtent::new(head.length, head.body_length));
                }
                HeadReading::Push(_) => return LaneReading::Other,
                HeadReading::Other => {}
            }
        }
        if !expected.clients {
            return LaneReading::Other;
        }
        match HandshakeReading::read(input) {
            HandshakeReading::Part => LaneReading::Part,
            HandshakeReading::Whole(request, head) => LaneReading::Handshake(request, head),
            HandshakeReading::Other => LaneReading::Other,
        }
    }

    /// Counts a large request in the node's memory while it comes. `false` if it does not fit: it is
    /// refused by hyper's routes.
    fn counts(&self, taken: &mut RequestExtent) -> bool {
        if taken.whole > UNCOUNTED_BYTES {
            taken.claim = self.app.hub.memory().try_claim(taken.whole);
        }
        taken.whole <= UNCOUNTED_BYTES || taken.claim.is_some()
    }

    /// Carries out the push in this body and writes its answer. Whether that is the last on its
    /// connection; none if the body is no push.
    async fn carry_out(&self, body: &[u8], turn: &Turn, written: &mut Written) -> Option<bool> {
        let request = push_reply::parse(&self.app, body).ok()?;
        turn.begin();
        let work = self.app.under_way.begin();
        self.app.metrics.pushes_fast.inc();
        let answer = self.app.router.push(&request).await;
        let closes = self.app.shutdown.has_begun();
        let stay = match closes {
            true => "connection: close\r\n",
            false => &self.keep_alive,
        };
        written.answer(&answer, stay);
        turn.take_head();
        turn.end();
        drop(work);
        Some(closes)
    }

    /// Whether the sender is let in, with a body of this type.
    fn admits(&self, head: &PushHead<'_>, port: Option<u16>) -> bool {
        let Some(caller) = Caller::of_program(head.host, &self.names, port) else {
            return false;
        };
        // Without keys a stranger's name is refused, which is logged where that is said.
        (caller.is_plain() || !self.app.api_keys.is_empty())
            && Media::of(head.content_type.as_bytes()) == Media::Form(Form::Json)
            && caller.check_sender(&self.app, head.authorization).is_ok()
    }
}

impl RequestExtent {
    fn new(head: usize, body: usize) -> Self {
        Self {
            head,
            whole: head + body,
            claim: None,
        }
    }
}

impl LastHead {
    /// The extent of the request, if it has this head and the keys of senders are the same. Who is
    /// let in with it depends on nothing else that changes.
    fn extent(&mut self, input: &[u8], keys: u64) -> Option<RequestExtent> {
        let (head, allowed) = self.known.as_ref()?;
        let (head, body) = head.lengths(input).filter(|_| *allowed == keys)?;
        self.misses = 0;
        Some(RequestExtent::new(head, body))
    }

    /// Takes a head that was let in for the last one. A sender whose heads are never the same, as
    /// each names a trace, is not looked at for long.
    fn keep(&mut self, input: &[u8], head: &PushHead<'_>, keys: u64) {
        self.misses = self.misses.saturating_add(1);
        self.known = match self.misses <= MAX_MISSES {
            true => KnownHead::of(input, head).map(|head| (head, keys)),
            false => None,
        };
    }
}

/// Answers as they are written, byte for byte as hyper would.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    body: Vec<u8>,
    /// `Date`, and the second that it names.
    date: String,
    second: u64,
}

impl Written {
    fn answer(&mut self, answer: &Answer, stay: &str) {
        self.body.clear();
        self.bytes.clear();
        let status = push_reply::write(answer, &mut self.body);
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second != second {
            self.second = second;
            self.date = httpdate::fmt_http_date(now);
        }
        let mut put = |text: &str| self.bytes.extend_from_slice(text.as_bytes());
        match status {
            StatusCode::OK => put("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"),
            other => {
                put("HTTP/1.1 ");
                put(other.as_str());
                put(" ");
                put(other.canonical_reason().unwrap_or_default());
                put("\r\ncontent-type: application/json\r\n");
                if other == StatusCode::SERVICE_UNAVAILABLE {
                    put(&format!("retry-after: {UNROUTED_RETRY}\r\n"));
                }
            }
        }
        put(stay);
        put("content-length: ");
        serde_json::to_writer(&mut self.bytes, &self.body.len()).expect("digits");
        let mut put = |text: &[u8]| self.bytes.extend_from_slice(text);
        put(b"\r\ndate: ");
        put(self.date.as_bytes());
        put(b"\r\n\r\n");
        put(&self.body);
    }
}
