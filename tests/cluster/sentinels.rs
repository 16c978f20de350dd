//! What a node takes from a master that Sentinels are about to replace. The one Sentinel of these
//! tests says what it is told to say, so that each moment of a fail-over can be held.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Node, Redis, eventually, http, node, post};
use crate::redis_groups::{Frozen, until};

/// So many answers come until a node is connected and knows whether it is a master.
const FIRST: usize = 4;

/// What the Sentinel says: the master's port, the epoch, and what else of it.
type Word = (u16, u32, &'static str);

const WELL: &str = "master";
const DOWN: &str = "s_down,o_down,master,disconnected";
const REPLACED: &str = "master,failover_in_progress";

/// A Sentinel that says what it is told to say.
struct Sentinel {
    port: u16,
    word: tokio::sync::watch::Sender<Word>,
    /// How often it was asked.
    asked: Arc<AtomicU32>,
}

impl Sentinel {
    async fn naming(master: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (word, _) = tokio::sync::watch::channel((master, 1, WELL));
        let sentinel = Self {
            port: listener.local_addr().expect("an address").port(),
            word: word.clone(),
            asked: Arc::default(),
        };
        let asked = sentinel.asked.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, word.clone(), asked.clone()));
            }
        });
        sentinel
    }

    fn say(&self, word: Word) {
        self.word.send_replace(word);
    }

    fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/0?master=m", self.port)
    }

    /// Until it was asked so often once more.
    async fn asked(&self, times: u32) {
        let before = self.asked.load(Ordering::SeqCst);
        eventually(async || match self.asked.load(Ordering::SeqCst) - before {
            more if more >= times => Ok(()),
            more => Err(more),
        })
        .await;
    }
}

async fn serve(
    socket: TcpStream,
    word: tokio::sync::watch::Sender<Word>,
    asked: Arc<AtomicU32>,
) -> Option<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let words = command(&mut socket).await?;
        let (port, epoch, flags) = *word.borrow();
        let answer = match &words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
            ["HELLO", ..] => "%1\r\n+server\r\n+redis\r\n".to_owned(),
            ["CLIENT", "ID"] => ":1\r\n".to_owned(),
            ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => {
                asked.fetch_add(1, Ordering::SeqCst);
                format!("*2\r\n+127.0.0.1\r\n+{port}\r\n")
            }
            ["SENTINEL", "MASTER", _] => {
                let fields = [
                    ("ip", "127.0.0.1".to_owned()),
                    ("port", port.to_string()),
                    ("flags", flags.to_owned()),
                    ("config-epoch", epoch.to_string()),
                ];
                let fields = fields.map(|(name, value)| format!("+{name}\r\n+{value}\r\n"));
                format!("%4\r\n{}", fields.concat())
            }
            _ => "+OK\r\n".to_owned(),
        };
        socket.get_mut().write_all(answer.as_bytes()).await.ok()?;
    }
}

/// The next command: an array, or one line.
async fn command(socket: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let line = line(socket).await?;
    let Some(count) = line.strip_prefix('*') else {
        return Some(line.split(' ').map(str::to_ascii_uppercase).collect());
    };
    let mut words = Vec::new();
    for _ in 0..count.parse().ok()? {
        let length: usize = self::line(socket).await?.strip_prefix('$')?.parse().ok()?;
        let mut word = vec![0; length + 2];
        socket.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(String::from_utf8(word).ok()?.to_ascii_uppercase());
    }
    Some(words)
}

async fn line(socket: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let count = socket.read_line(&mut line).await.ok()?;
    (count > 0).then(|| line.trim_end().to_owned())
}

/// A way to a Redis on which each of the first answers of a connection takes so long.
async fn slow_way(port: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut redis = TcpStream::connect(("127.0.0.1", port)).await?;
                let (mut from_node, mut to_node) = socket.split();
                let (mut from_redis, mut to_redis) = redis.split();
                let back = async {
                    let mut buffer = vec![0; 1 << 16];
                    for _ in 0..FIRST {
                        let count = from_redis.read(&mut buffer).await?;
                        tokio::time::sleep(delay).await;
                        to_node.write_all(&buffer[..count]).await?;
                    }
                    tokio::io::copy(&mut from_redis, &mut to_node).await
                };
                tokio::select! {
                    done = back => done.map(drop),
                    done = tokio::io::copy(&mut from_node, &mut to_redis) => done.map(drop),
                }
            });
        }
    });
    own
}

