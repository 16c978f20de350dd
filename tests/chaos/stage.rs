//! What a run plays on: Redis, the nodes, the ways between them, and what can be done to them.

use std::io::{Error, Result};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::spawn_blocking;

use crate::access::Doors;
use crate::common::{self, Node};
use crate::history::{Event, Field, Recorder, TOPICS, TopicRows, topic};
use crate::passes::SECRET;
use crate::proxy::Proxy;
use crate::resp::{Answer, Resp};
use crate::run::Size;
use crate::schedule::{Fault, PRESTOP, Release, Scenario};
use crate::switches::{MadeToFail, Switches};
use crate::topology::Topology;
use crate::views::{View, Views};

/// What Redis allows a subscriber by default.
const BUFFER: &str = "pubsub 33554432 8388608 60";
/// Exit code of a node whose name is taken.
const NAME_TAKEN: i32 = 69;

/// The rules of topics, where they have some. [`KEPT_BY_RULE`] and [`OPEN_TO_MEMBERS`] say the same.
const RULES: &str = r#"[
    {"match": "t1", "keep": {"every": true}, "send": "members"},
    {"match": "t2", "send": "members"},
    {"match": "t3", "keep": {"every": true}}
]"#;
/// The topics of which every push of a sender or member is kept.
pub(crate) const KEPT_BY_RULE: [&str; 2] = [TOPICS[1], TOPICS[3]];
/// The topics to which members publish.
pub(crate) const OPEN_TO_MEMBERS: [&str; 2] = [TOPICS[1], TOPICS[2]];

pub(crate) type Place = tokio::sync::Mutex<Option<Node>>;

/// Redis and some nodes.
pub(crate) struct Stage {
    /// Of the only redis-server, or the first.
    pub(crate) port: u16,
    url: String,
    pub(crate) doors: Doors,
    pub(crate) users: Arc<Vec<String>>,
    pub(crate) views: Arc<Views>,
    pub(crate) recorder: Recorder,
    topology: Arc<Mutex<Topology>>,
    made_to_fail: MadeToFail,
    /// One for each node, or none at all.
    pub(crate) ways: Vec<Proxy>,
    pub(crate) places: Vec<Place>,
    /// Whether nodes ask clients for tokens.
    tokens: bool,
    /// The last release's program, where a scenario replaces nodes.
    last_release: Option<PathBuf>,
    /// Which release each node is of.
    releases: Vec<Mutex<Release>>,
    prestop: bool,
    log_unread: bool,
    /// Whether topics have [`RULES`].
    rules: bool,
    /// The ends of the nodes' log pipes that nobody reads from.
    unread: Mutex<Vec<std::io::PipeReader>>,
}

impl Stage {
    /// Starts all of it; the nodes are ready.
    pub(crate) async fn set(
        scenario: &Scenario,
        size: &Size,
        users: Arc<Vec<String>>,
        recorder: Recorder,
    ) -> Result<Self> {
        let nodes = size.nodes;
        let last_release = size.last_release.clone().filter(|_| scenario.upgrades);
        if scenario.upgrades && last_release.is_none() {
            return Err(Error::other("it needs --last-release PROGRAM"));
        }
        let first = last_release
            .as_ref()
            .map_or(Release::Present, |_| Release::Last);
        let setup = scenario.setup;
        let mut topology = spawn_blocking(move || Topology::start(setup)).await?;
        let port = topology.first().port();
        let mut ways = Vec::new();
        for _ in 0..nodes * usize::from(scenario.proxied) {
            ways.push(Proxy::to(port).await?);
        }
        let stage = Self {
            port,
            url: topology.url(),
            doors: topology.doors(),
            users,
            views: Views::of(nodes),
            recorder,
            topology: Arc::new(Mutex::new(topology)),
            made_to_fail: MadeToFail::default(),
            ways,
            places: (0..nodes).map(|_| Place::default()).collect(),
            tokens: scenario.tokens,
            last_release,
            releases: (0..nodes).map(|_| Mutex::new(first)).collect(),
            prestop: scenario.prestop,
            log_unread: scenario.log_unread,
            rules: scenario.rules,
            unread: Mutex::default(),
        };
        for place in 0..nodes {
            stage.start(place).await;
        }
        Ok(stage)
    }

