//! Faults that are not about a process or a way: rows that somebody deletes or Redis evicts,
//! senders that hang up or read nothing, and a push that Redis answers too late.

use std::collections::HashSet;
use std::io::Result;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::access::Access;
use crate::history::{Event, HUNG_UP, Micros, Push, TOPICS, topic};
use crate::publishers::{Draft, Sender, World, parts};
use crate::resp::Resp;
use crate::schedule::PRESTOP;
use crate::stage::{KEPT_BY_RULE, Stage};
use crate::views::View;

/// How long rows that were deleted are looked for: longer than they may be away.
const AWAY: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);
/// Between two senders that come to a node that leaves.
const LATE: Duration = Duration::from_millis(50);
/// The key that makes Redis run out of memory. It has no time to live, so it is not evicted.
const BALLAST: &str = "chaos:ballast";
/// How long a sender that does not read is watched: longer than it may stay.
const WATCH: Duration = Duration::from_secs(30);
/// What its requests hold besides, in bytes.
const FILLER: usize = 4_096;
/// How long messages are erased as soon as they are kept: longer than most clients stay away.
pub(crate) const ERASING: Duration = Duration::from_secs(3);
/// Senders that keep messages meanwhile.
const KEEPERS: usize = 4;
/// Between two looks for such messages.
const SOON: Duration = Duration::from_millis(50);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(8);

impl Stage {
    fn rows_deleted(&self, conns: Vec<String>, topics: Vec<String>, at: Micros) {
        self.recorder
            .write(Event::RowsDeleted { conns, topics, at });
    }

    /// Deletes rows of some users, or single fields of them, and now and then a topic's row. Waits
    /// until all who are still connected are in their rows again, or should be.
    pub(crate) async fn delete_rows(&self, draw: u64) -> Result<()> {
        let mut rng = Rng::with_seed(draw);
        let (mut fields, topics) = self.registry().await?;
        rng.shuffle(&mut fields);
        let mut redis = Resp::connect(self.port).await?;
        let mut conns = Vec::new();
        let at = self.recorder.now();
        for _ in 0..rng.usize(1..=6) {
            let Some(chosen) = fields.pop() else { break };
            let key = format!("pn:user:{{{}}}", chosen.user);
            if rng.bool() {
                redis.call(&["HDEL", &key, &chosen.field]).await?;
            } else {
                redis.call(&["DEL", &key]).await?;
                let others = fields.extract_if(.., |field| field.user == chosen.user);
                conns.extend(others.map(|field| field.device));
            }
            conns.push(chosen.device);
        }
        let mut gone = Vec::new();
        let names: Vec<&String> = topics.keys().collect();
        if let Some(named) = rng.choice(names).filter(|_| rng.u8(..3) == 0)
            && let Some(name) = topic(named)
        {
            redis
                .call(&["DEL", &format!("pn:topic:{{{name}}}")])
                .await?;
            gone.push(named.clone());
        }
        self.rows_deleted(conns.clone(), gone, at);
        self.await_rows(conns).await
    }

    /// Lets Redis run out of memory until it has evicted some of what has a time to live.
    pub(crate) async fn evict(&self, draw: u64) -> Result<()> {
        let mut rng = Rng::with_seed(draw);
        let (fields, topics) = self.registry().await?;
        let conns: Vec<String> = fields.into_iter().map(|field| field.device).collect();
        self.rows_deleted(
            conns.clone(),
            topics.into_keys().collect(),
            self.recorder.now(),
        );
        let mut redis = Resp::connect(self.port).await?;
        let count = |info: &str, name: &str| -> u64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or_default()
        };
        let memory = redis.call(&["INFO", "memory"]).await?;
        let limit = count(memory.text(), "used_memory:") + 1_000_000;
        let set = ["CONFIG", "SET", "maxmemory-policy", "volatile-lru"];
        redis.call(&set).await?;
        redis
            .call(&["CONFIG", "SET", "maxmemory", &limit.to_string()])
            .await?;
        let stats = redis.call(&["INFO", "stats"]).await?;
        let before = count(stats.text(), "evicted_keys:");
        // Rows are looked up all the time, so they are among the last to go.
        let keys = redis.call(&["DBSIZE"]).await?.number() as u64;
        let wanted = before + keys * rng.u64(60..98) / 100;
        let piece = "x".repeat(8_000);
        for _ in 0..1_000 {
            // Refused once nothing is left to evict.
            let taken = redis.call(&["RPUSH", BALLAST, &piece]).await;
            let stats = redis.call(&["INFO", "stats"]).await?;
            if taken.is_err() || count(stats.text(), "evicted_keys:") >= wanted {
                break;
            }
        }
        redis.call(&["CONFIG", "SET", "maxmemory", "0"]).await?;
        redis
            .call(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
            .await?;
        redis.call(&["DEL", BALLAST]).await?;
        self.await_rows(conns).await
    }

