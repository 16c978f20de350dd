//! The head of the usual `GET /ws`, read where it stands in the buffer.
//!
//! Unlike the head of a push it is not judged here: all of its headers are handed on, so that the
//! same code judges them as after the HTTP library. What must stay true: what this takes, hyper
//! reads as the same request, and without a body (`fuzz/targets/head.rs`).

/// Longest head that is taken.
pub const CONNECT_HEAD_BYTES: usize = 4 * 1024;
const MAX_HEADERS: usize = 32;
const BEGIN: &[u8] = b"GET /ws";

/// What stands at the beginning of a connection's unread bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectReading<'a> {
    /// A part of a head that may be taken.
    Part,
    /// A head that is taken.
    Connect(ConnectHead<'a>),
    /// Something for the HTTP library.
    Other,
}

/// The head of an opening handshake, in HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectHead<'a> {
    /// Bytes of the head, with the empty line.
    pub length: usize,
    /// The target: `/ws`, and the query if there is one.
    pub target: &'a str,
    /// Names and values of the headers, in their order.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> ConnectReading<'a> {
    /// Reads the head at the beginning of these bytes.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Self {
        match bytes.strip_prefix(BEGIN) {
            None if BEGIN.starts_with(bytes) => return Self::Part,
            None => return Self::Other,
            Some([b' ' | b'?', ..] | []) => {}
            Some(_) => return Self::Other,
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => {
                ConnectHead::of(length, &request).map_or(Self::Other, Self::Connect)
            }
            Ok(httparse::Status::Partial) if bytes.len() < CONNECT_HEAD_BYTES => Self::Part,
            Ok(httparse::Status::Partial) | Err(_) => Self::Other,
        }
    }
}

impl<'a> ConnectHead<'a> {
    fn of(length: usize, request: &httparse::Request<'_, 'a>) -> Option<Self> {
        let is_usual = |header: &httparse::Header<'_>| !changes_reading(header.name);
        let is_taken = length <= CONNECT_HEAD_BYTES
            && request.version == Some(1)
            && request.headers.iter().all(is_usual);
        let pairs = request.headers.iter().map(|one| (one.name, one.value));
        Some(Self {
            length,
            target: request.path.filter(|_| is_taken)?,
            headers: pairs.collect(),
        })
    }
}

/// Whether a header of this name says that a body comes, or what the client waits for before it.
fn changes_reading(name: &str) -> bool {
    ["content-length", "transfer-encoding", "expect"]
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one))
}
