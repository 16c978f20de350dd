//! RFC 6455 frames: encode what we send, parse what clients send. No I/O.
//!
//! A message is encoded once, and all receivers share the bytes.
//! Parsing takes whatever the socket gave, in place: a frame that arrived whole is handed on
//! without a copy, only a split one is gathered. The parser is total: any bytes lead to events
//! or to a [`Violation`], with memory bounded by [`Limits`] and nothing allocated for a length
//! that a header merely claims.

use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::close::{CloseReason, is_valid_from_client};

/// Frame opcodes (RFC 6455, 5.2).
mod opcode {
    pub(crate) const CONTINUATION: u8 = 0x0;
    pub(crate) const TEXT: u8 = 0x1;
    pub(crate) const BINARY: u8 = 0x2;
    pub(crate) const CLOSE: u8 = 0x8;
    pub(crate) const PING: u8 = 0x9;
    pub(crate) const PONG: u8 = 0xA;
}

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Largest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;
/// Longest header a client sends: 2 + 8 bytes of length + 4 of mask.
const MAX_HEADER: usize = 14;

/// Writes the header of an unmasked, final frame.
fn put_header(out: &mut impl BufMut, opcode: u8, length: usize) {
    out.put_u8(FIN | opcode);
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xFFFF => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

fn encode(opcode: u8, parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut out = BytesMut::with_capacity(10 + length);
    put_header(&mut out, opcode, length);
    for part in parts {
        out.put_slice(part);
    }
    out.freeze()
}

/// A text frame holding the parts one after the other.
#[must_use]
pub fn text(parts: &[&[u8]]) -> Bytes {
    encode(opcode::TEXT, parts)
}

/// A binary frame.
#[must_use]
pub fn binary(payload: &[u8]) -> Bytes {
    encode(opcode::BINARY, &[payload])
}

/// A ping without payload.
#[must_use]
pub fn ping() -> Bytes {
    Bytes::from_static(&[FIN | opcode::PING, 0])
}

/// A pong that answers a ping (RFC 6455, 5.5.3: same payload).
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    encode(opcode::PONG, &[payload])
}

/// A close frame with a code and a reason.
#[must_use]
pub fn close(code: u16, reason: &str) -> Bytes {
    encode(opcode::CLOSE, &[&code.to_be_bytes(), reason.as_bytes()])
}

/// A close frame without a code, the answer to one that had none.
#[must_use]
pub fn close_without_code() -> Bytes {
    Bytes::from_static(&[FIN | opcode::CLOSE, 0])
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message, checked to be UTF-8.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping; answer with [`pong`].
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame; its code, if it had one.
    Close(Option<u16>),
}

/// How a client broke the rules; closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// Which end of the connection follows.
    pub close: CloseReason,
    /// Which rule, for the log.
    pub rule: &'static str,
}

const fn protocol(rule: &'static str) -> Violation {
    Violation {
        close: CloseReason::Protocol,
        rule,
    }
}

/// RFC 6455, 5.2: the minimal number of bytes must be used.
const LONG_LENGTH: Violation = protocol("length not in its shortest form");
const NOT_UTF8: Violation = Violation {
    close: CloseReason::InvalidText,
    rule: "text must be UTF-8",
};
const TOO_BIG: Violation = Violation {
    close: CloseReason::TooBig,
    rule: "message over the size limit",
};
const TOO_MANY_FRAGMENTS: Violation = Violation {
    close: CloseReason::TooBig,
    rule: "message in too many fragments",
};

/// Bounds on what one client may make us hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest message, in bytes, over all its fragments.
    pub message_bytes: usize,
    /// Most fragments of one message.
    pub fragments: u32,
}

impl Limits {
    /// A fragment for each KiB, and 64 at least. Libraries write a large message in fragments of
    /// 4 KiB (Go's gorilla/websocket) or 16 KiB (Java's own).
    pub fn of(message_bytes: usize) -> Self {
        let fragments = u32::try_from(message_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        Self {
            message_bytes,
            fragments: fragments.max(64),
        }
    }
}

/// A parsed frame header.
#[derive(Debug, Clone, Copy)]
struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    length: usize,
}

/// The parser's state between two reads; `None` inside for an idle connection, so that 100,000
/// idle connections hold nothing here.
#[derive(Debug, Default)]
pub struct FrameReader(Option<Box<Partial>>);

#[derive(Debug, Default)]
struct Partial {
    /// Header bytes that came without the rest of the header.
    head: Vec<u8>,
    /// The frame whose payload is still arriving, and how much of it has come.
    frame: Option<(Header, usize)>,
    /// The data message being gathered: its opcode and payload so far.
    message: Option<Assembly>,
    /// The control payload being gathered (it may come between two fragments).
    control: Vec<u8>,
}

