//! What tests of a whole node share: processes that stop when dropped, clients that are not
//! ours, and waiting that ends.
//!
//! Every test starts its own nodes on free ports, and its own redis-server where it needs one.
//! Nothing sleeps and hopes: [`eventually`] polls with a limit and then shows what it saw.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what helps a test may fail as a test does"
)]

pub mod bookmarks;
pub mod books;
pub mod ended;
pub mod grants;
pub mod history;
pub mod hooks;
pub mod keep;
pub mod last;
pub mod logs;
pub mod many_topics;
pub mod named_events;
pub mod openapi;
pub mod passes;
mod ports;
pub mod presence;
mod redis;
pub mod rules;
pub mod shown;
pub mod streams;
pub mod stumbles;
pub mod tokens;
pub mod topics;
pub mod transports;

use std::fmt::Debug;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

pub use self::ports::free_port;
pub use self::redis::Redis;

/// Longest wait for anything that should come soon. Generous: a slow machine is no fault, and the
/// slowest that a node does by itself, to find another dead, takes up to 20 s.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A pushnode process. Killed when dropped.
pub struct Node {
    child: Child,
    /// `<name>.<boot>`.
    pub id: String,
    /// Where clients connect (TCP listeners only).
    pub clients: Vec<SocketAddr>,
    /// Where clients connect by plain TCP.
    pub lines: Vec<SocketAddr>,
    /// Where senders call, as printed: a URL.
    pub push_url: String,
    /// Where operators look.
    pub admin: SocketAddr,
    /// What it printed at its start.
    pub greeting: String,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

/// A node with free ports and these further settings, up and (unless told otherwise) ready.
pub fn node(settings: &[(&str, &str)]) -> Node {
    let node = start_node(settings);
    node.wait_ready();
    node
}

/// A node of a cluster on this Redis.
pub fn node_on(redis: &Redis, name: &str) -> Node {
    node_with(redis, name, &[])
}

/// A Redis and the nodes `a` and `b` on it.
pub fn two_nodes() -> (Redis, Node, Node) {
    let redis = Redis::start();
    let (a, b) = (node_on(&redis, "a"), node_on(&redis, "b"));
    (redis, a, b)
}

/// As [`node_on`], with further settings.
pub fn node_with(redis: &Redis, name: &str, settings: &[(&str, &str)]) -> Node {
    let url = redis.url();
    let mut all = vec![("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", name)];
    all.extend(settings);
    node(&all)
}

/// The command that starts a node with these settings and nothing else of this environment.
pub fn node_command(settings: &[(&str, &str)]) -> Command {
    let new = [
        // No balancer stands in front; tests with one set it.
        ("PUSH_PRESTOP_SECONDS", "0"),
        // Tests ask `/readyz` whether a node works, and not only whether it may take clients.
        ("PUSH_READY_WITHOUT_REDIS", "false"),
    ];
    let settings = [&new, settings].concat();
    command_of(Path::new(env!("CARGO_BIN_EXE_pushnode")), &settings)
}

/// As [`node_command`], of another build, which may not know all of today's settings.
pub fn command_of(program: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PUSH_LISTEN", "127.0.0.1:0")
        .env("PUSH_TCP_LISTEN", "127.0.0.1:0")
        .env("PUSH_ADMIN_LISTEN", "127.0.0.1:0")
        .env("PUSH_LOG", "debug")
        .envs(settings.iter().copied());
    command
}

/// A node that has printed its addresses but may not be ready.
pub fn start_node(settings: &[(&str, &str)]) -> Node {
    start_command(node_command(settings))
}

/// As [`start_node`], with its log on this pipe.
pub fn start_with_log(settings: &[(&str, &str)], log: std::io::PipeWriter) -> Node {
    let node = node_command(settings);
    let mut command = Command::new("sh");
    // The other starts give standard error to a file, so the pipe comes as standard input.
    command
        .args(["-c", r#"exec "$0" 2>&0"#])
        .arg(node.get_program())
        .env_clear()
        .envs(
            node.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .stdin(log);
    start_command(command)
}

/// As [`start_node`], by a command that may do something before it becomes the node.
pub fn start_command(mut command: Command) -> Node {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).expect("a log file");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .expect("pushnode starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut node = Node {
        child,
        id: String::new(),
        clients: Vec::new(),
        lines: Vec::new(),
        push_url: String::new(),
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        greeting: String::new(),
        log,
        _folder: folder,
    };
    for line in &mut lines {
        let line = line.expect("UTF-8");
        node.greeting += &line;
        node.greeting.push('\n');
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["pushnode", _, "node", id] => (*id).clone_into(&mut node.id),
            ["clients", url, ..] => node.clients.extend(socket_address(url)),
            ["lines", address, ..] => node.lines.extend(address.parse::<SocketAddr>()),
            ["senders", url, ..] if node.push_url.is_empty() => {
                (*url).clone_into(&mut node.push_url);
            }
            ["operations", url, ..] => node.admin = socket_address(url).expect("an address"),
            ["try", "it", ..] => break,
            _ => {}
        }
    }
    assert!(
        !node.id.is_empty(),
        "the node did not start:\n{}",
        node.log()
    );
    // Keep reading, so that the node never writes into a closed pipe.
    std::thread::spawn(move || lines.for_each(drop));
    node
}

fn socket_address(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.split('/').next()?.parse().ok()
}

impl Node {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The inodes of the sockets that it has open.
    pub fn sockets(&self) -> Vec<String> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("its files");
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let inode = |link: std::path::PathBuf| {
            let link = link.to_str()?.strip_prefix("socket:[")?;
            link.strip_suffix(']').map(str::to_owned)
        };
        links.filter_map(inode).collect()
    }

    pub fn client_address(&self) -> SocketAddr {
        self.clients[0]
    }

    /// `ws://.../ws?user=<user>`.
    pub fn ws_url(&self, user: &str) -> String {
        format!("ws://{}/ws?user={user}", self.client_address())
    }

    /// `http://...<path>` on the clients' (and, by default, senders') listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.client_address())
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// What the node has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Until it has logged this: a thread of its own writes the log, after what it tells of.
    pub async fn until_logged(&self, words: &str) {
        eventually(async || match self.log() {
            log if log.contains(words) => Ok(()),
            log => Err(log),
        })
        .await;
    }

    pub fn wait_ready(&self) {
        // Not by the client of the other tests: it needs a runtime, and some callers are inside one.
        let ready = || {
            let mut stream = std::net::TcpStream::connect(self.admin).ok()?;
            let _ = stream.set_read_timeout(Some(PATIENCE));
            write!(
                stream,
                "GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.admin
            )
            .ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200 ").then_some(())
        };
        let start = Instant::now();
        while ready().is_none() {
            assert!(
                start.elapsed() < PATIENCE,
                "node not ready; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The sum of a metric over its labels; `name` without prefix, `_total` included.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let is_ours = |line: &&str| {
            line.strip_prefix("pushnode_")
                .and_then(|line| line.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let values = text
            .lines()
            .filter(is_ours)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// What a metric counts under one label, such as `closes_total` and `reason="slow"`.
    pub async fn labelled(&self, name: &str, label: &str) -> f64 {
        let start = format!("pushnode_{name}{{{label}}} ");
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Signs that messages to this node were lost, as far as it knows. A row that was written late is
    /// none of these: it tells one client that Redis was slow, as on a busy machine.
    pub async fn losses(&self) -> f64 {
        let text = self.metrics().await;
        let signs = text.lines().filter_map(|line| {
            let (sign, count) = line.split_once(' ')?;
            let counts = sign.starts_with("pushnode_losses_total") && !sign.contains("late_row");
            counts.then(|| count.parse::<f64>().expect("a number"))
        });
        signs.sum()
    }

    /// All metrics as text.
    pub async fn metrics(&self) -> String {
        let answer = http().get(self.admin_url("/metrics")).send().await;
        let text = answer.expect("an answer").text().await.expect("text");
        books::check_labels(&text);
        text
    }

    /// Sends a signal: "TERM", "KILL", "STOP", "CONT".
    pub fn signal(&self, signal: &str) {
        send_signal(self.pid(), signal);
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our child")
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "node did not end; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log
                .lines()
                .rev()
                .filter(|line| !line.contains("fred"))
                .take(40)
                .collect();
            eprintln!("--- last lines of node {}:", self.id);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Sends a signal. After "STOP" it waits until the process stands still: on a busy machine its
/// threads go on for a moment, and could still answer.
pub fn send_signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status();
    assert!(status.expect("kill runs").success(), "kill -{signal} {pid}");
    let start = Instant::now();
    while signal == "STOP" && !is_stopped(pid) {
        assert!(start.elapsed() < PATIENCE, "SIGSTOP has no effect");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether every thread of a process is stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold blanks.
        let state = stat.rsplit_once(") ").map(|(_, fields)| &fields[..1]);
        state == Some("T")
    })
}

/// Runs a node that is expected to refuse its configuration; answers exit code and stderr.
pub fn refused_node(settings: &[(&str, &str)]) -> (i32, String) {
    let output = node_command(settings)
        .stdin(Stdio::null())
        .output()
        .expect("pushnode runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("an exit code"), words)
}

/// A WebSocket client.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The `ready` object of a `pushnode.v1` client.
    pub ready: Option<Value>,
}

impl Client {
    /// Connects without subprotocol.
    pub async fn plain(url: &str) -> Self {
        let (socket, _) = tokio_tungstenite::connect_async(url)
            .await
            .expect("a handshake");
        Self {
            socket,
            ready: None,
        }
    }

    /// Connects with `pushnode.v1` and waits for `ready`.
    pub async fn v1(url: &str) -> Self {
        let mut request = url.into_client_request().expect("a URL");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", "pushnode.v1".parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request)
            .await
            .expect("a handshake");
        let mut client = Self {
            socket,
            ready: None,
        };
        let ready = client.json().await;
        assert_eq!(ready["type"], "ready", "{ready}");
        client.ready = Some(ready);
        client
    }

    /// `<node>/<fd>` of a `pushnode.v1` client.
    pub fn connection(&self) -> String {
        let ready = self.ready.as_ref().expect("a v1 client");
        format!("{}/{}", ready["node"].as_str().unwrap(), ready["fd"])
    }

    /// The next message, pings and pongs left out.
    pub async fn message(&mut self) -> Message {
        // For all of it: pings come more often than patience lasts.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let message = tokio::time::timeout_at(deadline, self.socket.next()).await;
            let message = message
                .expect("a message in time")
                .expect("an open connection")
                .expect("a frame");
            if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                return message;
            }
        }
    }

    /// The next text.
    pub async fn text(&mut self) -> String {
        match self.message().await {
            Message::Text(text) => text.to_string(),
            other => panic!("expected a text, got {other:?}"),
        }
    }

    /// The next text as JSON.
    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).expect("JSON")
    }

    /// Reads on until the close frame; answers its code and reason.
    pub async fn close_frame(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.message().await {
                let frame = frame.expect("a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// After a close frame: answers it and reads on until the node has closed the socket.
    pub async fn end(&mut self) {
        let end = async { while let Some(Ok(_)) = self.socket.next().await {} };
        tokio::time::timeout(PATIENCE, end)
            .await
            .expect("the end of the connection in time");
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    /// That nothing has come: sends a marker of its own through the node and sees it first.
    pub async fn hears_next(&mut self, marker: &str) {
        let next = self.text().await;
        assert!(
            next.contains(marker),
            "expected {marker} to come next, got {next}"
        );
    }
}

/// The handshake's refusal: status and body.
pub async fn refused_handshake(url: &str) -> (u16, String) {
    match tokio_tungstenite::connect_async(url).await {
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            (
                response.status().as_u16(),
                String::from_utf8_lossy(body).into_owned(),
            )
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// An HTTP client with kept-alive connections.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(PATIENCE)
        .build()
        .expect("a client")
}

/// Posts JSON; answers status and body, which must be as `openapi.json` says.
pub async fn post(url: &str, body: &Value) -> (u16, Value) {
    let response = http().post(url).json(body).send().await.expect("an answer");
    let answer = openapi::read(Method::POST, url, response).await;
    if answer.status == 200 {
        let allowed = openapi::check_body(url, body);
        let shown = body.to_string();
        allowed.unwrap_or_else(|words| panic!("{shown:.300} was taken\n{words:.1000}"));
    }
    let body = serde_json::from_slice(&answer.body).expect("JSON");
    (answer.status, body)
}

/// Posts text as it stands, under this content type; answers status and body.
pub async fn post_text(
    url: &str,
    content_type: &str,
    body: impl Into<reqwest::Body>,
) -> (u16, String) {
    let response = http()
        .post(url)
        .header("content-type", content_type)
        .body(body)
        .send()
        .await
        .expect("an answer");
    let answer = openapi::read(Method::POST, url, response).await;
    (answer.status, String::from_utf8(answer.body).expect("text"))
}

/// Polls until `check` answers `Ok`; then what it answered. After [`PATIENCE`] the last `Err`
/// is shown.
pub async fn eventually<T, E: Debug>(mut check: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(found) => return found,
            Err(seen) => assert!(
                start.elapsed() < PATIENCE,
                "did not come to be; last seen: {seen:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads until the other side closes, at most for [`PATIENCE`].
pub fn read_to_end(stream: &mut std::net::TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut all = Vec::new();
    // A reset after the answer is an end too.
    let _ = stream.read_to_end(&mut all);
    all
}
