//! What a shard does each second, and what it counts.

use tokio::sync::oneshot;

use crate::local::connection::timer_wheel::{NEVER, Tick};
use crate::local::shard::command::Load;
use crate::local::shard::task::ShardTask;
use crate::protocol;

impl ShardTask {
    pub(crate) fn on_beat(&mut self) {
        self.now = self.started.elapsed().as_secs() as Tick;
        self.holds.look_again();
        let mut due = Vec::new();
        self.wheel.advance(self.now, |slot| due.push(slot));
        for slot in due {
            let Some(place) = self.places.get_mut(slot) else {
                continue;
            };
            let connection = &mut place.connection;
            if connection.scheduled > self.now {
                // An older hint, maybe of one that had this slot before; a later one stands.
                continue;
            }
            connection.scheduled = NEVER;
            let next = connection.look(self.now, &self.settings);
            self.save_bookmark(slot);
            let connection = &mut self.places[slot].connection;
            if !connection.queue.is_empty() {
                self.touch(slot);
            }
            self.follow(slot, next);
        }
        if let Some(chosen) = self.resync.next() {
            self.tell_all(protocol::RESYNC, &chosen);
            for slot in 0..self.places.capacity() {
                // Kept messages are not asked of the client's own backend, but read again.
                if let Some(place) = self.places.get_mut(slot)
                    && chosen(place.connection.fd)
                {
                    place.connection.note_told();
                    self.touch(slot);
                }
            }
        }
    }

    /// All clients are to be told that messages may be lost.
    pub(crate) fn begin_resync(&mut self) {
        self.metrics.resyncs.inc();
        self.resync.begin();
    }

    /// Answers what waits, with the node's counters brought up to date.
    pub(crate) fn count_load(&mut self, answer: oneshot::Sender<Load>) {
        self.account();
        // Closed if the asker has given up.
        let _ = answer.send(self.load());
    }

    /// Adds what was counted since the last time to the node's counters.
    pub(crate) fn account(&mut self) {
        let counters = [
            (&self.metrics.offered, &mut self.offered),
            (&self.metrics.deliveries, &mut self.delivered),
            (&self.metrics.written, &mut self.written),
        ];
        for (counter, counted) in counters {
            counter.inc_by(std::mem::take(counted));
        }
    }

    /// What waits in the queues, counted one by one: no sum is kept that could go wrong.
    fn load(&self) -> Load {
        let mut load = Load {
            held: self.holds.held(),
            may_hold: self.holds.budget().limit(),
            ..Load::default()
        };
        for (_, place) in &self.places {
            let queue = &place.connection.queue;
            load.add(&Load {
                messages: queue.pushes(),
                bytes: queue.bytes(),
                fullest: queue.bytes(),
                blocked: usize::from(place.blocked),
                ..Load::default()
            });
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::local::admission::Admission;
    use crate::local::budget::{Budget, Holds};
    use crate::local::connection::{Role, Settings};
    use crate::local::directory::{Directory, LocalConnection, Traits};
    use crate::local::dirty_rows::DirtyRows;
    use crate::local::event_queue::Events;
    use crate::local::membership::Membership;
    use crate::local::shard::command::{Attach, Command, PlaceRequest};
    use crate::local::shard::members::Members;
    use crate::local::shard::outlets::ShardOutputs;
    use crate::local::shard::socket::Socket;
    use crate::local::topics::Topics;
    use crate::protocol::Dialect;
    use crate::protocol::client::websocket::Limits;
    use crate::protocol::ids::{NodeId, UserId};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::trace::Trace;

    /// A shard that does only what it is told, and the directory of its node.
    fn shard() -> (ShardTask, Arc<Directory>) {
        let config = Config::from_pairs([("PUSH_AUTH", "none")]).unwrap();
        let node: NodeId = "a.0123456789abcdef".parse().unwrap();
        let memory = Budget::new(usize::MAX, 1);
        let settings = Arc::new(Settings {
            queue_bytes: 4096,
            memory: memory.clone(),
            uring: false,
            limits: Limits::of(1000),
            client_rate: 0,
            send_rate: 0,
            ping: 25,
            beat: 15,
            pong: 8,
            write: 10,
        });
        let metrics = Arc::new(Metrics::new());
        let changes = Arc::new(DirtyRows::ignored());
        let topics = Arc::new(Topics::new(1, changes.clone(), &config));
        let events = Events::new(Vec::new(), metrics.clone());
        let directory = Directory::new(node.clone(), changes, events, metrics.clone());
        let (_, inbox) = mpsc::channel(1);
        let (outlets, _) = ShardOutputs::new();
        let trace = Arc::new(Trace::new(node.clone(), 0));
        let shard = ShardTask::new(
            inbox,
            node,
            Members::new(topics, 0),
            Holds::new(&memory),
            settings,
            outlets,
            (trace, metrics),
        );
        (shard.unwrap(), Arc::new(directory))
    }

    /// The bytes that a client gets whose handshake is under way while all are told `command`.
    async fn told_in_handshake(command: Command) -> String {
        let (mut shard, directory) = shard();
        let (fd, user): (_, UserId) = (directory.next_fd(), "a".parse().unwrap());
        let dialect = Dialect::V1;
        shard.apply(Command::Reserve(Box::new(PlaceRequest {
            fd,
            user: user.clone(),
            dialect,
            inbox: None,
            arrival: None,
            expires: None,
            beats: false,
            bookmark: None,
        })));
        let seat = LocalConnection::new(fd, dialect, Traits::default());
        let (membership, _row) = Membership::join(&directory, user, seat);
        shard.apply(command);
        (0..5).for_each(|_| shard.on_beat());

        let (mut client, socket) = std::os::unix::net::UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let admission = Arc::new(Admission::new(1, 0));
        shard.apply(Command::Attach(Box::new(Attach {
            socket: Socket::Unix(mio::net::UnixStream::from_std(socket)),
            head: Bytes::from_static(b"HTTP/1.1 101\r\n\r\n"),
            leftover: Bytes::new(),
            membership,
            permit: Arc::new(admission.admit(None).unwrap()),
            role: Role::Client,
            degraded: false,
        })));
        shard.flush().await;
        drop(shard);
        let mut told = Vec::new();
        client.read_to_end(&mut told).unwrap();
        String::from_utf8_lossy(&told).into_owned()
    }

    #[tokio::test]
    async fn a_client_in_its_handshake_hears_after_ready_what_all_are_told() {
        for (command, object) in [
            (Command::Resync, protocol::RESYNC),
            (Command::Degraded, protocol::DEGRADED),
        ] {
            let told = told_in_handshake(command).await;
            assert!(told.starts_with("HTTP/1.1 101"), "{told:?}");
            let ready = told.find(r#""type":"ready""#).expect("ready");
            let heard = told.find(object);
            assert!(heard.is_some_and(|at| at > ready), "{object}: {told:?}");
            assert_eq!(told.matches(object).count(), 1, "{told:?}");
        }
    }
}
