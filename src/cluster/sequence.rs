//! Sequence numbers of senders: a payload is the next one, a repeat, late, or follows a gap.
//!
//! A node numbers its payloads for each target, from 1 in each boot. What must stay true: a gap is
//! reported once, and no payload is processed twice.
//!
//! Without a secret of the cluster a publisher can name any number in a node's name. That must not
//! silence the node: what goes on far below such a number is processed, and soon believed.

/// The numbers received from one sender, for each channel.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) own: Count,
    pub(crate) global: Count,
}

/// One sender's position on one channel.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    /// The highest number received.
    last: Option<u64>,
    /// Which of the 64 numbers up to `last` were received; `last` is the lowest bit. A sender that
    /// lost its connection may overtake its own payload: the unanswered one is sent again after
    /// later ones, and is then late, not a repeat.
    heard: u64,
    /// The highest number announced by a tail. Separate from `last`: a late payload is not a
    /// repeat, although its number is known.
    told: Option<u64>,
    /// New numbers received below `told` since then.
    below: u8,
    /// Numbers far below `last`, which may be the true ones.
    aside: Option<Aside>,
}

/// Numbers that go on somewhere else than `last` says.
#[derive(Debug, Clone, Copy)]
struct Aside {
    last: u64,
    heard: u64,
    /// How many there were, one above the other.
    run: u8,
}

/// A jump by more is no loss: no sender publishes so much while its receiver is away.
const MAX_JUMP: u64 = 1 << 32;
/// So many numbers in a row show what is true.
const TRUE_RUN: u8 = 8;
/// So many new payloads below what a tail has announced show that it was not true. At most eight
/// are on their way at a time.
const BELOW: u8 = 64;

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// New.
    Next,
    /// Received before.
    Repeat,
    /// New, but later numbers were received before it.
    Late,
    /// This many numbers before it were not received.
    Jump(u64),
    /// No sender can have got there.
    Beyond,
}

impl Count {
    /// Takes the number of a header. `from_1`: no payload can have been sent before the first.
    /// `proven`: the sender's own. A number that is not may be a forgery, so numbers far below it
    /// are taken, and believed once they go on.
    pub(crate) fn take(&mut self, seq: u64, tail: bool, from_1: bool, proven: bool) -> Number {
        let before = match self.last.max(self.told) {
            None if from_1 => 0,
            None => seq.saturating_sub(u64::from(!tail)),
            Some(known) => known,
        };
        if seq.saturating_sub(before) > MAX_JUMP {
            return Number::Beyond;
        }
        if tail {
            if self.told < Some(seq) {
                (self.told, self.below) = (Some(seq), 0);
            }
            return if seq > before {
                Number::Jump(seq - before)
            } else {
                Number::Repeat
            };
        }
        if let Some(age) = self.last.and_then(|last| last.checked_sub(seq)) {
            return match bit(age) {
                Some(bit) if self.heard & bit == 0 => {
                    self.heard |= bit;
                    Number::Late
                }
                None if !proven => self.take_aside(seq),
                _ => Number::Repeat,
            };
        }
        let step = self.last.map_or(u64::MAX, |last| seq - last);
        self.heard = shifted(self.heard, step) | 1;
        self.last = Some(seq);
        match seq.saturating_sub(before) {
            0 => {
                self.below += 1;
                if self.below == BELOW {
                    (self.told, self.below) = (None, 0);
                }
                Number::Late
            }
            1 => Number::Next,
            step => Number::Jump(step - 1),
        }
    }

    /// A number far below the last one: a publisher may have named that one in the sender's name.
    fn take_aside(&mut self, seq: u64) -> Number {
        let aside = self.aside.get_or_insert(Aside {
            last: seq,
            heard: 0,
            run: 0,
        });
        match aside.last.checked_sub(seq).map(bit) {
            Some(Some(bit)) if aside.heard & bit != 0 => return Number::Repeat,
            Some(Some(bit)) => aside.heard |= bit,
            // Far away from those as well.
            Some(None) => (aside.last, aside.heard, aside.run) = (seq, 1, 0),
            None => {
                aside.heard = shifted(aside.heard, seq - aside.last) | 1;
                aside.last = seq;
            }
        }
        aside.run += 1;
        if aside.run == TRUE_RUN {
            *self = Self {
                last: Some(aside.last),
                heard: aside.heard,
                ..Self::default()
            };
        }
        Number::Late
    }
}

/// The bit of a number that is so much older than the last.
fn bit(age: u64) -> Option<u64> {
    u32::try_from(age)
        .ok()
        .and_then(|age| 1u64.checked_shl(age))
}

