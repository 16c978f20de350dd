//! How much a client may send in a second.
//!
//! What answers something that was sent to it is free, by a credit for each. So a client that does
//! as it is asked is never too fast.

use crate::local::connection::Connection;
use crate::local::connection::timer_wheel::Tick;

impl Connection {
    /// Counts a frame that answers nothing; answers whether it is one too many in this second.
    pub(crate) fn is_too_fast(&mut self, client_rate: u32, now: Tick) -> bool {
        if self.rate_tick != now {
            (self.rate_tick, self.rate, self.sends) = (now, 0, 0);
        }
        self.rate += 1;
        client_rate > 0 && self.rate > client_rate
    }

    /// So many things were sent to the client that it may answer.
    pub(crate) fn credit(&mut self, sent: u64) {
        let sent = u16::try_from(sent).unwrap_or(u16::MAX);
        self.credits = self.credits.saturating_add(sent);
    }

    /// Takes a credit, if there is one.
    pub(crate) fn spend_credit(&mut self) -> bool {
        let left = self.credits.checked_sub(1);
        self.credits = left.unwrap_or(0);
        left.is_some()
    }
}