    /// Has messages of topics erased as soon as they are kept, for a while and many of them: clients
    /// that leave and come back meanwhile must hear that they missed something. Now and then has a
    /// whole log erased after that.
    pub(crate) async fn erase(&self, node: usize, draw: u64) {
        let address = {
            let slot = self.places[node].lock().await;
            slot.as_ref().map(crate::common::Node::client_address)
        };
        let Some(address) = address else { return };
        let mut rng = Rng::with_seed(draw);
        let log = |named: &str| {
            let name = topic(named).unwrap_or(named);
            format!("http://{address}/v1/topics/{name}/messages")
        };
        let until = Instant::now() + ERASING;
        let world = World {
            users: self.users.clone(),
            views: self.views.clone(),
            redis: self.doors.clone(),
            recorder: self.recorder.clone(),
            rules: true,
        };
        let senders = (0..KEEPERS).map(|i| {
            let sender = Sender::new(world.clone(), format!("e{draw:x}-{i}"), rng.fork());
            sender.publish_to(&KEPT_BY_RULE, until)
        });
        let senders: Vec<_> = senders.collect();
        let erasing =
            KEPT_BY_RULE.map(|named| self.erase_new(named, log(named), rng.fork(), until));
        tokio::join!(join_all(senders), join_all(erasing));
        if rng.u8(..3) == 0 {
            let named = TOPICS[rng.usize(..TOPICS.len())];
            self.erase_at(named, log(named), None).await;
        }
    }

    /// Erases some of the messages that come into a log, until then. Most stay, and what was there
    /// before: a reader whose own message is gone, or a short log, shows by itself that some are.
    async fn erase_new(&self, named: &str, url: String, mut rng: Rng, until: Instant) {
        let mut passed: HashSet<String> = newest(&url).await.iter().map(entry).collect();
        while Instant::now() < until {
            tokio::time::sleep(SOON).await;
            for message in newest(&url).await {
                let entry = entry(&message);
                let one = format!("{url}/{entry}");
                if passed.insert(entry) && rng.u8(..4) == 0 {
                    let id = message["data"]["id"].as_str().map(str::to_owned);
                    self.erase_at(named, one, id).await;
                }
            }
        }
    }

    /// Erases what is at this URL, and notes it.
    async fn erase_at(&self, named: &str, url: String, id: Option<String>) {
        let at = self.recorder.now();
        let answer = crate::common::http().delete(url).timeout(ANSWER).send();
        let is_done = answer.await.is_ok_and(|answer| answer.status() == 200);
        self.recorder.write(Event::Erased {
            topic: named.to_owned(),
            id,
            at,
            until: self.recorder.now(),
            is_done,
        });
    }

    /// Notes when these connections are in their rows again. Those that have closed need not be.
    async fn await_rows(&self, mut conns: Vec<String>) -> Result<()> {
        let start = Instant::now();
        while !conns.is_empty() && start.elapsed() < AWAY {
            tokio::time::sleep(LOOK).await;
            let (fields, _) = self.registry().await?;
            let at = self.recorder.now();
            let history = self.recorder.snapshot();
            let closed = |name: &String| {
                let mut events = history.iter();
                events.any(|event| matches!(event, Event::Close { conn, .. } if conn == name))
            };
            conns.retain(|name| {
                let is_back = fields.iter().any(|field| field.device == *name);
                if is_back {
                    let conn = name.clone();
                    self.recorder.write(Event::RowBack { conn, at });
                }
                !is_back && !closed(name)
            });
        }
        Ok(())
    }

    /// New senders of a node that was told to leave, for less time than it must serve them.
    pub(crate) async fn come_late(&self, node: &str, address: SocketAddr) {
        let start = Instant::now();
        while start.elapsed() < PRESTOP / 2 {
            let at = self.recorder.now();
            let asked = async {
                let mut socket = TcpStream::connect(address).await?;
                let request = format!(
                    "GET /v1/users/late HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
                );
                socket.write_all(request.as_bytes()).await?;
                let mut answer = Vec::new();
                socket.read_to_end(&mut answer).await.map(|_| answer)
            };
            let answer = asked.await.unwrap_or_default();
            self.recorder.write(Event::AskedLate {
                node: node.to_owned(),
                is_answered: answer.starts_with(b"HTTP/1.1 "),
                at,
            });
            tokio::time::sleep(LATE).await;
        }
    }