    /// Starts the node of this place and shows it to the actors.
    async fn start(&self, place: usize) {
        let way = self.ways.get(place);
        let url = way.map(|way| format!("redis://127.0.0.1:{}", way.port));
        let mut settings = vec![
            ("PUSH_REDIS_URL", url.unwrap_or_else(|| self.url.clone())),
            ("PUSH_NODE_NAME", format!("n{place}")),
            ("PUSH_DRAIN_SECONDS", "2".to_owned()),
            // A client that acknowledges a backlog sends hundreds of frames at once.
            ("PUSH_CLIENT_RATE", "0".to_owned()),
            // So that a run need not wait long for the last leave to be announced.
            ("PUSH_PRESENCE_GRACE_SECONDS", "2".to_owned()),
            ("PUSH_LOG", "info".to_owned()),
        ];
        if self.tokens {
            settings.extend([
                ("PUSH_AUTH", "jwt,session".to_owned()),
                ("PUSH_JWT_SECRETS", SECRET.to_owned()),
                ("PUSH_JWT_LEEWAY_SECONDS", "0".to_owned()),
            ]);
        }
        let release = *lock(&self.releases[place]);
        let other = self
            .last_release
            .clone()
            .filter(|_| release == Release::Last);
        if self.prestop {
            settings.push(("PUSH_PRESTOP_SECONDS", PRESTOP.as_secs().to_string()));
        }
        if self.rules {
            settings.push(("PUSH_TOPIC_RULES", RULES.to_owned()));
        }
        let log = self.log_unread.then(std::io::pipe).and_then(Result::ok);
        let log = log.map(|(reader, writer)| {
            // Every connection is told there: it is full soon.
            settings.push(("PUSH_LOG", "trace".to_owned()));
            let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
            unread.push(reader);
            writer
        });
        let started = spawn_blocking(move || {
            let settings: Vec<(&str, &str)> = settings
                .iter()
                .map(|(name, value)| (*name, &**value))
                .collect();
            match (log, other) {
                (Some(log), _) => common::start_with_log(&settings, log),
                (None, Some(program)) => {
                    common::start_command(common::command_of(&program, &settings))
                }
                (None, None) => common::start_node(&settings),
            }
        });
        match started.await {
            Ok(node) => {
                self.views.set(place, Some(view(&node)));
                *self.places[place].lock().await = Some(node);
            }
            Err(error) => self.died(&format!("n{place}"), &error.to_string()),
        }
    }

    fn died(&self, node: &str, how: &str) {
        self.recorder.write(Event::Died {
            node: node.to_owned(),
            how: how.to_owned(),
            at: self.recorder.now(),
        });
    }

