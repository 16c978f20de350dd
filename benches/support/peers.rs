//! The peers of `peers`: nginx with nchan, and NATS, each set up for this work and ended with its handle.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::accounting;
use super::http;
use super::nats;
use super::options::{Known, Options};
use super::process::{Running, START_LIMIT};

/// Where the peers are.
pub const OPTIONS: [Known; 3] = [
    ("nginx", "nginx", "the program"),
    (
        "nchan-module",
        "/usr/lib/nginx/modules/ngx_nchan_module.so",
        "nchan, as Debian's libnginx-mod-nchan installs it",
    ),
    ("nats-server", "nats-server", "the program"),
];
/// nchan twice: with as many workers as there are cores, which hand each other messages, and with one, which need not.
pub const NCHANS: [(&str, &str); 2] = [("nchan", "auto"), ("nchan-1", "1")];
/// Between two looks at a server that is starting or ending.
const PAUSE: Duration = Duration::from_millis(20);

/// Whether an error says that a peer is not installed, and not that it failed.
pub fn is_absent(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

fn absent(what: &str) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("there is no {what}"))
}

fn spawn(command: &mut Command) -> io::Result<Running> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match child {
        Err(error) if is_absent(&error) => Err(absent(&command.get_program().to_string_lossy())),
        child => child.map(Running),
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Asks until there is an answer.
fn wait_for<T>(
    server: &mut Running,
    name: &str,
    mut ask: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                return Err(io::Error::other(format!("{name} does not answer: {error}")));
            }
            Err(_) => {}
        }
        if let Some(status) = server.0.try_wait()? {
            return Err(io::Error::other(format!("{name} ended: {status}")));
        }
        std::thread::sleep(PAUSE);
    }
}

/// nginx with nchan: a WebSocket of a user at `/ws?user=`, as pushnode has it, and pushes at `/pub?user=`.
pub struct Nchan {
    master: Running,
    /// Of `NCHANS`.
    pub name: &'static str,
    pub address: SocketAddr,
    pub version: String,
    _folder: TempDir,
}

impl Nchan {
    /// One of `NCHANS`.
    pub fn start(options: &Options, (name, workers): (&'static str, &str)) -> io::Result<Nchan> {
        let module = options.text("nchan-module");
        if !Path::new(module).exists() {
            return Err(absent(module));
        }
        let (folder, address) = (TempDir::new()?, free_address()?);
        let settings = nchan_settings(module, workers, address);
        fs::write(folder.path().join("nginx.conf"), settings)?;
        let mut nginx = Command::new(options.text("nginx"));
        nginx
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf"]);
        let mut master = spawn(nginx.args(["-e", "errors.log"]))?;
        let status = wait_for(&mut master, "nginx", || {
            let mut connection = http::Connection::open(address)?;
            connection.send(&http::get("/status"))?;
            connection.receive()
        })?;
        let mut lines = status.body.lines();
        let version = lines.find_map(|line| line.strip_prefix("nchan version: "));
        Ok(Nchan {
            master,
            name,
            address,
            version: version.unwrap_or("unknown").to_owned(),
            _folder: folder,
        })
    }

    /// The master and its workers.
    pub fn pids(&self) -> Vec<u32> {
        let master = self.master.0.id();
        let mut pids = accounting::children(master);
        pids.push(master);
        pids
    }
}

impl Drop for Nchan {
    /// Workers outlive a master that is killed, so it is asked to end.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.master.0), Signal::TERM);
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline && matches!(self.master.0.try_wait(), Ok(None)) {
            std::thread::sleep(PAUSE);
        }
    }
}

/// All that costs and is not asked for is off: the log, kept messages, the end of a connection after so many requests.
fn nchan_settings(module: &str, workers: &str, address: SocketAddr) -> String {
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {name};\n"))
        .concat();
    format!(
        "daemon off;
worker_processes {workers};
pid nginx.pid;
load_module {module};
events {{ worker_connections 16384; }}
http {{
{folders}    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    nchan_shared_memory_size 256M;
    server {{
        listen {address} backlog=4096;
        location = /ws {{ nchan_subscriber websocket; nchan_channel_id $arg_user; }}
        location = /pub {{
            nchan_publisher http;
            nchan_channel_id $arg_user;
            nchan_store_messages off;
        }}
        location = /status {{ nchan_stub_status; }}
    }}
}}
"
    )
}

/// A NATS server: WebSockets of receivers, NATS over TCP for publishers.
pub struct Nats {
    server: Running,
    pub clients: SocketAddr,
    pub senders: SocketAddr,
    _folder: TempDir,
}

impl Nats {
    pub fn version(options: &Options) -> io::Result<String> {
        let program = options.text("nats-server");
        let output = match Command::new(program).arg("--version").output() {
            Err(error) if is_absent(&error) => return Err(absent(program)),
            output => output?,
        };
        Ok(String::from_utf8_lossy(&output.stdout)
            .trim()
            .trim_start_matches("nats-server: v")
            .to_owned())
    }

    pub fn start(options: &Options) -> io::Result<Nats> {
        Nats::start_with(options, "alone", "")
    }

    /// Two servers that have found each other.
    pub fn pair(options: &Options) -> io::Result<[Nats; 2]> {
        let (a, b) = (free_address()?, free_address()?);
        let cluster = |own: SocketAddr, other: SocketAddr| {
            format!("cluster {{ name: bench, listen: \"{own}\", routes: [\"nats://{other}\"] }}\n")
        };
        let pair = [
            Nats::start_with(options, "a", &cluster(a, b))?,
            Nats::start_with(options, "b", &cluster(b, a))?,
        ];
        wait_for_route(pair[1].senders, pair[0].senders)?;
        Ok(pair)
    }

    pub fn pid(&self) -> u32 {
        self.server.0.id()
    }

    fn start_with(options: &Options, name: &str, cluster: &str) -> io::Result<Nats> {
        let (folder, senders, clients) = (TempDir::new()?, free_address()?, free_address()?);
        let file = folder.path().join("nats.conf");
        let settings = format!(
            "server_name: {name}\nlisten: \"{senders}\"\n\
             websocket {{ listen: \"{clients}\", no_tls: true }}\n{cluster}"
        );
        fs::write(&file, settings)?;
        let mut command = Command::new(options.text("nats-server"));
        let mut server = spawn(command.arg("-c").arg(&file))?;
        for address in [senders, clients] {
            wait_for(&mut server, "nats-server", || TcpStream::connect(address))?;
        }
        Ok(Nats {
            server,
            clients,
            senders,
            _folder: folder,
        })
    }
}

/// Publishes at one server until a subscriber of the other hears it.
fn wait_for_route(publisher: SocketAddr, subscriber: SocketAddr) -> io::Result<()> {
    let mut receiver = TcpStream::connect(subscriber)?;
    receiver.set_read_timeout(Some(PAUSE))?;
    receiver.write_all(&nats::subscribe("probe"))?;
    let mut sender = TcpStream::connect(publisher)?;
    sender.write_all(nats::CONNECT.as_bytes())?;
    let deadline = Instant::now() + START_LIMIT;
    let (mut heard, mut buffer) = (Vec::new(), [0; 4_096]);
    while !String::from_utf8_lossy(&heard).contains("MSG probe") {
        if Instant::now() > deadline {
            return Err(io::Error::other("no route between the two NATS servers"));
        }
        sender.write_all(b"PUB probe 0\r\n\r\n")?;
        match receiver.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => heard.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
