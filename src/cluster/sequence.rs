//! Sequence numbers of senders: a payload is the next one, a repeat, late, or follows a gap.
//!
//! A node numbers its payloads for each target, from 1 in each boot. What must stay true: a gap is
//! reported once, and no payload is processed twice.

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
}

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
}

impl Count {
    /// Takes the number of a header. `from_1`: no payload can have been sent before the first.
    pub(crate) fn take(&mut self, seq: u64, tail: bool, from_1: bool) -> Number {
        let before = match self.last.max(self.told) {
            None if from_1 => 0,
            None => seq.saturating_sub(u64::from(!tail)),
            Some(known) => known,
        };
        if tail {
            self.told = self.told.max(Some(seq));
            return if seq > before {
                Number::Jump(seq - before)
            } else {
                Number::Repeat
            };
        }
        if let Some(age) = self.last.and_then(|last| last.checked_sub(seq)) {
            let bit = u32::try_from(age)
                .ok()
                .and_then(|age| 1u64.checked_shl(age));
            return match bit {
                Some(bit) if self.heard & bit == 0 => {
                    self.heard |= bit;
                    Number::Late
                }
                _ => Number::Repeat,
            };
        }
        let step = self.last.map_or(u64::MAX, |last| seq - last);
        let kept = u32::try_from(step)
            .ok()
            .and_then(|step| self.heard.checked_shl(step));
        self.heard = kept.unwrap_or(0) | 1;
        self.last = Some(seq);
        match seq.saturating_sub(before) {
            0 => Number::Late,
            1 => Number::Next,
            step => Number::Jump(step - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Number};

    /// Takes headers in order; a tail is a negative number.
    fn take(from_1: bool, numbers: &[i64]) -> Vec<Number> {
        let mut count = Count::default();
        numbers
            .iter()
            .map(|&n| count.take(n.unsigned_abs(), n < 0, from_1))
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
        count.take(u64::MAX, true, true);
        assert_eq!(count.take(u64::MAX, false, true), Number::Late);
        assert_eq!(Count::default().take(0, false, false), Number::Late);
    }
}
