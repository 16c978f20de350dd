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
