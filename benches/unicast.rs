//! Unicast: CPU of the nodes and of Redis per push to one user, for each way a push can come in.
//!
//! Users are on node A. `local-*` pushes enter at the node that holds the user, `cross-*` at node B, `raw-*` go
//! straight to A's channel in Redis, as any publisher may; `bare` is the same PUBLISH to a bare server
//! (`support::rivals`), a yardstick for the machine. Load is a closed loop: as fast as answers come.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::accounting::{Cpu, Meter};
use support::fleet::{Fleet, Hello};
use support::http::{self, Answered};
use support::options::Options;
use support::process::{Node, PREFIX, RedisServer, Rival};
use support::redis::{Redis, Reply};
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, message, pick, raise_open_files_limit};

const DATA: usize = 128;
const MODES: &str = "local-embedded,local-redis,cross-http,cross-batch,raw-lookup,raw-known,bare";
/// Commands a raw publisher sends at once.
const PIPELINE: usize = 64;
/// Messages a raw publisher may be ahead of the receivers; nothing else would hold it back.
const AHEAD: u64 = 2_048;
/// The channel of the bare server.
const BARE: &str = "bare";
/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// After users have come or gone.
const SETTLE: Duration = Duration::from_millis(500);
/// After a pass, for messages that come twice.
const LINGER: Duration = Duration::from_millis(300);

