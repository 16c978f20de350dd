//! Connect and close: CPU of the node for a WebSocket that comes and goes, and whether memory stays.
//!
//! Closing is either `frame` (close frames both ways, the server ends TCP) or `drop` (the client just goes).

mod support;

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use support::accounting::{Meter, memory};
use support::fleet::poll;
use support::options::Options;
use support::process::{Node, RedisServer};
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, raise_open_files_limit, websocket};

/// Connections that come and go before anything is read.
const WARM_UP: usize = 2_000;
const SETTLE: Duration = Duration::from_secs(1);

fn main() -> io::Result<()> {
    let options = Options::read(
        "connects",
        "CPU of the node per connect + close, and the growth of its memory",
        &[
            ("connects", "20000", "connects a pass"),
            ("at-once", "32", "connections under way at the same time"),
            ("passes", "3", "passes of each way"),
            ("ways", "embedded,redis", "backplanes"),
            ("closes", "frame,drop", "ways to close"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    report.line("CPU us per connect + close: total (user + sys)");
    report.line("backplane  close  pass  node                      redis                     a second  VmRSS KiB after");
    for way in options.words("ways") {
        let redis = if way == "redis" {
            Some(RedisServer::start()?)
        } else {
            None
        };
        let node = Node::start(&options, "bench", redis.as_ref())?;
        for close in options.words("closes") {
            measure(&options, &mut report, way, close, &node, redis.as_ref())?;
        }
    }
    report.end()
}

fn measure(
    options: &Options,
    report: &mut Report<'_>,
    way: &str,
    close: &str,
    node: &Node,
    redis: Option<&RedisServer>,
) -> io::Result<()> {
    let (connects, at_once) = (options.number("connects"), options.number("at-once"));
    come_and_go(node.clients, WARM_UP, at_once, close == "frame")?;
    std::thread::sleep(SETTLE);
    let before = memory(node.pid()).resident;
    let mut totals = Vec::new();
    for pass in 1..=options.number("passes") {
        let (meter, redis_meter) = (
            Meter::start(node.pid()),
            redis.map(|redis| Meter::start(redis.pid())),
        );
        let started = std::time::Instant::now();
        come_and_go(node.clients, connects, at_once, close == "frame")?;
        let seconds = started.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        let spent = meter.spent() / connects as f64;
        let of_redis = redis_meter
            .map(|meter| meter.spent() / connects as f64)
            .unwrap_or_default();
        report.line(&format!(
            "{way:9}  {close:5}  {pass:4}  {}  {}  {:8.0}  {:15.0}",
            report::cpu(spent),
            report::cpu(of_redis),
            connects as f64 / seconds,
            memory(node.pid()).resident,
        ));
        totals.push(spent.total);
    }
    let growth = memory(node.pid()).resident - before;
    report.line(&format!(
        "{way:9}  {close:5}  median {:.2} us; memory grew by {growth:.0} KiB",
        median(&totals)
    ));
    Ok(())
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
fn come_and_go(
    server: SocketAddr,
    count: usize,
    at_once: usize,
    with_frame: bool,
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
            if !visit.advance(&server.to_string(), slot, with_frame)? {
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
    fn advance(&mut self, host: &str, slot: usize, with_frame: bool) -> io::Result<bool> {
        if matches!(self.state, State::Connecting) {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self
                .stream
                .write_all(&websocket::request(host, &format!("{USER}{slot}")))
            {
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
                    if !with_frame {
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
