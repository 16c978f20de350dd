//! Child processes: pushnode nodes, a Redis of our own, and rivals that are this program in another role.
//!
//! Each listens on loopback on a free port and is ended when its handle is dropped.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use super::http;
use super::options::Options;
use super::redis;

pub const START_LIMIT: Duration = Duration::from_secs(15);
/// Nodes of one run share a prefix; a Redis of our own holds nothing else.
pub const PREFIX: &str = "pn:";

/// A child that does not outlive its handle.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pushnode node.
pub struct Node {
    child: Running,
    /// `<name>.<boot>`
    pub id: String,
    pub clients: SocketAddr,
    /// For plain TCP, if `PUSH_TCP_LISTEN` is set.
    pub lines: Option<SocketAddr>,
    pub senders: SocketAddr,
    pub operations: SocketAddr,
}

impl Node {
    /// Starts the binary and waits until it is ready.
    pub fn start(options: &Options, name: &str, redis: Option<&RedisServer>) -> io::Result<Node> {
        Node::start_with(options, name, redis, &[])
    }

    /// As `start`, with settings of its own.
    pub fn start_with(
        options: &Options,
        name: &str,
        redis: Option<&RedisServer>,
        settings: &[(&str, &str)],
    ) -> io::Result<Node> {
        let mut command = Command::new(options.text("binary"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PUSH_") || variable == "REDIS_URL" {
                command.env_remove(variable);
            }
        }
        command
            .env("PUSH_LISTEN", "127.0.0.1:0")
            .env("PUSH_ADMIN_LISTEN", "127.0.0.1:0")
            .env("PUSH_NODE_NAME", name)
            .env("PUSH_PREFIX", PREFIX)
            .env("PUSH_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(redis) = redis {
            command.env("PUSH_REDIS_URL", format!("redis://{}", redis.address));
        }
        command.envs(settings.iter().copied());
        for setting in options.words("set") {
            let (variable, value) = setting.split_once('=').unwrap_or((setting, ""));
            command.env(variable, value);
        }
        let mut child = Running(command.spawn()?);
        let mut lines = BufReader::new(child.0.stdout.take().expect("piped")).lines();

        let (mut id, mut clients, mut senders, mut operations) = (None, None, None, None);
        let mut by_line = None;
        while id.is_none() || clients.is_none() || senders.is_none() || operations.is_none() {
            let line = lines
                .next()
                .ok_or_else(|| io::Error::other("the node ended while starting"))??;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["pushnode", _, "node", name, ..] => id = Some(name.to_owned()),
                ["clients", url, ..] => clients = address(url),
                ["lines", address, ..] => by_line = address.parse().ok(),
                ["senders", url, ..] => senders = address(url),
                ["operations", url, ..] => operations = address(url),
                _ => {}
            }
        }
        // The pipe stays open and empty, or the node would fail at its next line.
        std::thread::spawn(move || lines.for_each(drop));
        let missing = || io::Error::other("the node did not say where it listens");
        let node = Node {
            child,
            id: id.ok_or_else(missing)?,
            clients: clients.ok_or_else(missing)?,
            lines: by_line,
            senders: senders.ok_or_else(missing)?,
            operations: operations.ok_or_else(missing)?,
        };
        node.wait_until_ready()?;
        Ok(node)
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// A counter with a label for the reason, such as `closes`: how many of each.
    pub fn reasons(&self, counter: &str) -> io::Result<BTreeMap<String, u64>> {
        let prefix = format!("pushnode_{counter}_total{{reason=\"");
        let row = |line: &str| {
            let (reason, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            Some((reason.to_owned(), count.parse().ok()?))
        };
        Ok(self
            .operate("/metrics")?
            .body
            .lines()
            .filter_map(row)
            .collect())
    }

    fn operate(&self, path: &str) -> io::Result<http::Answer> {
        let mut connection = http::Connection::open(self.operations)?;
        connection.send(&http::get(path))?;
        connection.receive()
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let answer = self.operate("/readyz")?;
            if answer.status == 200 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "node {} not ready: {}",
                    self.id, answer.body
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// `http://127.0.0.1:8080/...` to its address.
fn address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.split('/').next()?.parse().ok()
}

/// A redis-server without persistence.
pub struct RedisServer {
    child: Running,
    pub address: SocketAddr,
}

impl RedisServer {
    pub fn start() -> io::Result<RedisServer> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir", "/tmp"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let server = RedisServer {
            child: Running(child),
            address,
        };
        let deadline = Instant::now() + START_LIMIT;
        while redis::Redis::connect(address).is_err() {
            if Instant::now() > deadline {
                return Err(io::Error::other("redis-server does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }
}

/// This program in one of the roles of `rivals`; it prints its address and is fed by its standard input.
pub struct Rival {
    child: Running,
    input: ChildStdin,
    pub address: SocketAddr,
}

impl Rival {
    pub fn start(role: &[&str]) -> io::Result<Rival> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--role")
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Running(command.spawn()?);
        let input = child.0.stdin.take().expect("piped");
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().expect("piped")).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .map_err(|_| io::Error::other(format!("the rival said {line:?}")))?;
        Ok(Rival {
            child,
            input,
            address,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.write_all(bytes)?;
        self.input.flush()
    }
}
