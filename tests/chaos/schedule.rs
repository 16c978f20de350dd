//! Scenarios, and the faults that a seed makes of them.
//!
//! All of a run's faults are drawn before it begins, from the seed alone, so that a seed replays
//! its schedule whatever the nodes do.

use std::time::Duration;

use fastrand::Rng;

use crate::mishaps::ERASING;
use crate::topology::Setup;

/// How long a node that was told to leave goes on serving, where it does.
pub(crate) const PRESTOP: Duration = Duration::from_secs(5);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Killed, away for a while, back and empty.
    RedisRestart {
        away: Duration,
    },
    RedisFreeze {
        time: Duration,
    },
    /// The master behind Sentinels, or the owner of a node's channel, is killed; it comes back as
    /// a replica when it has been away so long and another is promoted.
    MasterKill {
        node: usize,
        away: Duration,
    },
    /// The same stands still, and goes on later.
    MasterFreeze {
        node: usize,
        time: Duration,
    },
    /// The slots of a node's channel and of some users move to other masters; between two steps
    /// passes up to a pause.
    SlotMove {
        node: usize,
        draw: u64,
        pause: Duration,
    },
    FlushAll,
    /// Rows of some users, or fields of them, are deleted one by one.
    DeleteRows {
        draw: u64,
    },
    /// Redis evicts some of what has a time to live.
    Evict {
        draw: u64,
    },
    /// A sender has the log of a topic erased, or for a while what comes into it, by this node.
    Erase {
        node: usize,
        draw: u64,
    },
    /// Senders close in the middle of a request, or without waiting for the answer.
    HangUp {
        node: usize,
        draw: u64,
    },
    /// Senders read no answer.
    StallReaders {
        node: usize,
        draw: u64,
    },
    /// A node's commands stand still between the claim of an id and the rest, and the push comes
    /// again to another node.
    StallClaim {
        node: usize,
        draw: u64,
        time: Duration,
    },
    KillSubscriptions,
    KillCommands,
    /// A small limit, and more for a node than fits; the node frozen meanwhile, or not.
    OutputBuffer {
        node: usize,
        frozen: Duration,
    },
    NodeKill {
        node: usize,
        away: Duration,
    },
    NodeFreeze {
        node: usize,
        time: Duration,
    },
    NodeRestart {
        node: usize,
    },
    /// A node leaves, and one of this or the last release takes its place.
    NodeReplace {
        node: usize,
        release: Release,
    },
    /// As `NodeRestart`, and everybody still comes to the node, as behind a balancer that has not
    /// looked yet.
    NodeTerm {
        node: usize,
    },
    /// The way of one node to Redis, or of all, swallows everything.
    BlackHole {
        node: Option<usize>,
        time: Duration,
    },
    /// One node is cut off from Redis, and no connection survives. When the way is back, its first
    /// subscription needs this much longer than its commands.
    CutOff {
        node: usize,
        time: Duration,
        late: Duration,
    },
    Reset {
        node: Option<usize>,
    },
    /// The replica becomes the primary, and the old primary lives on as its replica. The name leads
    /// to the new one this much later.
    Demote {
        late: Duration,
    },
    /// The address that one node uses, or all do, goes silent: it takes connections and says nothing.
    /// All that was sent is lost, and the connections of that time stay silent for ever.
    AddressSilent {
        node: Option<usize>,
        time: Duration,
    },
    /// Kept messages over the limit of a client, which drops the connection at each of them, and
    /// others that come after them.
    TooLarge {
        draw: u64,
    },
    /// The open connections of one node, or of all, go silent for ever; new ones work. Or only
    /// the subscriptions.
    Silence {
        node: Option<usize>,
        all: bool,
    },
    /// Single messages to one node, or to all, are lost on a connection that lives on.
    Lose {
        node: Option<usize>,
        messages: u32,
    },
    Delay {
        node: Option<usize>,
        delay: Duration,
        time: Duration,
    },
}

/// Which build a node is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// The program that `--last-release` names.
    Last,
    Present,
}

/// A fault, or two at a time, after a pause.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) pause: Duration,
    pub(crate) faults: Vec<Fault>,
}

