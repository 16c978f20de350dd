//! Latency: from sending a push to its arrival at the client's socket, paced, against a bare server fed by PUBLISH.
//!
//! `bare` is the least code between Redis and a socket (`support::rivals`), fed by PUBLISH. `raw` is the same PUBLISH
//! into node A's channel. `cross` is an HTTP request to node B for a user on node A: it holds one HTTP hop and a
//! look-up more than `bare`. `relayed` is `bare` with that hop: the least code between an HTTP request and PUBLISH.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use support::accounting::{Cpu, Meter};
use support::fleet::{Fleet, Hello};
use support::options::Options;
use support::paced::{CONNECTIONS, HttpSender, Receivers, Sender};
use support::process::{Node, PREFIX, RedisServer, Rival};
use support::redis::Redis;
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, percentile, raise_open_files_limit};

const CHANNEL: &str = "bare";
/// After users have come or gone.
const SETTLE: Duration = Duration::from_millis(500);
const MODES: [&str; 4] = ["bare", "raw", "relayed", "cross"];

fn main() -> io::Result<()> {
    let options = Options::read(
        "latency",
        "Latency of paced pushes, against a bare server fed by PUBLISH",
        &[
            ("users", "1000", "connected users"),
            ("rate", "1000", "pushes a second"),
            ("seconds", "10", "length of a pass"),
            ("passes", "3", "passes of each, alternating"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    let users = options.number("users");
    let redis = RedisServer::start()?;
    let node_a = Node::start(&options, "a", Some(&redis))?;
    let node_b = Node::start(&options, "b", Some(&redis))?;
    report.line("latency us; CPU us per push of the server with the sockets, of the one with the requests, of Redis");
    report.line("mode      pass      p50      p90      p99      max  holds                     into                      redis                     counts");
    let mut seen: BTreeMap<&str, Vec<[f64; 2]>> = BTreeMap::new();
    for pass in 1..=options.number("passes") {
        for mode in MODES {
            let entry = (mode == "cross").then_some(&node_b);
            let bare = match mode {
                "bare" | "relayed" => Some(Rival::start(&[
                    "bare",
                    &users.to_string(),
                    &redis.address.to_string(),
                    CHANNEL,
                ])?),
                _ => None,
            };
            let (server, hello, holder) = match &bare {
                Some(bare) => (bare.address, Hello::Silent, bare.pid()),
                None => (node_a.clients, Hello::WebSocket, node_a.pid()),
            };
            // New users for each pass: sockets that nobody reads would not answer pings.
            let fleet = Fleet::connect(server, users, hello, |n| format!("{USER}{n}"))?;
            let mut receivers = Receivers::new(fleet, users);
            receivers.fleet.linger(SETTLE)?;
            let relay = match mode {
                "relayed" => Some(Rival::start(&[
                    "relay",
                    &CONNECTIONS.to_string(),
                    &redis.address.to_string(),
                    CHANNEL,
                ])?),
                _ => None,
            };
            let entrance = relay.as_ref().map_or(node_b.senders, |relay| relay.address);
            let mut sender: Box<dyn Sender> = match mode {
                "bare" => Box::new(Way::Bare {
                    redis: Redis::connect(redis.address)?,
                    channel: CHANNEL.to_owned(),
                }),
                "raw" => Box::new(Way::Raw {
                    redis: Redis::connect(redis.address)?,
                    channel: format!("{PREFIX}n:{{{}}}", node_a.id),
                }),
                _ => Box::new(HttpSender::open(entrance)?),
            };
            let into = entry.map(Node::pid).or(relay.as_ref().map(Rival::pid));
            let meters = [Some(holder), into, Some(redis.pid())].map(|pid| pid.map(Meter::start));
            let latencies = receivers.pass(
                options.number("rate"),
                options.number("seconds"),
                &mut *sender,
            )?;
            let pushes = latencies.len() as f64;
            let [holds, into, of_redis] =
                meters.map(|meter| meter.map_or_else(Cpu::default, |meter| meter.spent() / pushes));
            let at = |share| percentile(&latencies, share);
            report.line(&format!(
                "{mode:8}  {pass:4}  {:7.0}  {:7.0}  {:7.0}  {:7.0}  {}  {}  {}  {}",
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0),
                report::cpu(holds),
                report::cpu(into),
                report::cpu(of_redis),
                receivers.counts(),
            ));
            seen.entry(mode).or_default().push([at(0.5), at(0.99)]);
            drop(receivers);
            // The rows of those who left should be gone before the next come.
            std::thread::sleep(SETTLE);
        }
    }
    // A ratio is taken within a pass, where the modes are neighbours in time.
    for (mode, to) in [
        ("raw", "bare"),
        ("relayed", "bare"),
        ("cross", "bare"),
        ("cross", "relayed"),
    ] {
        let [half, most] = [0, 1].map(|column| {
            let pairs = seen[mode].iter().zip(&seen[to]);
            median(
                &pairs
                    .map(|(one, other)| one[column] / other[column])
                    .collect::<Vec<_>>(),
            )
        });
        report.line(&format!(
            "{mode}/{to}: median ratio p50 {half:.2}, p99 {most:.2}"
        ));
    }
    report.end()
}

/// What is published in Redis.
enum Way {
    Bare { redis: Redis, channel: String },
    Raw { redis: Redis, channel: String },
}

impl Sender for Way {
    fn send(&mut self, user: &str, data: &str) -> io::Result<()> {
        match self {
            Way::Bare { redis, channel } => publish(redis, channel, data),
            Way::Raw { redis, channel } => {
                let push = format!(r#"{{"to":{{"user":"{user}"}},"data":{data}}}"#);
                publish(redis, channel, &push)
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn publish(redis: &mut Redis, channel: &str, message: &str) -> io::Result<()> {
    redis
        .command(&[b"PUBLISH", channel.as_bytes(), message.as_bytes()])
        .map(|_| ())
}
