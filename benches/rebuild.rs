//! Redis forgets everything: how long until every user's row is back.
//!
//! One node, one socket a user. A process may hold only so many sockets, so the time for more rows is
//! extrapolated: the wait until the node notices, plus the rows at the rate that was measured.

mod support;

use std::io;
use std::time::{Duration, Instant};

use support::accounting::Meter;
use support::fleet::{Fleet, Hello};
use support::median;
use support::options::Options;
use support::process::{Node, PREFIX, RedisServer};
use support::raise_open_files_limit;
use support::redis::{Redis, Reply};
use support::report::{self, Report};
use support::rivals::USER;

/// Between two looks at how much is back.
const LOOK: Duration = Duration::from_millis(2);
/// A rebuild that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two passes: the node has seen that all is well, and answers its clients' pings.
const SETTLE: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    let options = Options::read(
        "rebuild",
        "Time until all rows are back after FLUSHALL",
        &[
            ("sockets", "15000", "users, each with one WebSocket"),
            ("passes", "5", "times that Redis forgets"),
            ("extrapolate", "100000", "rows to extrapolate to"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    let (sockets, extrapolate) = (options.number("sockets"), options.number("extrapolate"));
    let redis = RedisServer::start()?;
    let node = Node::start(&options, "bench", Some(&redis))?;
    let mut fleet = Fleet::connect(node.clients, sockets, Hello::WebSocket, |n| {
        format!("{USER}{n}")
    })?;
    let mut client = Redis::connect(redis.address)?;
    fleet.linger(SETTLE)?;

    report.line("seconds after FLUSHALL; CPU us per row: total (user + sys)");
    report.line("pass   first row   last row  rows a second  node                      redis");
    let (mut noticed, mut rates) = (Vec::new(), Vec::new());
    for pass in 1..=options.number("passes") {
        let (meter, redis_meter) = (Meter::start(node.pid()), Meter::start(redis.pid()));
        let (first, last) = forget(&mut client, &node, sockets)?;
        let (spent, of_redis) = (
            meter.spent() / sockets as f64,
            redis_meter.spent() / sockets as f64,
        );
        let rate = sockets as f64 / (last - first).as_secs_f64();
        report.line(&format!(
            "{pass:4}  {:10.3} {:10.3}  {rate:13.0}  {}  {}",
            first.as_secs_f64(),
            last.as_secs_f64(),
            report::cpu(spent),
            report::cpu(of_redis),
        ));
        noticed.push(first.as_secs_f64());
        rates.push(rate);
        fleet.linger(SETTLE)?;
    }
    let latest = noticed.iter().copied().fold(0.0, f64::max);
    let seconds = extrapolate as f64 / median(&rates);
    report.line(&format!(
        "{sockets} rows measured. Extrapolated, not measured: {extrapolate} rows {seconds:.2} s after the first, {:.2} s after FLUSHALL",
        latest + seconds
    ));
    report.end()
}

/// Empties Redis; answers when the first rows were back and when all were.
fn forget(client: &mut Redis, node: &Node, users: usize) -> io::Result<(Duration, Duration)> {
    client.command(&[b"FLUSHALL"])?;
    let start = Instant::now();
    let index = format!("{PREFIX}users:{{{}}}", node.id);
    // The rows, and beside them lease, nodes, boots and the index of users.
    let all = users as i64 + 4;
    let mut first = None;
    loop {
        let Reply::Integer(keys) = client.command(&[b"DBSIZE"])? else {
            return Err(io::Error::other("DBSIZE is no number"));
        };
        if keys > 4 {
            first.get_or_insert_with(|| start.elapsed());
        }
        if keys >= all {
            break;
        }
        if start.elapsed() > LIMIT {
            return Err(io::Error::other(format!(
                "{keys} of {all} keys after {LIMIT:?}"
            )));
        }
        std::thread::sleep(LOOK);
    }
    let last = start.elapsed();
    let indexed = client.command(&[b"SCARD", index.as_bytes()])?;
    if indexed != Reply::Integer(users as i64) {
        return Err(io::Error::other(format!(
            "{indexed:?} of {users} users in the index"
        )));
    }
    Ok((first.unwrap_or(last), last))
}