/// A kind of trouble.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) setup: Setup,
    /// Whether nodes reach Redis through a [`crate::proxy::Proxy`].
    pub(crate) proxied: bool,
    /// Whether there are publishers over HTTP; without them no node hears numbered messages.
    pub(crate) http: bool,
    /// Whether clients need tokens, which end and are renewed.
    pub(crate) tokens: bool,
    /// Whether topics are to be resumed over server-sent events.
    pub(crate) sse_topics: bool,
    /// Whether nodes of the last release are replaced by ones of this build, and back.
    pub(crate) upgrades: bool,
    /// Whether nodes that leave go on serving for [`PRESTOP`].
    pub(crate) prestop: bool,
    /// Whether nodes log to a pipe that nobody reads.
    pub(crate) log_unread: bool,
    /// Whether clients go from node to node all the time.
    pub(crate) moves: bool,
    /// Whether topics have rules: some keep every push, and members publish to some.
    pub(crate) rules: bool,
    draw: fn(&mut Rng, usize) -> Fault,
}

/// What most scenarios have in common.
const PLAIN: Scenario = Scenario {
    name: "",
    setup: Setup::Standalone,
    proxied: false,
    http: true,
    tokens: false,
    sse_topics: false,
    upgrades: false,
    prestop: false,
    log_unread: false,
    moves: false,
    rules: false,
    draw: redis_restart,
};

/// Needs a second program, so it is not one of [`SCENARIOS`].
const UPGRADE: Scenario = Scenario {
    name: "upgrade",
    upgrades: true,
    ..PLAIN
};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "standalone-restart",
        draw: redis_restart,
        ..PLAIN
    },
    Scenario {
        name: "flushall",
        draw: |_, _| Fault::FlushAll,
        ..PLAIN
    },
    Scenario {
        name: "client-kill",
        draw: client_kill,
        ..PLAIN
    },
    Scenario {
        name: "kill-storm",
        draw: |_, _| Fault::KillSubscriptions,
        ..PLAIN
    },
    Scenario {
        name: "output-buffer",
        draw: output_buffer,
        ..PLAIN
    },
    Scenario {
        name: "node-kill",
        draw: node_kill,
        ..PLAIN
    },
    Scenario {
        name: "node-freeze",
        draw: node_freeze,
        ..PLAIN
    },
    Scenario {
        name: "redis-freeze",
        draw: redis_freeze,
        ..PLAIN
    },
    Scenario {
        name: "rolling-restart",
        draw: |rng, nodes| Fault::NodeRestart {
            node: rng.usize(..nodes),
        },
        ..PLAIN
    },
    Scenario {
        name: "proxy",
        proxied: true,
        draw: way,
        ..PLAIN
    },
    Scenario {
        name: "deaf",
        proxied: true,
        http: false,
        draw: |rng, nodes| Fault::Silence {
            node: some_node(rng, nodes),
            all: false,
        },
        ..PLAIN
    },
    Scenario {
        name: "silence",
        proxied: true,
        draw: |rng, nodes| Fault::Silence {
            node: some_node(rng, nodes),
            all: true,
        },
        ..PLAIN
    },
    Scenario {
        name: "lossy",
        proxied: true,
        draw: |rng, nodes| Fault::Lose {
            node: some_node(rng, nodes),
            messages: rng.u32(1..10),
        },
        ..PLAIN
    },
    Scenario {
        name: "sentinel-kill",
        setup: Setup::Sentinel,
        draw: master_kill,
        ..PLAIN
    },
    Scenario {
        name: "sentinel-freeze",
        setup: Setup::Sentinel,
        draw: master_freeze,
        ..PLAIN
    },
    Scenario {
        name: "cluster-failover",
        setup: Setup::Cluster,
        draw: master_fails,
        ..PLAIN
    },
    Scenario {
        name: "slot-move",
        setup: Setup::Cluster,
        draw: slot_move,
        ..PLAIN
    },
    Scenario {
        name: "tokens",
        tokens: true,
        draw: while_tokens_end,
        ..PLAIN
    },
    Scenario {
        name: "rows-deleted",
        draw: |rng, _| Fault::DeleteRows { draw: rng.u64(..) },
        ..PLAIN
    },
    Scenario {
        name: "eviction",
        draw: |rng, _| Fault::Evict { draw: rng.u64(..) },
        ..PLAIN
    },
    Scenario {
        name: "sender-hangup",
        draw: |rng, nodes| Fault::HangUp {
            node: rng.usize(..nodes),
            draw: rng.u64(..),
        },
        ..PLAIN
    },
    Scenario {
        name: "sse-resume",
        sse_topics: true,
        draw: |rng, nodes| Fault::NodeRestart {
            node: rng.usize(..nodes),
        },
        ..PLAIN
    },
    Scenario {
        name: "stalled-claim",
        proxied: true,
        draw: |rng, nodes| Fault::StallClaim {
            node: rng.usize(..nodes),
            draw: rng.u64(..),
            time: millis(rng, 6_000, 9_000),
        },
        ..PLAIN
    },
    Scenario {
        name: "stalled-reader",
        draw: |rng, nodes| Fault::StallReaders {
            node: rng.usize(..nodes),
            draw: rng.u64(..),
        },
        ..PLAIN
    },
    Scenario {
        name: "cut-off",
        proxied: true,
        draw: |rng, nodes| Fault::CutOff {
            node: rng.usize(..nodes),
            // Dead after 10 to 19 s.
            time: millis(rng, 17_000, 20_000),
            late: millis(rng, 1_000, 3_000),
        },
        ..PLAIN
    },
    Scenario {
        name: "host-vanishes",
        draw: |rng, nodes| Fault::NodeFreeze {
            node: rng.usize(..nodes),
            time: millis(rng, 26_000, 32_000),
        },
        ..PLAIN
    },
    Scenario {
        name: "term-balanced",
        prestop: true,
        draw: |rng, nodes| Fault::NodeTerm {
            node: rng.usize(..nodes),
        },
        ..PLAIN
    },
    Scenario {
        name: "node-lost",
        draw: |rng, nodes| Fault::NodeKill {
            node: rng.usize(..nodes),
            away: millis(rng, 7_000, 9_000),
        },
        ..PLAIN
    },
    Scenario {
        name: "log-unread",
        log_unread: true,
        draw: client_kill,
        ..PLAIN
    },
    Scenario {
        name: "demoted-primary",
        setup: Setup::Pair,
        proxied: true,
        draw: |rng, _| Fault::Demote {
            late: millis(rng, 0, 4_000),
        },
        ..PLAIN
    },
    Scenario {
        name: "silent-address",
        proxied: true,
        draw: |rng, nodes| Fault::AddressSilent {
            node: some_node(rng, nodes),
            time: millis(rng, 1_000, 9_000),
        },
        ..PLAIN
    },
    Scenario {
        name: "too-large",
        draw: |rng, _| Fault::TooLarge { draw: rng.u64(..) },
        ..PLAIN
    },
    Scenario {
        name: "movers",
        proxied: true,
        moves: true,
        draw: while_users_move,
        ..PLAIN
    },
    Scenario {
        name: "rules",
        rules: true,
        proxied: true,
        draw: under_rules,
        ..PLAIN
    },
    Scenario {
        name: "erasure",
        rules: true,
        draw: while_logs_are_erased,
        ..PLAIN
    },
    Scenario {
        name: "mixed",
        proxied: true,
        tokens: true,
        draw: any,
        ..PLAIN
    },
];

