//! Many users over several nodes: all come at once, one node is killed and started again, all come back.
//!
//! The clients (`support::crowd`) are as many processes as there are nodes, each with an even part of them, because a
//! process has a limit on open files as well. A client whose attempt fails tries the next node, as behind a load
//! balancer. Each node takes no more clients than its part and a fiftieth, so that those of the killed node find the
//! others full and must wait for it, which is the worst case.
//!
//! After each step every user gets one push by its row in Redis, and every client counts what it gets.
//!
//! The last lines compare what was measured with what `scripts/capacity` says from `benches/capacity.json`.

mod support;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use support::accounting::{Meter, memory};
use support::crowd::Crowd;
use support::http::{self, Connection};
use support::options::Options;
use support::process::{Node, RedisServer};
use support::redis::{Redis, Reply};
use support::report::{self, Report};
use support::{message, percentile, raise_open_files_limit};

/// Bytes of `data` of a push.
const DATA: usize = 128;
/// Pushes in one request.
const BATCH: usize = 1_000;
/// How long clients may take to be ready, and pushes to arrive.
const LIMIT: Duration = Duration::from_secs(600);
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// How long all stay idle before memory is read and the cost of being idle is measured.
const IDLE: Duration = Duration::from_secs(30);
const TURN: Duration = Duration::from_millis(20);
/// What a process of clients is started with.
const ROLE: &str = "crowd";

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, name, rest @ ..] = &arguments[..]
        && role == "--role"
        && name == ROLE
    {
        return be_part(rest);
    }
    let options = Options::read(
        "scale",
        "Many users over several nodes: until when are all there, and what does it cost",
        &[
            ("clients", "100000", "clients of all nodes together"),
            ("nodes", "6", "nodes, and processes of clients"),
            ("seconds", "10", "seconds within which all come first"),
            (
                "down",
                "2",
                "seconds until the killed node is started again",
            ),
        ],
    );
    raise_open_files_limit()?;
    let mut report = Report::begin(&options);
    run(&options, &mut report)?;
    report.end()
}

fn run(options: &Options, report: &mut Report<'_>) -> io::Result<()> {
    let (clients, count) = (options.number("clients"), options.number("nodes").max(2));
    let share = clients.div_ceil(count);
    let redis = RedisServer::start()?;
    let bytes_before = used_memory(&redis)?;
    let most = (share + share / 50).to_string();
    let start = |n: usize, address: &str| {
        Node::start_with(
            options,
            &format!("scale-{n}"),
            Some(&redis),
            // Senders have a listener of their own: a node that is full of clients takes them.
            &[
                ("PUSH_LISTEN", address),
                ("PUSH_API_LISTEN", "127.0.0.1:0"),
                ("PUSH_MAX_CONNECTIONS", &most),
            ],
        )
    };
    // Addresses to come back to.
    let addresses = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0")?.local_addr())
        .collect::<io::Result<Vec<_>>>()?;
    let mut nodes = Vec::new();
    for (n, address) in addresses.iter().enumerate() {
        nodes.push(start(n, &address.to_string())?);
    }
    let empty: f64 = nodes.iter().map(resident).sum();
    let mut crowds = (0..count)
        .map(|n| {
            let part = (n * share).min(clients)..((n + 1) * share).min(clients);
            Part::start(n, part, &addresses)
        })
        .collect::<io::Result<Vec<_>>>()?;

    let mut step = Step::begin(&nodes, &redis);
    for crowd in &mut crowds {
        crowd.say(&format!("come {}", options.number("seconds") * 1_000))?;
    }
    wait_for_all(&crowds, clients)?;
    let came = step.end();
    told(report, "all come", &mut crowds, came, clients)?;

    step = Step::begin(&nodes, &redis);
    push_to_all(&nodes[0], clients, 0)?;
    let exact = arrived(&mut crowds, 1)?;
    let spent = step.end();
    report.line(&format!(
        "pushed   {:7.1} s  nodes {:6.1} s  Redis {:5.1} s  {:.2} us a push  {exact}",
        spent.elapsed,
        spent.nodes,
        spent.redis,
        (spent.nodes + spent.redis) * 1e6 / clients as f64,
    ));

    thread::sleep(IDLE);
    step = Step::begin(&nodes, &redis);
    thread::sleep(IDLE);
    let idle = step.end();
    let full: f64 = nodes.iter().map(resident).sum();
    let rows = used_memory(&redis)? - bytes_before;
    let per_node = (full - empty) * 1_024.0 / clients as f64;
    let per_row = rows / clients as f64;
    report.line(&format!(
        "idle     {:7.1} s  nodes {:6.2} s  Redis {:5.2} s  {per_node:.0} bytes a client on its node, {per_row:.0} in Redis; nodes {:.0} MiB, Redis {:.0} MiB",
        idle.elapsed,
        idle.nodes,
        idle.redis,
        full / 1_024.0,
        (rows + bytes_before) / f64::from(1 << 20),
    ));

    for crowd in &mut crowds {
        crowd.say("begin")?;
    }
    let on_it: usize = share;
    drop(nodes.remove(0));
    thread::sleep(Duration::from_secs(options.number("down") as u64));
    nodes.insert(0, start(0, &addresses[0].to_string())?);
    step = Step::begin(&nodes, &redis);
    wait_for_all(&crowds, clients)?;
    let back = step.end();
    told(report, "one killed", &mut crowds, back, on_it)?;
    push_to_all(&nodes[1], clients, 1)?;
    report.line(&format!("pushed again: {}", arrived(&mut crowds, 2)?));

    report.line("");
    report.line(&format!(
        "measured {{\"clients\":{clients},\"nodes\":{count},\"node_bytes_per_client\":{per_node:.0},\"redis_bytes_per_user\":{per_row:.0},\"node_mib\":{:.0},\"connect_us\":{:.0},\"connect_redis_us\":{:.1},\"push_batch_us\":{:.2},\"push_batch_redis_us\":{:.2},\"idle_us_per_client_second\":{:.2}}}",
        empty / 1_024.0 / count as f64,
        came.nodes * 1e6 / clients as f64,
        came.redis * 1e6 / clients as f64,
        spent.nodes * 1e6 / clients as f64,
        spent.redis * 1e6 / clients as f64,
        idle.nodes * 1e6 / clients as f64 / idle.elapsed,
    ));
    Ok(())
}

