//! One run: a stage, its actors, the faults of a seed, quiet, and the history of all that.

use std::collections::HashMap;
use std::io::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::task::JoinHandle;

use crate::checker::{self, Verdict};
use crate::clients::Device;
use crate::common::books::{self, Values};
use crate::common::{self, PATIENCE};
use crate::history::{Event, Phase, Recorder, TOPICS};
use crate::passes::Pass;
use crate::publishers::{RedisPublisher, Sender, World};
use crate::schedule::Scenario;
use crate::stage::Stage;
use crate::views::View;
use crate::wires::Wire;

/// How long after the last push its loss may still be told: the checker's window, and time for
/// connections that died in their handshake to be given up, and for a dead node's users to leave.
const SETTLE: Duration = Duration::from_secs(35);
/// A harness that comes this late cannot blame the nodes for it.
const LAG: Duration = Duration::from_millis(1_000);

/// How large a run is.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) users: usize,
    pub(crate) senders: usize,
    /// How long there are faults.
    pub(crate) length: Duration,
    /// The program of the last release, for the scenario `upgrade`.
    pub(crate) last_release: Option<PathBuf>,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) history: Vec<Event>,
    pub(crate) verdicts: Vec<Verdict>,
    /// The nodes' last words.
    pub(crate) logs: String,
}

/// Actors of a run. They end with it.
struct Actors(Vec<JoinHandle<()>>);