impl Scenario {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        let mut known = SCENARIOS.iter().chain([&UPGRADE]);
        known.find(|scenario| scenario.name == name)
    }

    /// The steps of a run of about this length.
    pub(crate) fn schedule(&self, seed: u64, nodes: usize, length: Duration) -> Vec<Step> {
        let mut rng = Rng::with_seed(seed);
        if self.upgrades {
            return upgrade(&mut rng, nodes);
        }
        let mut steps = Vec::new();
        let mut spent = Duration::ZERO;
        while spent < length {
            // Now and then long enough that nothing later can cover up for what was lost.
            let pause = if rng.u8(..5) == 0 {
                millis(&mut rng, 11_000, 14_000)
            } else {
                millis(&mut rng, 500, 4_000)
            };
            let pause = match self.name {
                _ if steps.is_empty() => millis(&mut rng, 500, 1_500),
                // Never time to get over one before the next.
                "kill-storm" => millis(&mut rng, 1_000, 2_000),
                _ => pause,
            };
            let mut faults = vec![(self.draw)(&mut rng, nodes)];
            if self.name == "mixed" && rng.u8(..3) == 0 {
                let other = any(&mut rng, nodes);
                // Two hands on one thing would only undo each other's work.
                if (faults[0].node().is_some(), faults[0].ways())
                    != (other.node().is_some(), other.ways())
                    && !(faults[0].ways() || other.ways())
                {
                    faults.push(other);
                }
            }
            spent += pause + faults.iter().map(Fault::time).max().unwrap_or_default();
            steps.push(Step { pause, faults });
        }
        steps
    }
}