#[derive(Debug)]
struct Assembly {
    opcode: u8,
    payload: Vec<u8>,
    fragments: u32,
    /// How much of `payload` is known to be whole UTF-8 characters.
    checked: usize,
}

impl FrameReader {
    /// Whether the client is between two messages.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Takes the next bytes from the socket (they are unmasked in place) and calls `each` for
    /// every whole message and control frame, in order. `each` answers whether to go on.
    ///
    /// # Errors
    /// The first broken rule. The connection is to be closed; nothing more may be fed.
    pub fn feed(
        &mut self,
        mut input: &mut [u8],
        limits: &Limits,
        each: &mut impl FnMut(Event<'_>) -> bool,
    ) -> Result<(), Violation> {
        while !input.is_empty() {
            if self.0.is_none()
                && let Some((header, head_length)) = parse_header(input)?
                && header.fin
                && header.opcode != opcode::CONTINUATION
                && input.len() - head_length >= header.length
            {
                // A whole message in one frame, all of it here: nothing is gathered.
                check_length(&header, 0, limits)?;
                let (frame, rest) = input.split_at_mut(head_length + header.length);
                let payload = &mut frame[head_length..];
                unmask(payload, header.mask, 0);
                if !each(event(header.opcode, payload)?) {
                    return Ok(());
                }
                input = rest;
                continue;
            }
            let partial = self.0.get_or_insert_default();
            let (used, go_on) = partial.step(input, limits, each)?;
            if partial.is_idle() {
                self.0 = None;
            }
            if !go_on {
                return Ok(());
            }
            input = &mut input[used..];
        }
        Ok(())
    }
}

impl Partial {
    fn is_idle(&self) -> bool {
        self.head.is_empty() && self.frame.is_none() && self.message.is_none()
    }

