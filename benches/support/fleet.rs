//! Many client sockets in one epoll loop, each checking that it gets its own messages, all of them, in order.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use super::dial::Dial;
use super::events::Line;
use super::nats::{self, Heard};
use super::{events, message, websocket};

/// Connections being opened at the same time: below any usual listen backlog.
const OPENING: usize = 128;
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// What a socket does first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// Nothing: the other side sends frames at once (`rivals`).
    Silent,
    /// The WebSocket handshake.
    WebSocket,
    /// The request for server-sent events.
    Sse,
    /// The first line of plain TCP.
    Lines,
    /// The WebSocket handshake, then a subscription in NATS's own protocol.
    Nats,
}

impl Hello {
    fn bytes(self, server: SocketAddr, user: &str) -> Vec<u8> {
        match self {
            Self::Silent => Vec::new(),
            Self::WebSocket | Self::Nats => websocket::request(&server.to_string(), user),
            Self::Sse => events::request(&server.to_string(), user),
            Self::Lines => events::connect(user),
        }
    }

    /// The length of the other side's answer once all of it is there.
    fn answered(self, bytes: &[u8]) -> Result<Option<usize>, String> {
        match self {
            Self::Silent => Ok(Some(0)),
            Self::WebSocket | Self::Nats => websocket::upgraded(bytes),
            Self::Sse => events::streaming(bytes),
            Self::Lines => events::ready(bytes),
        }
    }
}

/// What went wrong, counted per message over all sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub missing: u64,
    pub duplicate: u64,
    pub reordered: u64,
    pub misrouted: u64,
    pub closed: u64,
}

struct Socket {
    stream: TcpStream,
    user: String,
    /// Handshake done.
    open: bool,
    closed: bool,
    /// Bytes of a frame or head that is not complete yet.
    partial: Vec<u8>,
    /// Bytes of an operation of NATS, which may go on in the next frame.
    operation: Vec<u8>,
    /// The sequence number that should come next, and those before it that did not come.
    next: u64,
    gaps: HashSet<u64>,
}

pub struct Fleet {
    hello: Hello,
    poll: Poll,
    events: Events,
    sockets: Vec<Socket>,
    buffer: Vec<u8>,
    faults: Faults,
    received: Arc<AtomicU64>,
    /// Sockets of `Hello::Nats` whose subscription stands.
    subscribed: usize,
    /// Every message is addressed to `message::ALL` instead of the socket's own user.
    pub broadcast: bool,
    /// When each message came, by socket and sequence; kept only if asked for.
    pub arrivals: Option<Vec<(usize, u64, Instant)>>,
}

impl Fleet {
    /// Connects `count` sockets; number `n` belongs to `user(n)`. Returns when all are open.
    pub fn connect(
        server: SocketAddr,
        count: usize,
        hello: Hello,
        user: impl Fn(usize) -> String,
    ) -> io::Result<Fleet> {
        Fleet::connect_by(&Dial::default(), server, count, hello, user)
    }

