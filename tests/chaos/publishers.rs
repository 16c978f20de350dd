//! Publishers: over HTTP through any node, and with nothing but Redis.
//!
//! Each sends one message (or one batch) at a time and waits for the answer. Every message has
//! an id; what could not be routed, or was not answered, is sent again under the same id.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::history::{EVERYBODY, Event, FINAL, Part, Push, Recorder};
use crate::resp::Resp;
use crate::views::Views;

/// Longest wait for an answer over HTTP.
const ANSWER: Duration = Duration::from_secs(8);
const ATTEMPTS: u32 = 3;
/// A publisher over Redis tries this often, 50 ms apart, while nobody takes it.
const TRIES: u32 = 40;
const RETRY: Duration = Duration::from_millis(50);

/// Whom they publish to, and where.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) users: Arc<Vec<String>>,
    pub(crate) views: Arc<Views>,
    pub(crate) redis: u16,
    pub(crate) recorder: Recorder,
}

impl World {
    /// One to a user, several users, or everybody.
    fn addressees(&self, rng: &mut Rng) -> Vec<String> {
        match rng.u8(..100) {
            0..3 => vec![EVERYBODY.to_owned()],
            3..20 => rng
                .choose_multiple(self.users.iter(), 5)
                .into_iter()
                .cloned()
                .collect(),
            _ => vec![self.users[rng.usize(..self.users.len())].clone()],
        }
    }

    fn pause(rng: &mut Rng) -> Duration {
        Duration::from_millis(rng.u64(5..120))
    }
}

/// A message that is to be published.
struct Draft {
    id: String,
    seq: u64,
    to: Vec<String>,
    padding: usize,
}

impl Draft {
    fn target(&self) -> Value {
        match &self.to[..] {
            [all] if all == EVERYBODY => json!({"all": true}),
            [user] => json!({"user": user}),
            users => json!({"users": users}),
        }
    }

    fn data(&self) -> Value {
        json!({"id": self.id, "to": self.to, "seq": self.seq, "pad": "x".repeat(self.padding)})
    }
}

/// Publishes over HTTP.
pub(crate) struct Sender {
    world: World,
    name: String,
    http: reqwest::Client,
    rng: Rng,
    seq: u64,
}

impl Sender {
    pub(crate) fn new(world: World, name: String, rng: Rng) -> Self {
        let http = reqwest::Client::builder().timeout(ANSWER).build();
        Self {
            world,
            name,
            http: http.unwrap_or_default(),
            rng,
            seq: 0,
        }
    }

    pub(crate) async fn publish(mut self) {
        while self.world.views.is_publishing() {
            let batch = if self.rng.u8(..4) == 0 {
                self.rng.usize(2..12)
            } else {
                1
            };
            let drafts = (0..batch).map(|_| self.draft()).collect();
            self.deliver(drafts).await;
            tokio::time::sleep(World::pause(&mut self.rng)).await;
        }
    }

    /// One message to each user; each must be taken.
    pub(crate) async fn publish_last(mut self) {
        FINAL.clone_into(&mut self.name);
        for user in self.world.users.clone().iter() {
            let draft = Draft {
                to: vec![user.clone()],
                ..self.draft()
            };
            self.deliver(vec![draft]).await;
        }
    }

    fn draft(&mut self) -> Draft {
        self.seq += 1;
        let padding = if self.rng.u8(..20) == 0 { 8_000 } else { 200 };
        Draft {
            id: format!("{}-{}", self.name, self.seq),
            seq: self.seq,
            to: self.world.addressees(&mut self.rng),
            padding: self.rng.usize(..padding),
        }
    }

    /// Sends a batch, and again what may be sent again.
    async fn deliver(&mut self, mut drafts: Vec<Draft>) {
        for attempt in 1..=ATTEMPTS {
            let Some(view) = self.world.views.any(&mut self.rng) else {
                return;
            };
            let bodies: Vec<Value> = drafts.iter().map(|draft| self.body(draft)).collect();
            let url = format!("http://{}/v1/push", view.clients);
            let sent = self.world.recorder.now();
            let answers = self.post(&url, &bodies).await;
            let answered = self.world.recorder.now();
            let mut again = Vec::new();
            for (i, draft) in drafts.into_iter().enumerate() {
                let answer = answers.get(i).unwrap_or(&Value::Null);
                let status = answer["status"].as_str().unwrap_or("unknown").to_owned();
                let partial = answer["reason"].is_string();
                let repeat = partial || matches!(&*status, "unknown" | "unrouted");
                self.world.recorder.write(Event::Push(Push {
                    id: draft.id.clone(),
                    by: self.name.clone(),
                    via: view.id.clone(),
                    seq: draft.seq,
                    to: draft.to.clone(),
                    attempt,
                    sent,
                    answered,
                    partial,
                    parts: parts(&draft.to, &status, answer),
                    status,
                }));
                if repeat && self.rng.u8(..4) > 0 {
                    again.push(draft);
                }
            }
            if again.is_empty() {
                return;
            }
            drafts = again;
            tokio::time::sleep(Duration::from_millis(self.rng.u64(50..500))).await;
        }
    }

    fn body(&mut self, draft: &Draft) -> Value {
        let wait = match self.rng.u8(..10) {
            0..6 => "routed",
            6..9 => "written",
            _ => "acked",
        };
        let timeout = self.rng.u64(1_000..3_000);
        json!({"to": draft.target(), "id": draft.id, "data": draft.data(), "wait": wait, "timeout_ms": timeout})
    }

