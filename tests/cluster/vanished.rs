//! A host that vanishes: a node in a network namespace of its own, whose cable is pulled. Redis gets
//! neither FIN nor RST, and what it sends there is never acknowledged.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::belief::{status, until_lost};
use crate::common::{Client, Redis, node_command, node_with, start_command};
use crate::raw::Resp;

/// A network namespace with one cable to this one. Gone when dropped.
struct Host {
    name: String,
    cable: String,
    network: String,
}

fn ip(words: &str) -> bool {
    let mut ip = Command::new("ip");
    ip.args(words.split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ip.status().is_ok_and(|status| status.success())
}

impl Host {
    /// `None` where this user may make none.
    fn new() -> Option<Self> {
        let number = std::process::id();
        let host = Self {
            name: format!("pushnode-{number}"),
            cable: format!("pn{number}"),
            network: format!("10.213.{}", number % 250),
        };
        let Self {
            name,
            cable,
            network,
        } = &host;
        let is_made = ip(&format!("netns add {name}"))
            && ip(&format!(
                "link add {cable} type veth peer name eth0 netns {name}"
            ))
            && ip(&format!("addr add {network}.1/24 dev {cable}"))
            && ip(&format!("link set {cable} up"))
            && ip(&format!("-n {name} addr add {network}.2/24 dev eth0"))
            && ip(&format!("-n {name} link set eth0 up"))
            && ip(&format!("-n {name} link set lo up"));
        is_made.then_some(host)
    }

    /// The command, run there.
    fn run(&self, node: &Command) -> Command {
        let mut there = Command::new("ip");
        let envs = node.get_envs();
        there
            .args(["netns", "exec", &self.name])
            .arg(node.get_program())
            .env_clear()
            .envs(envs.filter_map(|(name, value)| Some((name, value?))))
            .env("PATH", std::env::var("PATH").unwrap_or_default());
        there
    }

    fn pull_the_cable(&self) {
        assert!(ip(&format!("link set {} down", self.cable)));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.cable));
        ip(&format!("netns del {}", self.name));
    }
}

#[tokio::test]
async fn a_host_whose_cable_is_pulled_is_dead_within_20_s_and_its_users_may_connect_elsewhere() {
    let Some(host) = Host::new() else {
        eprintln!("left out: this user may make no network namespace");
        return;
    };
    let ours = format!("{}.1", host.network);
    let redis = Redis::start_with(&["--bind", "127.0.0.1", &ours, "--protected-mode", "no"]);
    let limits = [
        ("PUSH_MAX_CONNECTIONS_PER_USER", "1"),
        ("PUSH_SESSION_POLICY", "oldest"),
    ];
    let (url, listen) = (
        format!("redis://{ours}:{}", redis.port()),
        format!("{}.2:0", host.network),
    );
    let there = [
        ("PUSH_REDIS_URL", &*url),
        ("PUSH_NODE_NAME", "a"),
        ("PUSH_LISTEN", &*listen),
        ("PUSH_ADMIN_LISTEN", &*listen),
        ("PUSH_API_LISTEN", "127.0.0.1:0"),
        ("PUSH_ALLOW_INSECURE", "true"),
    ];
    let a = start_command(host.run(&node_command(&[&there[..], &limits].concat())));
    a.wait_ready();
    let b = node_with(&redis, "b", &limits);
    let mut client = Resp::connect(redis.port()).await;
    let _there = Client::v1(&a.ws_url("u7")).await;
    let (_, answer) = status(&b, "u7").await;
    assert_eq!(answer["status"], "routed", "{answer}");

    host.pull_the_cable();
    let vanished = Instant::now();
    // Without this, nothing that Redis sends there would be unacknowledged, and it would close the
    // connection by its keep-alive.
    let (_, answer) = status(&b, "u7").await;
    assert_eq!(
        answer["status"], "routed",
        "Redis still counts it: {answer}"
    );
    until_lost(&mut client, 1).await;
    let dead = vanished.elapsed();
    println!("dead {dead:.1?} after its cable was pulled");
    assert!(dead < Duration::from_secs(60), "{dead:?}");
    redis.assert_still_counts(&a.id);
    let (code, answer) = status(&b, "u7").await;
    assert_eq!(
        (code, &answer["status"]),
        (200, &"offline".into()),
        "{answer}"
    );
    let mut moved = Client::v1(&b.ws_url("u7")).await;
    let (_, answer) = status(&b, "u7").await;
    assert_eq!(answer["status"], "routed", "{answer}");
    assert_eq!(moved.json().await["data"], 1);
}
