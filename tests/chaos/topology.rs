//! The redis-servers of a run, as an operator has them in hand: one, a primary behind a name, a
//! master behind Sentinels, or a cluster. All of this blocks.
//!
//! A master that failed comes back as a replica, and is in sync before anything else is done: a
//! fault before that would only lose what nobody could have saved. It never comes back empty
//! before another has been promoted, for then Redis itself would forget everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::access::Doors;
use crate::common::Redis;
use crate::redis_groups::{Frozen, RedisCluster, Trio, until};
use crate::switches::MadeToFail;

/// How Redis is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setup {
    Standalone,
    /// A primary and its replica, and a name that leads to the primary.
    Pair,
    /// A master, a replica, and three Sentinels that wait one second.
    Sentinel,
    /// Three masters, a replica each; a silent one counts as failed after 1.5 s.
    Cluster,
}

pub(crate) enum Topology {
    Standalone(Redis),
    Pair(Pair),
    Sentinel(Trio),
    Cluster(RedisCluster),
}

/// A primary and its replica, as a managed service has them.
pub(crate) struct Pair {
    servers: [Redis; 2],
    /// The index of the primary.
    primary: usize,
    /// The port that the name leads to.
    name: Arc<AtomicU16>,
}

impl Pair {
    fn start() -> Self {
        // What a replica copies goes straight into memory, and not into a file of this folder.
        let direct = ["--repl-diskless-load", "swapdb"];
        let servers = [Redis::start_with(&direct), Redis::start_with(&direct)];
        let port = servers[0].port();
        servers[1].cli(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        let name = Arc::new(AtomicU16::new(port));
        let pair = Self {
            servers,
            primary: 0,
            name,
        };
        until("the replica is in sync", || pair.is_in_sync());
        pair
    }

    fn is_in_sync(&self) -> bool {
        let info = self.servers[1 - self.primary].cli(&["INFO", "replication"]);
        info.contains("role:slave") && info.contains("master_link_status:up")
    }
}

/// A master that was made to fail.
pub(crate) struct Failed {
    index: usize,
    since: Instant,
    frozen: Option<Frozen>,
}

impl Topology {
    pub(crate) fn start(setup: Setup) -> Self {
        match setup {
            Setup::Standalone => Self::Standalone(Redis::start()),
            Setup::Pair => Self::Pair(Pair::start()),
            Setup::Sentinel => Self::Sentinel(Trio::start()),
            Setup::Cluster => Self::Cluster(RedisCluster::start(1)),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Standalone(redis) => redis.url(),
            Self::Pair(pair) => pair.servers[pair.primary].url(),
            Self::Sentinel(trio) => trio.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// Where a client finds it.
    pub(crate) fn doors(&self) -> Doors {
        let ports: Arc<[u16]> = self.servers().iter().map(Redis::port).collect();
        match self {
            Self::Standalone(_) => Doors::Standalone(ports[0]),
            Self::Pair(pair) => Doors::Named(pair.name.clone()),
            Self::Sentinel(trio) => Doors::Sentinel(trio.sentinel_ports().into()),
            Self::Cluster(_) => Doors::Cluster(ports),
        }
    }

    fn servers(&self) -> &[Redis] {
        match self {
            Self::Standalone(redis) => std::slice::from_ref(redis),
            Self::Pair(pair) => &pair.servers,
            Self::Sentinel(trio) => &trio.servers,
            Self::Cluster(cluster) => &cluster.servers,
        }
    }

    /// The only server, or the first.
    pub(crate) fn first(&mut self) -> &mut Redis {
        self.server(0)
    }

    fn server(&mut self, index: usize) -> &mut Redis {
        match self {
            Self::Standalone(redis) => redis,
            Self::Pair(pair) => &mut pair.servers[index],
            Self::Sentinel(trio) => &mut trio.servers[index],
            Self::Cluster(cluster) => &mut cluster.servers[index],
        }
    }

    /// The index of the server that has this key, asked where `not` does not matter.
    fn master(&self, key: &str, not: Option<usize>) -> Option<usize> {
        match self {
            Self::Standalone(_) => Some(0),
            Self::Pair(pair) => Some(pair.primary),
            Self::Sentinel(trio) => {
                let port = trio.master();
                self.servers().iter().position(|one| one.port() == port)
            }
            Self::Cluster(cluster) => {
                let witness = not.map_or(0, |index| cluster.other(index));
                Some(cluster.owner(witness, key).1)
            }
        }
    }

    /// Has primary and replica change places without a loss; all connections stay up. Answers the
    /// port of the new primary.
    pub(crate) fn demote(&mut self) -> Option<u16> {
        let Self::Pair(pair) = self else { return None };
        let heir = 1 - pair.primary;
        let port = pair.servers[heir].port();
        let words = ["FAILOVER", "TO", "127.0.0.1", &port.to_string()];
        until("a fail-over begins", || {
            pair.servers[pair.primary].cli(&words) == "OK"
        });
        pair.primary = heir;
        until("primary and replica have changed places", || {
            let info = pair.servers[heir].cli(&["INFO", "replication"]);
            info.contains("role:master") && pair.is_in_sync()
        });
        Some(port)
    }

    /// The name leads to the primary. Answers its port.
    pub(crate) fn rename(&self) -> Option<u16> {
        let Self::Pair(pair) = self else { return None };
        let port = pair.servers[pair.primary].port();
        pair.name.store(port, Ordering::SeqCst);
        Some(port)
    }

    /// Kills or freezes the master that has this key, and says so before.
    pub(crate) fn fail(&mut self, key: &str, freeze: bool, made_to_fail: &MadeToFail) -> Failed {
        let mut index = None;
        until("there is a master to fail", || {
            index = self.master(key, None);
            index.is_some()
        });
        let index = index.unwrap_or_default();
        made_to_fail.set(self.server(index).port());
        let since = Instant::now();
        let frozen = if freeze {
            Some(Frozen::new(self.server(index)))
        } else {
            self.server(index).kill();
            None
        };
        Failed {
            index,
            since,
            frozen,
        }
    }

    /// Waits until another has the key; or, if the failed one is only frozen, until its time is
    /// over, and then it goes on.
    pub(crate) fn await_successor(&self, key: &str, failed: &mut Failed, time: Duration) {
        until("another master is promoted", || {
            if failed.frozen.is_some() && failed.since.elapsed() >= time {
                failed.frozen = None;
                return true;
            }
            let now = self.master(key, Some(failed.index));
            now.is_some_and(|now| now != failed.index)
        });
    }

    /// Brings the failed one back when its time is over, and waits until all are in sync.
    pub(crate) fn mend(&mut self, failed: Failed, time: Duration) {
        std::thread::sleep(time.saturating_sub(failed.since.elapsed()));
        let Failed { index, frozen, .. } = failed;
        if frozen.is_none() && self.server(index).ended() {
            self.server(index).restart();
        }
        drop(frozen);
        until("all servers are in sync", || self.is_whole());
    }

    fn is_whole(&self) -> bool {
        let roles = || {
            self.servers()
                .iter()
                .map(|one| one.cli(&["INFO", "replication"]))
        };
        let masters = match self {
            Self::Standalone(_) => return true,
            Self::Pair(_) | Self::Sentinel(_) => 1,
            Self::Cluster(cluster) => {
                let ok = |one: &Redis| one.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                if !cluster.servers.iter().all(ok) {
                    return false;
                }
                3
            }
        };
        let is_master = |info: &String| info.contains("role:master");
        let follows = |info: &String| info.contains("master_link_status:up");
        roles().filter(is_master).count() == masters
            && roles().all(|info| is_master(&info) || follows(&info))
            && self.master("pn:nodes", None).is_some_and(|index| {
                let info = self.servers()[index].cli(&["INFO", "replication"]);
                is_master(&info) && info.contains("connected_slaves:1")
            })
    }

    /// Moves the slots of these keys to another master each, with all they hold. Between the
    /// steps passes a time of up to `pause`.
    pub(crate) fn move_slots(&self, keys: &[String], rng: &mut Rng, pause: Duration) {
        let Self::Cluster(cluster) = self else {
            return;
        };
        let mut wait = || {
            let time = rng.u64(0..=pause.as_millis() as u64);
            std::thread::sleep(Duration::from_millis(time));
        };
        for key in keys {
            let (slot, from) = cluster.owner(0, key);
            let to = cluster.other(from);
            let set = |server: usize, state: &str, id: usize| {
                let words = ["CLUSTER", "SETSLOT", &slot, state, &cluster.id(id)];
                until("a slot can be set", || {
                    cluster.servers[server].cli(&words) == "OK"
                });
            };
            set(to, "IMPORTING", from);
            wait();
            set(from, "MIGRATING", to);
            wait();
            let port = cluster.servers[to].port().to_string();
            until("the slot is empty", || {
                let words = ["CLUSTER", "GETKEYSINSLOT", &slot, "10"];
                let held = cluster.servers[from].cli(&words);
                let mut held = held.lines().filter(|key| !key.is_empty()).peekable();
                let empty = held.peek().is_none();
                for key in held {
                    // Gone meanwhile: `NOKEY`.
                    let words = ["MIGRATE", "127.0.0.1", &port, key, "0", "2000"];
                    cluster.servers[from].cli(&words);
                }
                empty
            });
            wait();
            set(to, "NODE", to);
            wait();
            set(from, "NODE", to);
            until("everybody knows of the move", || {
                (0..cluster.servers.len()).all(|one| cluster.owner(one, key).1 == to)
            });
        }
    }
}
