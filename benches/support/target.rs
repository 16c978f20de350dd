//! A server as `peers` sees it: where users and senders connect, how a push is written, which processes pay.

use std::io;
use std::net::SocketAddr;

use super::accounting::{self, Cpu, Meter};
use super::fleet::Hello;
use super::http::{self, Connection};
use super::nats;
use super::paced::Sender;
use super::peers::{Nats, Nchan};
use super::process::{Node, RedisServer};

/// Connections that a paced sender takes in turn.
const PACED_CONNECTIONS: usize = 8;
pub const OWN: &str = "pushnode";

/// How a push is written, and how its answer is read.
#[derive(Clone, Copy)]
pub enum Wire {
    Pushnode,
    Nchan,
    Nats,
}

impl Wire {
    /// What a connection of a sender says once, before its first push.
    pub fn greeting(self) -> &'static str {
        match self {
            Wire::Nats => nats::CONNECT,
            Wire::Pushnode | Wire::Nchan => "",
        }
    }

    pub fn push(self, user: &str, data: &str) -> Vec<u8> {
        match self {
            Wire::Pushnode => http::post(
                http::JSON,
                &format!(r#"{{"to":{{"user":"{user}"}},"data":{data}}}"#),
            ),
            Wire::Nchan => http::post_to(&format!("/pub?user={user}"), http::JSON, data),
            Wire::Nats => nats::publish(user, data),
        }
    }

    /// Takes an answer: whether it says that the server sent the push on.
    pub fn take_answer(self, bytes: &mut Vec<u8>) -> Option<bool> {
        let routed = r#""status":"routed""#;
        match self {
            Wire::Pushnode => http::take_answer(bytes)
                .map(|answer| answer.status == 200 && answer.body.contains(routed)),
            // 202 is the answer if the channel has no subscriber.
            Wire::Nchan => http::take_answer(bytes).map(|answer| answer.status == 201),
            Wire::Nats => nats::take_answer(bytes),
        }
    }
}

/// One server, or the servers of one cluster, as users and senders see them.
pub struct Target {
    pub name: &'static str,
    pub wire: Wire,
    pub hello: Hello,
    pub clients: SocketAddr,
    pub senders: SocketAddr,
    /// The processes of the server with the sockets, of the one asked if it is another, of Redis.
    pub pids: [Vec<u32>; 3],
}

impl Target {
    pub fn pushnode(holder: &Node, others: Option<(&Node, &RedisServer)>) -> Target {
        Target {
            name: OWN,
            wire: Wire::Pushnode,
            hello: Hello::WebSocket,
            clients: holder.clients,
            senders: others.map_or(holder, |(entry, _)| entry).senders,
            pids: [
                vec![holder.pid()],
                others.iter().map(|(entry, _)| entry.pid()).collect(),
                others.iter().map(|(_, redis)| redis.pid()).collect(),
            ],
        }
    }

    pub fn nchan(nchan: &Nchan) -> Target {
        Target {
            name: nchan.name,
            wire: Wire::Nchan,
            hello: Hello::WebSocket,
            clients: nchan.address,
            senders: nchan.address,
            pids: [nchan.pids(), Vec::new(), Vec::new()],
        }
    }

    pub fn nats(holder: &Nats, entry: Option<&Nats>) -> Target {
        Target {
            name: "nats",
            wire: Wire::Nats,
            hello: Hello::Nats,
            clients: holder.clients,
            senders: entry.unwrap_or(holder).senders,
            pids: [
                vec![holder.pid()],
                entry.map(Nats::pid).into_iter().collect(),
                Vec::new(),
            ],
        }
    }

    pub fn meters(&self) -> Meters {
        let start = |pids: &Vec<u32>| pids.iter().map(|pid| Meter::start(*pid)).collect();
        Meters(self.pids.each_ref().map(start))
    }

    /// Memory of the server with the sockets, in KiB; pages that processes share count once.
    pub fn memory(&self) -> f64 {
        let [holders, ..] = &self.pids;
        holders
            .iter()
            .map(|pid| accounting::proportional_memory(*pid))
            .sum()
    }
}

/// The CPU clocks of all processes of a target.
pub struct Meters([Vec<Meter>; 3]);

impl Meters {
    /// What was spent since for each of `count`, in the order of `pids`.
    pub fn spent(&self, count: usize) -> [Cpu; 3] {
        self.0.each_ref().map(|meters| {
            let all = meters.iter().map(Meter::spent);
            all.fold(Cpu::default(), |sum, cpu| sum + cpu) / count as f64
        })
    }
}

/// Takes its connections in turn, and waits for the last answer on each.
pub struct PacedSender {
    wire: Wire,
    connections: Vec<Connection>,
    turn: usize,
}

impl PacedSender {
    pub fn open(target: &Target) -> io::Result<PacedSender> {
        let connections = (0..PACED_CONNECTIONS).map(|_| {
            let mut connection = Connection::open(target.senders)?;
            connection.send(target.wire.greeting().as_bytes())?;
            Ok(connection)
        });
        Ok(PacedSender {
            wire: target.wire,
            connections: connections.collect::<io::Result<_>>()?,
            turn: 0,
        })
    }

    fn confirm(&mut self, connection: usize) -> io::Result<()> {
        let wire = self.wire;
        let answer = self.connections[connection].receive_by(|bytes| wire.take_answer(bytes))?;
        let refused = || io::Error::other("a push was not confirmed");
        answer.then_some(()).ok_or_else(refused)
    }
}

impl Sender for PacedSender {
    fn send(&mut self, user: &str, data: &str) -> io::Result<()> {
        let connection = self.turn % PACED_CONNECTIONS;
        if self.turn >= PACED_CONNECTIONS {
            self.confirm(connection)?;
        }
        self.turn += 1;
        self.connections[connection].send(&self.wire.push(user, data))
    }

    fn finish(&mut self) -> io::Result<()> {
        (0..self.turn.min(PACED_CONNECTIONS)).try_for_each(|connection| self.confirm(connection))
    }
}
