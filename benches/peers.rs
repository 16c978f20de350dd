//! pushnode beside nchan and NATS: the same users, the same pushes, the same client, in one run.
//!
//! Servers take turns within a pass, and a ratio is taken within a pass. `local`: closed loop to users of the server
//! that is asked. `cross`: the users are on another server; pushnode goes through Redis, which is counted, and NATS
//! through its route. `paced` and `paced-cross`: the same at a steady rate, with latencies. `connects`: a WebSocket
//! comes and goes with a close frame. `idle`: memory of WebSockets that do nothing.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use support::accounting::Cpu;
use support::fleet::Fleet;
use support::http;
use support::options::{Known, Options};
use support::paced::Receivers;
use support::peers::{self, NCHANS, Nats, Nchan, is_absent};
use support::process::{Node, RedisServer};
use support::report::{self, Report};
use support::rivals::USER;
use support::target::{OWN, PacedSender, Target};
use support::visits::{Manner, come_and_go};
use support::{median, message, percentile, pick, raise_open_files_limit};

const DATA: usize = 128;
/// Connects that are not counted, once for each server.
const WARM_UP: usize = 2_000;
/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// After users have come or gone.
const SETTLE: Duration = Duration::from_secs(1);
/// After a pass, for messages that come twice.
const LINGER: Duration = Duration::from_millis(300);

