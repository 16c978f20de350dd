//! A real redis-server for a test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, eventually, free_port};

/// A redis-server process without persistence. Killed when dropped.
pub struct Redis {
    child: Child,
    port: u16,
    arguments: Vec<String>,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments, such as `["--requirepass", "secret"]`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        // Between choosing a free port and taking it, somebody else may have.
        for _ in 0..10 {
            let port = free_port();
            if let Some(child) = spawn_redis(port, &arguments) {
                return Self {
                    child,
                    port,
                    arguments,
                };
            }
        }
        panic!("redis-server does not start; is it installed? `make setup` does that");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Redis counts a node as a listener of its channel, dead or alive.
    pub fn assert_still_counts(&self, node: &str) {
        let count = self.cli(&["PUBSUB", "NUMSUB", &format!("pn:n:{{{node}}}")]);
        assert!(count.ends_with('1'), "Redis still counts it: {count}");
    }

    /// With TLS on this port, beside the plain one. `path` leads to the certificates.
    pub fn start_with_tls(port: &str, path: impl Fn(&str) -> String) -> Self {
        Self::start_with(&[
            "--tls-port",
            port,
            "--tls-cert-file",
            &path("redis.crt"),
            "--tls-key-file",
            &path("redis.key"),
            "--tls-ca-cert-file",
            &path("ca.crt"),
            "--tls-auth-clients",
            "no",
        ])
    }

    /// Waits until Redis knows that nobody listens on a node's channel. For a moment after the
    /// death of a process it still counts it as a receiver.
    pub async fn until_nobody_listens(&self, node: &str) {
        let channel = format!("pn:n:{{{node}}}");
        eventually(async || {
            let said = self.cli(&["PUBSUB", "NUMSUB", &channel]);
            match said.lines().last() {
                Some("0") => Ok(()),
                _ => Err(said),
            }
        })
        .await;
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it runs no more.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let start = Instant::now();
        loop {
            if let Some(child) = spawn_redis(self.port, &self.arguments) {
                self.child = child;
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "redis-server does not come back"
            );
        }
    }

    /// Runs redis-cli with these arguments; answers its output, trimmed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn_redis(port: u16, arguments: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed; `make setup` installs it");
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Ok(Some(_)) = child.try_wait() {
            return None;
        }
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