impl Fault {
    /// The node it stops, starts or floods.
    fn node(&self) -> Option<usize> {
        match self {
            Self::OutputBuffer { node, .. }
            | Self::NodeKill { node, .. }
            | Self::NodeFreeze { node, .. }
            | Self::NodeRestart { node }
            | Self::NodeTerm { node }
            | Self::NodeReplace { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// Whether it is about the way to Redis.
    fn ways(&self) -> bool {
        matches!(
            self,
            Self::BlackHole { .. }
                | Self::CutOff { .. }
                | Self::Reset { .. }
                | Self::Silence { .. }
                | Self::AddressSilent { .. }
                | Self::Demote { .. }
                | Self::Lose { .. }
                | Self::Delay { .. }
        )
    }

    fn time(&self) -> Duration {
        match self {
            Self::RedisRestart { away } | Self::NodeKill { away, .. } => *away,
            Self::RedisFreeze { time }
            | Self::NodeFreeze { time, .. }
            | Self::BlackHole { time, .. }
            | Self::CutOff { time, .. }
            | Self::AddressSilent { time, .. }
            | Self::Delay { time, .. } => *time,
            // Until the nodes have followed.
            Self::Demote { late } => *late + Duration::from_secs(2),
            Self::TooLarge { .. } => Duration::from_secs(4),
            Self::OutputBuffer { frozen, .. } => *frozen,
            // Until another is promoted.
            Self::MasterKill { away, .. } => (*away).max(Duration::from_secs(2)),
            Self::MasterFreeze { time, .. } => *time,
            Self::SlotMove { pause, .. } => *pause * 6,
            Self::NodeRestart { .. } | Self::NodeReplace { .. } => Duration::from_secs(2),
            Self::NodeTerm { .. } => PRESTOP + Duration::from_secs(2),
            // Until all rows are back.
            Self::DeleteRows { .. } | Self::Evict { .. } => Duration::from_secs(20),
            Self::StallReaders { .. } => Duration::from_secs(15),
            Self::StallClaim { time, .. } => *time,
            Self::Erase { .. } => ERASING,
            Self::HangUp { .. }
            | Self::FlushAll
            | Self::KillSubscriptions
            | Self::KillCommands
            | Self::Reset { .. }
            | Self::Silence { .. }
            | Self::Lose { .. } => Duration::ZERO,
        }
    }

    /// As the history names it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::RedisRestart { .. } => "redis-restart",
            Self::RedisFreeze { .. } => "redis-freeze",
            Self::MasterKill { .. } => "master-kill",
            Self::MasterFreeze { .. } => "master-freeze",
            Self::SlotMove { .. } => "slot-move",
            Self::FlushAll => "flushall",
            Self::DeleteRows { .. } => "rows-deleted",
            Self::Evict { .. } => "eviction",
            Self::Erase { .. } => "erasure",
            Self::HangUp { .. } => "sender-hangup",
            Self::StallReaders { .. } => "stalled-reader",
            Self::StallClaim { .. } => "stalled-claim",
            Self::KillSubscriptions => "kill-subscriptions",
            Self::KillCommands => "kill-commands",
            Self::OutputBuffer { .. } => "output-buffer",
            Self::NodeKill { .. } => "node-kill",
            Self::NodeFreeze { .. } => "node-freeze",
            Self::NodeRestart { .. } => "node-restart",
            Self::NodeReplace {
                release: Release::Present,
                ..
            } => "node-upgrade",
            Self::NodeReplace { .. } => "node-roll-back",
            Self::NodeTerm { .. } => "node-term",
            Self::BlackHole { .. } => "black-hole",
            Self::CutOff { .. } => "cut-off",
            Self::Reset { .. } => "reset",
            Self::Silence { .. } => "silence",
            Self::Demote { .. } => "demotion",
            Self::AddressSilent { .. } => "address-silent",
            Self::TooLarge { .. } => "too-large",
            Self::Lose { .. } => "lose",
            Self::Delay { .. } => "delay",
        }
    }
}

/// A rolling upgrade of all nodes, and a rolling roll-back in another order.
fn upgrade(rng: &mut Rng, nodes: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    for release in [Release::Present, Release::Last] {
        let mut order: Vec<usize> = (0..nodes).collect();
        rng.shuffle(&mut order);
        steps.extend(order.into_iter().map(|node| Step {
            pause: millis(rng, 4_000, 9_000),
            faults: vec![Fault::NodeReplace { node, release }],
        }));
    }
    steps
}

fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

fn redis_restart(rng: &mut Rng, _: usize) -> Fault {
    Fault::RedisRestart {
        away: millis(rng, 50, 3_000),
    }
}

fn redis_freeze(rng: &mut Rng, _: usize) -> Fault {
    Fault::RedisFreeze {
        time: millis(rng, 1_000, 5_000),
    }
}

fn master_kill(rng: &mut Rng, nodes: usize) -> Fault {
    Fault::MasterKill {
        node: rng.usize(..nodes),
        away: millis(rng, 500, 5_000),
    }
}

fn master_freeze(rng: &mut Rng, nodes: usize) -> Fault {
    // Now and then too short for a fail-over.
    let time = if rng.u8(..4) == 0 {
        millis(rng, 300, 900)
    } else {
        millis(rng, 2_500, 6_000)
    };
    Fault::MasterFreeze {
        node: rng.usize(..nodes),
        time,
    }
}

fn master_fails(rng: &mut Rng, nodes: usize) -> Fault {
    if rng.bool() {
        master_kill(rng, nodes)
    } else {
        master_freeze(rng, nodes)
    }
}

fn slot_move(rng: &mut Rng, nodes: usize) -> Fault {
    Fault::SlotMove {
        node: rng.usize(..nodes),
        draw: rng.u64(..),
        pause: millis(rng, 0, 400),
    }
}

fn client_kill(rng: &mut Rng, _: usize) -> Fault {
    if rng.bool() {
        Fault::KillSubscriptions
    } else {
        Fault::KillCommands
    }
}

/// What nodes look up tokens, bans and sessions through fails.
fn while_tokens_end(rng: &mut Rng, nodes: usize) -> Fault {
    match rng.u8(..4) {
        0 => redis_freeze(rng, nodes),
        1 => redis_restart(rng, nodes),
        2 => Fault::NodeRestart {
            node: rng.usize(..nodes),
        },
        _ => client_kill(rng, nodes),
    }
}

fn erase(rng: &mut Rng, nodes: usize) -> Fault {
    Fault::Erase {
        node: rng.usize(..nodes),
        draw: rng.u64(..),
    }
}

/// What logs that keep every push, and members that publish, rest on fails.
fn under_rules(rng: &mut Rng, nodes: usize) -> Fault {
    match rng.u8(..7) {
        0 => Fault::FlushAll,
        1 => redis_freeze(rng, nodes),
        2 => node_kill(rng, nodes),
        3 => client_kill(rng, nodes),
        4 => way(rng, nodes),
        _ => erase(rng, nodes),
    }
}

/// Nothing that empties Redis, so that all that is left must be there.
fn while_logs_are_erased(rng: &mut Rng, nodes: usize) -> Fault {
    match rng.u8(..4) {
        0 => node_kill(rng, nodes),
        1 => client_kill(rng, nodes),
        _ => erase(rng, nodes),
    }
}

/// What look-ups and the nodes that they name rest on fails, now and then.
fn while_users_move(rng: &mut Rng, nodes: usize) -> Fault {
    match rng.u8(..8) {
        0 | 1 => Fault::FlushAll,
        2 | 3 => client_kill(rng, nodes),
        4 => way(rng, nodes),
        _ => node_kill(rng, nodes),
    }
}

fn output_buffer(rng: &mut Rng, nodes: usize) -> Fault {
    let frozen = if rng.bool() {
        millis(rng, 1_000, 4_000)
    } else {
        Duration::ZERO
    };
    Fault::OutputBuffer {
        node: rng.usize(..nodes),
        frozen,
    }
}

fn node_kill(rng: &mut Rng, nodes: usize) -> Fault {
    Fault::NodeKill {
        node: rng.usize(..nodes),
        away: millis(rng, 50, 4_000),
    }
}

fn node_freeze(rng: &mut Rng, nodes: usize) -> Fault {
    Fault::NodeFreeze {
        node: rng.usize(..nodes),
        time: millis(rng, 2_000, 15_000),
    }
}

/// One node, or now and then all.
fn some_node(rng: &mut Rng, nodes: usize) -> Option<usize> {
    (rng.u8(..4) > 0).then(|| rng.usize(..nodes))
}

fn way(rng: &mut Rng, nodes: usize) -> Fault {
    let node = some_node(rng, nodes);
    match rng.u8(..5) {
        0 => Fault::BlackHole {
            node,
            time: millis(rng, 500, 8_000),
        },
        1 => Fault::Reset { node },
        2 => Fault::Silence { node, all: false },
        3 => Fault::Lose {
            node,
            messages: rng.u32(1..10),
        },
        _ => Fault::Delay {
            node,
            delay: millis(rng, 5, 150),
            time: millis(rng, 1_000, 6_000),
        },
    }
}

fn any(rng: &mut Rng, nodes: usize) -> Fault {
    match rng.u8(..9) {
        0 => redis_restart(rng, nodes),
        1 => redis_freeze(rng, nodes),
        2 => Fault::FlushAll,
        3 => client_kill(rng, nodes),
        4 => output_buffer(rng, nodes),
        5 => node_kill(rng, nodes),
        6 => node_freeze(rng, nodes),
        7 => Fault::NodeRestart {
            node: rng.usize(..nodes),
        },
        _ => way(rng, nodes),
    }
}
