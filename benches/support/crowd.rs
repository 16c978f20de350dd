//! Many `pushnode.v1` clients that come back by themselves, as a good client does: the first try after a random part
//! of a second, then of two, four and so on; never before the time that the node asked for (`Retry-After` of a refused
//! handshake, `retry_ms` of a `bye`), and a random part of a second later than that.
//!
//! A client is back when it has `ready`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::dial::Dial;
use super::fleet::poll;
use super::rivals::USER;
use super::websocket;

/// An attempt that has led to nothing by then is given up.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// How often attempts are looked at for that.
const LOOK: Duration = Duration::from_secs(1);
/// Ports that a client connects from. Chosen by us: the kernel's search for a free one takes milliseconds once
/// thousands are taken, which would look as if the node were slow.
const PORTS: Range<usize> = 10_000..60_000;
/// Doublings of the pause: 32 s at most.
const MOST_DOUBLINGS: u32 = 5;

/// What happened to all attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub attempts: u64,
    /// Nobody listened.
    pub no_listener: u64,
    /// Handshakes answered otherwise than by 101, with a hint when to come back and without.
    pub refused_with_hint: u64,
    pub refused_without_hint: u64,
    /// Connections that ended before the handshake was answered: there is no hint either.
    pub dropped: u64,
    pub timed_out: u64,
    /// Let in without a row in the registry.
    pub degraded: u64,
    /// Connections that the other side ended later, and how many of them with a hint.
    pub lost: u64,
    pub lost_with_hint: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    Connecting,
    Handshake,
    /// Let in; `ready` is to come.
    Open,
    Ready,
}

struct Client {
    state: State,
    stream: Option<TcpStream>,
    server: SocketAddr,
    user: String,
    bytes: Vec<u8>,
    began: Instant,
    /// Attempts so far: each has a port of its own.
    attempts: usize,
    failures: u32,
    hint: Option<Duration>,
    /// Messages for it, and messages that were not.
    received: u64,
    misrouted: u64,
}

pub struct Crowd {
    poll: Poll,
    events: Events,
    servers: Vec<SocketAddr>,
    sources: Vec<Ipv4Addr>,
    clients: Vec<Client>,
    /// The number of the first client.
    first: usize,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    buffer: Vec<u8>,
    last_look: Instant,
    ready: usize,
    pub counts: Counts,
    /// When each came back, since `since`.
    pub back: Vec<Duration>,
    since: Instant,
}

impl Crowd {
    /// Clients that are away. Client `n` uses server and source number `n`, counted round, and after
    /// a failure the next server.
    pub fn new(count: usize, servers: Vec<SocketAddr>, sources: usize) -> io::Result<Crowd> {
        // Not 127.0.0.1, from where everything else connects.
        Crowd::part(0..count, servers, (1, sources))
    }

    /// Some of the clients of a crowd that is spread over processes; each process has a network
    /// `127.0.n.x` of its own, and so many addresses of it.
    pub fn part(
        clients: Range<usize>,
        servers: Vec<SocketAddr>,
        (network, sources): (u8, usize),
    ) -> io::Result<Crowd> {
        let first = clients.start;
        let client = |n: usize| Client {
            state: State::Away,
            stream: None,
            server: servers[n % servers.len()],
            user: format!("{USER}{n}"),
            bytes: Vec::new(),
            began: Instant::now(),
            attempts: 0,
            failures: 0,
            hint: None,
            received: 0,
            misrouted: 0,
        };
        let source =
            |n: usize| Ipv4Addr::new(127, 0, network, u8::try_from(n + 1).unwrap_or(u8::MAX));
        Ok(Crowd {
            poll: Poll::new()?,
            events: Events::with_capacity(1_024),
            sources: (0..sources.max(1)).map(source).collect(),
            clients: clients.map(client).collect(),
            servers,
            first,
            due: BinaryHeap::new(),
            buffer: vec![0; 64 * 1_024],
            last_look: Instant::now(),
            ready: 0,
            counts: Counts::default(),
            back: Vec::new(),
            since: Instant::now(),
        })
    }

    /// Lets all who are away come, evenly over some time.
    pub fn come(&mut self, over: Duration) {
        let now = Instant::now();
        let count = self.clients.len() as u32;
        for n in 0..self.clients.len() {
            if self.clients[n].state == State::Away {
                self.due.push(Reverse((now + over * n as u32 / count, n)));
            }
        }
    }