    /// Takes one header or one run of payload from `input`; answers how many bytes it used and
    /// whether to go on.
    fn step(
        &mut self,
        input: &mut [u8],
        limits: &Limits,
        each: &mut impl FnMut(Event<'_>) -> bool,
    ) -> Result<(usize, bool), Violation> {
        let mut used = 0;
        if self.frame.is_none() {
            // Gather the header, never taking bytes of the payload after it.
            let held = self.head.len();
            let take = input.len().min(MAX_HEADER - held);
            self.head.extend_from_slice(&input[..take]);
            let Some((header, head_length)) = parse_header(&self.head)? else {
                return Ok((take, true));
            };
            used = head_length - held;
            self.head = Vec::new();
            self.begin(&header, limits)?;
            self.frame = Some((header, 0));
        }

        let (header, arrived) = self.frame.expect("set above");
        let take = (header.length - arrived).min(input.len() - used);
        let chunk = &mut input[used..used + take];
        unmask(chunk, header.mask, arrived);
        used += take;
        self.gather(&header, chunk)?;
        if arrived + take < header.length {
            self.frame = Some((header, arrived + take));
            return Ok((used, true));
        }

        self.frame = None;
        Ok((used, self.finish(&header, each)?))
    }

    /// Checks a new frame against the message in progress.
    fn begin(&mut self, header: &Header, limits: &Limits) -> Result<(), Violation> {
        if is_control(header.opcode) {
            return Ok(());
        }
        let gathered = self
            .message
            .as_ref()
            .map_or(0, |message| message.payload.len());
        check_length(header, gathered, limits)?;
        match (&mut self.message, header.opcode) {
            (None, opcode::CONTINUATION) => {
                return Err(protocol("continuation without a message"));
            }
            (Some(message), opcode::CONTINUATION) => {
                message.fragments += 1;
                if message.fragments > limits.fragments {
                    return Err(TOO_MANY_FRAGMENTS);
                }
            }
            (Some(_), _) => return Err(protocol("new message inside a fragmented one")),
            (none @ None, opcode) => {
                *none = Some(Assembly {
                    opcode,
                    payload: Vec::new(),
                    fragments: 1,
                    checked: 0,
                });
            }
        }
        Ok(())
    }

    fn gather(&mut self, header: &Header, chunk: &[u8]) -> Result<(), Violation> {
        if is_control(header.opcode) {
            self.control.extend_from_slice(chunk);
            return Ok(());
        }
        let message = self.message.as_mut().expect("begun");
        message.payload.extend_from_slice(chunk);
        // Text is checked as it comes, so that a bad byte ends the connection at once and not
        // when its sender pleases to finish the message.
        if message.opcode == opcode::TEXT {
            match std::str::from_utf8(&message.payload[message.checked..]) {
                Ok(_) => message.checked = message.payload.len(),
                Err(error) if error.error_len().is_none() => message.checked += error.valid_up_to(),
                Err(_) => return Err(NOT_UTF8),
            }
        }
        Ok(())
    }

    fn finish(
        &mut self,
        header: &Header,
        each: &mut impl FnMut(Event<'_>) -> bool,
    ) -> Result<bool, Violation> {
        if is_control(header.opcode) {
            let payload = std::mem::take(&mut self.control);
            return Ok(each(event(header.opcode, &payload)?));
        }
        if !header.fin {
            return Ok(true);
        }
        let message = self.message.take().expect("begun");
        Ok(each(event(message.opcode, &message.payload)?))
    }
}

const fn is_control(opcode: u8) -> bool {
    opcode >= opcode::CLOSE
}

/// Refuses a data frame by its claimed length, before any of it is here.
fn check_length(header: &Header, gathered: usize, limits: &Limits) -> Result<(), Violation> {
    let fits = is_control(header.opcode)
        || gathered
            .checked_add(header.length)
            .is_some_and(|sum| sum <= limits.message_bytes);
    if fits { Ok(()) } else { Err(TOO_BIG) }
}

/// The header at the start of `input` and its length, or `None` if more bytes are needed.
/// What can be refused is refused with the first bytes that show it.
fn parse_header(input: &[u8]) -> Result<Option<(Header, usize)>, Violation> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    let (fin, opcode) = (first & FIN != 0, first & 0x0F);
    if first & RESERVED_BITS != 0 {
        return Err(protocol("reserved bit set without an extension"));
    }
    if matches!(opcode, 0x3..=0x7 | 0xB..=0xF) {
        return Err(protocol("reserved opcode"));
    }
    if is_control(opcode) && !fin {
        return Err(protocol("fragmented control frame"));
    }
    let Some(&second) = input.get(1) else {
        return Ok(None);
    };
    if second & MASKED == 0 {
        return Err(protocol("unmasked frame from a client"));
    }
    let short = usize::from(second & 0x7F);
    if is_control(opcode) && short > MAX_CONTROL {
        return Err(protocol("control frame over 125 bytes"));
    }
    let (length, at) = match short {
        126 => {
            let Some(bytes) = input.get(2..4) else {
                return Ok(None);
            };
            let length = u64::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            if length < 126 {
                return Err(LONG_LENGTH);
            }
            (length, 4)
        }
        127 => {
            let Some(bytes) = input.get(2..10) else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
            if length >> 63 != 0 {
                return Err(protocol("length with the highest bit set"));
            }
            if length <= 0xFFFF {
                return Err(LONG_LENGTH);
            }
            (length, 10)
        }
        length => (length as u64, 2),
    };
    let Some(mask) = input.get(at..at + 4) else {
        return Ok(None);
    };
    let mask = mask.try_into().expect("four bytes");
    let length = usize::try_from(length).map_err(|_| TOO_BIG)?;
    Ok(Some((
        Header {
            fin,
            opcode,
            mask,
            length,
        },
        at + 4,
    )))
}

/// XORs `payload` with the mask (RFC 6455, 5.3); `offset` is how much of the frame came before.
fn unmask(payload: &mut [u8], mask: [u8; 4], offset: usize) {
    let rotated: [u8; 4] = std::array::from_fn(|i| mask[(offset + i) % 4]);
    let mut words = payload.chunks_exact_mut(8);
    let wide = u64::from_ne_bytes(std::array::from_fn(|i| rotated[i % 4]));
    for word in &mut words {
        let value = u64::from_ne_bytes((&*word).try_into().expect("eight bytes")) ^ wide;
        word.copy_from_slice(&value.to_ne_bytes());
    }
    for (i, byte) in words.into_remainder().iter_mut().enumerate() {
        *byte ^= rotated[i % 4];
    }
}

fn event(opcode: u8, payload: &[u8]) -> Result<Event<'_>, Violation> {
    Ok(match opcode {
        opcode::TEXT => Event::Text(std::str::from_utf8(payload).map_err(|_| NOT_UTF8)?),
        opcode::BINARY => Event::Binary(payload),
        opcode::PING => Event::Ping(payload),
        opcode::PONG => Event::Pong,
        _ => Event::Close(close_code(payload)?),
    })
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(protocol("close frame with one byte")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_valid_from_client(code) {
                return Err(protocol("close code that may not be sent"));
            }
            if std::str::from_utf8(reason).is_err() {
                return Err(NOT_UTF8);
            }
            Ok(Some(code))
        }
    }
}

#[cfg(test)]
mod tests;
