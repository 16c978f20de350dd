//! Idle connections of each transport: resident memory of the node per connection, and what it spends on keeping them.
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
        "Resident memory of the node per idle connection",
        &[
            ("sockets", "10000", "idle connections of each transport"),
            (
                "transports",
                "ws,sse,tcp",
                "which; each has a node of its own",
            ),
            (
                "idle-seconds",
                "60",
                "how long the CPU of the idle node is watched (pings fall in there)",
            ),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    for transport in options.words("transports") {
        measure(&options, &mut report, transport)?;
    }
    report.end()
}

fn measure(options: &Options, report: &mut Report<'_>, transport: &str) -> io::Result<()> {
    let sockets = options.number("sockets");
    let idle = Duration::from_secs(options.number("idle-seconds") as u64);
    let (hello, settings) = match transport {
        "ws" => (Hello::WebSocket, &[][..]),
        "sse" => (Hello::Sse, &[][..]),
        "tcp" => (Hello::Lines, &[("PUSH_TCP_LISTEN", "127.0.0.1:0")][..]),
        other => return Err(io::Error::other(format!("{other} is no transport"))),
    };
    let node = Node::start_with(options, "bench", None, settings)?;
    std::thread::sleep(SETTLE);

    let before = memory(node.pid());
    let title = format!("{transport}, KiB");
    report.line(&format!("{title:24} VmRSS     VmHWM  per connection"));
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

    let address = match hello {
        Hello::Lines => node.lines.expect("a listener for lines"),
        _ => node.clients,
    };
    let mut fleet = Fleet::connect(address, sockets, hello, |n| format!("{USER}{n}"))?;
    fleet.broadcast = true;
    fleet.linger(SETTLE)?;
    say(report, "connected");

    let meter = Meter::start(node.pid());
    fleet.linger(idle)?;
    let spent = meter.spent() / idle.as_secs_f64();
    say(report, &format!("idle for {} s", idle.as_secs()));

    let mut connection = Connection::open(node.senders)?;
    let data = message::data(message::ALL, 0, DATA);
    connection.send(&http::post(
        http::JSON,
        &format!(r#"{{"to":{{"all":true}},"data":{data}}}"#),
    ))?;
    fleet.receive(sockets as u64, Duration::from_secs(10))?;
    connection.receive()?;
    fleet.linger(SETTLE)?;
    say(report, "after a broadcast");
    let counts = report::faults(fleet.faults(|_| 1));

    drop(fleet);
    std::thread::sleep(SETTLE);
    say(report, "all gone");
    report.line(&format!(
        "CPU while idle, pings included: {:.0} us a second",
        spent.total
    ));
    report.line(&format!("broadcast counts: {counts}"));
    Ok(())
}
