//! How a publisher finds the right redis-server: the only one, the one that a name leads to, the
//! master that a Sentinel names, or the owner of the key's slot in a cluster.
//!
//! Every call has one outcome: Redis took it and answered, or nothing is known of it.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::resp::{Answer, Resp};

/// Redirections followed for one command.
const HOPS: usize = 6;

/// Where Redis is.
#[derive(Debug, Clone)]
pub(crate) enum Doors {
    Standalone(u16),
    /// The port that the name leads to now.
    Named(Arc<AtomicU16>),
    /// The ports of the Sentinels.
    Sentinel(Arc<[u16]>),
    /// The ports of all servers of a cluster.
    Cluster(Arc<[u16]>),
}

impl Doors {
    /// The masters, each asked itself whether it is one.
    pub(crate) async fn masters(&self) -> Result<Vec<u16>> {
        match self {
            Self::Standalone(port) => Ok(vec![*port]),
            Self::Named(port) => Ok(vec![port.load(Ordering::SeqCst)]),
            Self::Sentinel(sentinels) => Ok(vec![master(sentinels).await?]),
            Self::Cluster(ports) => {
                let mut masters = Vec::new();
                for port in ports.iter() {
                    let role = Resp::connect(*port).await?.call(&["ROLE"]).await?;
                    if role
                        .list()
                        .first()
                        .is_some_and(|role| role.text() == "master")
                    {
                        masters.push(*port);
                    }
                }
                Ok(masters)
            }
        }
    }
}

/// The master, by the word of the first Sentinel that answers.
async fn master(sentinels: &[u16]) -> Result<u16> {
    for sentinel in sentinels {
        let Ok(mut sentinel) = Resp::connect(*sentinel).await else {
            continue;
        };
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
        let answer = sentinel.call(&question).await;
        let port = answer.ok().and_then(|answer| {
            let [_, port] = answer.list() else {
                return None;
            };
            port.text().parse().ok()
        });
        if let Some(port) = port {
            return Ok(port);
        }
    }
    Err(Error::other("no Sentinel names a master"))
}

/// Where a cluster sends us instead.
enum Elsewhere {
    Moved(u16),
    Ask(u16),
}

impl Elsewhere {
    fn of(error: &Error) -> Option<Self> {
        let text = error.to_string();
        let mut words = text.split(' ');
        let kind = words.next()?;
        let port = words.nth(1)?.rsplit_once(':')?.1.parse().ok()?;
        match kind {
            "MOVED" => Some(Self::Moved(port)),
            "ASK" => Some(Self::Ask(port)),
            _ => None,
        }
    }
}

/// One publisher's connections.
pub(crate) struct Access {
    doors: Doors,
    connections: HashMap<u16, Resp>,
    /// Who was last seen to have a key; for a Sentinel's master the key is empty.
    owners: HashMap<String, u16>,
    /// Counts where to ask next in a cluster.
    turn: usize,
}

impl Access {
    pub(crate) fn new(doors: Doors) -> Self {
        Self {
            doors,
            connections: HashMap::new(),
            owners: HashMap::new(),
            turn: 0,
        }
    }

    /// One command about this key.
    pub(crate) async fn call(&mut self, key: &str, command: &[&str]) -> Result<Answer> {
        let mut port = self.port(key).await?;
        let mut ask = false;
        for _ in 0..HOPS {
            let answer = self.at(port, ask, command).await;
            match answer.as_ref().err().and_then(Elsewhere::of) {
                Some(Elsewhere::Moved(to)) => (port, ask) = (to, false),
                Some(Elsewhere::Ask(to)) => (port, ask) = (to, true),
                None => {
                    if answer.is_err() {
                        self.owners.remove(self.name(key));
                    } else if !ask {
                        self.owners.insert(self.name(key).to_owned(), port);
                    }
                    return answer;
                }
            }
        }
        Err(Error::other("sent round in circles"))
    }

    /// To a node's own channel; answers how many heard it, and 0 is a proof.
    pub(crate) async fn publish_to_node(&mut self, node: &str, line: &str) -> Result<i64> {
        let channel = format!("pn:n:{{{node}}}");
        if !matches!(self.doors, Doors::Cluster(_)) {
            let answer = self.call(&channel, &["PUBLISH", &channel, line]).await?;
            return Ok(answer.number());
        }
        // A replica takes SPUBLISH as well, passes it on and answers 0, which would prove nothing.
        // So ask first who has the channel; a slot on the way is still served where it was.
        let mut port = self.port(&channel).await?;
        for _ in 0..HOPS {
            let seen = self.at(port, false, &["EXISTS", &channel]).await;
            match seen.as_ref().err().and_then(Elsewhere::of) {
                Some(Elsewhere::Moved(to)) => port = to,
                None if seen.is_err() => {
                    self.owners.remove(&channel);
                    seen?;
                }
                Some(Elsewhere::Ask(_)) | None => break,
            }
        }
        let heard = self.at(port, false, &["SPUBLISH", &channel, line]).await;
        match heard.as_ref().err().and_then(Elsewhere::of) {
            // It was not taken there.
            Some(_) => {
                self.owners.remove(&channel);
                Ok(0)
            }
            None => {
                if heard.is_ok() {
                    self.owners.insert(channel, port);
                } else {
                    self.owners.remove(&channel);
                }
                Ok(heard?.number())
            }
        }
    }

    /// To the channel of all nodes; answers how many of that server's listeners heard it.
    pub(crate) async fn publish_to_all(&mut self, line: &str) -> Result<i64> {
        let answer = self.call("pn:g", &["PUBLISH", "pn:g", line]).await?;
        Ok(answer.number())
    }

    /// As the history names the way a message takes. What goes by it is in order; in a cluster the
    /// way to everybody is another one than those to the nodes.
    pub(crate) fn route(&self, is_to_all: bool) -> &'static str {
        if is_to_all && self.is_cluster() {
            "pn:g"
        } else {
            "redis"
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.doors, Doors::Cluster(_))
    }

    /// Whether an answer of 0 may be false: a replica passes on to its own listeners what is published
    /// at its primary.
    pub(crate) fn may_deny_falsely(&self) -> bool {
        matches!(self.doors, Doors::Cluster(_) | Doors::Named(_))
    }

    fn name<'a>(&self, key: &'a str) -> &'a str {
        match self.doors {
            Doors::Cluster(_) => key,
            _ => "",
        }
    }

    async fn port(&mut self, key: &str) -> Result<u16> {
        let known = self.owners.get(self.name(key));
        // What a name led to before says nothing.
        if let Some(port) = known.filter(|_| !matches!(self.doors, Doors::Named(_))) {
            return Ok(*port);
        }
        match &self.doors {
            Doors::Standalone(port) => Ok(*port),
            Doors::Named(port) => Ok(port.load(Ordering::SeqCst)),
            Doors::Sentinel(sentinels) => master(sentinels).await,
            Doors::Cluster(ports) => {
                self.turn += 1;
                Ok(ports[self.turn % ports.len()])
            }
        }
    }

    async fn at(&mut self, port: u16, ask: bool, command: &[&str]) -> Result<Answer> {
        let mut connection = match self.connections.remove(&port) {
            Some(connection) => connection,
            None => Resp::connect(port).await?,
        };
        if ask {
            connection.call(&["ASKING"]).await?;
        }
        let answer = connection.call(command).await;
        // What Redis itself says is of this kind; then the connection is still good.
        if answer
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == ErrorKind::Other)
        {
            self.connections.insert(port, connection);
        }
        answer
    }
}
