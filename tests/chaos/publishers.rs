//! Publishers: over HTTP through any node, and with nothing but Redis.
//!
//! Each sends one message (or one batch) at a time and waits for the answer. Every message has
//! an id; what could not be routed, or was not answered, is sent again under the same id.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::access::{Access, Doors};
use crate::history::{EVERYBODY, Event, FINAL, Part, Push, Recorder, TOPICS, topic};
use crate::stage::KEPT_BY_RULE;
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
    pub(crate) redis: Doors,
    pub(crate) recorder: Recorder,
    /// Whether topics have rules.
    pub(crate) rules: bool,
}

impl World {
    /// One to a user, several users, a topic, or everybody.
    fn addressees(&self, rng: &mut Rng) -> Vec<String> {
        match rng.u8(..100) {
            0..3 => vec![EVERYBODY.to_owned()],
            3..20 => rng
                .choose_multiple(self.users.iter(), 5)
                .into_iter()
                .cloned()
                .collect(),
            20..35 => vec![Self::topic(rng)],
            _ => vec![self.users[rng.usize(..self.users.len())].clone()],
        }
    }

    fn topic(rng: &mut Rng) -> String {
        TOPICS[rng.usize(..TOPICS.len())].to_owned()
    }

    fn pause(rng: &mut Rng) -> Duration {
        Duration::from_millis(rng.u64(5..120))
    }
}

/// A message that is to be published.
pub(crate) struct Draft {
    pub(crate) id: String,
    pub(crate) seq: u64,
    pub(crate) to: Vec<String>,
    pub(crate) padding: usize,
    /// Without an `id` in the envelope: no node knows a repeat, so it is sent once only.
    pub(crate) anonymous: bool,
    /// To be kept in the inboxes of its users, or the topic's log.
    pub(crate) kept: bool,
    /// Its topic's rule says so, and the sender need not.
    pub(crate) kept_by_rule: bool,
}

impl Draft {
    fn target(&self) -> Value {
        match &self.to[..] {
            [all] if all == EVERYBODY => json!({"all": true}),
            [one] => match topic(one) {
                Some(topic) => json!({"topic": topic}),
                None => json!({"user": one}),
            },
            users => json!({"users": users}),
        }
    }

