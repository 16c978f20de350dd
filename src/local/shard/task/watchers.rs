//! Connections of a shard that hear who comes and goes in a topic.

use bytes::Bytes;

use crate::local::shard::encoded::Encoded;
use crate::local::shard::task::ShardTask;
use crate::protocol;
use crate::protocol::ids::{Fd, Topic};

impl ShardTask {
    /// From now on the connection hears of all changes after what `object` says.
    pub(crate) fn watch(&mut self, fd: Fd, topic: &Topic, object: &str) {
        let slot = self.slot_of(fd);
        if self.members.watch(topic, slot)
            && let Some(slot) = slot
        {
            let frame = self.places[slot].connection.dialect().encode(object);
            self.tell_watcher(slot, topic, frame);
        }
    }

    pub(crate) fn tell_watchers(&mut self, topic: &Topic, object: &str) {
        let frames = Encoded::default();
        // Copied: a connection without room is taken out on the way.
        let slots: Vec<usize> = self.members.watchers(topic).collect();
        for slot in slots {
            let dialect = self.places[slot].connection.dialect();
            let frame = frames.get(dialect, |dialect| dialect.encode(object));
            self.tell_watcher(slot, topic, frame);
        }
    }

    /// A client that reads too slowly must not believe what is no longer true: it hears that the
    /// list is lost, once, and asks again when it has caught up.
    fn tell_watcher(&mut self, slot: usize, topic: &Topic, frame: Bytes) {
        let bound = self.settings.queue_bytes;
        let place = &mut self.places[slot];
        let has_socket = self.sockets.get(slot).is_some();
        if place.connection.queue.is_full(&frame, bound) && !place.blocked && has_socket {
            // Filled by this batch of commands, not by a client that takes nothing.
            self.write(slot);
        }
        // Writing may have shown that the client is gone.
        let Some(place) = self.places.get_mut(slot) else {
            return;
        };
        if place.connection.is_closing() {
            return;
        }
        if place.connection.queue.is_full(&frame, bound) {
            self.members.unwatch(topic, slot);
            place.connection.say(&protocol::presence_lost_object(topic));
        } else {
            place.connection.queue.push(frame);
        }
        self.touch(slot);
    }
}
