//! Several redis-servers that belong together: a master watched by Sentinels, or a cluster.
//!
//! A replica is in sync only some time after its start, and a fault before that tests nothing;
//! so both are back only when every replica has said that its link is up.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Redis, free_port, send_signal};

/// Waits for something about processes.
pub(crate) fn until(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn in_sync(replica: &Redis) -> bool {
    let info = replica.cli(&["INFO", "replication"]);
    info.contains("role:slave") && info.contains("master_link_status:up")
}

/// A Sentinel process. Killed when dropped.
struct Sentinel {
    child: Option<Child>,
    port: u16,
    file: String,
}

impl Sentinel {
    fn start(&mut self) {
        let child = Command::new("redis-server")
            .args([self.file.as_str(), "--sentinel"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("a Sentinel"));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A master, a replica, and three Sentinels that wait one second.
pub(crate) struct Trio {
    /// The first is the master at the start.
    pub(crate) servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
    _folder: tempfile::TempDir,
}

impl Trio {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        let sync = ["--repl-diskless-sync-delay", "0", "--dir", &path];
        let master = Redis::start_with(&sync);
        let port = master.port().to_string();
        let of = [&sync[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = Redis::start_with(&of);
        until("the replica is in sync", || in_sync(&replica));
        let sentinels = (0..3).map(|number| {
            let own = free_port();
            let file = format!("{path}/sentinel-{number}.conf");
            let text = format!(
                "port {own}\nbind 127.0.0.1\ndir {path}\nsentinel monitor mymaster 127.0.0.1 {port} 2\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 6000\n"
            );
            std::fs::write(&file, text).expect("a file");
            let mut sentinel = Sentinel {
                child: None,
                port: own,
                file,
            };
            sentinel.start();
            sentinel
        });
        let trio = Self {
            sentinels: sentinels.collect(),
            servers: vec![master, replica],
            _folder: folder,
        };
        trio.until_watched();
        trio
    }

    fn until_watched(&self) {
        until("each Sentinel knows the replica and the other two", || {
            self.sentinels.iter().all(|sentinel| {
                let told = ask(sentinel.port, &["SENTINEL", "MASTER", "mymaster"]);
                let field = |name: &str| {
                    let mut lines = told.lines();
                    lines.find(|line| *line == name).and(lines.next())
                };
                field("num-slaves") == Some("1") && field("num-other-sentinels") == Some("2")
            })
        });
    }

    pub(crate) fn url(&self) -> String {
        let host = |port: &u16| format!("127.0.0.1:{port}");
        let hosts: Vec<String> = self.sentinel_ports().iter().map(host).collect();
        format!("redis-sentinel://{}/0?master=mymaster", hosts.join(","))
    }

    /// Where the Sentinels listen.
    pub(crate) fn sentinel_ports(&self) -> Vec<u16> {
        self.sentinels
            .iter()
            .map(|sentinel| sentinel.port)
            .collect()
    }

    /// The port of the master, by the first Sentinel's word.
    pub(crate) fn master(&self) -> u16 {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
        let told = ask(self.sentinels[0].port, &question);
        told.lines()
            .nth(1)
            .map_or(0, |port| port.parse().expect("a port"))
    }

    /// Has the replica made the master while both are well.
    pub(crate) fn fail_over(&self) {
        until("the Sentinels agree to a fail-over", || {
            ask(
                self.sentinels[0].port,
                &["SENTINEL", "FAILOVER", "mymaster"],
            ) == "OK"
        });
    }

    pub(crate) fn kill_sentinels(&mut self) {
        self.sentinels.iter_mut().for_each(Sentinel::kill);
    }

    pub(crate) fn start_sentinels(&mut self) {
        self.sentinels.iter_mut().for_each(Sentinel::start);
        self.until_watched();
    }
}

fn ask(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .output();
    let output = output.expect("redis-cli runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A Redis Cluster of three masters, and perhaps a replica for each.
pub(crate) struct RedisCluster {
    pub(crate) servers: Vec<Redis>,
    _folder: tempfile::TempDir,
}

impl RedisCluster {
    /// `replicas` for each master: 0 or 1. A silent node counts as failed after 1.5 s.
    pub(crate) fn start(replicas: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        let servers = (0..3 * (1 + replicas)).map(|number| {
            // The port is free now; the default of the cluster bus, 10,000 higher, may be none.
            let bus = free_port().to_string();
            let file = format!("nodes-{number}.conf");
            Redis::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-config-file",
                &file,
                "--cluster-node-timeout",
                "1500",
                "--cluster-port",
                &bus,
                "--repl-diskless-sync-delay",
                "0",
                "--dir",
                &path,
            ])
        });
        let cluster = Self {
            servers: servers.collect(),
            _folder: folder,
        };
        let hosts = cluster.hosts();
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&hosts)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output();
        let output = output.expect("redis-cli runs");
        let words = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "no cluster: {words}");
        until("the cluster is whole", || {
            cluster.servers.iter().all(|server| {
                let info = server.cli(&["CLUSTER", "INFO"]);
                let role = server.cli(&["ROLE"]);
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{}", cluster.servers.len()))
                    && (role.starts_with("master") || in_sync(server))
            }) && cluster.masters().len() == 3
        });
        cluster
    }

    /// Without replicas. It bears with a silent master for longer than a test lasts.
    pub(crate) fn patient() -> Self {
        let cluster = Self::start(0);
        for server in &cluster.servers {
            let slow = ["CONFIG", "SET", "cluster-node-timeout", "300000"];
            assert_eq!(server.cli(&slow), "OK");
        }
        cluster
    }

    fn hosts(&self) -> Vec<String> {
        let host = |server: &Redis| format!("127.0.0.1:{}", server.port());
        self.servers.iter().map(host).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://{}", self.hosts()[..2].join(","))
    }

    /// Those that say that they are masters.
    pub(crate) fn masters(&self) -> Vec<&Redis> {
        let is_master = |server: &&Redis| server.cli(&["ROLE"]).starts_with("master");
        self.servers.iter().filter(is_master).collect()
    }

    /// The slot of a key and the index of the server that has it, as `witness` sees it.
    pub(crate) fn owner(&self, witness: usize, key: &str) -> (String, usize) {
        let slot = self.servers[witness].cli(&["CLUSTER", "KEYSLOT", key]);
        let number: u16 = slot.parse().expect("a slot");
        let nodes = self.servers[witness].cli(&["CLUSTER", "NODES"]);
        let port = nodes.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let has = words[8..].iter().any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if first <= number && number <= last)
            });
            let port = words[1].split(['@', ':']).nth(1)?;
            has.then(|| port.parse::<u16>().expect("a port"))
        });
        let port = port.expect("an owner");
        let index = self.servers.iter().position(|server| server.port() == port);
        (slot, index.expect("one of ours"))
    }

    pub(crate) fn id(&self, index: usize) -> String {
        self.servers[index].cli(&["CLUSTER", "MYID"])
    }

    /// A replica of this master.
    pub(crate) fn replica_of(&self, master: usize) -> usize {
        let replicas = self.servers[master].cli(&["CLUSTER", "REPLICAS", &self.id(master)]);
        let is_named = |server: &Redis| replicas.contains(&format!(":{}@", server.port()));
        let replica = self.servers.iter().position(is_named);
        replica.expect("a replica")
    }

    /// Another master than this one.
    pub(crate) fn other(&self, index: usize) -> usize {
        let others = 0..self.servers.len();
        let mut others = others.filter(|&other| other != index);
        let other = others.find(|&other| self.servers[other].cli(&["ROLE"]).starts_with("master"));
        other.expect("another master")
    }
}

/// Freezes a server, and lets it go on when dropped.
pub(crate) struct Frozen(u32);

impl Frozen {
    pub(crate) fn new(server: &Redis) -> Self {
        send_signal(server.pid(), "STOP");
        Self(server.pid())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        send_signal(self.0, "CONT");
    }
}
