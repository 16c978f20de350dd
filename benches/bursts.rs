//! Bursts: CPU of the node per message when eight come for a connection at once, against one at a time.
//!
//! `all`: eight broadcasts in one request, against one broadcast a request; nothing but the writing differs much.
//! `users`: a batch that names each user eight times in a row, against one that names eight times as many users
//! once; here the reading of the batch (the same for both) is part of the cost.

mod support;

use std::io;
use std::time::{Duration, Instant};

use support::accounting::{Cpu, Meter};
use support::fleet::{Faults, Fleet, Hello};
use support::http::{self, Connection};
use support::options::Options;
use support::process::Node;
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, message, raise_open_files_limit};

const DATA: usize = 128;
const BURST: usize = 8;
/// Requests before the measured ones.
const WARM_UP: usize = 5;
/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the last round, for messages that come twice.
const LINGER: Duration = Duration::from_millis(200);

fn main() -> io::Result<()> {
    let options = Options::read(
        "bursts",
        "CPU per message of bursts of 8 to one connection, against single messages",
        &[
            ("sockets", "1000", "connected sockets"),
            ("rounds", "200", "requests a pass"),
            ("pace-ms", "50", "from one request to the next"),
            ("passes", "3", "passes of each"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    report.line("CPU us per message: total (user + sys)");
    report.line(
        "to     pass  single                    burst of 8                burst/single  counts",
    );
    for to in ["all", "users"] {
        let mut ratios = Vec::new();
        for pass in 1..=options.number("passes") {
            let (single, single_faults) = measure(&options, to, 1)?;
            let (burst, burst_faults) = measure(&options, to, BURST)?;
            let ratio = burst.total / single.total;
            report.line(&format!(
                "{to:5}  {pass:4}  {}  {}  {ratio:12.3}  single {}, burst {}",
                report::cpu(single),
                report::cpu(burst),
                report::faults(single_faults),
                report::faults(burst_faults),
            ));
            ratios.push(ratio);
        }
        report.line(&format!("{to:5}  median ratio {:.3}", median(&ratios)));
    }
    report.end()
}

/// A pass over a new node: the cost of a message, and what went wrong.
fn measure(options: &Options, to: &str, burst: usize) -> io::Result<(Cpu, Faults)> {
    let sockets = options.number("sockets");
    let rounds = WARM_UP + options.number("rounds");
    let every = Duration::from_millis(options.number("pace-ms") as u64);
    let node = Node::start(options, "bench", None)?;
    let mut fleet = Fleet::connect(node.clients, sockets, Hello::WebSocket, |n| {
        format!("{USER}{n}")
    })?;
    fleet.broadcast = to == "all";
    let mut connection = Connection::open(node.senders)?;
    let mut sent = vec![0_u64; sockets];
    let mut meter = Meter::start(node.pid());
    let mut warm = 0;
    for round in 0..rounds {
        if round == WARM_UP {
            meter = Meter::start(node.pid());
            warm = sent.iter().sum();
        }
        let next = Instant::now() + every;
        let body = if to == "all" {
            to_all(&mut sent, burst)
        } else {
            to_users(&mut sent, burst, round)
        };
        connection.send(&http::post(http::NDJSON, &body))?;
        fleet.receive(sent.iter().sum(), PATIENCE)?;
        let answer = connection.receive()?;
        if answer.status != 200 {
            return Err(io::Error::other(answer.body));
        }
        fleet.linger(next.saturating_duration_since(Instant::now()))?;
    }
    let spent = meter.spent();
    fleet.linger(LINGER)?;
    let messages = sent.iter().sum::<u64>() - warm;
    Ok((spent / messages as f64, fleet.faults(|n| sent[n])))
}

/// `burst` broadcasts.
fn to_all(sent: &mut [u64], burst: usize) -> String {
    let lines = (0..burst).map(|_| {
        let data = message::data(message::ALL, sent[0], DATA);
        sent.iter_mut().for_each(|count| *count += 1);
        format!("{{\"to\":{{\"all\":true}},\"data\":{data}}}\n")
    });
    lines.collect()
}

/// As many lines as fit every user of a slice once, to `burst` times fewer users; the slice moves on each round.
fn to_users(sent: &mut [u64], burst: usize, round: usize) -> String {
    let users = sent.len();
    let lines = users / 2;
    let first = round * lines;
    let mut body = String::new();
    for line in 0..lines {
        let user = (first + line / burst) % users;
        let name = format!("{USER}{user}");
        let data = message::data(&name, sent[user], DATA);
        sent[user] += 1;
        body += &format!("{{\"to\":{{\"user\":\"{name}\"}},\"data\":{data}}}\n");
    }
    body
}
