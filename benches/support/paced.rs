//! Pushes at a steady rate: how long each takes to its socket.
//!
//! The clock starts when the push is due to be written, so a sender that must wait for a free connection counts
//! against the server.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::http::{self, Connection};
use super::message;
use super::report;
use super::rivals::USER;

const DATA: usize = 128;
/// HTTP connections that a sender takes in turn.
pub const CONNECTIONS: usize = 8;
/// When nothing has come for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Over what pushes go.
pub trait Sender {
    fn send(&mut self, user: &str, data: &str) -> io::Result<()>;
    /// Takes the answers that are still to come.
    fn finish(&mut self) -> io::Result<()>;
}

/// One request for each push, over a few connections in turn.
pub struct HttpSender {
    connections: Vec<Connection>,
    turn: usize,
}

impl HttpSender {
    pub fn open(server: SocketAddr) -> io::Result<HttpSender> {
        let connections = (0..CONNECTIONS).map(|_| Connection::open(server));
        Ok(HttpSender {
            connections: connections.collect::<io::Result<_>>()?,
            turn: 0,
        })
    }
}

impl Sender for HttpSender {
    fn send(&mut self, user: &str, data: &str) -> io::Result<()> {
        let connection = &mut self.connections[self.turn % CONNECTIONS];
        if self.turn >= CONNECTIONS {
            expect_ok(connection)?;
        }
        self.turn += 1;
        let push = format!(r#"{{"to":{{"user":"{user}"}},"data":{data}}}"#);
        connection.send(&http::post(http::JSON, &push))
    }

    fn finish(&mut self) -> io::Result<()> {
        let used = CONNECTIONS.min(std::mem::take(&mut self.turn));
        self.connections[..used].iter_mut().try_for_each(expect_ok)
    }
}

fn expect_ok(connection: &mut Connection) -> io::Result<()> {
    let answer = connection.receive()?;
    if answer.status == 200 {
        Ok(())
    } else {
        Err(io::Error::other(answer.body))
    }
}

/// The connected users, and how many messages each was sent.
pub struct Receivers {
    pub fleet: Fleet,
    pub sent: Vec<u64>,
}

impl Receivers {
    pub fn new(fleet: Fleet, users: usize) -> Receivers {
        Receivers {
            fleet,
            sent: vec![0; users],
        }
    }

    /// Whether each user got all of its messages once and in order.
    pub fn counts(&self) -> String {
        report::faults(self.fleet.faults(|n| self.sent[n]))
    }

    /// Sends `rate` pushes a second while a thread receives; the latencies in microseconds, sorted.
    pub fn pass(
        &mut self,
        rate: usize,
        seconds: usize,
        sender: &mut dyn Sender,
    ) -> io::Result<Vec<f64>> {
        let pushes = rate * seconds;
        let users = self.sent.len();
        let before = self.sent.clone();
        let total = before.iter().sum::<u64>() + pushes as u64;
        let (fleet, sent) = (&mut self.fleet, &mut self.sent);
        fleet.arrivals = Some(Vec::with_capacity(pushes));
        let sent_at = std::thread::scope(|scope| {
            let receiver = scope.spawn(move || {
                let result = fleet.receive(total, PATIENCE);
                result.map(|_| fleet.arrivals.take().unwrap_or_default())
            });
            let mut sent_at = Vec::with_capacity(pushes);
            let started = Instant::now();
            for push in 0..pushes {
                let due = started + Duration::from_secs_f64(push as f64 / rate as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // Users in turn, so that push number and (user, sequence) tell each other.
                let user = push % users;
                let name = format!("{USER}{user}");
                let data = message::data(&name, sent[user], DATA);
                sent[user] += 1;
                sent_at.push(Instant::now());
                sender.send(&name, &data)?;
            }
            sender.finish()?;
            let arrivals = receiver.join().expect("the receiver does not panic")?;
            Ok::<_, io::Error>((sent_at, arrivals))
        });
        let (sent_at, arrivals) = sent_at?;
        let mut latencies: Vec<f64> = arrivals
            .iter()
            .map(|&(user, sequence, came)| {
                let push = (sequence - before[user]) as usize * users + user;
                came.duration_since(sent_at[push]).as_secs_f64() * 1e6
            })
            .collect();
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }
}