    /// As an envelope, beside these further fields.
    pub(crate) fn envelope(&self, mut fields: Value) -> Value {
        if fields["to"].is_null() {
            fields["to"] = self.target();
        }
        if !self.anonymous {
            fields["id"] = json!(self.id);
        }
        if self.kept && !self.kept_by_rule {
            fields["keep"] = json!(true);
        }
        // All in the data too, for plain clients.
        fields["data"] =
            json!({"id": self.id, "to": self.to, "seq": self.seq, "pad": "x".repeat(self.padding)});
        fields
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

    /// One message to each user and topic; each must be taken. Gives up between two when it takes too
    /// long.
    pub(crate) async fn publish_last(mut self, patience: Duration) {
        let start = std::time::Instant::now();
        FINAL.clone_into(&mut self.name);
        let users = self.world.users.clone();
        for to in users.iter().map(|user| &**user).chain(TOPICS) {
            if start.elapsed() > patience {
                return;
            }
            let draft = self.draft_to(vec![to.to_owned()]);
            self.deliver(vec![draft]).await;
        }
    }

    /// To these topics in turn, until then.
    pub(crate) async fn publish_to(mut self, topics: &[&str], until: std::time::Instant) {
        for to in topics.iter().cycle() {
            if std::time::Instant::now() >= until {
                return;
            }
            let draft = self.draft_to(vec![(*to).to_owned()]);
            self.deliver(vec![draft]).await;
            tokio::time::sleep(Duration::from_millis(self.rng.u64(5..50))).await;
        }
    }

    fn draft(&mut self) -> Draft {
        let to = self.world.addressees(&mut self.rng);
        self.draft_to(to)
    }

    fn draft_to(&mut self, to: Vec<String>) -> Draft {
        self.seq += 1;
        let padding = if self.rng.u8(..20) == 0 { 8_000 } else { 200 };
        let kept_by_rule = self.world.rules && KEPT_BY_RULE.contains(&&*to[0]);
        let anonymous = self.rng.u8(..4) == 0;
        Draft {
            id: format!("{}-{}", self.name, self.seq),
            seq: self.seq,
            padding: self.rng.usize(..padding),
            anonymous,
            kept: kept_by_rule || !anonymous && to[0] != EVERYBODY && self.rng.u8(..4) == 0,
            kept_by_rule,
            to,
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
                let reason = answer["reason"].as_str().map(str::to_owned);
                let repeat = reason.is_some() || matches!(&*status, "unknown" | "unrouted");
                self.world.recorder.write(Event::Push(Push {
                    id: draft.id.clone(),
                    by: self.name.clone(),
                    via: view.id.clone(),
                    seq: draft.seq,
                    to: draft.to.clone(),
                    attempt,
                    sent,
                    answered,
                    reason,
                    kept: draft.kept,
                    author: None,
                    everywhere: false,
                    nodes: Vec::new(),
                    parts: parts(&draft.to, &status, answer),
                    status,
                }));
                if repeat && !draft.anonymous && self.rng.u8(..4) > 0 {
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
            9 if !draft.anonymous => "acked",
            _ => "written",
        };
        let timeout = self.rng.u64(1_000..3_000);
        draft.envelope(json!({"wait": wait, "timeout_ms": timeout}))
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
pub(crate) fn parts(to: &[String], status: &str, answer: &Value) -> Vec<Part> {
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

/// Publishes with a Redis client: looks up the user's or topic's row and publishes to its nodes, or to
/// all nodes.
pub(crate) struct RedisPublisher {
    world: World,
    name: String,
    rng: Rng,
    redis: Access,
    /// Users and fields of their rows, as they once were.
    remembered: Vec<(String, String)>,
}

/// How a publisher over Redis reaches a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By the row: the user or topic, on the channel of each of its nodes.
    Row,
    /// By the row: each connection by its name.
    Fields,
    /// On the channel of all nodes.
    Everywhere,
    /// On the channel of all nodes, to a connection that was the user's some time ago.
    Late,
    /// As `Late`, to a connection that was somebody else's, with the user beside it.
    Crossed,
}

/// What Redis told it: a status, how many took it, and the nodes that it named itself.
type Told = (&'static str, u32, Vec<String>);

/// Fields remembered.
const REMEMBERED: usize = 200;

impl RedisPublisher {
    pub(crate) fn new(world: World, name: String, rng: Rng) -> Self {
        Self {
            redis: Access::new(world.redis.clone()),
            world,
            name,
            rng,
            remembered: Vec::new(),
        }
    }

    pub(crate) async fn publish(mut self) {
        for seq in 1.. {
            if !self.world.views.is_publishing() {
                return;
            }
            let to = match self.rng.u8(..8) {
                0 => World::topic(&mut self.rng),
                _ => self.world.users[self.rng.usize(..self.world.users.len())].clone(),
            };
            let mut draft = Draft {
                id: format!("{}-{seq}", self.name),
                seq,
                to: vec![to],
                padding: self.rng.usize(..300),
                anonymous: self.rng.u8(..4) == 0 && !self.redis.may_deny_falsely(),
                // A rule does not hold for lines in Redis.
                kept: false,
                kept_by_rule: false,
            };
            let way = match self.rng.u8(..10) {
                0 | 1 => Way::Everywhere,
                // A topic has no connections to name.
                _ if topic(&draft.to[0]).is_some() => Way::Row,
                2 => Way::Late,
                3 => Way::Crossed,
                4..6 => Way::Fields,
                _ => Way::Row,
            };
            let remembered = self.rng.choice(&self.remembered).cloned();
            let field = match (way, remembered) {
                (Way::Late, Some((user, field))) => {
                    draft.to = vec![user];
                    Some(json!({"to": {"fd": field}}))
                }
                (Way::Crossed, Some((_, field))) => {
                    Some(json!({"to": {"fd": field, "user": draft.to[0]}}))
                }
                _ => None,
            };
            let attempts = if draft.anonymous || field.is_some() {
                1
            } else {
                ATTEMPTS
            };
            let is_to_all = !matches!(way, Way::Row | Way::Fields);
            for attempt in 1..=attempts {
                let sent = self.world.recorder.now();
                let told = match (&field, way) {
                    // Nothing is claimed: the connection may be gone, or not the user's.
                    (Some(to), _) => {
                        let line = draft.envelope(to.clone()).to_string();
                        let published = self.redis.publish_to_all(&line).await;
                        published.map(|_| ("unrouted", 0, Vec::new()))
                    }
                    (None, Way::Row | Way::Fields) => self.publish_to_row(&draft, way).await,
                    (None, _) => self.publish_to_all(&draft).await,
                };
                let (status, connections, nodes) = told.unwrap_or(("unknown", 0, Vec::new()));
                self.world.recorder.write(Event::Push(Push {
                    id: draft.id.clone(),
                    by: self.name.clone(),
                    via: self.redis.route(is_to_all).to_owned(),
                    seq,
                    to: draft.to.clone(),
                    attempt,
                    sent,
                    answered: self.world.recorder.now(),
                    status: status.to_owned(),
                    reason: None,
                    kept: false,
                    author: None,
                    everywhere: is_to_all,
                    nodes,
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

    /// As PROTOCOL.md says. An answer of 0 proves that nobody took it, or in a cluster that a repeat does
    /// no harm, if it has an id: the row is read again.
    async fn publish_to_row(&mut self, draft: &Draft, way: Way) -> std::io::Result<Told> {
        let to = &draft.to[0];
        let mut taken: Vec<String> = Vec::new();
        for _ in 0..TRIES {
            let key = match topic(to) {
                Some(topic) => format!("pn:topic:{{{topic}}}"),
                None => format!("pn:user:{{{to}}}"),
            };
            let row = self.redis.call(&key, &["HKEYS", &key]).await?;
            let fields: Vec<&str> = row.list().iter().map(|field| field.text()).collect();
            if topic(to).is_none() {
                self.remember(to, &fields);
            }
            let mut open = fields.is_empty();
            for field in fields {
                // Of a topic's row, the node is all.
                let node = field.rsplit_once('/').map_or(field, |split| split.0);
                let (whom, fields) = match way {
                    Way::Fields => (field, json!({"to": {"fd": field, "user": to}})),
                    _ => (node, json!({})),
                };
                if taken.iter().any(|one| one == whom) {
                    continue;
                }
                let line = draft.envelope(fields).to_string();
                if self.redis.publish_to_node(node, &line).await? == 0 {
                    open = true;
                } else {
                    taken.push(whom.to_owned());
                }
            }
            if !open {
                let node = |whom: &String| whom.split('/').next().unwrap_or(whom).to_owned();
                let nodes = taken.iter().map(node).collect();
                return Ok(("routed", taken.len() as u32, nodes));
            }
            tokio::time::sleep(RETRY).await;
        }
        // Some nodes took it and some did not, or there is no row: nothing is claimed.
        Ok(("unrouted", 0, Vec::new()))
    }

    fn remember(&mut self, user: &str, fields: &[&str]) {
        for field in fields {
            let entry = (user.to_owned(), (*field).to_owned());
            if self.remembered.len() < REMEMBERED {
                self.remembered.push(entry);
            } else {
                self.remembered[self.rng.usize(..REMEMBERED)] = entry;
            }
        }
    }

    async fn publish_to_all(&mut self, draft: &Draft) -> std::io::Result<Told> {
        let line = draft.envelope(json!({})).to_string();
        let listeners = self.redis.publish_to_all(&line).await?;
        // Fewer than there are nodes: somebody did not listen, and the publisher knows. Or, in a
        // cluster, somebody listens elsewhere, and the publisher does not know.
        let all = self.world.views.all().len() as i64;
        Ok(if listeners >= all {
            ("routed", 1, Vec::new())
        } else {
            ("unrouted", 0, Vec::new())
        })
    }
}
