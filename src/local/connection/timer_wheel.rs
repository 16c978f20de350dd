//! Deadlines of many connections, in whole seconds, without a timer for each.
//!
//! A wheel of buckets, one a second. An entry is only a hint: the shard that takes it out looks at
//! the connection's true deadlines and puts it in again, so a deadline that moves costs nothing.

/// Seconds since the shard began.
pub(crate) type Tick = u32;
/// No deadline.
pub(crate) const NEVER: Tick = Tick::MAX;

/// Buckets; a deadline further away than this is put in again on the way.
const BUCKETS: usize = 64;

#[derive(Debug)]
pub(crate) struct Wheel {
    buckets: [Vec<u32>; BUCKETS],
    /// All buckets up to this tick have been emptied.
    now: Tick,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Vec::new()),
            now: 0,
        }
    }

    /// Puts a slot in; answers the tick at which it will come out, at `due` or before.
    pub(crate) fn put(&mut self, due: Tick, slot: usize) -> Tick {
        let furthest = self.now + BUCKETS as Tick - 1;
        let at = due.clamp(self.now + 1, furthest);
        let slot = u32::try_from(slot).expect("fewer sockets than that");
        self.buckets[at as usize % BUCKETS].push(slot);
        at
    }

    /// Moves on to `now` and takes out what is due.
    pub(crate) fn advance(&mut self, now: Tick, mut each: impl FnMut(usize)) {
        let behind = now.saturating_sub(self.now).min(BUCKETS as Tick);
        for step in (0..behind).rev() {
            let bucket = &mut self.buckets[(now - step) as usize % BUCKETS];
            bucket.drain(..).for_each(|slot| each(slot as usize));
            // A connect storm fills one bucket; do not hold its memory for ever.
            bucket.shrink_to(1024);
        }
        self.now = self.now.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(wheel: &mut Wheel, now: Tick) -> Vec<usize> {
        let mut slots = Vec::new();
        wheel.advance(now, |slot| slots.push(slot));
        slots
    }

    #[test]
    fn entries_come_out_when_due_and_once() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.put(3, 1), 3);
        assert_eq!(wheel.put(0, 2), 1);
        assert_eq!(taken(&mut wheel, 2), [2]);
        assert_eq!(taken(&mut wheel, 3), [1]);
        assert!(taken(&mut wheel, 200).is_empty());
    }

    #[test]
    fn a_far_deadline_comes_out_early_to_be_put_in_again() {
        let mut wheel = Wheel::new();
        let at = wheel.put(1000, 1);
        assert!(at < 1000);
        assert_eq!(taken(&mut wheel, at), [1]);
    }

    #[test]
    fn nothing_is_forgotten_when_time_jumps() {
        let mut wheel = Wheel::new();
        (1..64).for_each(|due| {
            wheel.put(due, due as usize);
        });
        assert_eq!(taken(&mut wheel, 10_000).len(), 63);
    }
}