    /// The answers, as many as came.
    async fn post(&self, url: &str, bodies: &[Value]) -> Vec<Value> {
        let request = match bodies {
            [only] => self.http.post(url).json(only),
            many => self.http.post(url).json(many),
        };
        let answer = async { request.send().await?.json::<Value>().await };
        match answer.await {
            Ok(Value::Array(answers)) => answers,
            Ok(answer) => vec![answer],
            Err(_) => Vec::new(),
        }
    }
}

/// What the answer says of each user.
fn parts(to: &[String], status: &str, answer: &Value) -> Vec<Part> {
    let part = |user: &str, status: &str, answer: &Value| Part {
        user: user.to_owned(),
        status: status.to_owned(),
        connections: answer["connections"].as_u64().unwrap_or_default() as u32,
    };
    match answer["targets"].as_array() {
        Some(targets) => {
            let word =
                |target: &Value, field: &str| target[field].as_str().unwrap_or_default().to_owned();
            let parts = targets
                .iter()
                .map(|target| part(&word(target, "user"), &word(target, "status"), target));
            parts.collect()
        }
        None if to.len() == 1 => vec![part(&to[0], status, answer)],
        None => to
            .iter()
            .map(|user| part(user, "unknown", &Value::Null))
            .collect(),
    }
}

/// Publishes with a Redis client: looks up the row and publishes to its nodes, or to all nodes.
pub(crate) struct RedisPublisher {
    world: World,
    name: String,
    rng: Rng,
    connection: Option<Resp>,
}

/// Why nothing is known of a publish.
struct Unknown;

impl RedisPublisher {
    pub(crate) fn new(world: World, name: String, rng: Rng) -> Self {
        Self {
            world,
            name,
            rng,
            connection: None,
        }
    }

    pub(crate) async fn publish(mut self) {
        for seq in 1.. {
            if !self.world.views.is_publishing() {
                return;
            }
            let user = self.world.users[self.rng.usize(..self.world.users.len())].clone();
            let draft = Draft {
                id: format!("{}-{seq}", self.name),
                seq,
                to: vec![user],
                padding: self.rng.usize(..300),
            };
            let to_all_nodes = self.rng.u8(..5) == 0;
            let line =
                json!({"to": draft.target(), "id": draft.id, "data": draft.data()}).to_string();
            for attempt in 1..=ATTEMPTS {
                let sent = self.world.recorder.now();
                let told = if to_all_nodes {
                    self.publish_to_all(&line).await
                } else {
                    self.publish_to_row(&draft.to[0], &line).await
                };
                let (status, connections) = told.unwrap_or(("unknown", 0));
                self.world.recorder.write(Event::Push(Push {
                    id: draft.id.clone(),
                    by: self.name.clone(),
                    via: "redis".to_owned(),
                    seq,
                    to: draft.to.clone(),
                    attempt,
                    sent,
                    answered: self.world.recorder.now(),
                    status: status.to_owned(),
                    partial: false,
                    parts: vec![Part {
                        user: draft.to[0].clone(),
                        status: status.to_owned(),
                        connections,
                    }],
                }));
                if status != "unknown" || self.rng.bool() {
                    break;
                }
                tokio::time::sleep(RETRY).await;
            }
            tokio::time::sleep(World::pause(&mut self.rng)).await;
        }
    }

    async fn call(&mut self, command: &[&str]) -> Result<crate::resp::Answer, Unknown> {
        if self.connection.is_none() {
            self.connection = Resp::connect(self.world.redis).await.ok();
        }
        let mut connection = self.connection.take().ok_or(Unknown)?;
        let answer = connection.call(command).await.map_err(|_| Unknown)?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// As PROTOCOL.md says. An answer of 0 proves that nobody took it: the row is read again.
    async fn publish_to_row(
        &mut self,
        user: &str,
        line: &str,
    ) -> Result<(&'static str, u32), Unknown> {
        let (mut taken, mut connections) = (Vec::new(), 0);
        for _ in 0..TRIES {
            let row = self
                .call(&["HKEYS", &format!("pn:user:{{{user}}}")])
                .await?;
            let mut nodes: Vec<(String, u32)> = Vec::new();
            for field in row.list() {
                let node = field.text().rsplit_once('/').map_or("", |split| split.0);
                match nodes.iter_mut().find(|(known, _)| known == node) {
                    Some((_, count)) => *count += 1,
                    None => nodes.push((node.to_owned(), 1)),
                }
            }
            let mut open = nodes.is_empty();
            for (node, count) in nodes {
                if taken.contains(&node) {
                    continue;
                }
                match self
                    .call(&["PUBLISH", &format!("pn:n:{{{node}}}"), line])
                    .await?
                    .number()
                {
                    0 => open = true,
                    _ => {
                        connections += count;
                        taken.push(node);
                    }
                }
            }
            if !open {
                return Ok(("routed", connections));
            }
            tokio::time::sleep(RETRY).await;
        }
        // Some nodes took it and some did not, or there is no row: nothing is claimed.
        Ok(("unrouted", connections))
    }

    async fn publish_to_all(&mut self, line: &str) -> Result<(&'static str, u32), Unknown> {
        let listeners = self.call(&["PUBLISH", "pn:g", line]).await?.number();
        // Fewer than there are nodes: somebody did not listen, and the publisher knows.
        let all = self.world.views.all().len() as i64;
        Ok(if listeners >= all {
            ("routed", 1)
        } else {
            ("unrouted", 0)
        })
    }
}
