//! Clients that stop reading: what that costs the others, how much memory it takes, and when they are sent away.
//!
//! Paced broadcasts go to all sockets of one node, in three phases: `all` read; then some have `stalled`, until the
//! node has let the last of them go; `after` that the others are alone. Latency is that of the others in all three.
//! A broadcast shares its bytes between all who wait for it, so memory is judged in a phase of its own: as many
//! new sockets that read nothing, each sent messages of its own (`--own-kib`) until its queue is full.
//!
//! The stalled have the segments of a network (see `support::dial`) and, once they stop, a small receive buffer, or the
//! kernel alone would hold minutes of messages and the node would have nothing to notice.

mod support;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::accounting::{Meter, memory, open_files};
use support::dial::Dial;
use support::fleet::{Faults, Fleet, Hello};
use support::http::{self, Connection};
use support::options::Options;
use support::process::Node;
use support::report::{self, Report};
use support::rivals::USER;
use support::{median, message, percentile, raise_open_files_limit};

/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// The stalled must be gone by then; and once they read again, the end must have come by then.
const GONE_LIMIT: Duration = Duration::from_secs(60);
/// After connects, and after the last broadcast of a phase, for messages that come twice.
const SETTLE: Duration = Duration::from_secs(1);
/// `SO_RCVBUF` of the stalled once they read again: with a small one the window would hardly open.
const READING: usize = 128 * 1_024;
/// The phase with the stalled is also shown in parts: their buffers and queues fill, then they are sent away.
const PART_SECONDS: usize = 3;
const STEP: Duration = Duration::from_millis(20);
/// Size of the messages of one's own, and how many go into one request (1 MiB at most).
const OWN: usize = 4_096;
const OWN_BATCH: usize = 200;
const MIB: f64 = 1_024.0;

