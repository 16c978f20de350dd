//! Kept-alive HTTP/1.1 to the senders' API: one connection at a time, or many at once in one epoll loop.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::fleet::poll;

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub struct Answer {
    pub status: u16,
    pub body: String,
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

pub fn post(content_type: &str, body: &str) -> Vec<u8> {
    post_to("/v1/push", content_type, body)
}

pub fn post_to(path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Splits a whole answer off the front of `bytes`.
pub fn take_answer(bytes: &mut Vec<u8>) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let length = length.unwrap_or(0);
    if bytes.len() < end + length {
        return None;
    }
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let body = String::from_utf8_lossy(&bytes[end..end + length]).into_owned();
    bytes.drain(..end + length);
    Some(Answer { status, body })
}

/// One connection, blocking. Sending and receiving are apart, so that receivers can be read in between.
pub struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    pub fn open(server: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Connection {
            stream,
            bytes: Vec::new(),
        })
    }

    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    pub fn receive(&mut self) -> io::Result<Answer> {
        self.receive_by(take_answer)
    }

    /// As `receive`, with a `take` for another kind of answer.
    pub fn receive_by<T>(
        &mut self,
        mut take: impl FnMut(&mut Vec<u8>) -> Option<T>,
    ) -> io::Result<T> {
        let mut buffer = [0; 16 * 1_024];
        loop {
            if let Some(answer) = take(&mut self.bytes) {
                return Ok(answer);
            }
            let length = self.stream.read(&mut buffer)?;
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.bytes.extend(&buffer[..length]);
        }
    }
}

/// What the answers of a load said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered {
    pub requests: u64,
    /// Pushes answered `routed`; in a batch each counts.
    pub routed: u64,
    /// Answers with another status than 200.
    pub refused: u64,
}

struct Slot {
    stream: mio::net::TcpStream,
    /// What is still to be written of the request.
    unsent: Vec<u8>,
    bytes: Vec<u8>,
    busy: bool,
}

/// Keeps `connections` requests under way until `next(connection)` has no more and all are answered.
pub fn load(
    server: SocketAddr,
    connections: usize,
    next: impl FnMut(usize) -> Option<Vec<u8>>,
) -> io::Result<Answered> {
    let mut answered = Answered::default();
    let take = |bytes: &mut Vec<u8>| {
        let answer = take_answer(bytes)?;
        answered.requests += 1;
        answered.routed += answer.body.matches(r#""status":"routed""#).count() as u64;
        answered.refused += u64::from(answer.status != 200);
        Some(())
    };
    load_by(server, connections, take, next)?;
    Ok(answered)
}

/// As `load`, with a `take` that splits an answer of another kind off the bytes that came, and counts it.
pub fn load_by(
    server: SocketAddr,
    connections: usize,
    mut take: impl FnMut(&mut Vec<u8>) -> Option<()>,
    mut next: impl FnMut(usize) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let mut poller = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut slots = Vec::new();
    for n in 0..connections {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poller.registry().register(
            &mut stream,
            Token(n),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        slots.push(Slot {
            stream,
            unsent: Vec::new(),
            bytes: Vec::new(),
            busy: false,
        });
    }

    let mut busy = 0;
    for (n, slot) in slots.iter_mut().enumerate() {
        busy += usize::from(slot.begin(next(n))?);
    }
    let mut buffer = vec![0; 64 * 1_024];
    let mut last_answer = Instant::now();
    while busy > 0 {
        poll(&mut poller, &mut events, Duration::from_secs(1))?;
        if last_answer.elapsed() > ANSWER_LIMIT {
            return Err(io::Error::other(format!(
                "{busy} requests unanswered after {ANSWER_LIMIT:?}"
            )));
        }
        for event in &events {
            let Token(n) = event.token();
            let slot = &mut slots[n];
            slot.write()?;
            slot.read(&mut buffer)?;
            while slot.busy && take(&mut slot.bytes).is_some() {
                last_answer = Instant::now();
                busy -= 1;
                busy += usize::from(slot.begin(next(n))?);
            }
        }
    }
    Ok(())
}

impl Slot {
    /// Sends the next request, if there is one.
    fn begin(&mut self, request: Option<Vec<u8>>) -> io::Result<bool> {
        self.busy = request.is_some();
        self.unsent = request.unwrap_or_default();
        self.write()?;
        Ok(self.busy)
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.bytes.extend(&buffer[..length]);
                    if length < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
