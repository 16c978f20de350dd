//! Redis, Sentinels and nodes of a cluster under a name with several addresses, one of which is
//! silent.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::common::{
    Client, Node, Redis, eventually, free_port, http, node_command, post, start_command,
};
use crate::flavours::certificates;
use crate::redis_groups::Trio;

/// Both addresses of the name. Which of them comes first is up to the system.
const ADDRESSES: [[u8; 4]; 2] = [[127, 0, 0, 1], [127, 0, 0, 2]];

/// An address that takes no connection and refuses none: as many wait for its listener as may.
struct Silent(Vec<Socket>);

impl Silent {
    fn at(address: SocketAddr) -> Option<Self> {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.set_reuse_address(true).expect("an option");
        listener.bind(&address.into()).ok()?;
        listener.listen(0).expect("a listener");
        let mut sockets = vec![listener];
        for _ in 0..3 {
            let waiting = socket();
            waiting.set_nonblocking(true).expect("an option");
            // Under way, which counts as an error.
            let _ = waiting.connect(&address.into());
            sockets.push(waiting);
        }
        Some(Self(sockets))
    }
}

/// An address that leads to Redis. Its connections end with it.
struct Relay(JoinHandle<()>);

impl Relay {
    async fn at(address: SocketAddr, redis: u16) -> Self {
        let listener = eventually(async || TcpListener::bind(address).await).await;
        Self(tokio::spawn(async move {
            let mut relays = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                relays.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", redis)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }))
    }

    async fn end(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

/// A command that runs another one with names of its own; `None` where that needs a privilege.
fn with_names(hosts: &std::path::Path, node: &Command) -> Option<Command> {
    let mut named = Command::new("unshare");
    named.args([
        "-rm",
        "sh",
        "-c",
        r#"mount --bind "$0" /etc/hosts && exec "$@""#,
    ]);
    named.arg(hosts);
    let mut trial = Command::new("unshare");
    trial.args(named.get_args()).arg("true");
    let tried = trial.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return None;
    }
    let envs = node.get_envs();
    named
        .arg(node.get_program())
        .env_clear()
        .envs(envs.filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", std::env::var("PATH").unwrap_or_default());
    Some(named)
}

async fn until_cut_off(node: &Node) {
    eventually(async || {
        let answer = http().get(node.admin_url("/readyz")).send().await;
        match answer.expect("an answer").status().as_u16() {
            503 => Ok(()),
            status => Err(status),
        }
    })
    .await;
}

async fn is_served(node: &Node) {
    let mut client = Client::plain(&node.ws_url("ann")).await;
    let body = json!({"to": {"user": "ann"}, "data": 1, "keep": true});
    let (status, answer) = post(&node.push_url, &body).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(client.json().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_address_of_the_name_does_not_hide_the_other() {
    let redis = Redis::start();
    // A port that is free at both addresses.
    let (silent, relayed) = eventually(async || {
        let port = crate::common::free_port();
        let [first, second] = ADDRESSES.map(|address| SocketAddr::from((address, port)));
        Silent::at(first).map(|silent| (silent, second)).ok_or(port)
    })
    .await;
    let first = SocketAddr::from((ADDRESSES[0], relayed.port()));
    let relay = Relay::at(relayed, redis.port()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    let names = ADDRESSES.map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d} redis.test\n"));
    std::fs::write(&hosts, names.concat()).expect("written");
    let url = format!("redis://redis.test:{}", relayed.port());
    let command = node_command(&[("PUSH_REDIS_URL", &url), ("PUSH_NODE_NAME", "a")]);
    let Some(command) = with_names(&hosts, &command) else {
        eprintln!("left out: this user may not unshare a mount namespace");
        return;
    };
    let node = start_command(command);
    node.wait_ready();
    is_served(&node).await;

    // Now the other one falls silent, in the middle of everything.
    drop(silent);
    relay.end().await;
    let silent = eventually(async || Silent::at(relayed).ok_or(relayed)).await;
    until_cut_off(&node).await;
    let relay = Relay::at(first, redis.port()).await;
    node.wait_ready();
    is_served(&node).await;
    drop(silent.0);
    relay.end().await;
}

/// A name whose first address is silent while the second leads to a server.
struct HalfSilent {
    port: u16,
    hosts: std::path::PathBuf,
    _silent: Silent,
    _relay: Relay,
    _folder: tempfile::TempDir,
}

impl HalfSilent {
    /// At a port that is free at both addresses.
    async fn leading_to(server: u16, port: Option<u16>) -> Self {
        let (silent, port) = eventually(async || {
            let port = port.unwrap_or_else(free_port);
            let silent = Silent::at(SocketAddr::from((ADDRESSES[0], port)));
            silent.map(|silent| (silent, port)).ok_or(port)
        })
        .await;
        let relay = Relay::at(SocketAddr::from((ADDRESSES[1], port)), server).await;
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = folder.path().join("hosts");
        let names =
            ADDRESSES.map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d} redis.test other.test\n"));
        std::fs::write(&hosts, names.concat()).expect("written");
        Self {
            port,
            hosts,
            _silent: silent,
            _relay: relay,
            _folder: folder,
        }
    }

    /// A node for which the name is known; `None` where that needs a privilege.
    fn node(&self, url: &str, settings: &[(&str, &str)]) -> Option<Node> {
        let own = [("PUSH_REDIS_URL", url), ("PUSH_NODE_NAME", "a")];
        let command = node_command(&[&own, settings].concat());
        let command = with_names(&self.hosts, &command);
        if command.is_none() {
            eprintln!("left out: this user may not unshare a mount namespace");
        }
        command.map(start_command)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_address_of_a_sentinels_name_does_not_hide_the_other() {
    let trio = Trio::start();
    let name = HalfSilent::leading_to(trio.sentinel_ports()[0], None).await;
    let url = format!("redis-sentinel://redis.test:{}?master=mymaster", name.port);
    let Some(node) = name.node(&url, &[]) else {
        return;
    };
    node.wait_ready();
    is_served(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_address_of_a_cluster_nodes_name_does_not_hide_the_other() {
    let (bus, announced) = (free_port().to_string(), free_port());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let redis = Redis::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--dir",
        path,
        "--cluster-announce-hostname",
        "redis.test",
        "--cluster-announce-port",
        &announced.to_string(),
    ]);
    assert_eq!(redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    // The seed and the node that it names: both by the name.
    let name = HalfSilent::leading_to(redis.port(), Some(announced)).await;
    let url = format!("redis-cluster://redis.test:{}", name.port);
    let Some(node) = name.node(&url, &[]) else {
        return;
    };
    node.wait_ready();
    is_served(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_certificate_is_for_the_name_whichever_address_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let tls_port = free_port();
    let _redis = Redis::start_with_tls(&tls_port.to_string(), path);
    let name = HalfSilent::leading_to(tls_port, None).await;
    let authority = path("ca.crt");
    let trusts = [("SSL_CERT_FILE", &*authority)];
    let url = format!("rediss://redis.test:{}", name.port);
    let Some(node) = name.node(&url, &trusts) else {
        return;
    };
    node.wait_ready();
    is_served(&node).await;
    drop(node);
    // The same server and address by a name that its certificate lacks.
    let url = format!("rediss://other.test:{}", name.port);
    let stranger = name.node(&url, &trusts).expect("as before");
    eventually(async || {
        let answer = http().get(stranger.admin_url("/readyz")).send().await;
        let body: serde_json::Value = answer.expect("an answer").json().await.expect("JSON");
        match &body["reason"] {
            reason if reason == "the certificate of Redis is refused" => Ok(()),
            _ => Err(body),
        }
    })
    .await;
}