fn main() -> io::Result<()> {
    let mut known: Vec<Known> = vec![
        (
            "modes",
            "idle,local,paced,cross,paced-cross,connects",
            "what is measured",
        ),
        (
            "peers",
            "nchan,nchan-1,nats",
            "beside whom; nchan-1 has one worker",
        ),
        ("users", "1000", "connected users"),
        ("pushes", "50000", "pushes a pass in local and cross"),
        (
            "connections",
            "64",
            "connections of senders there, one push each at a time",
        ),
        ("rate", "1000", "pushes a second in paced and paced-cross"),
        ("seconds", "10", "length of a pass there"),
        ("connects", "20000", "connects a pass in connects"),
        ("at-once", "32", "connects under way at the same time"),
        ("sockets", "5000", "sockets in idle"),
        (
            "idle-seconds",
            "130",
            "before memory is read: Go collects its garbage after 2 minutes at the latest",
        ),
        ("passes", "5", "passes over all modes but idle"),
    ];
    known.extend(peers::OPTIONS);
    let options = Options::read(
        "peers",
        "pushnode beside nchan and NATS, in one run",
        &known,
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    let present = say_who_is_there(&options, &mut report)?;
    if present.is_empty() {
        report.line("no peer to compare with");
        return report.end();
    }
    let mut modes = options.words("modes");
    if modes.contains(&"idle") {
        idle(&options, &mut report, &present)?;
        modes.retain(|mode| *mode != "idle");
    }
    let lineup = Lineup::start(&options, &present)?;
    report.line("CPU us per push, or per connect and close: all (user + sys), and thereof the server with the sockets, the one asked if it is another, Redis");
    report.line("mode         pass  server    all                          holds     into    redis  figures");
    let mut figures = Figures::default();
    for pass in 1..=options.number("passes") {
        for mode in &modes {
            let mut targets = lineup.targets(mode)?;
            // What comes first may pay for what the last left.
            if pass % 2 == 0 {
                targets.reverse();
            }
            for target in targets {
                let measured = measure(&options, &target, mode, pass == 1)?;
                report.line(&measured.line(mode, pass, target.name));
                figures.add(mode, target.name, &measured);
            }
        }
    }
    report.line("");
    report.line("medians, and the median of the ratios within a pass (lowest..highest)");
    figures.summary().iter().for_each(|line| report.line(line));
    report.end()
}

/// The peers that are installed; says their versions, and who is left out.
fn say_who_is_there(options: &Options, report: &mut Report<'_>) -> io::Result<Vec<&'static str>> {
    let mut present = Vec::new();
    for peer in options.words("peers") {
        let nchan = NCHANS.into_iter().find(|(name, _)| *name == peer);
        let (name, version) = match nchan {
            Some(kind) => (
                kind.0,
                Nchan::start(options, kind).map(|nchan| nchan.version.clone()),
            ),
            None if peer == "nats" => ("nats", Nats::version(options)),
            None => return Err(io::Error::other(format!("{peer} is no peer"))),
        };
        match version {
            Ok(version) => {
                report.line(&format!("peer     {name} {version}"));
                present.push(name);
            }
            Err(error) if is_absent(&error) => {
                report.line(&format!("peer     {name} is left out: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    report.line("");
    Ok(present)
}

/// All servers of a run.
struct Lineup {
    alone: Node,
    a: Node,
    b: Node,
    redis: RedisServer,
    nchan: Vec<Nchan>,
    nats: Option<(Nats, [Nats; 2])>,
}

impl Lineup {
    fn start(options: &Options, present: &[&str]) -> io::Result<Lineup> {
        let redis = RedisServer::start()?;
        let nats = || Ok::<_, io::Error>((Nats::start(options)?, Nats::pair(options)?));
        Ok(Lineup {
            alone: Node::start(options, "alone", None)?,
            a: Node::start(options, "a", Some(&redis))?,
            b: Node::start(options, "b", Some(&redis))?,
            redis,
            nchan: start_nchan(options, present)?,
            nats: start_if(present, "nats", nats)?,
        })
    }

    /// The servers that a mode compares.
    fn targets(&self, mode: &str) -> io::Result<Vec<Target>> {
        let nats = self.nats.as_ref();
        match mode {
            "local" | "paced" | "connects" => Ok(single(
                &self.alone,
                &self.nchan,
                nats.map(|(alone, _)| alone),
            )),
            "cross" | "paced-cross" => {
                let mut targets = vec![Target::pushnode(&self.a, Some((&self.b, &self.redis)))];
                targets.extend(nats.map(|(_, [a, b])| Target::nats(a, Some(b))));
                Ok(targets)
            }
            other => Err(io::Error::other(format!("{other} is no mode"))),
        }
    }
}

/// Servers that need no other.
fn single(node: &Node, nchan: &[Nchan], nats: Option<&Nats>) -> Vec<Target> {
    let mut targets = vec![Target::pushnode(node, None)];
    targets.extend(nchan.iter().map(Target::nchan));
    targets.extend(nats.map(|nats| Target::nats(nats, None)));
    targets
}

fn start_nchan(options: &Options, present: &[&str]) -> io::Result<Vec<Nchan>> {
    NCHANS
        .into_iter()
        .filter(|(name, _)| present.contains(name))
        .map(|kind| Nchan::start(options, kind))
        .collect()
}

fn start_if<T>(
    present: &[&str],
    name: &str,
    start: impl FnOnce() -> io::Result<T>,
) -> io::Result<Option<T>> {
    present.contains(&name).then(start).transpose()
}

fn measure(options: &Options, target: &Target, mode: &str, is_first: bool) -> io::Result<Measured> {
    let measured = match mode {
        "connects" => connects(options, target, is_first),
        "paced" | "paced-cross" => paced(options, target),
        _ => closed_loop(options, target),
    };
    // What is left of those who went should not be paid for by the next.
    std::thread::sleep(SETTLE);
    measured.map_err(|error| io::Error::other(format!("{mode}, {}: {error}", target.name)))
}

fn connect_users(options: &Options, target: &Target) -> io::Result<Receivers> {
    let users = options.number("users");
    let fleet = Fleet::connect(target.clients, users, target.hello, |n| {
        format!("{USER}{n}")
    })?;
    let mut receivers = Receivers::new(fleet, users);
    receivers.fleet.linger(SETTLE)?;
    Ok(receivers)
}

/// As fast as answers come. A connection has its own users, so that each user's order is kept.
fn closed_loop(options: &Options, target: &Target) -> io::Result<Measured> {
    let (pushes, connections) = (options.number("pushes"), options.number("connections"));
    let mut receivers = connect_users(options, target)?;
    let meters = target.meters();
    let started = Instant::now();
    let (fleet, sent) = (&mut receivers.fleet, &mut receivers.sent);
    let confirmed = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| fleet.receive(pushes as u64, PATIENCE));
        let mut greetings = vec![target.wire.greeting(); connections];
        let (mut left, mut confirmed) = (pushes, 0);
        http::load_by(
            target.senders,
            connections,
            |bytes| {
                let answer = target.wire.take_answer(bytes)?;
                confirmed += usize::from(answer);
                Some(())
            },
            |connection| {
                left = left.checked_sub(1)?;
                let user = pick(connection, connections, sent.len());
                let name = format!("{USER}{user}");
                let data = message::data(&name, sent[user], DATA);
                sent[user] += 1;
                let mut request = Vec::from(std::mem::take(&mut greetings[connection]));
                request.extend(target.wire.push(&name, &data));
                Some(request)
            },
        )?;
        receiver.join().expect("the receiver does not panic")?;
        Ok::<_, io::Error>(confirmed)
    })?;
    let a_second = pushes as f64 / started.elapsed().as_secs_f64();
    let costs = meters.spent(pushes);
    receivers.fleet.linger(LINGER)?;
    let mut counts = receivers.counts();
    if confirmed != pushes {
        counts += &format!(", {} not confirmed", pushes - confirmed);
    }
    Ok(Measured::new(
        costs,
        &[],
        &format!("{a_second:.0} a second, {counts}"),
    ))
}

fn paced(options: &Options, target: &Target) -> io::Result<Measured> {
    let mut receivers = connect_users(options, target)?;
    let mut sender = PacedSender::open(target)?;
    let meters = target.meters();
    let (rate, seconds) = (options.number("rate"), options.number("seconds"));
    let latencies = receivers.pass(rate, seconds, &mut sender)?;
    let costs = meters.spent(rate * seconds);
    receivers.fleet.linger(LINGER)?;
    let [half, most, nearly_all, all] =
        [0.5, 0.9, 0.99, 1.0].map(|share| percentile(&latencies, share));
    let counts = receivers.counts();
    Ok(Measured::new(
        costs,
        &[("p50 us", half), ("p99 us", nearly_all)],
        &format!("p50 {half:.0} p90 {most:.0} p99 {nearly_all:.0} max {all:.0} us, {counts}"),
    ))
}

fn connects(options: &Options, target: &Target, is_first: bool) -> io::Result<Measured> {
    let (connects, at_once) = (options.number("connects"), options.number("at-once"));
    if is_first {
        come_and_go(target.clients, WARM_UP, at_once, Manner::PLAIN)?;
        std::thread::sleep(SETTLE);
    }
    let meters = target.meters();
    let started = Instant::now();
    come_and_go(target.clients, connects, at_once, Manner::PLAIN)?;
    let a_second = connects as f64 / started.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let costs = meters.spent(connects);
    Ok(Measured::new(
        costs,
        &[],
        &format!("{a_second:.0} a second"),
    ))
}

/// What a pass of one server showed.
struct Measured {
    costs: [Cpu; 3],
    /// What is compared, by name.
    figures: Vec<(&'static str, f64)>,
    text: String,
}

impl Measured {
    fn new(costs: [Cpu; 3], others: &[(&'static str, f64)], text: &str) -> Measured {
        let [holds, into, redis] = costs;
        let mut figures = vec![("CPU us", (holds + into + redis).total)];
        figures.extend(others);
        Measured {
            costs,
            figures,
            text: text.to_owned(),
        }
    }

    fn line(&self, mode: &str, pass: usize, server: &str) -> String {
        let [holds, into, redis] = self.costs;
        format!(
            "{mode:11}  {pass:4}  {server:8}  {}  {:7.2}  {:7.2}  {:7.2}  {}",
            report::cpu(holds + into + redis),
            holds.total,
            into.total,
            redis.total,
            self.text
        )
    }
}

/// All figures of a run: by mode and figure, then by server, one for each pass.
#[derive(Default)]
struct Figures(BTreeMap<(String, &'static str), BTreeMap<&'static str, Vec<f64>>>);

impl Figures {
    fn add(&mut self, mode: &str, server: &'static str, measured: &Measured) {
        for (figure, value) in &measured.figures {
            let servers = self.0.entry((mode.to_owned(), figure)).or_default();
            servers.entry(server).or_default().push(*value);
        }
    }

    /// Medians, and the ratios of pushnode to each peer within the passes.
    fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((mode, figure), servers) in &self.0 {
            let own = &servers[OWN];
            lines.push(format!("{mode:11}  {figure}  {OWN:8}  {:8.2}", median(own)));
            for (peer, values) in servers.iter().filter(|(server, _)| **server != OWN) {
                let mut ratios: Vec<f64> = own.iter().zip(values).map(|(a, b)| a / b).collect();
                ratios.sort_by(f64::total_cmp);
                lines.push(format!(
                    "{mode:11}  {figure}  {peer:8}  {:8.2}  {OWN} / {peer} {:.2} ({:.2}..{:.2})",
                    median(values),
                    median(&ratios),
                    ratios[0],
                    ratios[ratios.len() - 1],
                ));
            }
        }
        lines
    }
}

/// Memory of each socket, at servers that have done nothing else.
fn idle(options: &Options, report: &mut Report<'_>, present: &[&str]) -> io::Result<()> {
    let sockets = options.number("sockets");
    let node = Node::start(options, "idle", None)?;
    let nchan = start_nchan(options, present)?;
    let nats = start_if(present, "nats", || Nats::start(options))?;
    let targets = single(&node, &nchan, nats.as_ref());
    std::thread::sleep(SETTLE);
    let mut crowds = Vec::new();
    for target in &targets {
        let before = target.memory();
        let user = |n| format!("{USER}{n}");
        let fleet = Fleet::connect(target.clients, sockets, target.hello, user)?;
        crowds.push((target, before, fleet));
    }
    let end = Instant::now() + Duration::from_secs(options.number("idle-seconds") as u64);
    while Instant::now() < end {
        // All in turn, so that each is heard when it pings.
        for (_, _, fleet) in &mut crowds {
            fleet.linger(LINGER)?;
        }
    }
    for (target, before, fleet) in crowds {
        let each = (target.memory() - before) / sockets as f64;
        report.line(&format!(
            "idle         {:8}  {each:.2} KiB a WebSocket, {before:.0} KiB without, {} of {sockets} closed",
            target.name,
            fleet.closed()
        ));
    }
    report.line("");
    Ok(())
}
