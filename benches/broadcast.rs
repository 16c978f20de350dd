//! Broadcast: CPU of the node per delivered message, against a bare send(2) loop to as many sockets.
//!
//! Both get the same rounds at the same pace and send the same 132 bytes to the same client. Passes alternate, and
//! the ratio is taken between neighbours, since the machine drifts.

mod support;

use std::io;
use std::time::{Duration, Instant};

use support::accounting::{Cpu, Meter};
use support::fleet::{Faults, Fleet, Hello};
use support::http::{self, Connection};
use support::message;
use support::options::Options;
use support::process::{Node, Rival};
use support::report::{self, Report};
use support::rivals::{FLOOR_FRAME, USER};
use support::{median, raise_open_files_limit, websocket};

const DATA: usize = 128;
/// Rounds before the measured ones: buffers and caches grow to their size.
const WARM_UP: u64 = 5;
/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the last round, for messages that come twice.
const LINGER: Duration = Duration::from_millis(200);

struct Pace {
    rounds: u64,
    every: Duration,
}

struct Pass {
    per_delivery: Cpu,
    faults: Faults,
}

fn main() -> io::Result<()> {
    let options = Options::read(
        "broadcast",
        "CPU per delivery of a broadcast, against a bare send(2) loop",
        &[
            ("sockets", "1000,10000", "connected sockets, a list"),
            (
                "rounds",
                "0",
                "broadcasts a pass; 0: 60, or more for few sockets",
            ),
            ("pace-ms", "100", "from one broadcast to the next"),
            ("passes", "3", "passes of floor and node, alternating"),
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
            // A pass should cost well over a second, or clocks and background work show.
            0 => 60.max(300_000 / sockets as u64),
            rounds => rounds,
        };
        let pace = Pace {
            rounds,
            every: Duration::from_millis(options.number("pace-ms") as u64),
        };
        let mut ratios = Vec::new();
        let mut totals = Vec::new();
        for pass in 1..=options.number("passes") {
            let floor = floor_pass(&options, sockets, &pace)?;
            let node = node_pass(&options, sockets, &pace)?;
            let ratio = node.per_delivery.total / floor.per_delivery.total;
            report.line(&format!(
                "{sockets:8} {pass:4} {rounds:6}  {}  {}  {ratio:10.3}  floor {}, node {}",
                report::cpu(floor.per_delivery),
                report::cpu(node.per_delivery),
                report::faults(floor.faults),
                report::faults(node.faults),
            ));
            ratios.push(ratio);
            totals.push(node.per_delivery.total);
        }
        report.line(&format!(
            "{sockets:8} median: node {:.2} us per delivery, ratio {:.3}",
            median(&totals),
            median(&ratios)
        ));
    }
    report.end()
}

fn floor_pass(options: &Options, sockets: usize, pace: &Pace) -> io::Result<Pass> {
    let threads = options.text("floor-threads");
    let mut floor = Rival::start(&["floor", &sockets.to_string(), threads])?;
    let mut fleet = Fleet::connect(floor.address, sockets, Hello::Silent, |n| {
        format!("{USER}{n}")
    })?;
    let pid = floor.pid();
    measure(&mut fleet, sockets, pace, pid, |fleet, sequence, total| {
        let frame = websocket::text_frame(message::data(message::ALL, sequence, DATA).as_bytes());
        assert_eq!(frame.len(), FLOOR_FRAME);
        floor.feed(&frame)?;
        fleet.receive(total, PATIENCE).map(|_| ())
    })
}

fn node_pass(options: &Options, sockets: usize, pace: &Pace) -> io::Result<Pass> {
    let node = Node::start(options, "bench", None)?;
    let mut fleet = Fleet::connect(node.clients, sockets, Hello::WebSocket, |n| {
        format!("{USER}{n}")
    })?;
    let mut connection = Connection::open(node.senders)?;
    measure(
        &mut fleet,
        sockets,
        pace,
        node.pid(),
        |fleet, sequence, total| {
            let data = message::data(message::ALL, sequence, DATA);
            connection.send(&http::post(
                http::JSON,
                &format!(r#"{{"to":{{"all":true}},"data":{data}}}"#),
            ))?;
            fleet.receive(total, PATIENCE)?;
            let answer = connection.receive()?;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(io::Error::other(answer.body))
            }
        },
    )
}

/// Runs the rounds at their pace; `send` gets the sequence number and how many messages will have come after it.
fn measure(
    fleet: &mut Fleet,
    sockets: usize,
    pace: &Pace,
    pid: u32,
    mut send: impl FnMut(&mut Fleet, u64, u64) -> io::Result<()>,
) -> io::Result<Pass> {
    fleet.broadcast = true;
    let all = WARM_UP + pace.rounds;
    let mut meter = Meter::start(pid);
    let mut next = Instant::now();
    for round in 0..all {
        if round == WARM_UP {
            meter = Meter::start(pid);
        }
        send(fleet, round, (round + 1) * sockets as u64)?;
        next = (next + pace.every).max(Instant::now());
        fleet.linger(next.saturating_duration_since(Instant::now()))?;
    }
    let spent = meter.spent();
    fleet.linger(LINGER)?;
    Ok(Pass {
        per_delivery: spent / (pace.rounds * sockets as u64) as f64,
        faults: fleet.faults(|_| all),
    })
}