fn resident(node: &Node) -> f64 {
    memory(node.pid()).resident
}

/// Bytes that Redis holds for its data.
fn used_memory(redis: &RedisServer) -> io::Result<f64> {
    match Redis::connect(redis.address)?.command(&[b"INFO", b"memory"])? {
        Reply::Bytes(text) => Ok(String::from_utf8_lossy(&text)
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok())
            .unwrap_or(f64::NAN)),
        _ => Err(io::Error::other("INFO is not text")),
    }
}

/// Seconds of all nodes and of Redis between two moments.
struct Step {
    began: Instant,
    nodes: Vec<Meter>,
    redis: Meter,
}

#[derive(Clone, Copy)]
struct Spent {
    elapsed: f64,
    nodes: f64,
    redis: f64,
}

impl Step {
    fn begin(nodes: &[Node], redis: &RedisServer) -> Step {
        Step {
            began: Instant::now(),
            nodes: nodes.iter().map(|node| Meter::start(node.pid())).collect(),
            redis: Meter::start(redis.pid()),
        }
    }

    fn end(&self) -> Spent {
        Spent {
            elapsed: self.began.elapsed().as_secs_f64(),
            nodes: self
                .nodes
                .iter()
                .map(|meter| meter.spent().total / 1e6)
                .sum(),
            redis: self.redis.spent().total / 1e6,
        }
    }
}

fn wait_for_all(crowds: &[Part], clients: usize) -> io::Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let ready: usize = crowds.iter().map(Part::ready).sum();
        // A killed node's clients have noticed by then.
        thread::sleep(Duration::from_millis(200));
        if ready == clients {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("{ready} of {clients} are ready")));
        }
    }
}

fn told(
    report: &mut Report<'_>,
    what: &str,
    crowds: &mut [Part],
    spent: Spent,
    of: usize,
) -> io::Result<()> {
    let mut back: Vec<f64> = Vec::new();
    let mut counts = Vec::new();
    for crowd in crowds {
        crowd.say("back")?;
        back.extend(
            crowd
                .answer()?
                .split_whitespace()
                .filter_map(|word| word.parse::<f64>().ok()),
        );
        counts.push(crowd.answer()?);
    }
    back.sort_by(f64::total_cmp);
    report.line(&format!(
        "{what}: {} of {of} became ready: half in {:.1} s, 99 % in {:.1} s, all in {:.1} s; nodes {:.1} s ({:.0} us a client), Redis {:.1} s",
        back.len(),
        percentile(&back, 0.5) / 1e3,
        percentile(&back, 0.99) / 1e3,
        back.last().copied().unwrap_or(f64::NAN) / 1e3,
        spent.nodes,
        spent.nodes * 1e6 / of as f64,
        spent.redis,
    ));
    for counts in counts {
        report.line(&format!("         {counts}"));
    }
    Ok(())
}

