//! Rolling restarts behind nginx and HAProxy with their usual checks: senders see no error, and
//! clients are away only for a moment. Prints the figures of docs/operations.md.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::{Node, Redis, eventually, free_port, http, node_with};

const CLIENTS: usize = 40;
const SENDERS: usize = 8;
/// Between two pushes of one sender: 200 pushes a second together.
const PAUSE: Duration = Duration::from_millis(40);
/// No test fails because a machine is slow. The figure to reach is 1.5 s.
const LIMIT: Duration = Duration::from_secs(15);

/// A load balancer in front of two nodes. Ends when dropped.
struct Balancer {
    child: Child,
    address: SocketAddr,
    /// Where it says which nodes it uses, if it checks them by itself.
    stats: Option<String>,
    _folder: tempfile::TempDir,
}

/// Ports of one node.
#[derive(Clone, Copy)]
struct Ports {
    clients: u16,
    admin: u16,
}

impl Balancer {
    fn nginx(nodes: &[Ports]) -> Self {
        let nodes: Vec<u16> = nodes.iter().map(|node| node.clients).collect();
        let list = |options: &str| -> String {
            let server = |port: &u16| format!("server 127.0.0.1:{port} {options};\n");
            nodes.iter().map(server).collect()
        };
        let (sockets, requests) = (list("max_fails=0"), list("max_fails=1 fail_timeout=5s"));
        Self::start("nginx", &["-c"], |port, path| {
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|kind| format!("{kind}_temp_path {path}/{kind};"))
                .collect();
            // As deploy/nginx.conf has it.
            format!(
                "daemon off; pid {path}/nginx.pid; error_log {path}/error.log; worker_processes 1;
                events {{ worker_connections 1024; }}
                http {{ access_log off; {temporary}
                    upstream sockets {{ zone sockets 64k; least_conn; {sockets} }}
                    upstream requests {{ zone requests 64k; {requests} keepalive 32; }}
                    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
                    server {{
                        listen 127.0.0.1:{port};
                        proxy_http_version 1.1;
                        proxy_set_header Host $http_host;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header Connection $connection_upgrade;
                        proxy_connect_timeout 1s;
                        proxy_next_upstream error timeout http_503;
                        proxy_next_upstream_timeout 5s;
                        location /ws {{ proxy_buffering off; proxy_pass http://sockets; }}
                        location / {{ proxy_pass http://requests; }}
                    }}
                }}"
            )
        })
    }

    fn haproxy(nodes: &[Ports]) -> Self {
        let server = |(number, node): (usize, &Ports)| {
            let Ports { clients, admin } = node;
            format!("server n{number} 127.0.0.1:{clients} check port {admin}\n")
        };
        let servers: String = nodes.iter().enumerate().map(server).collect();
        let stats = free_port();
        let mut balancer = Self::start("haproxy", &["-db", "-f"], |port, _| {
            // `check` without more: each 2 s, down after three failures, up after two successes.
            format!(
                "global\n maxconn 1000\n\
                defaults\n mode http\n timeout connect 1s\n timeout client 60s\n \
                timeout server 60s\n timeout tunnel 60s\n option redispatch 1\n retries 3\n\
                frontend all\n bind 127.0.0.1:{port}\n default_backend nodes\n\
                frontend stats\n bind 127.0.0.1:{stats}\n stats enable\n stats uri /\n\
                backend nodes\n balance leastconn\n option httpchk GET /readyz\n{servers}"
            )
        });
        balancer.stats = Some(format!("http://127.0.0.1:{stats}/;csv"));
        balancer
    }

    fn start(program: &str, arguments: &[&str], config: impl Fn(u16, &str) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let file = folder.path().join("config");
        std::fs::write(&file, config(port, &folder.path().display().to_string())).expect("a file");
        let child = start_program(program, arguments, folder.path(), &file);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            child,
            address,
            stats: None,
            _folder: folder,
        }
    }

    /// Waits until it uses all nodes again, as whoever restarts them would.
    async fn until_all_are_used(&self) {
        let Some(stats) = &self.stats else { return };
        eventually(async || {
            let answer = http().get(stats).send().await;
            let table = answer.map_err(|error| error.to_string())?.text().await;
            let table = table.expect("text");
            let servers = table.lines().filter(|line| line.starts_with("nodes,n"));
            let up = servers.filter(|line| line.contains(",UP,")).count();
            (up == 2).then_some(()).ok_or(table)
        })
        .await;
    }
}

fn start_program(program: &str, arguments: &[&str], folder: &Path, file: &Path) -> Child {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    Command::new(program)
        .env("PATH", path)
        .args(arguments)
        .arg(file)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the balancer is installed; `make setup` installs it")
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // The master ends its workers on this; a kill would leave them.
        crate::common::send_signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct World {
    stop: AtomicBool,
    connected: AtomicUsize,
    sent: AtomicUsize,
    errors: Mutex<Vec<String>>,
    /// How long clients were away, each time.
    gaps: Mutex<Vec<Duration>>,
}

/// A client that comes back when it is told to.
async fn client(world: Arc<World>, balancer: SocketAddr, number: usize) {
    let mut away: Option<Instant> = None;
    while !world.stop.load(Ordering::Relaxed) {
        let url = format!("ws://{balancer}/ws?user=u{number}");
        let mut request = url.into_client_request().expect("a URL");
        let protocol = "pushnode.v1".parse().expect("a header");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        let mut retry = Duration::from_millis(100);
        if let Ok((mut socket, _)) = tokio_tungstenite::connect_async(request).await {
            while let Some(Ok(message)) = socket.next().await {
                let Message::Text(text) = message else {
                    continue;
                };
                let object: Value = serde_json::from_str(&text).expect("JSON");
                match object["type"].as_str() {
                    Some("ready") => {
                        world.connected.fetch_add(1, Ordering::Relaxed);
                        let gap = away.take().map(|since| since.elapsed());
                        world.gaps.lock().extend(gap);
                    }
                    Some("bye") => {
                        away = Some(Instant::now());
                        retry = Duration::from_millis(object["retry_ms"].as_u64().expect("one"));
                    }
                    _ => {}
                }
            }
            away.get_or_insert_with(Instant::now);
        }
        tokio::time::sleep(retry).await;
    }
}

async fn sender(world: Arc<World>, balancer: SocketAddr) {
    let http = http();
    let mut ticks = tokio::time::interval(PAUSE);
    while !world.stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let user = fastrand::usize(..CLIENTS);
        let body = json!({"to": {"user": format!("u{user}")}, "data": 1});
        let url = format!("http://{balancer}/v1/push");
        let error = match http.post(url).json(&body).send().await {
            Ok(answer) if answer.status() == 200 => None,
            Ok(answer) => Some(format!("{}", answer.status())),
            Err(error) => Some(format!("{error:?}")),
        };
        world.sent.fetch_add(1, Ordering::Relaxed);
        world.errors.lock().extend(error);
    }
}

fn start(redis: &Redis, name: &str, ports: Ports) -> Node {
    let listen = format!("127.0.0.1:{}", ports.clients);
    let admin = format!("127.0.0.1:{}", ports.admin);
    let settings = [
        ("PUSH_LISTEN", &*listen),
        ("PUSH_ADMIN_LISTEN", &*admin),
        ("PUSH_PRESTOP_SECONDS", ""),
        ("PUSH_DRAIN_SECONDS", "4"),
        ("PUSH_LOG", "info"),
    ];
    node_with(redis, name, &settings)
}

async fn restart_all(name: &str, balancer: impl Fn(&[Ports]) -> Balancer) {
    let redis = Redis::start();
    let names = ["a", "b"];
    let ports = names.map(|_| Ports {
        clients: free_port(),
        admin: free_port(),
    });
    let mut nodes: Vec<Node> = (names.iter().zip(ports))
        .map(|(name, ports)| start(&redis, name, ports))
        .collect();
    let balancer = balancer(&ports);
    eventually(async || std::net::TcpStream::connect(balancer.address)).await;
    balancer.until_all_are_used().await;
    let world = Arc::new(World::default());
    let address = balancer.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(world.clone(), address, number)))
        .collect();
    eventually(async || match world.connected.load(Ordering::Relaxed) {
        CLIENTS => Ok(()),
        some => Err(some),
    })
    .await;
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| tokio::spawn(sender(world.clone(), address)))
        .collect();
    for place in 0..2 {
        nodes[place].signal("TERM");
        while nodes[place].ended().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(nodes[place].wait_exit().success(), "{}", nodes[place].log());
        nodes[place] = start(&redis, names[place], ports[place]);
        balancer.until_all_are_used().await;
    }
    // Whoever was sent away is back.
    eventually(async || {
        let (back, all) = (
            world.gaps.lock().len(),
            world.connected.load(Ordering::Relaxed),
        );
        (back + CLIENTS == all && back >= CLIENTS / 2)
            .then_some(())
            .ok_or((back, all))
    })
    .await;
    world.stop.store(true, Ordering::Relaxed);
    join_all(senders).await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    let mut gaps = world.gaps.lock().clone();
    gaps.sort();
    let at = |share: usize| gaps[(gaps.len() * share / 100).min(gaps.len() - 1)];
    let errors = world.errors.lock();
    println!(
        "{name}: {} pushes, {} errors; {} reconnects, away for p50 {:.2?}, p99 {:.2?}, longest {:.2?}",
        world.sent.load(Ordering::Relaxed),
        errors.len(),
        gaps.len(),
        at(50),
        at(99),
        gaps[gaps.len() - 1]
    );
    assert_eq!(*errors, Vec::<String>::new(), "what senders saw");
    assert!(at(99) < LIMIT, "clients were away for {:?}", at(99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_see_no_error_while_nodes_restart_behind_nginx() {
    restart_all("nginx", Balancer::nginx).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_see_no_error_while_nodes_restart_behind_haproxy() {
    restart_all("haproxy", Balancer::haproxy).await;
}