fn main() -> io::Result<()> {
    let options = Options::read(
        "stalled",
        "What clients that stop reading cost the others, in latency and memory",
        &[
            ("sockets", "10000", "sockets of the node"),
            ("stalled", "1000", "how many of them stop reading"),
            ("bytes", "8192", "size of a broadcast"),
            ("rate", "4", "broadcasts a second"),
            ("seconds", "15", "length of the phases `all` and `after`"),
            ("passes", "5", "passes, each with a new node"),
            ("segment", "1448", "largest TCP segment of the stalled"),
            (
                "receive-buffer",
                "2048",
                "SO_RCVBUF of the stalled from their stop on",
            ),
            (
                "own-kib",
                "512",
                "sent to each of the stalled in the phase for memory; 0: leave that out",
            ),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    report.line("latency ms at those who read; `of one`: median of each broadcast's own p99; MiB of the node; cores it used");
    report.line(
        "pass phase    broadcasts     p50     p99  p99 of one   VmRSS highest  cores  counts",
    );
    let mut ratios: [Vec<f64>; 4] = Default::default();
    let (mut growths, mut times) = (Vec::new(), Vec::new());
    for pass in 1..=options.number("passes") {
        let mut bench = Bench::start(&options)?;
        let dial = Dial {
            segment: Some(options.number("segment") as u32),
            ..Dial::default()
        };
        let mut stalled = bench.connect(&dial, USER)?;
        bench.quiet(&mut stalled, SETTLE)?;

        let length = Duration::from_secs(options.number("seconds") as u64);
        let all = bench.phase(Some(&mut stalled), |_, elapsed| Ok(elapsed < length))?;
        let of_stalled = stalled.faults(|_| bench.sent);
        all.say(&mut report, pass, "all");
        report.line(&format!(
            "     the {} that will stall: {}",
            bench.stalled,
            report::faults(of_stalled)
        ));

        stalled.set_receive_buffers(options.number("receive-buffer"))?;
        let mut leaving = Leaving::of(bench.stalled);
        let during = bench.phase(None, |node, elapsed| leaving.look(node, elapsed))?;
        during.say(&mut report, pass, "stalled");
        let parts: Vec<String> = during
            .parts
            .iter()
            .map(|part| format!("{part:.1}"))
            .collect();
        report.line(&format!(
            "     of one, each {PART_SECONDS} s: {}",
            parts.join(" ")
        ));
        let reasons = bench.node.reasons("closes")?;
        let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
        report.line(&format!(
            "     after the stop: first closed {:.1} s, last closed {:.1} s, last socket let go {:.1} s; reasons {reasons:?}",
            seconds(leaving.first), seconds(leaving.last), seconds(leaving.let_go),
        ));
        times.push(seconds(leaving.last));

        // What the kernel held for them must be in order and end with the end of the stream.
        stalled.set_receive_buffers(READING)?;
        let deadline = Instant::now() + GONE_LIMIT;
        while stalled.closed() < bench.stalled && Instant::now() < deadline {
            bench.quiet(&mut stalled, STEP)?;
        }
        let rest = Faults {
            missing: 0,
            ..stalled.faults(|_| 0)
        };
        report.line(&format!(
            "     the stalled, read to their end: {}",
            report::faults(rest)
        ));
        drop(stalled);

        let after = bench.phase(None, |_, elapsed| Ok(elapsed < length))?;
        after.say(&mut report, pass, "after");
        let [to_all, to_after] =
            [&all, &after].map(|base| [during.p99 / base.p99, during.typical / base.typical]);
        report.line(&format!(
            "     stalled/all: p99 {:.3}, of one {:.3}; stalled/after: p99 {:.3}, of one {:.3}; memory grew by {:.1} MiB",
            to_all[0], to_all[1], to_after[0], to_after[1], during.highest - all.resident,
        ));
        for (list, ratio) in ratios.iter_mut().zip([to_all, to_after].concat()) {
            list.push(ratio);
        }
        growths.push(during.highest - all.resident);
        if options.number("own-kib") > 0 {
            // Twice: what the first time left should be enough for the second.
            for time in 1..=2 {
                growths.push(bench.own(&mut report, pass, time, &dial)?);
            }
        }
    }
    let [all, all_of_one, after, after_of_one] = ratios.map(|ratios| median(&ratios));
    report.line(&format!(
        "median p99 ratio stalled/all {all:.3} (of one broadcast {all_of_one:.3}), stalled/after {after:.3} (of one {after_of_one:.3})"
    ));
    report.line(&format!(
        "worst growth of memory {:.1} MiB; worst time until the last was closed {:.1} s",
        growths.into_iter().fold(0.0, f64::max),
        times.into_iter().fold(0.0, f64::max),
    ));
    report.end()
}

/// When those who stopped reading went, from the moment they stopped.
struct Leaving {
    count: u64,
    /// Closes and open files of the node at the first look.
    before: Option<(u64, usize)>,
    first: Option<Duration>,
    last: Option<Duration>,
    /// The node has closed as many sockets: after the goodbye it gives its clients some time to answer.
    let_go: Option<Duration>,
}

impl Leaving {
    fn of(count: usize) -> Leaving {
        Leaving {
            count: count as u64,
            before: None,
            first: None,
            last: None,
            let_go: None,
        }
    }

    /// Answers whether there is more to see.
    fn look(&mut self, node: &Node, elapsed: Duration) -> io::Result<bool> {
        let closes = node.reasons("closes")?.values().sum();
        let files = open_files(node.pid());
        let (closes_before, files_before) = *self.before.get_or_insert((closes, files));
        let closed = closes - closes_before;
        if closed > 0 {
            self.first.get_or_insert(elapsed);
        }
        if closed >= self.count {
            self.last.get_or_insert(elapsed);
            // The requests that look at it hold a few.
            if files + self.count as usize <= files_before + 4 {
                self.let_go.get_or_insert(elapsed);
            }
        }
        Ok(self.let_go.is_none() && elapsed < GONE_LIMIT)
    }
}

struct Bench<'a> {
    options: &'a Options,
    node: Node,
    /// Those who read all the time.
    healthy: Fleet,
    readers: usize,
    stalled: usize,
    /// Broadcasts so far.
    sent: u64,
    /// Resident memory before the first messages of one's own.
    base: Option<f64>,
}

struct Phase {
    broadcasts: usize,
    p50: f64,
    p99: f64,
    /// The median of the p99 of each broadcast.
    typical: f64,
    /// The same for each part of the phase.
    parts: Vec<f64>,
    /// Resident memory of the node in MiB: at the end, and at the highest of all samples.
    resident: f64,
    highest: f64,
    cores: f64,
    faults: Faults,
}

impl Phase {
    fn say(&self, report: &mut Report<'_>, pass: usize, name: &str) {
        report.line(&format!(
            "{pass:4} {name:8} {:10} {:7.1} {:7.1} {:11.1} {:7.1} {:7.1}  {:5.2}  {}",
            self.broadcasts,
            self.p50,
            self.p99,
            self.typical,
            self.resident,
            self.highest,
            self.cores,
            report::faults(self.faults),
        ));
    }
}

impl Bench<'_> {
    fn start(options: &Options) -> io::Result<Bench<'_>> {
        let node = Node::start(options, "bench", None)?;
        let stalled = options.number("stalled");
        let readers = options.number("sockets") - stalled;
        let mut healthy = Fleet::connect(node.clients, readers, Hello::WebSocket, |n| {
            format!("{USER}{n}")
        })?;
        healthy.broadcast = true;
        Ok(Bench {
            options,
            node,
            healthy,
            readers,
            stalled,
            sent: 0,
            base: None,
        })
    }

    fn connect(&self, dial: &Dial, user: &str) -> io::Result<Fleet> {
        let (server, count) = (self.node.clients, self.stalled);
        let user = |n| format!("{user}{}", self.readers + n);
        let mut fleet = Fleet::connect_by(dial, server, count, Hello::WebSocket, user)?;
        fleet.broadcast = true;
        Ok(fleet)
    }

    /// Reads on both sides for a while without sending, so that pings are answered.
    fn quiet(&mut self, others: &mut Fleet, pause: Duration) -> io::Result<()> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.healthy.linger(STEP)?;
            others.linger(STEP)?;
        }
        Ok(())
    }

    /// Broadcasts at the pace as long as `goes_on` says so; `others` read too.
    fn phase(
        &mut self,
        others: Option<&mut Fleet>,
        mut goes_on: impl FnMut(&Node, Duration) -> io::Result<bool>,
    ) -> io::Result<Phase> {
        let every = Duration::from_secs_f64(1.0 / self.options.number("rate") as f64);
        let bytes = self.options.number("bytes");
        let (pid, first) = (self.node.pid(), self.sent);
        let (readers, stalled) = (self.readers as u64, self.stalled as u64);
        let mut connection = Connection::open(self.node.senders)?;
        let (node, healthy, sent) = (&self.node, &mut self.healthy, &mut self.sent);
        healthy.arrivals = Some(Vec::new());
        let meter = Meter::start(pid);
        let over = AtomicBool::new(false);
        let started = Instant::now();
        let (sent_at, highest) = thread::scope(|scope| {
            let over = &over;
            let read = move |fleet: &mut Fleet| -> io::Result<()> {
                while !over.load(Ordering::Relaxed) {
                    fleet.linger(STEP)?;
                }
                Ok(())
            };
            let reading = scope.spawn(move || {
                read(healthy)?;
                Ok::<_, io::Error>(healthy)
            });
            let reading_too = scope.spawn(move || match others {
                Some(others) => read(others).map(|()| Some(others)),
                None => Ok(None),
            });
            let sampling = scope.spawn(move || {
                let mut highest = 0.0_f64;
                while !over.load(Ordering::Relaxed) {
                    highest = highest.max(memory(pid).resident / MIB);
                    thread::sleep(STEP);
                }
                highest
            });
            let sending = (|| {
                let mut sent_at = Vec::new();
                while goes_on(node, started.elapsed())? {
                    let due = started + every * sent_at.len() as u32;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let data = message::data(message::ALL, *sent, bytes);
                    let body = format!(r#"{{"to":{{"all":true}},"data":{data}}}"#);
                    *sent += 1;
                    sent_at.push(Instant::now());
                    push(&mut connection, &http::post(http::JSON, &body))?;
                }
                thread::sleep(every);
                Ok::<_, io::Error>(sent_at)
            })();
            over.store(true, Ordering::Relaxed);
            let joined = "readers do not panic";
            let (healthy, others) = (
                reading.join().expect(joined)?,
                reading_too.join().expect(joined)?,
            );
            healthy.receive(*sent * readers, PATIENCE)?;
            if let Some(others) = others {
                others.receive(*sent * stalled, PATIENCE)?;
            }
            Ok::<_, io::Error>((sending?, sampling.join().expect(joined)))
        })?;
        let cores = meter.spent().total / 1e6 / started.elapsed().as_secs_f64();
        self.healthy.linger(STEP)?;
        let arrivals = self.healthy.arrivals.take().unwrap_or_default();
        let mut each: Vec<Vec<f64>> = vec![Vec::with_capacity(self.readers); sent_at.len()];
        for (_, sequence, came) in arrivals {
            // A repeat of an older phase is counted as a duplicate already.
            if let Some(nth) = sequence.checked_sub(first) {
                let nth = nth as usize;
                each[nth].push(came.duration_since(sent_at[nth]).as_secs_f64() * 1e3);
            }
        }
        each.iter_mut().for_each(|one| one.sort_by(f64::total_cmp));
        let p99s: Vec<f64> = each.iter().map(|one| percentile(one, 0.99)).collect();
        let mut latencies = each.concat();
        latencies.sort_by(f64::total_cmp);
        Ok(Phase {
            broadcasts: sent_at.len(),
            p50: percentile(&latencies, 0.5),
            p99: percentile(&latencies, 0.99),
            typical: median(&p99s),
            parts: p99s
                .chunks(self.options.number("rate") * PART_SECONDS)
                .map(median)
                .collect(),
            resident: memory(pid).resident / MIB,
            highest,
            cores,
            faults: self.healthy.faults(|_| self.sent),
        })
    }

    /// As many sockets that read nothing, each sent messages of its own until well after its queue is full, all at the
    /// same pace so that all queues are full at the same time. Answers how far memory grew since before the first
    /// time, in MiB.
    fn own(
        &mut self,
        report: &mut Report<'_>,
        pass: usize,
        time: usize,
        dial: &Dial,
    ) -> io::Result<f64> {
        const NAME: &str = "own";
        let fleet = self.connect(dial, NAME)?;
        fleet.set_receive_buffers(self.options.number("receive-buffer"))?;
        let before = memory(self.node.pid()).resident / MIB;
        let base = *self.base.get_or_insert(before);
        let closed = |bench: &Bench<'_>| -> io::Result<u64> {
            Ok(bench
                .node
                .reasons("closes")?
                .get("slow")
                .copied()
                .unwrap_or(0))
        };
        let slow_before = closed(self)?;
        let mut connection = Connection::open(self.node.senders)?;
        let rounds = self.options.number("own-kib") * 1_024 / OWN;
        let started = Instant::now();
        let mut full = None;
        for round in 0..rounds {
            for from in (0..self.stalled).step_by(OWN_BATCH) {
                let lines: String = (from..self.stalled.min(from + OWN_BATCH))
                    .map(|n| {
                        let user = format!("{NAME}{}", self.readers + n);
                        let data = message::data(&user, round as u64, OWN);
                        format!("{{\"to\":{{\"user\":\"{user}\"}},\"data\":{data}}}\n")
                    })
                    .collect();
                push(&mut connection, &http::post(http::NDJSON, &lines))?;
            }
            self.healthy.linger(Duration::ZERO)?;
            if full.is_none() && closed(self)? - slow_before >= self.stalled as u64 {
                full = Some((round + 1, started.elapsed().as_secs_f64()));
            }
        }
        // Whom the kernel's buffers served to the end is closed by time.
        while full.is_none() && started.elapsed() < GONE_LIMIT {
            self.healthy.linger(SETTLE)?;
            if closed(self)? - slow_before >= self.stalled as u64 {
                full = Some((rounds, started.elapsed().as_secs_f64()));
            }
        }
        let growth = memory(self.node.pid()).highest / MIB - base;
        drop(fleet);
        self.healthy.linger(SETTLE)?;
        let after = memory(self.node.pid()).resident / MIB;
        let (rounds, seconds) = full.unwrap_or((rounds, f64::NAN));
        report.line(&format!(
            "{pass:4} own {time}    {} KiB to each: {before:.1} MiB became {:.1}; all {} closed as slow after {} KiB and {seconds:.1} s; {after:.1} MiB afterwards; others {}",
            rounds * OWN / 1_024,
            base + growth,
            closed(self)? - slow_before,
            rounds * OWN / 1_024,
            report::faults(self.healthy.faults(|_| self.sent)),
        ));
        Ok(growth)
    }
}

fn push(connection: &mut Connection, request: &[u8]) -> io::Result<()> {
    connection.send(request)?;
    let answer = connection.receive()?;
    if answer.status == 200 {
        Ok(())
    } else {
        Err(io::Error::other(answer.body))
    }
}