fn push_to_all(node: &Node, clients: usize, round: u64) -> io::Result<()> {
    let mut connection = Connection::open(node.senders)?;
    for from in (0..clients).step_by(BATCH) {
        let lines = message::batch(from..clients.min(from + BATCH), round, DATA);
        connection.send(&http::post(http::NDJSON, &lines))?;
        connection.receive()?;
    }
    Ok(())
}

/// Waits until each client has so many messages; what is missing, doubled or another's.
fn arrived(crowds: &mut [Part], each: u64) -> io::Result<String> {
    let mut texts = Vec::new();
    for crowd in &mut *crowds {
        crowd.say(&format!("expect {each}"))?;
    }
    for crowd in crowds {
        texts.push(crowd.answer()?);
    }
    texts.sort();
    texts.dedup();
    Ok(texts.join("; "))
}

/// A process with some of the clients, as its parent sees it.
struct Part {
    child: Child,
    input: ChildStdin,
    ready: Arc<AtomicUsize>,
    answers: mpsc::Receiver<String>,
}

impl Part {
    fn start(n: usize, clients: Range<usize>, servers: &[SocketAddr]) -> io::Result<Part> {
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", ROLE])
            .args([n + 1, clients.start, clients.end].map(|number| number.to_string()))
            .args(servers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().expect("piped");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = Arc::new(AtomicUsize::new(0));
        let (answer, answers) = mpsc::channel();
        let seen = Arc::clone(&ready);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match line.strip_prefix("ready ").map(str::parse) {
                    Some(Ok(count)) => seen.store(count, Ordering::Relaxed),
                    // Nobody asks any more.
                    _ if answer.send(line).is_err() => return,
                    _ => {}
                }
            }
        });
        Ok(Part {
            child,
            input,
            ready,
            answers,
        })
    }

    fn ready(&self) -> usize {
        self.ready.load(Ordering::Relaxed)
    }

    fn say(&mut self, command: &str) -> io::Result<()> {
        writeln!(self.input, "{command}")?;
        self.input.flush()
    }

    fn answer(&self) -> io::Result<String> {
        self.answers.recv().map_err(io::Error::other)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs some of the clients; commands come by standard input, answers and the number of clients that are ready go to
/// standard output. Ends when its parent has gone.
fn be_part(arguments: &[String]) -> io::Result<()> {
    let number = |text: &String| text.parse::<usize>().map_err(io::Error::other);
    let [network, from, to, servers @ ..] = arguments else {
        return Err(io::Error::other(
            "network, first, last and servers are missing",
        ));
    };
    let servers = servers
        .iter()
        .map(|text| text.parse::<SocketAddr>().map_err(io::Error::other))
        .collect::<io::Result<Vec<_>>>()?;
    let network = u8::try_from(number(network)?).map_err(io::Error::other)?;
    let mut crowd = Crowd::part(number(from)?..number(to)?, servers, (network, 4))?;
    let (command, commands) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if command.send(line).is_err() {
                return;
            }
        }
    });
    let mut said = usize::MAX;
    loop {
        crowd.turn(TURN)?;
        if said != crowd.ready() {
            said = crowd.ready();
            println!("ready {said}");
        }
        let line = match commands.try_recv() {
            Ok(line) => line,
            Err(mpsc::TryRecvError::Empty) => continue,
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        };
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["come", millis] => {
                crowd.begin();
                crowd.come(Duration::from_millis(millis.parse().unwrap_or(0)));
            }
            ["begin"] => crowd.begin(),
            ["back"] => {
                let back: Vec<String> = crowd
                    .back
                    .iter()
                    .map(|at| at.as_millis().to_string())
                    .collect();
                println!("{}", back.join(" "));
                println!("{:?}", crowd.counts);
            }
            ["expect", each] => {
                let each = each.parse().unwrap_or(0);
                crowd.receive(each, ARRIVAL_LIMIT)?;
                println!("{}", report::faults(crowd.faults(each)));
            }
            _ => return Err(io::Error::other(format!("what is {line:?}?"))),
        }
    }
}
