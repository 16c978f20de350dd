//! Which clients to tell next that messages may have been lost: a part of them each second, so
//! that they do not all fetch at once.
//!
//! The parts take turns, also while one loss follows another. Starting over at each loss would
//! tell the first parts again and again and the last ones never.

use crate::protocol::ids::Fd;

/// Seconds over which all are told.
const PARTS: u8 = 5;

#[derive(Debug, Default)]
pub(crate) struct Resync {
    /// A bit for each part that is still to be told.
    waiting: u8,
    /// Whose turn it was last.
    turn: u8,
}

impl Resync {
    /// All are to be told, those included who were told of an earlier loss.
    pub(crate) fn begin(&mut self) {
        self.waiting = (1 << PARTS) - 1;
    }

    /// The next second: which clients are told now, if any.
    pub(crate) fn next(&mut self) -> Option<impl Fn(Fd) -> bool + use<>> {
        if self.waiting == 0 {
            return None;
        }
        self.turn = (self.turn + 1) % PARTS;
        let part = 1 << self.turn;
        let is_waiting = self.waiting & part != 0;
        self.waiting &= !part;
        let turn = u64::from(self.turn);
        // Not by the fd itself: of five shards each would have all its clients in one part.
        is_waiting.then_some(move |fd: Fd| (fd.0 >> 4) % u64::from(PARTS) == turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of these clients is told in so many seconds; `lossy`: a loss in each.
    fn told(seconds: u32, lossy: bool) -> Vec<u32> {
        let mut resync = Resync::default();
        resync.begin();
        let mut told = vec![0; 800];
        for _ in 0..seconds {
            if let Some(chosen) = resync.next() {
                let fds = (0..).zip(&mut told);
                let chosen = fds.filter(|(fd, _)| chosen(Fd(*fd)));
                chosen.for_each(|(_, count)| *count += 1);
            }
            if lossy {
                resync.begin();
            }
        }
        told
    }

    #[test]
    fn each_is_told_once_of_a_loss() {
        assert_eq!(told(u32::from(PARTS), false), [1; 800]);
        assert_eq!(told(100, false), [1; 800]);
        assert!(told(1, false).iter().sum::<u32>() <= 160, "all at once");
    }

    #[test]
    fn each_is_told_in_its_turn_while_losses_go_on() {
        assert_eq!(told(4 * u32::from(PARTS), true), [4; 800]);
    }
}