    /// Counts anew from now on.
    pub fn begin(&mut self) {
        self.counts = Counts::default();
        self.back.clear();
        self.since = Instant::now();
    }

    /// Closes all sockets without a goodbye; all come back.
    pub fn cut(&mut self) {
        for n in 0..self.clients.len() {
            self.leave(n);
        }
    }

    /// Runs until all have become ready since `begin` and are, or for `limit`; answers whether all are.
    pub fn gather(&mut self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        while self.back.len().min(self.ready) < self.clients.len() {
            if Instant::now() > end {
                return Ok(false);
            }
            self.turn(Duration::from_millis(50))?;
        }
        Ok(true)
    }

    /// Runs for a while, whatever happens.
    pub fn linger(&mut self, pause: Duration) -> io::Result<()> {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.turn(left)?;
        }
        Ok(())
    }

    /// Runs until every client is missing nothing of `each` messages, or for `limit`.
    pub fn receive(&mut self, each: u64, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        while self.missing(each) > 0 && Instant::now() < end {
            self.linger(Duration::from_millis(20))?;
        }
        Ok(())
    }

    pub fn ready(&self) -> usize {
        self.ready
    }

    fn missing(&self, each: u64) -> u64 {
        let missing = |client: &Client| each.saturating_sub(client.received);
        self.clients.iter().map(missing).sum()
    }

    /// Missing, repeated and misrouted messages, when each client was sent `each`.
    pub fn faults(&self, each: u64) -> super::fleet::Faults {
        let more = |client: &Client| client.received.saturating_sub(each);
        super::fleet::Faults {
            missing: self.missing(each),
            duplicate: self.clients.iter().map(more).sum(),
            misrouted: self.clients.iter().map(|client| client.misrouted).sum(),
            ..Default::default()
        }
    }

    /// Looks at the sockets once and waits for them that long at most.
    pub fn turn(&mut self, limit: Duration) -> io::Result<()> {
        let now = Instant::now();
        while let Some(&Reverse((due, n))) = self.due.peek()
            && due <= now
        {
            self.due.pop();
            self.attempt(n)?;
        }
        if self.last_look.elapsed() > LOOK {
            self.last_look = Instant::now();
            self.give_up_attempts();
        }
        let next = self.due.peek().map_or(limit, |Reverse((due, _))| {
            due.saturating_duration_since(Instant::now()).min(limit)
        });
        poll(&mut self.poll, &mut self.events, next)?;
        let events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        for event in &events {
            self.advance(event.token().0, event.is_writable())?;
        }
        self.events = events;
        Ok(())
    }

    fn give_up_attempts(&mut self) {
        for n in 0..self.clients.len() {
            let client = &self.clients[n];
            let under_way = !matches!(client.state, State::Away | State::Ready);
            if under_way && client.began.elapsed() > ATTEMPT_LIMIT {
                self.counts.timed_out += 1;
                self.leave(n);
            }
        }
    }

    fn attempt(&mut self, n: usize) -> io::Result<()> {
        let mut stream = self.dial(n)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(n), both)?;
        self.counts.attempts += 1;
        let client = &mut self.clients[n];
        client.stream = Some(stream);
        client.state = State::Connecting;
        client.began = Instant::now();
        Ok(())
    }

    fn dial(&mut self, n: usize) -> io::Result<TcpStream> {
        let failures = self.clients[n].failures as usize;
        let server = self.servers[(self.first + n + failures) % self.servers.len()];
        self.clients[n].server = server;
        let sources = self.sources.len();
        let address = self.sources[n % sources];
        // Of the clients of one source each has a port, and in the next attempt another.
        let (turn, width) = (n / sources, self.clients.len().div_ceil(sources));
        loop {
            let attempt = self.clients[n].attempts;
            self.clients[n].attempts += 1;
            let port = PORTS.start + (turn + attempt * width) % PORTS.len();
            let port = u16::try_from(port).map_err(io::Error::other)?;
            let dial = Dial {
                source: Some(SocketAddrV4::new(address, port)),
                ..Dial::default()
            };
            match dial.connect(server) {
                // Somebody else has it, or it was ours a moment ago.
                Err(error)
                    if attempt < PORTS.len()
                        && matches!(
                            error.kind(),
                            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
                        ) => {}
                dialled => return dialled,
            }
        }
    }

    /// Away from here; comes back later.
    fn leave(&mut self, n: usize) {
        let client = &mut self.clients[n];
        if client.state == State::Ready {
            self.ready -= 1;
        }
        client.stream = None;
        client.state = State::Away;
        client.bytes = Vec::new();
        let part = |seconds: f64| Duration::from_secs_f64(fastrand::f64() * seconds);
        let backoff = part(f64::from(1_u32 << client.failures.min(MOST_DOUBLINGS)));
        let pause = match client.hint.take() {
            Some(hint) => backoff.max(hint + part(1.0)),
            None => backoff,
        };
        client.failures += 1;
        self.due.push(Reverse((Instant::now() + pause, n)));
    }

    fn advance(&mut self, n: usize, writable: bool) -> io::Result<()> {
        let client = &mut self.clients[n];
        let Some(stream) = &mut client.stream else {
            return Ok(());
        };
        if client.state == State::Connecting {
            match stream.take_error()? {
                None if writable => {
                    let host = client.server.to_string();
                    stream.write_all(&websocket::request_v1(&host, &client.user))?;
                    client.state = State::Handshake;
                    let registry = self.poll.registry();
                    registry.reregister(stream, Token(n), Interest::READABLE)?;
                }
                None => return Ok(()),
                Some(error) => {
                    match error.kind() {
                        ErrorKind::ConnectionRefused => self.counts.no_listener += 1,
                        _ => self.counts.dropped += 1,
                    }
                    self.leave(n);
                    return Ok(());
                }
            }
        }
        loop {
            let client = &mut self.clients[n];
            let Some(stream) = &mut client.stream else {
                return Ok(());
            };
            match stream.read(&mut self.buffer) {
                Ok(0) => return self.ended(n),
                Ok(length) => {
                    client.bytes.extend(&self.buffer[..length]);
                    self.hear(n)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return self.ended(n),
            }
        }
    }

    fn ended(&mut self, n: usize) -> io::Result<()> {
        let client = &self.clients[n];
        match client.state {
            State::Open | State::Ready => {
                self.counts.lost += 1;
                self.counts.lost_with_hint += u64::from(client.hint.is_some());
            }
            _ => self.counts.dropped += 1,
        }
        self.leave(n);
        Ok(())
    }

    fn hear(&mut self, n: usize) -> io::Result<()> {
        if self.clients[n].state == State::Handshake {
            let client = &mut self.clients[n];
            match websocket::upgraded(&client.bytes) {
                Ok(None) => return Ok(()),
                Ok(Some(head)) => {
                    client.bytes.drain(..head);
                    client.state = State::Open;
                }
                Err(_) => {
                    client.hint = retry_after(&client.bytes);
                    match client.hint {
                        Some(_) => self.counts.refused_with_hint += 1,
                        None => self.counts.refused_without_hint += 1,
                    }
                    self.leave(n);
                    return Ok(());
                }
            }
        }
        let bytes = std::mem::take(&mut self.clients[n].bytes);
        let mut rest = &bytes[..];
        while let Some((opcode, payload, behind)) = websocket::split_frame(rest) {
            rest = behind;
            match opcode {
                websocket::TEXT => self.hear_object(n, payload),
                websocket::PING => {
                    let pong = websocket::masked(websocket::PONG, payload);
                    if let Some(stream) = &mut self.clients[n].stream {
                        // If it is gone, reading will say so.
                        let _ = stream.write_all(&pong);
                    }
                }
                _ => {}
            }
        }
        self.clients[n].bytes = rest.to_vec();
        Ok(())
    }

    fn hear_object(&mut self, n: usize, object: &[u8]) {
        let client = &mut self.clients[n];
        let Ok(object) = serde_json::from_slice::<serde_json::Value>(object) else {
            client.misrouted += 1;
            return;
        };
        let is_mine = object["user"] == client.user.as_str();
        match object["type"].as_str() {
            Some("ready") if is_mine && client.state == State::Open => {
                client.state = State::Ready;
                client.failures = 0;
                self.ready += 1;
                self.back.push(self.since.elapsed());
            }
            Some("message") if object["data"]["u"] == client.user.as_str() => client.received += 1,
            Some("degraded") => self.counts.degraded += 1,
            Some("bye") => client.hint = object["retry_ms"].as_u64().map(Duration::from_millis),
            Some("resync" | "pong") => {}
            _ => client.misrouted += 1,
        }
    }
}

/// `Retry-After` in seconds.
fn retry_after(head: &[u8]) -> Option<Duration> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head
        .lines()
        .find_map(|line| line.strip_prefix("retry-after:"))?;
    Some(Duration::from_secs(value.trim().parse().ok()?))
}
