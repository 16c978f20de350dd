//! Redis forgets everything: how long until every user's row is back, and what pushes take meanwhile.
//!
//! One node, one socket a user. A process may hold only so many sockets, so the time for more rows is
//! extrapolated: the wait until the node notices, plus the rows at the rate that was measured. Pushes go by HTTP to the
//! node of their user, which looks for further nodes over the connections to Redis that the rows take. A push whose
//! answer is late delays the next one over its connection, which counts.

mod support;

use std::io;
use std::time::{Duration, Instant};

use support::accounting::Meter;
use support::fleet::{Fleet, Hello};
use support::options::Options;
use support::paced::{HttpSender, Receivers};
use support::process::{Node, PREFIX, RedisServer};
use support::redis::{Redis, Reply};
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, percentile, raise_open_files_limit};

/// Between two looks at how much is back.
const LOOK: Duration = Duration::from_millis(2);
/// A rebuild that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);
/// Of pushes: long enough for the node to notice and to rebuild.
const SECONDS: usize = 4;
/// Pushes begin so long before Redis forgets.
const AHEAD: Duration = Duration::from_millis(200);
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
            ("rate", "500", "pushes a second, in passes of their own"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    let (sockets, extrapolate) = (options.number("sockets"), options.number("extrapolate"));
    let redis = RedisServer::start()?;
    let node = Node::start(&options, "bench", Some(&redis))?;
    let fleet = Fleet::connect(node.clients, sockets, Hello::WebSocket, |n| {
        format!("{USER}{n}")
    })?;
    let mut receivers = Receivers::new(fleet, sockets);
    let mut client = Redis::connect(redis.address)?;
    receivers.fleet.linger(SETTLE)?;

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
        receivers.fleet.linger(SETTLE)?;
    }
    let latest = noticed.iter().copied().fold(0.0, f64::max);
    let seconds = extrapolate as f64 / median(&rates);
    report.line(&format!(
        "{sockets} rows measured. Extrapolated, not measured: {extrapolate} rows {seconds:.2} s after the first, {:.2} s after FLUSHALL",
        latest + seconds
    ));
    push_meanwhile(&options, &mut report, &node, &mut client, &mut receivers)?;
    report.end()
}

/// Latencies of pushes while all is well, and of as many while Redis forgets and rows are rebuilt, in turns.
fn push_meanwhile(
    options: &Options,
    report: &mut Report<'_>,
    node: &Node,
    client: &mut Redis,
    receivers: &mut Receivers,
) -> io::Result<()> {
    let rate = options.number("rate");
    report.line(&format!(
        "latency us of {SECONDS} s of pushes, {rate} a second"
    ));
    report.line("pass  rows         p50      p90      p99      max  counts");
    let mut halves = Vec::new();
    for pass in 1..=options.number("passes") {
        let mut sender = HttpSender::open(node.senders)?;
        let quiet = receivers.pass(rate, SECONDS, &mut sender)?;
        receivers.fleet.linger(SETTLE)?;
        let users = receivers.sent.len();
        let meanwhile = std::thread::scope(|scope| {
            let forgetting = scope.spawn(|| {
                std::thread::sleep(AHEAD);
                forget(client, node, users)
            });
            let latencies = receivers.pass(rate, SECONDS, &mut sender);
            forgetting.join().expect("no panic")?;
            latencies
        })?;
        for (rows, latencies) in [("quiet", &quiet), ("rebuilt", &meanwhile)] {
            let at = |share| percentile(latencies, share);
            let [half, most, latest, last] = [at(0.5), at(0.9), at(0.99), at(1.0)];
            let counts = receivers.counts();
            report.line(&format!(
                "{pass:4}  {rows:8} {half:7.0}  {most:7.0}  {latest:7.0}  {last:7.0}  {counts}"
            ));
        }
        halves.push(
            [0.5, 0.99].map(|share| percentile(&meanwhile, share) / percentile(&quiet, share)),
        );
        receivers.fleet.linger(SETTLE)?;
    }
    let [half, most] =
        [0, 1].map(|column| median(&halves.iter().map(|pass| pass[column]).collect::<Vec<_>>()));
    report.line(&format!(
        "rebuilt/quiet: median ratio p50 {half:.2}, p99 {most:.2}"
    ));
    Ok(())
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