    fn view(&self, node: usize) -> Option<View> {
        let name = format!("n{node}.");
        let mut views = self.views.all().into_iter();
        views.find(|view| view.id.starts_with(&name))
    }

    /// To a user or a topic.
    fn draft(&self, id: String, seq: u64, rng: &mut Rng) -> Draft {
        let to = match rng.u8(..4) {
            0 => TOPICS[rng.usize(..TOPICS.len())].to_owned(),
            _ => self.users[rng.usize(..self.users.len())].clone(),
        };
        Draft {
            id,
            seq,
            to: vec![to],
            padding: rng.usize(..2_000),
            anonymous: rng.u8(..4) == 0,
            kept: rng.bool(),
            kept_by_rule: false,
        }
    }

    /// Senders that do not wait: some close in the middle of their request, some after it, some only
    /// their half.
    pub(crate) async fn hang_up(&self, node: usize, draw: u64) -> Option<String> {
        let view = self.view(node)?;
        let mut rng = Rng::with_seed(draw);
        let senders = (0..rng.u64(10..30)).map(|seq| {
            let mut own = rng.fork();
            let mut draft = self.draft(format!("x{draw:x}-{seq}"), seq, &mut own);
            // Without an id, an answer that does not come would be of unknown outcome.
            draft.anonymous &= !draft.kept;
            self.hang_up_once(&view, draft, own)
        });
        join_all(senders).await;
        Some(view.id)
    }

    async fn hang_up_once(&self, view: &View, draft: Draft, mut rng: Rng) -> Option<()> {
        tokio::time::sleep(Duration::from_millis(rng.u64(..500))).await;
        let body = draft.envelope(json!({})).to_string();
        let request = format!(
            "POST /v1/push HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            view.clients,
            body.len()
        );
        let mut socket = TcpStream::connect(view.clients).await.ok()?;
        let sent = self.recorder.now();
        if rng.bool() {
            // What is not read whole is nothing: no history knows of it, and it must not arrive.
            let cut = rng.usize(1..request.len());
            socket.write_all(&request.as_bytes()[..cut]).await.ok()?;
            if rng.bool() {
                let _ = socket.set_zero_linger();
            }
            return Some(());
        }
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut status = HUNG_UP.to_owned();
        let mut answer = Value::Null;
        if rng.bool() {
            socket.shutdown().await.ok()?;
            let mut text = Vec::new();
            // What came is there, whether or not the node ends the connection after it.
            let _ = tokio::time::timeout(ANSWER, socket.read_to_end(&mut text)).await;
            let text = String::from_utf8_lossy(&text);
            let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
            answer = body
                .and_then(|body| serde_json::from_str(body).ok())
                .unwrap_or_default();
            let told = answer["status"].as_str();
            self.recorder.write(Event::HalfClosed {
                id: draft.id.clone(),
                node: view.id.clone(),
                is_answered: told.is_some(),
                at: sent,
            });
            if let Some(told) = told {
                told.clone_into(&mut status);
            }
        }
        drop(socket);
        let mut parts = parts(&draft.to, &status, &answer);
        if status == HUNG_UP {
            parts.iter_mut().for_each(|part| part.connections = 1);
        }
        self.recorder.write(Event::Push(Push {
            // Each is a sender of its own, so nothing orders them.
            by: draft.id.clone(),
            id: draft.id,
            via: view.id.clone(),
            seq: draft.seq,
            to: draft.to,
            attempt: 1,
            sent,
            answered: self.recorder.now(),
            reason: answer["reason"].as_str().map(str::to_owned),
            kept: draft.kept,
            author: None,
            everywhere: false,
            nodes: Vec::new(),
            parts,
            status,
        }));
        Some(())
    }

