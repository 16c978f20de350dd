//! Slow clients that go because all queues together hold more than the node may
//! (`PUSH_MEMORY_BYTES`).
//!
//! What must stay true: a client that takes something stays. First go those that have taken nothing
//! for over a second, the fullest first. Only if what is held still grows, others follow whose
//! socket takes nothing right now, those that have stalled for longest first.

use std::cmp::Reverse;

use crate::local::connection::timer_wheel::Tick;
use crate::local::shard::task::ShardTask;
use crate::protocol::close::CloseReason;
use crate::protocol::ids::Fd;

/// A client that has taken nothing since so many beats has done so for over a second.
const STALLED: Tick = 2;

/// A connection whose socket takes no more.
struct Stalled {
    fd: Fd,
    /// Beats since it last took something.
    beats: Tick,
    weight: usize,
}

/// Those first that are to go first.
fn order(stalled: &mut [Stalled]) {
    stalled.sort_by_key(|one| (Reverse(one.beats.min(STALLED)), Reverse(one.weight)));
}

impl ShardTask {
    /// Lets slow clients go until this shard is a little below its part of the bound.
    pub(crate) fn shed(&mut self) {
        let before = self.holds.held();
        let target = self.holds.target();
        let mut stalled = self.stalled();
        order(&mut stalled);
        let mut shed = 0;
        for one in stalled {
            let is_needed = one.beats >= STALLED || self.holds.is_pressing();
            if self.holds.held() <= target || !is_needed {
                break;
            }
            if self.takes_nothing(one.fd) {
                self.with_slot(one.fd, |it, at| it.end(at, CloseReason::Slow));
                shed += 1;
            }
        }
        self.cut(target);
        self.holds.has_shed();
        if shed == 0 {
            return;
        }
        self.metrics.shed.inc_by(shed);
        let budget = self.holds.budget();
        if let Some(unlogged) = budget.complaints.pass() {
            tracing::warn!(
                clients = shed,
                bytes = before.saturating_sub(self.holds.held()),
                limit = budget.limit(),
                unlogged,
                "closed slow clients: all queues together held more than PUSH_MEMORY_BYTES"
            );
        }
    }

    /// Open connections that are waited for.
    fn stalled(&self) -> Vec<Stalled> {
        let places = self.places.iter().map(|(_, place)| place);
        places
            .filter(|place| place.blocked && place.connection.is_open())
            .filter_map(|place| {
                let connection = &place.connection;
                let since = connection.blocked_since(&self.settings)?;
                Some(Stalled {
                    fd: connection.fd,
                    beats: self.now.saturating_sub(since),
                    weight: connection.queue.weight(),
                })
            })
            .collect()
    }

    /// Whether a client still takes nothing: the kernel may not yet have said that it does.
    fn takes_nothing(&mut self, fd: Fd) -> bool {
        let Some(slot) = self.slot_of(fd) else {
            return false;
        };
        let waiting = |it: &Self| {
            let place = it
                .places
                .get(slot)
                .filter(|place| place.connection.fd == fd)?;
            (place.blocked && place.connection.is_open()).then(|| place.connection.queue.left())
        };
        let before = waiting(self);
        self.write(slot);
        before.is_some() && waiting(self) == before
    }

    /// Of a client that is told to go, a frame stays that is partly out, before its goodbye. If
    /// those are too many, their clients are not told.
    fn cut(&mut self, target: usize) {
        if self.holds.held() <= self.holds.share() {
            return;
        }
        let places = self.places.iter().map(|(_, place)| place);
        let mut closing: Vec<(usize, Fd)> = places
            .filter(|place| place.blocked && place.connection.is_closing())
            .map(|place| (place.connection.queue.weight(), place.connection.fd))
            .collect();
        closing.sort_unstable_by_key(|(weight, _)| Reverse(*weight));
        for (_, fd) in closing {
            if self.holds.held() <= target {
                break;
            }
            self.with_slot(fd, Self::remove);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_of_those_that_take_nothing_goes_first() {
        let stalled = |(fd, beats, weight)| Stalled {
            fd: Fd(fd),
            beats,
            weight,
        };
        let all = [
            (1, 9, 10),
            (2, 2, 30),
            (3, 0, 90),
            (4, 1, 5),
            (5, 3, 20),
            (6, 1, 6),
        ];
        let mut all = all.map(stalled);
        order(&mut all);
        assert_eq!(all.map(|one| one.fd.0), [2, 5, 1, 6, 4, 3]);
    }
}
