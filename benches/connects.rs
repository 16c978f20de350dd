//! Connect and close: CPU of the node for a WebSocket that comes and goes, and whether memory stays.
//!
//! Closing is either `frame` (close frames both ways, the server ends TCP) or `drop` (the client just goes).

mod support;

use std::io;
use std::time::Duration;

use support::accounting::{Meter, memory};
use support::options::Options;
use support::process::{Node, RedisServer};
use support::report::{self, Report};
use support::visits::{Manner, come_and_go};
use support::{median, raise_open_files_limit};

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
            ("dialect", "plain", "what the clients speak: plain or v1"),
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
    let manner = Manner {
        with_frame: close == "frame",
        speaks_v1: match options.text("dialect") {
            "v1" => true,
            "plain" => false,
            other => {
                let words = format!("--dialect is plain or v1, not {other}");
                return Err(io::Error::other(words));
            }
        },
    };
    come_and_go(node.clients, WARM_UP, at_once, manner)?;
    std::thread::sleep(SETTLE);
    let before = memory(node.pid()).resident;
    let mut totals = Vec::new();
    for pass in 1..=options.number("passes") {
        let (meter, redis_meter) = (
            Meter::start(node.pid()),
            redis.map(|redis| Meter::start(redis.pid())),
        );
        let started = std::time::Instant::now();
        come_and_go(node.clients, connects, at_once, manner)?;
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