impl Drop for Actors {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Plays the scenario with this seed.
pub(crate) async fn play(scenario: &Scenario, seed: u64, size: Size) -> Result<Outcome> {
    let recorder = Recorder::new(scenario.name, seed);
    let users: Arc<Vec<String>> = Arc::new((0..size.users).map(|i| format!("u{i}")).collect());
    let stage = Stage::set(scenario, &size, users.clone(), recorder.clone());
    let stage = Arc::new(stage.await?);
    until("the nodes to be ready", async || stage.is_ready().await).await?;
    let mut rng = Rng::with_seed(seed ^ 0x5EED);
    let devices = devices(&users, scenario, &mut rng);
    let count = devices.len();
    let world = World {
        users,
        views: stage.views.clone(),
        redis: stage.doors.clone(),
        recorder: recorder.clone(),
        rules: scenario.rules,
    };

    let mut background = Actors(Vec::new());
    let clients = devices
        .into_iter()
        .map(|device| tokio::spawn(device.live(stage.views.clone(), recorder.clone())));
    background.0.extend(clients);
    background.0.push(tokio::spawn(sample(world.clone())));
    background
        .0
        .push(tokio::spawn(mind_the_lag(recorder.clone())));
    background.0.push(tokio::spawn({
        let stage = stage.clone();
        async move { stage.note_switches().await }
    }));
    let is_full = async || stage.views.connected() == count;
    until("all clients to be there", is_full).await?;
    stage.views.begin_moving();

    let mut publishers = Actors(Vec::new());
    for i in 0..size.senders {
        let sender = Sender::new(world.clone(), format!("h{i}"), rng.fork());
        let over_redis = RedisPublisher::new(world.clone(), format!("r{i}"), rng.fork());
        if scenario.http {
            publishers.0.push(tokio::spawn(sender.publish()));
        }
        if i % 2 == 0 || !scenario.http {
            publishers.0.push(tokio::spawn(over_redis.publish()));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let warm = processes(&stage.views.all(), Phase::Warm, &recorder).await;
    warm.into_iter().for_each(|event| recorder.write(event));
    background.0.push(tokio::spawn({
        let stage = stage.clone();
        async move {
            loop {
                stage.attend().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }));

    for step in scenario.schedule(seed, size.nodes, size.length) {
        tokio::time::sleep(step.pause).await;
        let faults = step.faults.iter().map(|fault| stage.apply(*fault));
        for done in futures::future::join_all(faults).await {
            done?;
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.views.end_publishing();
    for publisher in &mut publishers.0 {
        let ended = tokio::time::timeout(PATIENCE * 2, publisher).await;
        if !matches!(ended, Ok(Ok(()))) {
            return Err(std::io::Error::other(format!(
                "a publisher did not end: {ended:?}"
            )));
        }
    }
    let back = async {
        until("the nodes to be ready again", async || {
            stage.is_ready().await
        })
        .await?;
        stage.views.end_churn();
        let is_calm = async || is_full().await && stage.views.expiring() == 0;
        until("all clients to be back", is_calm).await
    };
    match back.await {
        Ok(()) => {
            let at = recorder.now();
            recorder.write(Event::Quiet { at });
            let last = Sender::new(world, String::new(), rng.fork());
            last.publish_last(PATIENCE).await;
        }
        Err(error) => recorder.write(Event::Died {
            node: "some node".to_owned(),
            how: error.to_string(),
            at: recorder.now(),
        }),
    }

    let quiet = Instant::now();
    let outcome = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut history = recorder.snapshot();
        take_stock(&stage, &recorder, &mut history).await?;
        let verdicts = checker::check(&history);
        if verdicts.iter().all(|verdict| verdict.broken == 0) || quiet.elapsed() > SETTLE {
            break (history, verdicts);
        }
    };
    let (history, verdicts) = outcome;
    let logs = stage.logs().await;
    drop(background);
    Ok(Outcome {
        history,
        verdicts,
        logs,
    })
}

/// Each user has one to four devices; most speak `pushnode.v1`, and many are in topics.
fn devices(users: &[String], scenario: &Scenario, rng: &mut Rng) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    for user in users {
        for _ in 0..rng.usize(1..=4) {
            let wire = match rng.u8(..6) {
                0 | 1 => Wire::V1,
                2 => Wire::Plain,
                3 | 4 => Wire::Tcp,
                _ => Wire::Sse,
            };
            let topics = TOPICS.iter().enumerate();
            let topics = topics.filter(|(i, _)| rng.u8(..2 << i) == 0);
            let topics = topics.map(|(_, topic)| (*topic).to_owned()).collect();
            let pass = if rng.bool() { Pass::Jwt } else { Pass::Session };
            devices.push(Device {
                number: devices.len(),
                user: user.clone(),
                wire,
                acks: rng.bool(),
                churns: rng.u8(..3) == 0,
                moves: scenario.moves,
                toggles: wire.can_ask() && rng.u8(..3) == 0,
                // Nodes tell each other of members in numbered messages, so any would show a loss.
                watches: wire.hears_objects() && rng.u8(..4) == 0 && scenario.http,
                pass: scenario.tokens.then_some(pass),
                renews: wire.can_ask() && rng.u8(..3) > 0,
                resumes: wire.hears_objects() && rng.bool(),
                resumes_all: wire == Wire::Sse && scenario.sse_topics,
                reloads: scenario.upgrades,
                position: None,
                publishes: scenario.rules && wire.can_ask() && rng.bool(),
                topics,
                positions: HashMap::new(),
                rng: rng.fork(),
            });
        }
    }
    devices
}

/// What can be seen now: registry, counters, processes. Written to a copy of the history.
async fn take_stock(stage: &Stage, recorder: &Recorder, history: &mut Vec<Event>) -> Result<()> {
    let views = stage.views.all();
    let (fields, topics) = stage.registry().await?;
    history.push(Event::Registry {
        fields,
        topics,
        at: recorder.now(),
    });
    for view in &views {
        if let Some(values) = metrics(view).await {
            history.push(Event::Metrics {
                node: view.id.clone(),
                values,
                at: recorder.now(),
            });
        }
    }
    history.extend(processes(&views, Phase::End, recorder).await);
    history.push(Event::End { at: recorder.now() });
    Ok(())
}

async fn metrics(view: &View) -> Option<Values> {
    let url = format!("http://{}/metrics", view.admin);
    let answer = common::http().get(url).timeout(LAG).send().await.ok()?;
    let text = answer.text().await.ok()?;
    Some(books::parse(&text))
}

/// Notes each node's count of losses about once a second.
async fn sample(world: World) {
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let views = world.views.all();
        let samples = views.iter().map(async |view| {
            let values = metrics(view).await?;
            let lost = values
                .iter()
                .filter(|(name, _)| name.starts_with("losses_total{"));
            world.recorder.write(Event::Sample {
                node: view.id.clone(),
                lost: lost.map(|(_, value)| value).sum(),
                at: world.recorder.now(),
            });
            Some(())
        });
        futures::future::join_all(samples).await;
    }
}

/// A machine so busy that this very process was not run is written down as a fault: it hits all.
async fn mind_the_lag(recorder: Recorder) {
    loop {
        let (before, from) = (Instant::now(), recorder.now());
        tokio::time::sleep(Duration::from_millis(100)).await;
        if before.elapsed() > LAG {
            let until = recorder.now();
            recorder.write(Event::Fault {
                kind: "lag".to_owned(),
                node: None,
                at: from,
                until,
            });
        }
    }
}

async fn processes(views: &[View], phase: Phase, recorder: &Recorder) -> Vec<Event> {
    let mut seen = Vec::new();
    for view in views {
        let folder = format!("/proc/{}", view.pid);
        let fds = std::fs::read_dir(format!("{folder}/fd")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .trim()
                .parse()
                .ok()
        });
        let values = metrics(view).await.unwrap_or_default();
        seen.push(Event::Process {
            node: view.id.clone(),
            phase,
            fds: fds as u64,
            rss_kib: rss.unwrap_or_default(),
            connections: values.get("connections").copied().unwrap_or_default() as u64,
            at: recorder.now(),
        });
    }
    seen
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !check().await {
        if start.elapsed() > PATIENCE * 2 {
            return Err(std::io::Error::other(format!("waited in vain for {what}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