fn main() -> io::Result<()> {
    let options = Options::read(
        "unicast",
        "CPU per push to one user, by the way it comes in",
        &[
            ("modes", MODES, "which ways"),
            ("users", "5000", "connected users"),
            ("pushes", "100000", "pushes a pass"),
            (
                "connections",
                "64",
                "kept-alive HTTP connections, one request each at a time",
            ),
            ("batch", "500", "lines of a request in cross-batch"),
            ("batch-at-once", "4", "requests at a time in cross-batch"),
            ("passes", "3", "passes over all modes"),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    let redis = RedisServer::start()?;
    let cluster = Cluster {
        alone: Node::start(&options, "alone", None)?,
        a: Node::start(&options, "a", Some(&redis))?,
        b: Node::start(&options, "b", Some(&redis))?,
        redis,
    };
    report.line("CPU us per push: total (user + sys); `into` is the node that gets the push, `holds` the one with the user");
    report.line("mode            pass  holds                     into                      redis                      sum     a second  counts");
    let mut sums: BTreeMap<&str, Vec<[f64; 4]>> = BTreeMap::new();
    for pass in 1..=options.number("passes") {
        for mode in options.words("modes") {
            let measured = cluster.measure(&options, mode)?;
            let [holds, into, of_redis] = measured.costs;
            let sum = holds + into + of_redis;
            report.line(&format!(
                "{mode:14}  {pass:4}  {}  {}  {}  {:7.2}  {:9.0}  {}",
                report::cpu(holds),
                report::cpu(into),
                report::cpu(of_redis),
                sum.total,
                measured.a_second,
                measured.counts,
            ));
            sums.entry(mode).or_default().push([
                holds.total,
                into.total,
                of_redis.total,
                sum.total,
            ]);
        }
    }
    for (mode, passes) in &sums {
        let [holds, into, of_redis, sum] = [0, 1, 2, 3]
            .map(|column| median(&passes.iter().map(|pass| pass[column]).collect::<Vec<_>>()));
        report.line(&format!(
            "{mode:14}  median: holds {holds:.2}, into {into:.2}, redis {of_redis:.2}, sum {sum:.2} us per push"
        ));
    }
    report.end()
}

struct Cluster {
    alone: Node,
    a: Node,
    b: Node,
    redis: RedisServer,
}

/// What a pass of one mode showed.
struct Measured {
    /// Of the server that holds the users, of the node that gets the pushes if it is another, of Redis.
    costs: [Cpu; 3],
    a_second: f64,
    counts: String,
}

impl Cluster {
    fn measure(&self, options: &Options, mode: &str) -> io::Result<Measured> {
        let users = options.number("users");
        let bare = match mode {
            "bare" => Some(Rival::start(&[
                "bare",
                &users.to_string(),
                &self.redis.address.to_string(),
                BARE,
            ])?),
            _ => None,
        };
        let (holder, entry) = match mode {
            "local-embedded" => (&self.alone, None),
            "cross-http" | "cross-batch" => (&self.a, Some(&self.b)),
            _ => (&self.a, None),
        };
        let (server, hello, pid) = match &bare {
            Some(bare) => (bare.address, Hello::Silent, bare.pid()),
            None => (holder.clients, Hello::WebSocket, holder.pid()),
        };
        // New users for each pass: sockets that nobody reads would not answer pings.
        let mut receivers = Receivers {
            fleet: Fleet::connect(server, users, hello, |n| format!("{USER}{n}"))?,
            sent: vec![0; users],
        };
        receivers.fleet.linger(SETTLE)?;
        let way = Way {
            options,
            mode,
            holder,
            entry: entry.unwrap_or(holder),
            redis: self.redis.address,
        };
        let meters = [Some(pid), entry.map(Node::pid), Some(self.redis.pid())]
            .map(|pid| pid.map(Meter::start));
        let started = Instant::now();
        let pushed = way.push(&mut receivers)?;
        let a_second = pushed.pushes as f64 / started.elapsed().as_secs_f64();
        let costs = meters.map(|meter| {
            meter.map_or_else(Cpu::default, |meter| meter.spent() / pushed.pushes as f64)
        });
        receivers.fleet.linger(LINGER)?;

        let mut counts = report::faults(receivers.fleet.faults(|n| receivers.sent[n]));
        if pushed.not_routed > 0 {
            let _ = write!(counts, ", {} not answered `routed`", pushed.not_routed);
        }
        drop(receivers);
        // The rows of those who left should be gone before the next come.
        std::thread::sleep(SETTLE);
        Ok(Measured {
            costs,
            a_second,
            counts,
        })
    }
}

/// The connected users, and how many messages each was sent since it connected.
struct Receivers {
    fleet: Fleet,
    sent: Vec<u64>,
}

struct Pushed {
    pushes: u64,
    not_routed: u64,
}

struct Way<'a> {
    options: &'a Options,
    mode: &'a str,
    holder: &'a Node,
    entry: &'a Node,
    redis: SocketAddr,
}

impl Way<'_> {
    /// Sends all pushes of a pass while a thread receives; returns when all have come, or will not come.
    fn push(&self, receivers: &mut Receivers) -> io::Result<Pushed> {
        let pushes = self.options.number("pushes") as u64;
        let (fleet, sent) = (&mut receivers.fleet, &mut receivers.sent);
        let received = fleet.received();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(move || fleet.receive(pushes, PATIENCE));
            let not_routed = match self.mode {
                "cross-batch" => self.push_batches(sent, pushes)?,
                "raw-lookup" | "raw-known" | "bare" => self.publish(sent, pushes, &received)?,
                _ => self.push_singles(sent, pushes)?,
            };
            receiver.join().expect("the receiver does not panic")?;
            Ok(Pushed {
                pushes: sent.iter().sum(),
                not_routed,
            })
        })
    }

    /// One push a request. A connection has its own users, so that each user's order is kept.
    fn push_singles(&self, sent: &mut [u64], pushes: u64) -> io::Result<u64> {
        let connections = self.options.number("connections");
        let mut left = pushes;
        let answered = http::load(self.entry.senders, connections, |connection| {
            left = left.checked_sub(1)?;
            Some(http::post(
                http::JSON,
                &push_line(sent, pick(connection, connections, sent.len())),
            ))
        })?;
        Ok(not_routed(answered, pushes))
    }

    /// NDJSON requests of many lines.
    fn push_batches(&self, sent: &mut [u64], pushes: u64) -> io::Result<u64> {
        let (connections, lines) = (
            self.options.number("batch-at-once"),
            self.options.number("batch") as u64,
        );
        let mut left = pushes;
        let answered = http::load(self.entry.senders, connections, |connection| {
            let count = left.min(lines);
            left -= count;
            let mut body = String::new();
            for _ in 0..count {
                body += &push_line(sent, pick(connection, connections, sent.len()));
                body.push('\n');
            }
            (count > 0).then(|| http::post(http::NDJSON, &body))
        })?;
        Ok(not_routed(answered, pushes))
    }

    /// PUBLISH to the holder's channel, after HGETALL of the user's row or without, or to the bare server's.
    /// Counts the publishes that reached no subscriber.
    fn publish(&self, sent: &mut [u64], pushes: u64, received: &AtomicU64) -> io::Result<u64> {
        let look_up = self.mode == "raw-lookup";
        let mut redis = Redis::connect(self.redis)?;
        let (mut published, mut lost) = (0, 0);
        while published < pushes {
            let since = Instant::now();
            while published > received.load(Ordering::Relaxed) + AHEAD {
                if since.elapsed() > PATIENCE {
                    return Ok(lost);
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            let users: Vec<usize> = (0..PIPELINE.min((pushes - published) as usize))
                .map(|_| pick(0, 1, sent.len()))
                .collect();
            let mut nodes = vec![self.holder.id.clone(); users.len()];
            if look_up {
                for user in &users {
                    redis.queue(&[
                        b"HGETALL",
                        format!("{PREFIX}user:{{{USER}{user}}}").as_bytes(),
                    ]);
                }
                redis.flush()?;
                for node in &mut nodes {
                    *node = node_of_row(redis.reply()?)?;
                }
            }
            for (&user, node) in users.iter().zip(&nodes) {
                let (channel, line) = match self.mode {
                    "bare" => (BARE.to_owned(), next_data(sent, user)),
                    _ => (format!("{PREFIX}n:{{{node}}}"), push_line(sent, user)),
                };
                redis.queue(&[b"PUBLISH", channel.as_bytes(), line.as_bytes()]);
            }
            redis.flush()?;
            for _ in &users {
                lost += u64::from(redis.reply()? != Reply::Integer(1));
            }
            published += users.len() as u64;
        }
        Ok(lost)
    }
}

fn not_routed(answered: Answered, pushes: u64) -> u64 {
    pushes - answered.routed.min(pushes)
}

/// The next push to a user as a line of JSON: an API body and an envelope alike.
fn push_line(sent: &mut [u64], user: usize) -> String {
    let data = next_data(sent, user);
    format!(r#"{{"to":{{"user":"{USER}{user}"}},"data":{data}}}"#)
}

fn next_data(sent: &mut [u64], user: usize) -> String {
    let data = message::data(&format!("{USER}{user}"), sent[user], DATA);
    sent[user] += 1;
    data
}

/// The node named by the first field of a user's row, `<node>/<fd>`.
fn node_of_row(row: Reply) -> io::Result<String> {
    if let Reply::List(fields) = row
        && let Some(Reply::Bytes(field)) = fields.first()
        && let Some((node, _)) = String::from_utf8_lossy(field).rsplit_once('/')
    {
        return Ok(node.to_owned());
    }
    Err(io::Error::other("a connected user has no row"))
}
