//! A reconnect storm: all clients of a node lose their sockets at once and come back as real clients do
//! (`support::crowd`). How long until all have `ready`, who was refused, and what it costs the node and Redis.
//!
//! `cut`: the clients' sockets are closed without a goodbye, as when a network in between fails; the node has all the
//! ends to notice while the same users come again. `restart`: the node is killed and started again at the same address;
//! its clients hammer a port where nobody listens, then the new process.
//!
//! Before and after, each user gets one push by way of another node, so by way of its row in Redis: being back means
//! being reachable.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::accounting::{Meter, memory};
use support::crowd::Crowd;
use support::http::{self, Connection};
use support::options::Options;
use support::process::{Node, PREFIX, RedisServer};
use support::redis::{Redis, Reply};
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, message, percentile, raise_open_files_limit};

/// The first connects come evenly, so many a second.
const CALM: usize = 4_000;
const GATHER_LIMIT: Duration = Duration::from_secs(120);
/// After all are there, for what is still under way.
const SETTLE: Duration = Duration::from_secs(2);
const DATA: usize = 128;
/// Pushes in one request, and how long they may take to arrive.
const BATCH: usize = 1_000;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);
/// For the busiest moment of Redis.
const WINDOW: Duration = Duration::from_millis(500);

fn main() -> io::Result<()> {
    let options = Options::read(
        "storm",
        "All clients dropped at once: until when are all back, and what does it cost",
        &[
            ("clients", "15000", "clients of the node"),
            ("how", "cut,restart", "how they are dropped"),
            ("passes", "3", "passes of each way, each with new processes"),
            ("sources", "4", "loopback addresses they connect from"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    report.line("seconds from the drop until clients were ready; CPU seconds; cores of Redis: mean, and in the busiest half second");
    report.line("how     pass     half      99 %      all   node CPU  Redis CPU  mean  busiest  node MiB  counts");
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for how in options.words("how") {
        for pass in 1..=options.number("passes") {
            let seconds = storm(&options, &mut report, how, pass)?;
            all.entry(how).or_default().push(seconds);
        }
    }
    for (how, seconds) in all {
        report.line(&format!(
            "{how}: median {:.1} s until all were back",
            median(&seconds)
        ));
    }
    report.end()
}

fn storm(options: &Options, report: &mut Report<'_>, how: &str, pass: usize) -> io::Result<f64> {
    let clients = options.number("clients");
    let redis = RedisServer::start()?;
    // An address to come back to.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let start = || {
        Node::start_with(
            options,
            "crowded",
            Some(&redis),
            &[("PUSH_LISTEN", &address)],
        )
    };
    let node = start()?;
    let other = Node::start(options, "other", Some(&redis))?;
    let mut crowd = Crowd::new(clients, vec![node.clients], options.number("sources"))?;
    crowd.come(Duration::from_secs_f64(clients as f64 / CALM as f64));
    if !crowd.gather(GATHER_LIMIT)? {
        return Err(io::Error::other(format!(
            "{} of {clients} came: {:?}",
            crowd.ready(),
            crowd.counts
        )));
    }
    crowd.linger(SETTLE)?;
    push_to_all(&other, &mut crowd, clients, 0)?;
    let calm = report::faults(crowd.faults(1));

    let over = AtomicBool::new(false);
    let (redis_pid, redis_meter) = (redis.pid(), Meter::start(redis.pid()));
    let mut node = Some(node);
    let (gathered, meter, busiest, down) = thread::scope(|scope| {
        let over = &over;
        let watching = scope.spawn(move || busiest(redis_pid, over));
        let outcome = (|| {
            crowd.begin();
            if how == "cut" {
                let meter = node.as_ref().map(|node| Meter::start(node.pid()));
                crowd.cut();
                return Ok((crowd.gather(GATHER_LIMIT)?, meter, Duration::ZERO));
            }
            let dropped = Instant::now();
            let (gathered, down) = thread::scope(|scope| {
                let gathering = scope.spawn(|| crowd.gather(GATHER_LIMIT));
                drop(node.take());
                node = Some(start()?);
                let down = dropped.elapsed();
                Ok::<_, io::Error>((gathering.join().expect("the crowd does not panic")?, down))
            })?;
            let meter = node.as_ref().map(|node| Meter::from_birth(node.pid()));
            Ok::<_, io::Error>((gathered, meter, down))
        })();
        over.store(true, Ordering::Relaxed);
        let busiest = watching.join().expect("the watcher does not panic");
        outcome.map(|(gathered, meter, down)| (gathered, meter, busiest, down))
    })?;
    let elapsed = crowd
        .back
        .iter()
        .max()
        .copied()
        .unwrap_or_default()
        .as_secs_f64();
    let of_node = meter
        .map(|meter| meter.spent().total / 1e6)
        .unwrap_or_default();
    let of_redis = redis_meter.spent().total / 1e6;
    let counts = crowd.counts;
    let ready = crowd.ready();

    crowd.linger(SETTLE)?;
    push_to_all(&other, &mut crowd, clients, 1)?;
    let mut back: Vec<f64> = crowd.back.iter().map(Duration::as_secs_f64).collect();
    back.sort_by(f64::total_cmp);
    let resident = node.map_or(f64::NAN, |node| memory(node.pid()).resident / 1_024.0);
    report.line(&format!(
        "{how:7} {pass:4}  {:7.2}  {:7.2}  {elapsed:7.2}  {of_node:9.2}  {of_redis:9.2}  {:4.2}  {busiest:7.2}  {resident:8.1}  before {calm}, after {}",
        percentile(&back, 0.5),
        percentile(&back, 0.99),
        of_redis / elapsed,
        report::faults(crowd.faults(2)),
    ));
    report.line(&format!(
        "        ready {ready} of {clients}{}; {} attempts: {} found no listener, refused {} with a hint and {} without, {} dropped, {} timed out; let in without a row {}; lost {} ({} with a hint); fields in rows {}",
        if gathered { "" } else { " (NOT ALL)" },
        counts.attempts,
        counts.no_listener,
        counts.refused_with_hint,
        counts.refused_without_hint,
        counts.dropped,
        counts.timed_out,
        counts.degraded,
        counts.lost,
        counts.lost_with_hint,
        fields(&redis, clients)?,
    ));
    if how == "restart" {
        report.line(&format!(
            "        the node was ready again {:.2} s after it was killed",
            down.as_secs_f64()
        ));
    }
    Ok(if gathered { elapsed } else { f64::INFINITY })
}

/// The largest share of a core that a process used in any window, until it is over.
fn busiest(pid: u32, over: &AtomicBool) -> f64 {
    let mut busiest = 0.0_f64;
    while !over.load(Ordering::Relaxed) {
        let (meter, started) = (Meter::start(pid), Instant::now());
        thread::sleep(WINDOW);
        busiest = busiest.max(meter.spent().total / 1e6 / started.elapsed().as_secs_f64());
    }
    busiest
}

/// One push to each client, in batches, and time for all of them to arrive.
fn push_to_all(node: &Node, crowd: &mut Crowd, clients: usize, round: u64) -> io::Result<()> {
    let mut connection = Connection::open(node.senders)?;
    for from in (0..clients).step_by(BATCH) {
        let lines = message::batch(from..clients.min(from + BATCH), round, DATA);
        connection.send(&http::post(http::NDJSON, &lines))?;
        connection.receive()?;
        crowd.linger(Duration::ZERO)?;
    }
    crowd.receive(round + 1, ARRIVAL_LIMIT)
}

/// Connections named in the rows of all users.
fn fields(server: &RedisServer, clients: usize) -> io::Result<i64> {
    let mut redis = Redis::connect(server.address)?;
    let mut sum = 0;
    for from in (0..clients).step_by(BATCH) {
        let users = from..clients.min(from + BATCH);
        for n in users.clone() {
            redis.queue(&[b"HLEN", format!("{PREFIX}user:{{{USER}{n}}}").as_bytes()]);
        }
        redis.flush()?;
        for _ in users {
            if let Reply::Integer(count) = redis.reply()? {
                sum += count;
            }
        }
    }
    Ok(sum)
}