    /// A node's commands stand still after a push's id is claimed, and its sender repeats the push at
    /// another node.
    pub(crate) async fn stall_claim(
        &self,
        node: usize,
        draw: u64,
        time: Duration,
    ) -> Option<String> {
        let mut rng = Rng::with_seed(draw);
        let (first, second) = (self.view(node)?, self.view((node + 1) % self.places.len())?);
        let mut draft = self.draft(format!("c{draw:x}"), 1, &mut rng);
        (draft.anonymous, draft.kept) = (false, true);
        let start = Instant::now();
        self.ways[node].stall(&["XADD", &draft.id], time);
        let mut attempt = 1;
        let mut told = self.push_once(&first, &draft, attempt).await;
        while matches!(&*told, "unrouted" | "unknown") && start.elapsed() < time * 2 {
            attempt += 1;
            told = self.push_once(&second, &draft, attempt).await;
            tokio::time::sleep(LOOK).await;
        }
        // Until what stood still has reached Redis.
        let rest = (time + Duration::from_secs(1)).saturating_sub(start.elapsed());
        tokio::time::sleep(rest).await;
        let key = match topic(&draft.to[0]) {
            Some(topic) => format!("pn:log:{{{topic}}}"),
            None => format!("pn:inbox:{{{}}}", draft.to[0]),
        };
        let mut redis = Access::new(self.doors.clone());
        let entries = redis.call(&key, &["XRANGE", &key, "-", "+"]).await.ok()?;
        let is_ours = |entry: &&crate::resp::Answer| {
            let fields = entry.list().get(1).map_or(&[][..], |fields| fields.list());
            fields.iter().any(|field| field.text() == draft.id)
        };
        self.recorder.write(Event::Stored {
            times: entries.list().iter().filter(is_ours).count() as u64,
            id: draft.id,
            at: self.recorder.now(),
        });
        Some(first.id)
    }

    /// One attempt; answers what it was told.
    pub(crate) async fn push_once(&self, view: &View, draft: &Draft, attempt: u32) -> String {
        let url = format!("http://{}/v1/push", view.clients);
        let body = draft.envelope(json!({"timeout_ms": 3_000}));
        let sent = self.recorder.now();
        let request = crate::common::http().post(url).timeout(ANSWER).json(&body);
        let answer = async { request.send().await?.json::<Value>().await };
        let answer = answer.await.unwrap_or_default();
        let status = answer["status"].as_str().unwrap_or("unknown").to_owned();
        self.recorder.write(Event::Push(Push {
            id: draft.id.clone(),
            // Each is a sender of its own.
            by: draft.id.clone(),
            via: view.id.clone(),
            seq: draft.seq,
            to: draft.to.clone(),
            attempt,
            sent,
            answered: self.recorder.now(),
            reason: answer["reason"].as_str().map(str::to_owned),
            kept: draft.kept,
            author: None,
            everywhere: false,
            nodes: Vec::new(),
            parts: parts(&draft.to, &status, &answer),
            status: status.clone(),
        }));
        status
    }

    /// Senders that ask and ask on one connection, and read no answer.
    pub(crate) async fn stall_readers(&self, node: usize, draw: u64) -> Option<String> {
        let view = self.view(node)?;
        let count = Rng::with_seed(draw).usize(4..16);
        let readers = (0..count).map(|_| self.stall_reader(&view));
        futures::future::join_all(readers).await;
        Some(view.id)
    }

    async fn stall_reader(&self, view: &View) -> Option<()> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_recv_buffer_size(4_096).ok()?;
        let socket = socket.connect(view.clients).await.ok()?;
        // A long one: what a node has read it carries out, which for hundreds of short ones would take
        // a busy machine longer than the sender may stay.
        let request = format!(
            "GET /openapi.json HTTP/1.1\r\nHost: {}\r\nX-Filler: {}\r\n\r\n",
            view.clients,
            "x".repeat(FILLER)
        );
        let (at, start) = (self.recorder.now(), Instant::now());
        let (mut ended, mut sent) = (None, 0);
        while ended.is_none() && start.elapsed() < WATCH {
            // Begins in the middle of a request where the last write did.
            match socket.try_write(&request.as_bytes()[sent..]) {
                Ok(count) => {
                    sent = (sent + count) % request.len();
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(_) => ended = Some(self.recorder.now()),
            }
        }
        self.recorder.write(Event::Stalled {
            node: view.id.clone(),
            at,
            ended,
            until: self.recorder.now(),
        });
        Some(())
    }
}

/// The newest messages of a log.
async fn newest(url: &str) -> Vec<Value> {
    let asked = crate::common::http().get(format!("{url}?last=20"));
    let answer = async { asked.timeout(ANSWER).send().await?.json::<Value>().await };
    match answer.await {
        Ok(mut answer) => match answer["messages"].take() {
            Value::Array(messages) => messages,
            _ => Vec::new(),
        },
        Err(_) => Vec::new(),
    }
}

/// The name of a message in its log.
fn entry(message: &Value) -> String {
    message["entry"].as_str().unwrap_or_default().to_owned()
}