/// The bits of numbers, once the last is higher by `step`.
fn shifted(heard: u64, step: u64) -> u64 {
    let step = u32::try_from(step).ok();
    step.and_then(|step| heard.checked_shl(step)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{BELOW, Count, Number, TRUE_RUN};

    /// Takes headers in order; a tail is a negative number.
    fn take(from_1: bool, numbers: &[i64]) -> Vec<Number> {
        let mut count = Count::default();
        numbers
            .iter()
            .map(|&n| count.take(n.unsigned_abs(), n < 0, from_1, true))
            .collect()
    }

    #[test]
    fn a_jump_is_a_loss_and_a_number_heard_before_a_repeat() {
        use Number::{Jump, Next, Repeat};
        assert_eq!(
            take(true, &[1, 2, 2, 4, 5]),
            [Next, Next, Repeat, Jump(1), Next]
        );
        assert_eq!(take(true, &[3]), [Jump(2)], "one and two were lost");
        assert_eq!(take(false, &[3, 4]), [Next, Next], "came in the middle");
    }

    #[test]
    fn a_payload_that_was_overtaken_is_late_and_not_a_repeat() {
        use Number::{Jump, Late, Next, Repeat};
        assert_eq!(
            take(true, &[1, 4, 2, 2, 3, 3, 4, 5]),
            [Next, Jump(2), Late, Repeat, Late, Repeat, Repeat, Next]
        );
        assert_eq!(take(true, &[1, 65, 2, 1]), [Next, Jump(63), Late, Repeat]);
        assert_eq!(
            take(true, &[1, 70, 2]),
            [Next, Jump(68), Repeat],
            "too late"
        );
    }

    #[test]
    fn a_tail_shows_the_loss_of_the_last_payload_once() {
        use Number::{Jump, Next, Repeat};
        assert_eq!(take(true, &[1, -1, 2]), [Next, Repeat, Next]);
        assert_eq!(take(true, &[1, -2, -2, 3]), [Next, Jump(1), Repeat, Next]);
        assert_eq!(take(true, &[-1]), [Jump(1)], "the only one was lost");
        assert_eq!(
            take(false, &[-7, 8]),
            [Repeat, Next],
            "sent before we listened"
        );
        assert_eq!(take(false, &[7, -8, 9]), [Next, Jump(1), Next]);
    }

    #[test]
    fn a_payload_behind_its_tail_is_late_and_not_a_repeat() {
        use Number::{Jump, Late, Next, Repeat};
        assert_eq!(
            take(true, &[1, -2, 2, 2, 3]),
            [Next, Jump(1), Late, Repeat, Next]
        );
        assert_eq!(take(false, &[-7, 7, 8]), [Repeat, Late, Next]);
    }

    #[test]
    fn no_number_is_too_great() {
        let mut count = Count::default();
        assert_eq!(count.take(u64::MAX, true, true, true), Number::Beyond);
        assert_eq!(count.take(u64::MAX, false, true, true), Number::Beyond);
        assert_eq!(count.take(1, false, true, true), Number::Next);
        assert_eq!(count.take(0, false, true, true), Number::Late);
        let mut count = Count::default();
        assert_eq!(count.take(u64::MAX, false, false, true), Number::Next);
        assert_eq!(count.take(u64::MAX, false, false, true), Number::Repeat);
    }

    #[test]
    fn a_forged_number_silences_nobody() {
        use Number::{Jump, Late, Next, Repeat};
        let mut count = Count::default();
        let mut take = |seq| count.take(seq, false, true, false);
        assert_eq!([take(1), take(2)], [Next, Next]);
        assert_eq!(take(1_000_000), Jump(999_997), "forged");
        // The true ones go on: each is processed, once.
        for seq in 3..3 + u64::from(TRUE_RUN) {
            assert_eq!(take(seq), Late, "{seq}");
            assert_eq!(take(seq), Repeat, "{seq}");
        }
        assert_eq!([take(11), take(11), take(13)], [Next, Repeat, Jump(1)]);
        let mut count = Count::default();
        assert_eq!(count.take(1, false, true, false), Next);
        assert_eq!(count.take(5_000, true, true, false), Jump(4_999));
        for seq in 2..2 + u64::from(BELOW) {
            assert_eq!(count.take(seq, false, true, false), Late);
        }
        let next = 2 + u64::from(BELOW);
        assert_eq!(count.take(next, false, true, false), Next);
        assert_eq!(count.take(next + 2, false, true, false), Jump(1));
    }
}
