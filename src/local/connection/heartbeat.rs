//! Whether a client still answers: pings, and the time allowed for each pong.
//!
//! That time begins when the ping has left the queue, because before that the client cannot have
//! seen it. What was written shortly before it may still be on its way over a slow link, and is
//! given time as on the slowest link that is served. Whatever the client takes after its socket was
//! full is acknowledged, and counts as an answer. A client that is gone is not covered by any of
//! this: its kernel acknowledges nothing, which `PUSH_WRITE_SECONDS` and TCP's own limit find.

use crate::local::connection::timer_wheel::{NEVER, Tick};

/// Bytes in a second over the slowest link that is served: 32 kbit/s.
const SLOWEST: u32 = 4096;
/// Longest time for what is on its way.
const MOST_ON_ITS_WAY: Tick = 60;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    ping_due: Tick,
    /// When the pong must be here, once the ping is written.
    pong_due: Tick,
    /// A ping waits in the queue.
    is_queued: bool,
    /// Bytes written since the last pong, up to the last ping.
    before_ping: u32,
    /// Bytes written after that.
    after_ping: u32,
}

/// What a write did to a connection's queue and socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrote {
    /// Bytes that the socket took.
    pub(crate) bytes: usize,
    /// The socket was full before.
    pub(crate) was_blocked: bool,
    /// The socket is full; otherwise the queue is empty.
    pub(crate) is_blocked: bool,
}

impl Heartbeat {
    /// No client yet.
    pub(crate) fn none() -> Self {
        Self {
            ping_due: NEVER,
            pong_due: NEVER,
            is_queued: false,
            before_ping: 0,
            after_ping: 0,
        }
    }

    /// The first ping is due then.
    pub(crate) fn begin(&mut self, ping_due: Tick) {
        self.ping_due = ping_due;
    }

    pub(crate) fn is_ping_due(&self, now: Tick) -> bool {
        self.ping_due <= now
    }

    /// A ping was put into the queue. `is_answered` if the client is to answer it.
    pub(crate) fn pinged(&mut self, next: Tick, is_answered: bool) {
        self.ping_due = next;
        self.is_queued = is_answered && self.pong_due == NEVER;
    }

    /// Any byte came from the client.
    pub(crate) fn heard(&mut self) {
        self.pong_due = NEVER;
        self.is_queued = false;
    }

    /// A pong came: what was written before its ping has arrived.
    pub(crate) fn answered(&mut self) {
        self.before_ping = 0;
    }

    /// Notes what was written. Answers whether the time for a pong has begun.
    pub(crate) fn wrote(&mut self, wrote: Wrote, now: Tick, patience: Tick) -> bool {
        let bytes = u32::try_from(wrote.bytes).unwrap_or(u32::MAX);
        self.after_ping = self.after_ping.saturating_add(bytes);
        if self.is_queued && !wrote.is_blocked {
            self.is_queued = false;
            self.before_ping = self.before_ping.saturating_add(self.after_ping);
            self.after_ping = 0;
            self.pong_due = now + 1 + patience + self.on_its_way();
            return true;
        }
        if wrote.was_blocked && wrote.bytes > 0 && self.pong_due != NEVER {
            self.pong_due = self.pong_due.max(now + 1 + patience);
        }
        false
    }

    /// Notes what was written while nothing waited: no ping either.
    pub(crate) fn wrote_at_once(&mut self, bytes: u32) {
        self.after_ping = self.after_ping.saturating_add(bytes);
    }

    /// Seconds that what is on its way may take on a slow link.
    pub(crate) fn on_its_way(&self) -> Tick {
        (self.before_ping / SLOWEST).min(MOST_ON_ITS_WAY)
    }

    pub(crate) fn is_lost(&self, now: Tick) -> bool {
        self.pong_due <= now
    }

    pub(crate) fn due(&self) -> Tick {
        self.ping_due.min(self.pong_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Tick = 8;

    fn wrote(bytes: usize, was_blocked: bool, is_blocked: bool) -> Wrote {
        Wrote {
            bytes,
            was_blocked,
            is_blocked,
        }
    }

    fn pinged_at_25() -> Heartbeat {
        let mut heartbeat = Heartbeat::none();
        heartbeat.begin(25);
        assert!(heartbeat.is_ping_due(25) && !heartbeat.is_ping_due(24));
        heartbeat.pinged(50, true);
        heartbeat
    }

    #[test]
    fn the_time_for_a_pong_begins_when_the_ping_is_written() {
        let mut heartbeat = pinged_at_25();
        assert!(!heartbeat.wrote(wrote(100, false, true), 25, PATIENCE));
        assert!(!heartbeat.is_lost(49), "the ping still waits");
        assert!(heartbeat.wrote(wrote(100, true, false), 40, PATIENCE));
        assert_eq!(heartbeat.due(), 49);
        assert!(heartbeat.is_lost(49));
        heartbeat.heard();
        assert!(!heartbeat.is_lost(49));
    }

    #[test]
    fn what_is_on_its_way_before_the_ping_has_its_time_until_a_pong() {
        let mut heartbeat = Heartbeat::none();
        heartbeat.begin(25);
        heartbeat.wrote(wrote(40_960, false, false), 20, PATIENCE);
        heartbeat.pinged(50, true);
        heartbeat.wrote(wrote(2, false, false), 25, PATIENCE);
        assert!(!heartbeat.is_lost(43) && heartbeat.is_lost(44));
        // Answered: all of that has arrived.
        heartbeat.heard();
        heartbeat.answered();
        heartbeat.pinged(75, true);
        heartbeat.wrote(wrote(2, false, false), 50, PATIENCE);
        assert!(heartbeat.is_lost(59));
        // And not without end.
        heartbeat.heard();
        heartbeat.wrote(wrote(usize::MAX, false, false), 60, PATIENCE);
        heartbeat.pinged(100, true);
        heartbeat.wrote(wrote(2, false, false), 75, PATIENCE);
        assert!(heartbeat.is_lost(75 + 1 + PATIENCE + MOST_ON_ITS_WAY));
    }

    #[test]
    fn what_was_written_at_once_is_on_its_way_and_does_not_pass_for_a_ping() {
        let mut heartbeat = pinged_at_25();
        heartbeat.wrote_at_once(40_960);
        assert_eq!(heartbeat.due(), 50, "the ping still waits");
        assert!(heartbeat.wrote(wrote(2, false, false), 30, PATIENCE));
        assert!(!heartbeat.is_lost(48) && heartbeat.is_lost(49));
    }

    #[test]
    fn what_a_full_socket_takes_is_a_sign_of_life_and_what_an_empty_one_takes_is_none() {
        let mut heartbeat = pinged_at_25();
        heartbeat.wrote(wrote(2, false, false), 25, PATIENCE);
        heartbeat.wrote(wrote(100, false, true), 30, PATIENCE);
        assert!(heartbeat.is_lost(34));
        heartbeat.wrote(wrote(0, true, true), 31, PATIENCE);
        assert!(heartbeat.is_lost(34));
        heartbeat.wrote(wrote(100, true, true), 31, PATIENCE);
        assert!(!heartbeat.is_lost(39) && heartbeat.is_lost(40));
    }

    #[test]
    fn who_does_not_answer_pings_is_not_waited_for() {
        let mut heartbeat = Heartbeat::none();
        heartbeat.begin(15);
        heartbeat.pinged(30, false);
        assert!(!heartbeat.wrote(wrote(2, false, false), 15, PATIENCE));
        assert_eq!(heartbeat.due(), 30);
    }
}
