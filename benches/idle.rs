//! Idle WebSockets: resident memory of the node per connection, and what it spends on keeping them.
//!
//! Only the process is counted. The kernel's own part of an accepted socket (some 4 KiB) is in no process.

mod support;

use std::io;
use std::time::Duration;

use support::accounting::{Meter, memory};
use support::fleet::{Fleet, Hello};
use support::http::{self, Connection};
use support::message;
use support::options::Options;
use support::process::Node;
use support::raise_open_files_limit;
use support::report::{self, Report};
use support::rivals::USER;

const DATA: usize = 128;
/// After start and after the connects, before memory is read.
const SETTLE: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    let options = Options::read(
        "idle",
        "Resident memory of the node per idle WebSocket",
        &[
            ("sockets", "10000", "idle WebSockets"),
            (
                "idle-seconds",
                "60",
                "how long the CPU of the idle node is watched (pings fall in there)",
            ),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    let sockets = options.number("sockets");
    let idle = Duration::from_secs(options.number("idle-seconds") as u64);
    let node = Node::start(&options, "bench", None)?;
    std::thread::sleep(SETTLE);

    let before = memory(node.pid());
    report.line("KiB                      VmRSS     VmHWM  per connection");
    report.line(&format!(
        "before             {:11.0} {:9.0}",
        before.resident, before.highest
    ));
    let say = |report: &mut Report<'_>, moment: &str| {
        let now = memory(node.pid());
        let each = (now.resident - before.resident) / sockets as f64;
        report.line(&format!(
            "{moment:18} {:11.0} {:9.0}  {each:14.2}",
            now.resident, now.highest
        ));
    };

    let mut fleet = Fleet::connect(node.clients, sockets, Hello::WebSocket, |n| {
        format!("{USER}{n}")
    })?;
    fleet.broadcast = true;
    fleet.linger(SETTLE)?;
    say(&mut report, "connected");

    let meter = Meter::start(node.pid());
    fleet.linger(idle)?;
    let spent = meter.spent() / idle.as_secs_f64();
    say(&mut report, &format!("idle for {} s", idle.as_secs()));

    let mut connection = Connection::open(node.senders)?;
    let data = message::data(message::ALL, 0, DATA);
    connection.send(&http::post(
        http::JSON,
        &format!(r#"{{"to":{{"all":true}},"data":{data}}}"#),
    ))?;
    fleet.receive(sockets as u64, Duration::from_secs(10))?;
    connection.receive()?;
    fleet.linger(SETTLE)?;
    say(&mut report, "after a broadcast");
    let counts = report::faults(fleet.faults(|_| 1));

    drop(fleet);
    std::thread::sleep(SETTLE);
    say(&mut report, "all gone");
    report.line(&format!(
        "CPU while idle, pings included: {:.0} us a second",
        spent.total
    ));
    report.line(&format!("broadcast counts: {counts}"));
    report.end()
}