    /// Does something to Redis that blocks.
    pub(crate) async fn with_redis<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Topology) -> T + Send + 'static,
    ) -> Result<T> {
        let topology = self.topology.clone();
        let act = move || act(&mut topology.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(spawn_blocking(act).await?)
    }

    /// Kills or freezes the master of this node's channel until another is in its place. Only so
    /// long was nothing to be expected; bringing it back later is no fault.
    async fn fail_master(
        &self,
        kind: &str,
        node: usize,
        freeze: bool,
        time: Duration,
    ) -> Result<()> {
        let at = self.recorder.now();
        let key = self.channel(node).await;
        let made_to_fail = self.made_to_fail.clone();
        let failed = self.with_redis(move |redis| {
            let mut failed = redis.fail(&key, freeze, &made_to_fail);
            redis.await_successor(&key, &mut failed, time);
            failed
        });
        let failed = failed.await?;
        self.fault(kind, None, at);
        self.with_redis(move |redis| redis.mend(failed, time)).await
    }

    /// Writes down what Sentinels do by themselves, for ever. The first is the one by whose word
    /// faults are done.
    pub(crate) async fn note_switches(&self) {
        let Doors::Sentinel(sentinels) = &self.doors else {
            return;
        };
        let error = match Switches::of(sentinels[0]).await {
            Ok(switches) => {
                let noted = switches.note(self.made_to_fail.clone(), self.recorder.clone());
                noted.await
            }
            Err(error) => error,
        };
        self.died("a Sentinel", &error.to_string());
    }

    /// Moves the slots of a node's channel and of some users' and topics' rows, inboxes and logs.
    async fn move_slots(&self, node: usize, draw: u64, pause: Duration) -> Result<()> {
        let at = self.recorder.now();
        let mut rng = Rng::with_seed(draw);
        let mut keys = vec![self.channel(node).await, "pn:nodes".to_owned()];
        let users = rng.choose_multiple(self.users.iter(), 4);
        keys.extend(users.into_iter().map(|user| format!("pn:user:{{{user}}}")));
        let topics = TOPICS.into_iter().filter_map(topic);
        keys.extend(topics.map(|topic| format!("pn:topic:{{{topic}}}")));
        rng.shuffle(&mut keys);
        keys.truncate(rng.usize(1..=keys.len()));
        self.with_redis(move |redis| redis.move_slots(&keys, &mut rng, pause))
            .await?;
        self.harmless("slot-move", None, at)
    }

    /// Notes a fault that excuses nothing: Redis and the nodes serve all the time.
    fn harmless(&self, kind: &str, node: Option<String>, at: u64) -> Result<()> {
        self.recorder.write(Event::Fault {
            kind: kind.to_owned(),
            node,
            at,
            until: at,
        });
        Ok(())
    }

    async fn channel(&self, node: usize) -> String {
        let id = self.name(Some(node)).await;
        id.map_or("pn:g".to_owned(), |id| format!("pn:n:{{{id}}}"))
    }

    /// Looks for nodes that have ended by themselves, and starts them again.
    pub(crate) async fn attend(&self) {
        for (place, slot) in self.places.iter().enumerate() {
            // Taken by a fault that has the node in hand.
            let Ok(mut slot) = slot.try_lock() else {
                continue;
            };
            let ended = slot
                .as_mut()
                .and_then(|node| Some((node.ended()?, node.id.clone(), node.log())));
            let Some((status, id, log)) = ended else {
                continue;
            };
            *slot = None;
            drop(slot);
            self.views.set(place, None);
            if status.code() == Some(NAME_TAKEN) {
                let at = self.recorder.now();
                self.fault("name-taken", Some(id), at);
            } else {
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                self.died(&id, &format!("{status}: {tail:?}"));
            }
            self.start(place).await;
        }
    }

    pub(crate) fn fault(&self, kind: &str, node: Option<String>, at: u64) {
        self.recorder.write(Event::Fault {
            kind: kind.to_owned(),
            node,
            at,
            until: self.recorder.now(),
        });
    }

    /// Does what the fault says and waits until it is over.
    pub(crate) async fn apply(&self, fault: Fault) -> Result<()> {
        let at = self.recorder.now();
        let mut whom = None;
        match fault {
            Fault::RedisRestart { away } => {
                self.with_redis(|redis| redis.first().kill()).await?;
                tokio::time::sleep(away).await;
                self.with_redis(|redis| redis.first().restart()).await?;
            }
            Fault::MasterKill { node, away } => {
                return self.fail_master(fault.kind(), node, false, away).await;
            }
            Fault::MasterFreeze { node, time } => {
                return self.fail_master(fault.kind(), node, true, time).await;
            }
            Fault::SlotMove { node, draw, pause } => {
                return self.move_slots(node, draw, pause).await;
            }
            Fault::DeleteRows { draw } => {
                self.delete_rows(draw).await?;
                return self.harmless(fault.kind(), None, at);
            }
            Fault::Evict { draw } => {
                self.evict(draw).await?;
                return self.harmless(fault.kind(), None, at);
            }
            Fault::Erase { node, draw } => {
                self.erase(node, draw).await;
                return self.harmless(fault.kind(), None, at);
            }
            Fault::HangUp { node, draw } => {
                let whom = self.hang_up(node, draw).await;
                return self.harmless(fault.kind(), whom, at);
            }
            Fault::StallReaders { node, draw } => {
                let whom = self.stall_readers(node, draw).await;
                return self.harmless(fault.kind(), whom, at);
            }
            Fault::Demote { late } => return self.demote(late).await,
            Fault::CutOff { node, time, late } => return self.cut_off(node, time, late).await,
            Fault::AddressSilent { node, time } => return self.silence_address(node, time).await,
            Fault::TooLarge { draw } => {
                self.stumble(draw).await;
                return self.harmless(fault.kind(), None, at);
            }
            Fault::StallClaim { node, draw, time } => {
                whom = self.stall_claim(node, draw, time).await;
            }
            Fault::RedisFreeze { time } => {
                let pid = self.with_redis(|redis| redis.first().pid()).await?;
                drop(freeze(pid, time).await);
            }
            Fault::FlushAll => self.admin(&["FLUSHALL"]).await?,
            Fault::KillSubscriptions => self.admin(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?,
            Fault::KillCommands => self.admin(&["CLIENT", "KILL", "TYPE", "normal"]).await?,
            Fault::OutputBuffer { node, frozen } => {
                let slot = self.places[node].lock().await;
                if let Some(node) = &*slot {
                    whom = Some(node.id.clone());
                    self.overflow(node, frozen).await?;
                }
            }
            Fault::NodeKill { node, away } => {
                self.views.set(node, None);
                let killed = self.places[node].lock().await.take();
                whom = killed.as_ref().map(|node| node.id.clone());
                spawn_blocking(move || killed.map(Node::kill)).await?;
                tokio::time::sleep(away).await;
                self.start(node).await;
            }
            Fault::NodeFreeze { node, time } => {
                let slot = self.places[node].lock().await;
                if let Some(node) = &*slot {
                    whom = Some(node.id.clone());
                    let thaw = freeze(node.pid(), time).await;
                    self.recorder.write(Event::Thaw {
                        node: node.id.clone(),
                        at: self.recorder.now(),
                    });
                    drop(thaw);
                }
            }
            Fault::NodeRestart { node } => {
                whom = self.leave(node).await?;
                self.start(node).await;
            }
            Fault::NodeReplace { node, release } => {
                whom = self.leave(node).await?;
                *lock(&self.releases[node]) = release;
                self.start(node).await;
            }
            Fault::NodeTerm { node } => {
                let leaving = self.places[node].lock().await.take();
                if let Some(mut leaving) = leaving {
                    let id = leaving.id.clone();
                    leaving.signal("TERM");
                    self.come_late(&id, leaving.client_address()).await;
                    self.views.set(node, None);
                    let status: ExitStatus = spawn_blocking(move || leaving.wait_exit()).await?;
                    if !status.success() {
                        self.died(&id, &format!("told to leave, it ended with {status}"));
                    }
                    whom = Some(id);
                }
                self.start(node).await;
            }
            Fault::BlackHole { node, time } => {
                whom = self.name(node).await;
                self.ways_of(node).for_each(Proxy::close);
                tokio::time::sleep(time).await;
                self.ways_of(node).for_each(Proxy::open);
            }
            Fault::Reset { node } => {
                whom = self.name(node).await;
                self.ways_of(node).for_each(Proxy::reset);
            }
            Fault::Silence { node, all } => {
                whom = self.name(node).await;
                self.ways_of(node).for_each(|way| way.silence(all));
            }
            Fault::Lose { node, messages } => {
                whom = self.name(node).await;
                self.ways_of(node).for_each(|way| way.lose(messages));
            }
            Fault::Delay { node, delay, time } => {
                whom = self.name(node).await;
                self.ways_of(node).for_each(|way| way.slow(delay));
                tokio::time::sleep(time).await;
                self.ways_of(node).for_each(Proxy::open);
            }
        }
        self.fault(fault.kind(), whom, at);
        Ok(())
    }

    /// Has a node leave and waits for its end. Answers which it was.
    async fn leave(&self, node: usize) -> Result<Option<String>> {
        self.views.set(node, None);
        let Some(mut leaving) = self.places[node].lock().await.take() else {
            return Ok(None);
        };
        let id = leaving.id.clone();
        leaving.signal("TERM");
        let status: ExitStatus = spawn_blocking(move || leaving.wait_exit()).await?;
        if !status.success() {
            self.died(&id, &format!("told to leave, it ended with {status}"));
        }
        Ok(Some(id))
    }

    pub(crate) fn ways_of(&self, node: Option<usize>) -> impl Iterator<Item = &Proxy> {
        let ours = move |place: &usize| node.is_none_or(|node| node == *place);
        self.ways
            .iter()
            .enumerate()
            .filter(move |(place, _)| ours(place))
            .map(|(_, way)| way)
    }

    pub(crate) async fn name(&self, node: Option<usize>) -> Option<String> {
        let slot = self.places[node?].lock().await;
        slot.as_ref().map(|node| node.id.clone())
    }

    /// One command of an operator, who tries again while Redis is away.
    async fn admin(&self, command: &[&str]) -> Result<()> {
        for _ in 0..100 {
            if let Ok(mut redis) = Resp::connect(self.port).await {
                match redis.call(command).await {
                    // A kill may hit the hand that gave the order.
                    Err(_) if command.first() == Some(&"CLIENT") => return Ok(()),
                    Ok(_) => return Ok(()),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Error::other(format!("Redis does not take {command:?}")))
    }

    /// Sends the node more than Redis will keep for it.
    async fn overflow(&self, node: &Node, frozen: Duration) -> Result<()> {
        let limit = if frozen.is_zero() {
            "pubsub 32768 0 0"
        } else {
            "pubsub 262144 0 0"
        };
        self.admin(&["CONFIG", "SET", "client-output-buffer-limit", limit])
            .await?;
        let channel = format!("pn:n:{{{}}}", node.id);
        let line = format!(
            r#"{{"to":{{"user":"nobody"}},"data":"{}"}}"#,
            "x".repeat(60_000)
        );
        let thaw = (!frozen.is_zero()).then(|| {
            node.signal("STOP");
            Thaw(node.pid())
        });
        let count = if thaw.is_some() { 400 } else { 3 };
        // Redis may be away by another fault; then there is nothing to overflow.
        if let Ok(mut redis) = Resp::connect(self.port).await {
            for _ in 0..count {
                let published = redis.call(&["PUBLISH", &channel, &line]).await;
                // Nobody listens once the subscription is cut.
                if published.is_ok_and(|answer| answer.number() == 0) {
                    break;
                }
            }
        }
        tokio::time::sleep(frozen).await;
        drop(thaw);
        self.admin(&["CONFIG", "SET", "client-output-buffer-limit", BUFFER])
            .await
    }

    /// Whether every node says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let views = self.views.all();
        let ready = futures::future::join_all(views.iter().map(View::is_ready)).await;
        ready.len() == self.places.len() && ready.into_iter().all(|ready| ready)
    }

    /// The last lines of each node's log.
    pub(crate) async fn logs(&self) -> String {
        let mut out = String::new();
        for slot in &self.places {
            if let Some(node) = &*slot.lock().await {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                out += &format!(
                    "--- {}\n{}\n",
                    node.id,
                    lines[lines.len().saturating_sub(60)..].join("\n")
                );
            }
        }
        out
    }

    /// All rows of the registry.
    pub(crate) async fn registry(&self) -> Result<(Vec<Field>, TopicRows)> {
        let (mut fields, mut topics) = (Vec::new(), TopicRows::new());
        for port in self.doors.masters().await? {
            rows(port, "pn:user", &mut |user, row| {
                fields.extend(row.map(|pair| field(user, pair)));
            })
            .await?;
            rows(port, "pn:topic", &mut |topic, row| {
                let row = row.map(|pair| (pair[0].text().to_owned(), count(&pair[1])));
                topics.insert(format!("#{topic}"), row.collect());
            })
            .await?;
        }
        // SCAN may show a key twice.
        fields.sort_by(|a, b| (&a.user, &a.field).cmp(&(&b.user, &b.field)));
        fields.dedup_by(|a, b| (&a.user, &a.field) == (&b.user, &b.field));
        Ok((fields, topics))
    }
}

/// Fields of a row with their values.
type Pairs<'a> = std::slice::ChunksExact<'a, Answer>;

/// Those of one server, of users or of topics.
async fn rows(port: u16, kind: &str, take: &mut dyn FnMut(&str, Pairs<'_>)) -> Result<()> {
    let pattern = format!("{kind}:{{*}}");
    let mut redis = Resp::connect(port).await?;
    let mut cursor = "0".to_owned();
    loop {
        let page = redis
            .call(&["SCAN", &cursor, "MATCH", &pattern, "COUNT", "1000"])
            .await?;
        let [next, keys] = page.list() else { break };
        for key in keys.list() {
            let name = &key.text()[pattern.len() - 2..key.text().len() - 1];
            let row = redis.call(&["HGETALL", key.text()]).await?;
            take(name, row.list().chunks_exact(2));
        }
        next.text().clone_into(&mut cursor);
        if cursor == "0" {
            break;
        }
    }
    Ok(())
}

/// The number of members; a mark follows it where some of them watch the topic.
fn count(value: &Answer) -> u64 {
    let digits = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    digits(value.text()).unwrap_or_default()
}

fn field(user: &str, pair: &[Answer]) -> Field {
    let about: serde_json::Value = serde_json::from_str(pair[1].text()).unwrap_or_default();
    Field {
        user: user.to_owned(),
        field: pair[0].text().to_owned(),
        device: about["device"].as_str().unwrap_or_default().to_owned(),
    }
}

fn view(node: &Node) -> View {
    View {
        id: node.id.clone(),
        clients: node.client_address(),
        lines: node.lines.first().copied(),
        admin: node.admin,
        pid: node.pid(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a stopped process go on, whatever happens to us.
struct Thaw(u32);

impl Drop for Thaw {
    fn drop(&mut self) {
        common::send_signal(self.0, "CONT");
    }
}

/// Stops a process for so long; it goes on when the answer is dropped.
async fn freeze(pid: u32, time: Duration) -> Thaw {
    common::send_signal(pid, "STOP");
    let thaw = Thaw(pid);
    tokio::time::sleep(time).await;
    thaw
}