/// A master and its replica.
fn pair() -> (Redis, Redis) {
    let direct = [
        "--repl-diskless-load",
        "swapdb",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let (master, replica) = (Redis::start(), Redis::start_with(&direct));
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    until("the replica is in sync", || {
        replica
            .cli(&["INFO", "replication"])
            .contains("master_link_status:up")
    });
    (master, replica)
}

async fn node_at(sentinel: &Sentinel) -> Node {
    let url = sentinel.url();
    let start = move || node(&[("PUSH_REDIS_URL", &*url), ("PUSH_NODE_NAME", "a")]);
    tokio::task::spawn_blocking(start).await.expect("a node")
}

async fn keep(push_url: String, id: &str) -> Value {
    let body = json!({"to": {"user": "42"}, "keep": true, "id": id, "data": id,
        "timeout_ms": 30_000});
    post(&push_url, &body).await.1
}

/// The clients of a server, apart from the one that asks.
fn clients(redis: &Redis) -> Vec<String> {
    let list = redis.cli(&["CLIENT", "LIST"]);
    let others = list.lines().filter(|line| !line.contains("cmd=client"));
    others
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

/// A master and its replica that have one kept message, a Sentinel that names the master, and a
/// node that asks it.
async fn with_one_kept() -> ((Redis, Redis), Sentinel, Node) {
    let (old, new) = pair();
    let sentinel = Sentinel::naming(old.port()).await;
    let node = node_at(&sentinel).await;
    assert_eq!(keep(node.push_url.clone(), "m1").await["status"], "stored");
    until("the replica has it", || {
        new.cli(&["XLEN", "pn:inbox:{42}"]) == "1"
    });
    ((old, new), sentinel, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_back_empty_is_not_used_before_its_successor_is_named() {
    let ((mut old, new), sentinel, node) = with_one_kept().await;

    sentinel.say((old.port(), 1, DOWN));
    old.kill();
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    old.restart();
    let push = tokio::spawn(keep(node.push_url.clone(), "m2"));
    // The node has come again and again, or has written there.
    let mut seen = HashSet::new();
    eventually(async || {
        seen.extend(clients(&old));
        let is_used = old.cli(&["DBSIZE"]) != "0";
        (is_used || seen.len() > 3).then_some(()).ok_or(seen.len())
    })
    .await;
    assert_eq!(old.cli(&["DBSIZE"]), "0");
    sentinel.say((new.port(), 2, WELL));
    let answer = push.await.expect("no panic");
    assert_eq!(answer["status"], "stored", "{answer}");
    assert_eq!(new.cli(&["XLEN", "pn:inbox:{42}"]), "2");
    assert_eq!(old.cli(&["DBSIZE"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_master_answers_after_a_silence_counts_only_if_it_is_named_again() {
    let ((old, new), sentinel, node) = with_one_kept().await;
    let frozen = Frozen::new(&old);
    // Each time it asks the master for a sign of life, too.
    sentinel.asked(3).await;
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    sentinel.say((old.port(), 1, DOWN));
    let push = tokio::spawn(keep(node.push_url.clone(), "m2"));
    let ban = tokio::spawn({
        let ban = http().put(node.url("/v1/users/43/ban"));
        ban.json(&json!({"seconds": 3600})).send()
    });
    sentinel.asked(1).await;
    drop(frozen);
    // It is done there, unless that took the node too long.
    let before = sentinel.asked.load(Ordering::SeqCst);
    eventually(async || {
        let is_late = sentinel.asked.load(Ordering::SeqCst) > before + 20;
        let has_it = old.cli(&["XLEN", "pn:inbox:{42}"]) == "2";
        (has_it || is_late).then_some(()).ok_or(())
    })
    .await;
    sentinel.say((new.port(), 2, WELL));
    let answer = push.await.expect("no panic");
    assert_eq!(answer["status"], "stored", "{answer}");
    assert_eq!(new.cli(&["XLEN", "pn:inbox:{42}"]), "2");
    let status = ban.await.expect("no panic").expect("an answer").status();
    let is_there = new.cli(&["EXISTS", "pn:ban:{43}"]) == "1";
    assert!(!status.is_success() || is_there, "{status}");
}

/// As by an operator's `SENTINEL FAILOVER`, or if a master runs again before it is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn during_a_fail_over_what_the_old_master_answers_does_not_count() {
    let ((old, new), sentinel, node) = with_one_kept().await;
    sentinel.say((old.port(), 1, REPLACED));
    sentinel.asked(2).await;
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    let push = tokio::spawn(keep(node.push_url.clone(), "m2"));
    until("the old master has it", || {
        old.cli(&["XLEN", "pn:inbox:{42}"]) == "2"
    });
    sentinel.say((new.port(), 2, WELL));
    let answer = push.await.expect("no panic");
    assert_eq!(answer["status"], "stored", "{answer}");
    assert_eq!(new.cli(&["XLEN", "pn:inbox:{42}"]), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_that_answers_slowly_is_followed() {
    let (old, new) = pair();
    let sentinel = Sentinel::naming(old.port()).await;
    let node = node_at(&sentinel).await;
    // Its answers until it is connected take longer than a Sentinel may.
    let way = slow_way(new.port(), Duration::from_millis(300)).await;
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    sentinel.say((way, 2, WELL));
    eventually(async || {
        let id = format!("m{}", sentinel.asked.load(Ordering::SeqCst));
        let answer = keep(node.push_url.clone(), &id).await;
        let has_it = new.cli(&["EXISTS", "pn:inbox:{42}"]) == "1";
        has_it.then_some(()).ok_or(answer)
    })
    .await;
}