    /// As `connect`, with sockets of another kind.
    pub fn connect_by(
        dial: &Dial,
        server: SocketAddr,
        count: usize,
        hello: Hello,
        user: impl Fn(usize) -> String,
    ) -> io::Result<Fleet> {
        let mut fleet = Fleet {
            hello,
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            sockets: Vec::with_capacity(count),
            buffer: vec![0; 64 * 1_024],
            faults: Faults::default(),
            received: Arc::default(),
            subscribed: 0,
            broadcast: false,
            arrivals: None,
        };
        let deadline = Instant::now() + CONNECT_LIMIT;
        let mut open = 0;
        while open < count || hello == Hello::Nats && fleet.subscribed < count {
            // One at a time for a silent hello: the other side numbers its sockets in the order they come.
            let opening = if hello == Hello::Silent { 1 } else { OPENING };
            while fleet.sockets.len() < count && fleet.sockets.len() - open < opening {
                fleet.begin(dial.connect(server)?, user(fleet.sockets.len()))?;
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "{open} of {count} sockets open after {CONNECT_LIMIT:?}"
                )));
            }
            open += fleet.finish_opening(server, hello)?;
        }
        Ok(fleet)
    }

    /// How many messages have come; readable from other threads while `receive` runs.
    pub fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Reads until `total` messages have come since the start, or none has come for `patience`.
    pub fn receive(&mut self, total: u64, patience: Duration) -> io::Result<bool> {
        let mut last = (self.received.load(Ordering::Relaxed), Instant::now());
        while last.0 < total {
            let left = patience.saturating_sub(last.1.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.read_ready(left)?;
            let received = self.received.load(Ordering::Relaxed);
            if received > last.0 {
                last = (received, Instant::now());
            }
        }
        Ok(true)
    }

    /// Reads what comes until `pause` is over: keeps the sockets alive, and shows messages sent twice.
    pub fn linger(&mut self, pause: Duration) -> io::Result<()> {
        let end = Instant::now() + pause;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.read_ready(left)?;
        }
    }

    /// The faults so far, when `sent(n)` messages were sent to the user of socket `n`.
    pub fn faults(&self, sent: impl Fn(usize) -> u64) -> Faults {
        let sockets = self.sockets.iter().enumerate();
        let missing = sockets
            .map(|(n, socket)| sent(n).saturating_sub(socket.next) + socket.gaps.len() as u64)
            .sum();
        Faults {
            missing,
            closed: self.closed() as u64,
            ..self.faults
        }
    }

    /// Sets `SO_RCVBUF` of all sockets; the kernel doubles it. A small one is soon full if nobody reads any more.
    pub fn set_receive_buffers(&self, bytes: usize) -> io::Result<()> {
        self.sockets
            .iter()
            .try_for_each(|socket| SockRef::from(&socket.stream).set_recv_buffer_size(bytes))
    }

    /// How many sockets the other side has closed.
    pub fn closed(&self) -> usize {
        self.sockets.iter().filter(|socket| socket.closed).count()
    }

    fn begin(&mut self, mut stream: TcpStream, user: String) -> io::Result<()> {
        let token = Token(self.sockets.len());
        self.poll.registry().register(
            &mut stream,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let (partial, operation, gaps) = (Vec::new(), Vec::new(), HashSet::new());
        self.sockets.push(Socket {
            stream,
            user,
            open: false,
            closed: false,
            partial,
            operation,
            next: 0,
            gaps,
        });
        Ok(())
    }

    /// Handles one batch of events while connecting; answers how many sockets became open.
    fn finish_opening(&mut self, server: SocketAddr, hello: Hello) -> io::Result<usize> {
        poll(&mut self.poll, &mut self.events, Duration::from_millis(100))?;
        let mut opened = 0;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        for event in &events {
            let Token(n) = event.token();
            let socket = &mut self.sockets[n];
            if socket.open {
                self.read_socket(n, event.is_read_closed())?;
                continue;
            }
            if event.is_writable() {
                if let Some(error) = socket.stream.take_error()? {
                    return Err(error);
                }
                self.poll.registry().reregister(
                    &mut socket.stream,
                    Token(n),
                    Interest::READABLE,
                )?;
                socket.stream.set_nodelay(true)?;
                if hello == Hello::Silent {
                    socket.open = true;
                    opened += 1;
                    continue;
                }
                let first = hello.bytes(server, &socket.user);
                socket.stream.write_all(&first)?;
            }
            if event.is_readable() {
                let length = match socket.stream.read(&mut self.buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                socket.partial.extend(&self.buffer[..length]);
                let answered = hello.answered(&socket.partial);
                if let Some(head) = answered.map_err(io::Error::other)? {
                    socket.open = true;
                    opened += 1;
                    if hello == Hello::Nats {
                        let subscribe = nats::subscribe(&socket.user);
                        let frame = websocket::masked(websocket::BINARY, &subscribe);
                        socket.stream.write_all(&frame)?;
                    }
                    let rest = socket.partial.split_off(head);
                    socket.partial = Vec::new();
                    self.accept_bytes(n, &rest)?;
                } else if length == 0 {
                    return Err(io::Error::other("closed during the handshake"));
                }
            }
        }
        self.events = events;
        Ok(opened)
    }

    fn read_ready(&mut self, limit: Duration) -> io::Result<()> {
        poll(&mut self.poll, &mut self.events, limit)?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        for event in &events {
            self.read_socket(event.token().0, event.is_read_closed())?;
        }
        self.events = events;
        Ok(())
    }

    /// Reads a socket empty. A short read means empty, unless the end of the stream is to come.
    fn read_socket(&mut self, n: usize, ending: bool) -> io::Result<()> {
        loop {
            if self.sockets[n].closed {
                return Ok(());
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let result = self.sockets[n].stream.read(&mut buffer);
            match &result {
                Ok(0) => self.sockets[n].closed = true,
                Ok(length) => self.accept_bytes(n, &buffer[..*length])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.sockets[n].closed = true,
            }
            let full =
                matches!(result, Ok(length) if length == buffer.len() || (ending && length > 0));
            self.buffer = buffer;
            if !full {
                return Ok(());
            }
        }
    }

    fn accept_bytes(&mut self, n: usize, bytes: &[u8]) -> io::Result<()> {
        let joined;
        let mut rest = bytes;
        if !self.sockets[n].partial.is_empty() {
            let mut partial = std::mem::take(&mut self.sockets[n].partial);
            partial.extend(bytes);
            joined = partial;
            rest = &joined;
        }
        match self.hello {
            Hello::Silent | Hello::WebSocket | Hello::Nats => self.accept_frames(n, &mut rest)?,
            Hello::Sse => {
                while let Some((data, behind)) = events::split_event(rest) {
                    rest = behind;
                    data.into_iter()
                        .for_each(|data| self.accept_message(n, data));
                }
            }
            Hello::Lines => {
                while let Some((line, behind)) = events::split_line(rest) {
                    rest = behind;
                    match line {
                        Line::Message(data) => self.accept_message(n, data),
                        Line::Ping => self.sockets[n].stream.write_all(events::PONG)?,
                        Line::Other => {}
                    }
                }
            }
        }
        if !rest.is_empty() {
            self.sockets[n].partial = rest.to_vec();
        }
        Ok(())
    }

    fn accept_frames(&mut self, n: usize, rest: &mut &[u8]) -> io::Result<()> {
        while let Some((opcode, payload, behind)) = websocket::split_frame(rest) {
            *rest = behind;
            match opcode {
                websocket::TEXT => self.accept_message(n, payload),
                websocket::PING => {
                    self.sockets[n]
                        .stream
                        .write_all(&websocket::masked(websocket::PONG, payload))?;
                }
                websocket::BINARY if self.hello == Hello::Nats => {
                    self.accept_operations(n, payload)?;
                }
                websocket::CLOSE => self.sockets[n].closed = true,
                _ => self.faults.misrouted += 1,
            }
        }
        Ok(())
    }

    fn accept_operations(&mut self, n: usize, bytes: &[u8]) -> io::Result<()> {
        let mut operations = std::mem::take(&mut self.sockets[n].operation);
        operations.extend(bytes);
        let mut rest = &operations[..];
        while let Some((heard, behind)) = nats::split(rest) {
            rest = behind;
            match heard {
                Heard::Message(data) => self.accept_message(n, data),
                Heard::Ping => {
                    let pong = websocket::masked(websocket::BINARY, nats::PONG);
                    self.sockets[n].stream.write_all(&pong)?;
                }
                Heard::Pong => self.subscribed += 1,
                Heard::Error => self.faults.misrouted += 1,
                Heard::Other => {}
            }
        }
        self.sockets[n].operation = rest.to_vec();
        Ok(())
    }

    fn accept_message(&mut self, n: usize, payload: &[u8]) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let socket = &mut self.sockets[n];
        let addressee = if self.broadcast {
            message::ALL
        } else {
            &socket.user
        };
        let sequence = match message::parse(payload) {
            Some((user, sequence)) if user == addressee.as_bytes() => sequence,
            _ => {
                self.faults.misrouted += 1;
                return;
            }
        };
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.push((n, sequence, Instant::now()));
        }
        if sequence >= socket.next {
            socket.gaps.extend(socket.next..sequence);
            socket.next = sequence + 1;
        } else if socket.gaps.remove(&sequence) {
            self.faults.reordered += 1;
        } else {
            self.faults.duplicate += 1;
        }
    }
}

/// `Poll::poll` that is not disturbed by signals.
pub fn poll(poll: &mut Poll, events: &mut Events, limit: Duration) -> io::Result<()> {
    match poll.poll(events, Some(limit)) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
