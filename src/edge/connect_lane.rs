//! The fast lane of clients: the usual `GET /ws`, read without the HTTP library and its routes.
//!
//! Only the reading is another one: [`ws::judge`](crate::edge::ws::judge) says for both lanes who
//! is let in. A refusal is written by hyper, which reads the request again. So an answer does not
//! tell which way its request took.

use bytes::{Bytes, BytesMut};
use warp::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};

use crate::protocol::{ConnectHead, ConnectReading};

/// What the bytes of a connection that are not read yet are to the lane.
pub(crate) enum HandshakeReading {
    /// The beginning of a head that it may take.
    Part,
    /// A request that it takes, and the length of its head.
    Whole(Box<Request<()>>, usize),
    /// Something for the HTTP library.
    Other,
}

impl HandshakeReading {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        match ConnectReading::read(bytes) {
            ConnectReading::Part => Self::Part,
            ConnectReading::Connect(head) => match request(&head, bytes) {
                Some(request) => Self::Whole(Box::new(request), head.length),
                None => Self::Other,
            },
            ConnectReading::Other => Self::Other,
        }
    }
}

/// An opening handshake, and the bytes that it was read from.
pub(crate) struct Handshake {
    pub(crate) request: Box<Request<()>>,
    /// All that was read: the head, and what came behind it.
    pub(crate) read: Bytes,
    head: usize,
}

impl Handshake {
    pub(crate) fn new(request: Box<Request<()>>, read: BytesMut, head: usize) -> Self {
        Self {
            request,
            read: read.freeze(),
            head,
        }
    }

    /// What was read after the request.
    pub(crate) fn leftover(&self) -> Bytes {
        self.read.slice(self.head..)
    }
}

/// The request as hyper would read it. None if it would refuse to. `read` begins with the head.
fn request(head: &ConnectHead<'_>, read: &[u8]) -> Option<Request<()>> {
    // One copy, of which all values are parts.
    let copy = Bytes::copy_from_slice(&read[..head.length]);
    let part = |of: &[u8]| {
        let at = of.as_ptr().addr().checked_sub(read.as_ptr().addr());
        let at = at.filter(|at| at + of.len() <= copy.len());
        at.map_or_else(
            || Bytes::copy_from_slice(of),
            |at| copy.slice(at..at + of.len()),
        )
    };
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(part(value)).ok()?;
        headers.append(name, value);
    }
    // A GET in HTTP/1.1, if nothing else is said.
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_maybe_shared(part(head.target.as_bytes())).ok()?;
    *request.headers_mut() = headers;
    Some(request)
}
