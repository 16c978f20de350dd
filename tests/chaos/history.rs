//! What happened in a run: one event a line, in the order of one monotonic clock.
//!
//! All actors live in this process, so there is one clock and nothing to align. Actors only
//! write; the checker only reads. Times are microseconds since the start of the run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::wires::Wire;

/// Microseconds since the start of the run.
pub(crate) type Micros = u64;

pub(crate) const SECOND: Micros = 1_000_000;

/// The name that stands for everybody in [`Push::to`] and [`Part::user`].
pub(crate) const EVERYBODY: &str = "*";

/// The topics, as [`Push::to`] and [`Part::user`] name them; no user's name begins so. The first is the
/// largest.
pub(crate) const TOPICS: [&str; 4] = ["#t0", "#t1", "#t2", "#t3"];

/// The name of the topic, if it is one.
pub(crate) fn topic(name: &str) -> Option<&str> {
    name.strip_prefix('#')
}

/// The publisher of the last round: when all is quiet, a push to each user and topic that must arrive.
pub(crate) const FINAL: &str = "final";

/// The status of a push whose sender closed its connection after the whole request.
pub(crate) const HUNG_UP: &str = "hung-up";

/// One attempt to publish a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Push {
    pub(crate) id: String,
    /// Who published it.
    pub(crate) by: String,
    /// Through which node (`<name>.<boot>`), or `redis`; or `pn:g` where that has an order of its own.
    pub(crate) via: String,
    /// Counts this publisher's messages; a repeat has the number of the first attempt.
    pub(crate) seq: u64,
    /// Users, one of the [`TOPICS`] alone, or [`EVERYBODY`] alone.
    pub(crate) to: Vec<String>,
    /// Counted from 1: attempts of one message share id and number.
    pub(crate) attempt: u32,
    pub(crate) sent: Micros,
    pub(crate) answered: Micros,
    /// What the publisher was told; `unknown` without an answer, [`HUNG_UP`] if it did not wait.
    pub(crate) status: String,
    /// Why some part of it is not through, as the answer says.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// Whether it was to be kept in the inboxes of its users, or the topic's log.
    #[serde(default)]
    pub(crate) kept: bool,
    /// The connection of the member that published it, if one did.
    #[serde(default)]
    pub(crate) author: Option<String>,
    /// Whether it went to the channel of all nodes, without a look at who is where: Redis counts
    /// every listener there.
    #[serde(default)]
    pub(crate) everywhere: bool,
    /// The nodes that took it, as a publisher over Redis knows that reads the row itself.
    #[serde(default)]
    pub(crate) nodes: Vec<String>,
    /// What it was told of each user, or of the topic.
    pub(crate) parts: Vec<Part>,
}

/// What a publisher was told of one user or topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) user: String,
    pub(crate) status: String,
    pub(crate) connections: u32,
}

/// A field of a row in the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Field {
    pub(crate) user: String,
    /// `<node>/<fd>`.
    pub(crate) field: String,
    /// The device named at the connect: in this harness the connection's own name.
    pub(crate) device: String,
}

