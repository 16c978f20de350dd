//! WebSockets that come and go at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::fleet::poll;
use super::rivals::USER;
use super::websocket;

/// What tells a client of v1 that it is there.
const READY: &[u8] = b"\"ready\"";

/// How a client comes and goes.
#[derive(Clone, Copy)]
pub struct Manner {
    /// It closes with a frame, and waits for the answer.
    pub with_frame: bool,
    /// It speaks `pushnode.v1`, and stays until it is told that it is there.
    pub speaks_v1: bool,
}

impl Manner {
    /// A plain client that closes with a frame.
    pub const PLAIN: Self = Self {
        with_frame: true,
        speaks_v1: false,
    };
}

enum State {
    Connecting,
    Handshake,
    /// Our close frame is sent; the server's end of the stream is to come.
    Closing,
}

struct Visit {
    stream: TcpStream,
    state: State,
    bytes: Vec<u8>,
}

/// Keeps `at_once` visits under way until `count` have come and gone.
pub fn come_and_go(
    server: SocketAddr,
    count: usize,
    at_once: usize,
    manner: Manner,
) -> io::Result<()> {
    let mut poller = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let begin = |poller: &Poll, slot: usize| -> io::Result<Visit> {
        let mut stream = TcpStream::connect(server)?;
        poller.registry().register(
            &mut stream,
            Token(slot),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(Visit {
            stream,
            state: State::Connecting,
            bytes: Vec::new(),
        })
    };
    let mut begun = at_once.min(count);
    let mut ended = 0;
    let mut visits = (0..begun)
        .map(|slot| begin(&poller, slot).map(Some))
        .collect::<io::Result<Vec<_>>>()?;
    while ended < count {
        poll(&mut poller, &mut events, Duration::from_secs(10))?;
        if events.is_empty() {
            return Err(io::Error::other(format!(
                "{ended} of {count} visits, then nothing for 10 s"
            )));
        }
        for event in &events {
            let slot = event.token().0;
            let Some(visit) = &mut visits[slot] else {
                continue;
            };
            if !visit.advance(&server.to_string(), slot, manner)? {
                continue;
            }
            ended += 1;
            visits[slot] = None;
            if begun < count {
                visits[slot] = Some(begin(&poller, slot)?);
                begun += 1;
            }
        }
    }
    Ok(())
}

impl Visit {
    /// Does what can be done now; true when the visit is over.
    fn advance(&mut self, host: &str, slot: usize, manner: Manner) -> io::Result<bool> {
        if matches!(self.state, State::Connecting) {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            let user = format!("{USER}{slot}");
            let request = match manner.speaks_v1 {
                true => websocket::request_v1(host, &user),
                false => websocket::request(host, &user),
            };
            match self.stream.write_all(&request) {
                Ok(()) => self.state = State::Handshake,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 1_024];
        loop {
            let length = match self.stream.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            match self.state {
                State::Closing if length == 0 => return Ok(true),
                State::Closing => {}
                _ if length == 0 => return Err(io::Error::other("closed during the handshake")),
                _ => {
                    self.bytes.extend(&buffer[..length]);
                    if websocket::upgraded(&self.bytes)
                        .map_err(io::Error::other)?
                        .is_none()
                    {
                        continue;
                    }
                    let mut bytes = self.bytes.windows(READY.len());
                    if manner.speaks_v1 && !bytes.any(|bytes| bytes == READY) {
                        continue;
                    }
                    if !manner.with_frame {
                        return Ok(true);
                    }
                    self.stream.write_all(&websocket::masked(
                        websocket::CLOSE,
                        &1_000_u16.to_be_bytes(),
                    ))?;
                    self.state = State::Closing;
                }
            }
        }
    }
}
