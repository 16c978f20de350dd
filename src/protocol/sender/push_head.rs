//! The head of the usual request to `POST /v1/push`, read where it stands in the buffer.
//!
//! It takes what most senders send and leaves the rest to the HTTP library: other paths, methods
//! and versions, chunks, `Expect`, upgrades, what browsers add, what stands twice, and whatever
//! is wrong. What must stay true: what this takes, hyper reads as the same request
//! (`fuzz/targets/head.rs`).

/// Longest head and longest body that are taken.
pub const PLAIN_HEAD_BYTES: usize = 4 * 1024;
/// As [`PLAIN_HEAD_BYTES`].
pub const PLAIN_BODY_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 32;
const REQUEST_LINE: &[u8] = b"POST /v1/push HTTP/1.1\r\n";

/// What stands at the beginning of a connection's unread bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadReading<'a> {
    /// A part of a head that may be taken.
    Part,
    /// A head that is taken.
    Push(PushHead<'a>),
    /// Something for the HTTP library.
    Other,
}

/// The head of a push. Its body follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushHead<'a> {
    /// Bytes of the head, with the empty line.
    pub length: usize,
    /// Bytes of the body; not 0.
    pub body_length: usize,
    /// The same as it stands in the head.
    pub body_digits: &'a str,
    /// `Host`.
    pub host: &'a str,
    /// `Content-Type`.
    pub content_type: &'a str,
    /// `Authorization`.
    pub authorization: Option<&'a str>,
}

impl<'a> HeadReading<'a> {
    /// Reads the head at the beginning of these bytes.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Self {
        let Some(fields) = bytes.strip_prefix(REQUEST_LINE) else {
            return match REQUEST_LINE.starts_with(bytes) {
                true => Self::Part,
                false => Self::Other,
            };
        };
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        match httparse::parse_headers(fields, &mut headers) {
            Ok(httparse::Status::Complete((length, headers))) => {
                let length = REQUEST_LINE.len() + length;
                PushHead::of(length, headers).map_or(Self::Other, Self::Push)
            }
            Ok(httparse::Status::Partial) if bytes.len() < PLAIN_HEAD_BYTES => Self::Part,
            Ok(httparse::Status::Partial) | Err(_) => Self::Other,
        }
    }
}

impl<'a> PushHead<'a> {
    fn of(length: usize, headers: &[httparse::Header<'a>]) -> Option<Self> {
        let (mut body_digits, mut host, mut content_type, mut authorization) =
            (None, None, None, None);
        for header in headers {
            match Field::named(header.name) {
                Field::Ignored => {}
                Field::KeepAlive if header.value.eq_ignore_ascii_case(b"keep-alive") => {}
                Field::KeepAlive | Field::Unusual => return None,
                Field::Length => set(&mut body_digits, text(header.value)?)?,
                Field::Host => set(&mut host, text(header.value)?)?,
                Field::ContentType => set(&mut content_type, text(header.value)?)?,
                Field::Authorization => set(&mut authorization, text(header.value)?)?,
            }
        }
        let body_digits = body_digits?;
        Some(Self {
            length,
            body_length: body_length(body_digits.as_bytes())?,
            body_digits,
            host: host?,
            content_type: content_type?,
            authorization,
        })
        .filter(|_| length <= PLAIN_HEAD_BYTES)
    }
}

/// What a header means to the request.
#[derive(Clone, Copy)]
enum Field {
    Length,
    Host,
    ContentType,
    Authorization,
    /// `Connection`.
    KeepAlive,
    /// It changes how the request is read or answered.
    Unusual,
    /// No route looks at it.
    Ignored,
}

impl Field {
    fn named(name: &str) -> Self {
        // By length first: most names have one of their own.
        let (known, field): (&[&str], Self) = match name.len() {
            4 => (&["host"], Self::Host),
            10 if name.eq_ignore_ascii_case("connection") => return Self::KeepAlive,
            12 => (&["content-type"], Self::ContentType),
            13 if name.eq_ignore_ascii_case("authorization") => return Self::Authorization,
            14 if name.eq_ignore_ascii_case("content-length") => return Self::Length,
            2 => (&["te"], Self::Unusual),
            6 => (&["expect", "origin"], Self::Unusual),
            7 => (&["upgrade", "trailer"], Self::Unusual),
            10 => (&["keep-alive"], Self::Unusual),
            13 => (&["last-event-id"], Self::Unusual),
            14 => (&["sec-fetch-site"], Self::Unusual),
            16 => (&["content-encoding", "proxy-connection"], Self::Unusual),
            17 => (&["transfer-encoding"], Self::Unusual),
            21 => (&["sec-websocket-version"], Self::Unusual),
            _ => return Self::Ignored,
        };
        match known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            true => field,
            false => Self::Ignored,
        }
    }
}

/// None if it is set already.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// The length of a body that is taken.
pub(super) fn body_length(value: &[u8]) -> Option<usize> {
    let is_plain = (1..=5).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let number: usize = is_plain.then(|| text(value))??.parse().ok()?;
    (1..=PLAIN_BODY_BYTES).contains(&number).then_some(number)
}

/// A value of visible ASCII, blanks and tabs; others are no text to the HTTP library.
fn text(value: &[u8]) -> Option<&str> {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    let is_text = value.iter().all(is_text);
    is_text.then(|| std::str::from_utf8(value).ok())?
}