/// By topic and node, how many connections are in it, as the registry has it.
pub(crate) type TopicRows = BTreeMap<String, BTreeMap<String, u64>>;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The first line.
    Run {
        scenario: String,
        seed: u64,
    },
    Push(Push),
    /// A connection works: `ready` for `pushnode.v1`, the 101 for a plain one.
    Open {
        conn: String,
        user: String,
        /// Whether it hears objects, and so of losses.
        v1: bool,
        #[serde(default)]
        wire: Wire,
        /// `<name>.<boot>`.
        node: String,
        /// Known to clients that hear objects.
        fd: Option<u64>,
        /// How it follows its user's inbox.
        #[serde(default)]
        inbox: Inbox,
        /// The topics that it is in, or asks for next.
        #[serde(default)]
        topics: Vec<String>,
        at: Micros,
    },
    /// The connection asks to be in the topic.
    Subscribing {
        conn: String,
        topic: String,
        /// Whether it wants to know who else is.
        presence: bool,
        /// Before it is open, if it names the topic when it connects.
        at: Micros,
    },
    /// The connection was told that it is in the topic.
    Subscribed {
        conn: String,
        topic: String,
        /// How it follows the topic's log.
        inbox: Inbox,
        /// It asked for so many of the last messages, and these are proven to be the last.
        #[serde(default)]
        last: Option<u16>,
        at: Micros,
    },
    /// The connection asks to leave the topic.
    Unsubscribing {
        conn: String,
        topic: String,
        at: Micros,
    },
    /// The connection was told that it has left the topic.
    Unsubscribed {
        conn: String,
        topic: String,
        at: Micros,
    },
    /// What a connection was told of who is in a topic.
    Presence {
        conn: String,
        topic: String,
        news: News,
        at: Micros,
    },
    /// The connection was let in by a token, or has renewed it.
    Token {
        conn: String,
        /// A session, of which Redis knows; otherwise a signed token.
        session: bool,
        ends: Micros,
        at: Micros,
    },
    Recv {
        conn: String,
        id: String,
        /// The addressees written into the message itself.
        to: Vec<String>,
        /// Whether it came with a token to resume after it.
        #[serde(default)]
        kept: bool,
        /// `<user> <node>/<fd>`: who published it, as the node says.
        #[serde(default)]
        from: Option<String>,
        at: Micros,
    },
    Resync {
        conn: String,
        /// Whose messages only.
        #[serde(default)]
        topic: Option<String>,
        at: Micros,
    },
    Degraded {
        conn: String,
        at: Micros,
    },
    Bye {
        conn: String,
        code: u16,
        at: Micros,
    },
    Close {
        conn: String,
        cause: Cause,
        /// Of the node's close frame.
        code: Option<u16>,
        at: Micros,
    },
    /// Something was done to a node, to all (`node` is none), or to Redis.
    Fault {
        kind: String,
        node: Option<String>,
        at: Micros,
        /// Until then nothing could be expected of whom it hit.
        until: Micros,
    },
    /// A node that stood still was told to go on. It runs before the fault is over.
    Thaw {
        node: String,
        at: Micros,
    },
    /// Rows of these connections, and of these topics, were deleted in Redis, or may have been.
    RowsDeleted {
        conns: Vec<String>,
        topics: Vec<String>,
        at: Micros,
    },
    /// The connection was seen in its user's row again.
    RowBack {
        conn: String,
        at: Micros,
    },
    /// How often a kept message stands in its inbox, when all that was stalled has passed.
    Stored {
        id: String,
        times: u64,
        at: Micros,
    },
    /// The log of a topic, or this message of it, was to be erased between `at` and `until`;
    /// `is_done` if a node said that it is.
    Erased {
        topic: String,
        id: Option<String>,
        at: Micros,
        until: Micros,
        is_done: bool,
    },
    /// A sender ended its half of the connection after a whole request.
    HalfClosed {
        id: String,
        node: String,
        is_answered: bool,
        at: Micros,
    },
    /// Somebody connected to a node that was told to leave and has not closed its door, and asked.
    AskedLate {
        node: String,
        is_answered: bool,
        at: Micros,
    },
    /// Somebody asked a node for answers, read none of them, and was sent away, or not.
    Stalled {
        node: String,
        at: Micros,
        ended: Option<Micros>,
        /// How long it was watched.
        until: Micros,
    },
    /// A node's way to Redis was right again at `at`: its name led to the primary, or its address
    /// answered. Then it was watched until it served.
    Followed {
        node: String,
        /// What had happened, as the fault is called.
        kind: String,
        at: Micros,
        served: Option<Micros>,
        /// How long it was watched.
        until: Micros,
    },
    /// A client came back, again and again, to kept messages some of which it could not take.
    Stumbled {
        user: String,
        /// In the order in which they were kept.
        kept: Vec<String>,
        /// Which of them are over its limit.
        large: Vec<String>,
        /// What it took.
        got: Vec<String>,
        /// What a `resync` told it that it does not get.
        passed: Vec<String>,
        /// Whether `ready` said that nothing was missing when some was passed over.
        is_claimed: bool,
        /// What another device without a limit took.
        other: Vec<String>,
        connects: u64,
        /// So many connects must be enough.
        allowed: u64,
        at: Micros,
    },
    /// Sentinels made another server the master, although nothing was done to the one before. It
    /// may lack all that was answered until then.
    Switched {
        /// Ports.
        from: u16,
        to: u16,
        at: Micros,
    },
    /// A process ended that nobody had told to.
    Died {
        node: String,
        how: String,
        at: Micros,
    },
    /// A node's counters of losses and drops, taken now and then.
    Sample {
        node: String,
        lost: f64,
        at: Micros,
    },
    /// Fault and publishers have ended, all clients are back.
    Quiet {
        at: Micros,
    },
    /// The registry at the end.
    Registry {
        fields: Vec<Field>,
        #[serde(default)]
        topics: TopicRows,
        at: Micros,
    },
    /// All metrics of a node at the end.
    Metrics {
        node: String,
        values: BTreeMap<String, f64>,
        at: Micros,
    },
    /// A node's process, `warm` (after the first clients came) and at the `end`.
    Process {
        node: String,
        phase: Phase,
        fds: u64,
        rss_kib: u64,
        connections: u64,
        at: Micros,
    },
    /// The last line.
    End {
        at: Micros,
    },
}

/// Whether a connection goes on where an earlier one of its device stopped, in its user's inbox or a
/// topic's log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) enum Inbox {
    /// It has no token, or Redis was away: kept messages are pushes like any other.
    #[default]
    Unknown,
    /// Of this device, from here on: nothing is promised of what was before.
    Begins(String),
    /// Of this device, and `recovered` was `true`: nothing is missing.
    Continues(String),
}

/// Who is in a topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum News {
    /// These and nobody else.
    Members(Vec<String>),
    Join(Vec<String>),
    Leave(Vec<String>),
    /// No more will be told.
    Lost,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The node, with a close frame.
    Node,
    /// The client, with a close frame.
    Client,
    /// The client, by dropping its socket.
    Dropped,
    /// The stream ended and nobody had said why.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Warm,
    End,
}

/// Takes events from all actors.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    start: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    pub(crate) fn new(scenario: &str, seed: u64) -> Self {
        let run = Event::Run {
            scenario: scenario.to_owned(),
            seed,
        };
        Self {
            start: Instant::now(),
            events: Arc::new(Mutex::new(vec![run])),
        }
    }

    pub(crate) fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros
    }

    pub(crate) fn write(&self, event: Event) {
        self.lock().push(event);
    }

    /// The events so far.
    pub(crate) fn snapshot(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        // A vector is whole between two pushes.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a history as JSON lines.
pub(crate) fn save(events: &[Event], path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads what [`save`] wrote.
pub(crate) fn load(path: &Path) -> Result<Vec<Event>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = std::io::BufReader::new(file).lines();
    let events = lines.enumerate().map(|(number, line)| {
        let parsed = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|error| error.to_string()));
        parsed.map_err(|error| format!("{}:{}: {error}", path.display(), number + 1))
    });
    events.collect()
}
