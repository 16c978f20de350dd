//! Broadcast: CPU of the node per delivered message, against a bare send(2) loop to as many sockets.
//!
//! Both are up at the same time, each with its own sockets, and take turns round by round: the machine drifts, and
//! the ratio is what counts. Both send the same 132 bytes a socket to the same client, which reads in between.

mod support;

use std::io;
use std::time::{Duration, Instant};

use support::accounting::{Cpu, Meter};
use support::fleet::{Fleet, Hello};
use support::http::{self, Connection};
use support::options::Options;
use support::process::{Node, Rival};
use support::report::{self, Report};
use support::rivals::{FLOOR_FRAME, USER};
use support::{median, message, raise_open_files_limit, websocket};

const DATA: usize = 128;
/// Rounds before the measured ones: buffers and caches grow to their size.
const WARM_UP: u64 = 5;
/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the last round, for messages that come twice.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> io::Result<()> {
    let options = Options::read(
        "broadcast",
        "CPU per delivery of a broadcast, against a bare send(2) loop",
        &[
            (
                "sockets",
                "1000,9000",
                "sockets of each side, a list; the client holds twice as many",
            ),
            (
                "rounds",
                "0",
                "broadcasts a pass; 0: 60, or more for few sockets",
            ),
            ("pace-ms", "100", "from one broadcast to the next"),
            ("passes", "3", "passes, each with new processes"),
            (
                "floor-threads",
                "1",
                "sending threads of the floor; a node has as many as there are cores",
            ),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    report.line("CPU us per delivery: total (user + sys)");
    report.line(" sockets pass rounds  floor                     node                      node/floor  counts");
    for sockets in options.numbers("sockets") {
        let rounds = match options.number("rounds") as u64 {
            // A pass should cost about a second, or clocks and background work show.
            0 => 60.max(200_000 / sockets as u64),
            rounds => rounds,
        };
        let (mut ratios, mut totals) = (Vec::new(), Vec::new());
        for pass in 1..=options.number("passes") {
            let mut floor = Side::floor(&options, sockets)?;
            let mut node = Side::node(&options, sockets)?;
            take_turns(&options, [&mut floor, &mut node], rounds)?;
            let deliveries = (rounds * sockets as u64) as f64;
            let [of_floor, of_node] = [&floor, &node].map(|side| side.spent / deliveries);
            let ratio = of_node.total / of_floor.total;
            report.line(&format!(
                "{sockets:8} {pass:4} {rounds:6}  {}  {}  {ratio:10.3}  floor {}, node {}",
                report::cpu(of_floor),
                report::cpu(of_node),
                report::faults(floor.fleet.faults(|_| floor.rounds)),
                report::faults(node.fleet.faults(|_| node.rounds)),
            ));
            ratios.push(ratio);
            totals.push(of_node.total);
        }
        report.line(&format!(
            "{sockets:8} median: node {:.2} us per delivery, ratio {:.3}",
            median(&totals),
            median(&ratios)
        ));
    }
    report.end()
}

/// Who is measured, and its sockets.
struct Side {
    sender: Sender,
    fleet: Fleet,
    sockets: u64,
    /// Broadcasts so far.
    rounds: u64,
    meter: Option<Meter>,
    spent: Cpu,
}

enum Sender {
    Floor(Rival),
    Node(Node, Connection),
}

impl Side {
    fn floor(options: &Options, sockets: usize) -> io::Result<Side> {
        let threads = options.text("floor-threads");
        let floor = Rival::start(&["floor", &sockets.to_string(), threads])?;
        let fleet = Fleet::connect(floor.address, sockets, Hello::Silent, |n| {
            format!("{USER}{n}")
        })?;
        Ok(Side::new(Sender::Floor(floor), fleet, sockets))
    }

    fn node(options: &Options, sockets: usize) -> io::Result<Side> {
        let node = Node::start(options, "bench", None)?;
        let fleet = Fleet::connect(node.clients, sockets, Hello::WebSocket, |n| {
            format!("{USER}{n}")
        })?;
        let connection = Connection::open(node.senders)?;
        Ok(Side::new(Sender::Node(node, connection), fleet, sockets))
    }

    fn new(sender: Sender, mut fleet: Fleet, sockets: usize) -> Side {
        fleet.broadcast = true;
        Side {
            sender,
            fleet,
            sockets: sockets as u64,
            rounds: 0,
            meter: None,
            spent: Cpu::default(),
        }
    }

    fn pid(&self) -> u32 {
        match &self.sender {
            Sender::Floor(floor) => floor.pid(),
            Sender::Node(node, _) => node.pid(),
        }
    }

    /// One broadcast to all sockets, received by all.
    fn round(&mut self) -> io::Result<()> {
        let data = message::data(message::ALL, self.rounds, DATA);
        self.rounds += 1;
        let total = self.rounds * self.sockets;
        match &mut self.sender {
            Sender::Floor(floor) => {
                let frame = websocket::text_frame(data.as_bytes());
                assert_eq!(frame.len(), FLOOR_FRAME);
                floor.feed(&frame)?;
                self.fleet.receive(total, PATIENCE)?;
            }
            Sender::Node(_, connection) => {
                let body = format!(r#"{{"to":{{"all":true}},"data":{data}}}"#);
                connection.send(&http::post(http::JSON, &body))?;
                self.fleet.receive(total, PATIENCE)?;
                let answer = connection.receive()?;
                if answer.status != 200 {
                    return Err(io::Error::other(answer.body));
                }
            }
        }
        Ok(())
    }
}

/// Rounds of both sides in turn, at the pace; who goes first changes each time.
fn take_turns(options: &Options, mut sides: [&mut Side; 2], rounds: u64) -> io::Result<()> {
    let every = Duration::from_millis(options.number("pace-ms") as u64);
    for round in 0..WARM_UP + rounds {
        for side in &mut sides {
            if round == WARM_UP {
                side.meter = Some(Meter::start(side.pid()));
            }
            let next = Instant::now() + every;
            side.round()?;
            side.fleet
                .linger(next.saturating_duration_since(Instant::now()))?;
        }
        sides.reverse();
    }
    for side in sides {
        side.spent = side.meter.as_ref().map(Meter::spent).unwrap_or_default();
        side.fleet.linger(LINGER)?;
    }
    Ok(())
}
