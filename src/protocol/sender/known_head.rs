//! The head that a sender sent before: most send the same one with each push, but for the length.
//!
//! What must stay true: what this knows again, [`HeadReading`](super::push_head::HeadReading)
//! reads as the same head, but for the length of its body (`fuzz/targets/head.rs`). And a
//! comparison takes the same time wherever the bytes differ, because a key may stand in them.

use crate::protocol::sender::push_head::{PushHead, body_length};

/// Longer heads are read each time.
const KEPT_BYTES: usize = 1024;
/// Digits of the longest body that is taken, and some zeros.
const MAX_DIGITS: usize = 5;

/// A head that was taken. It has no `Debug`: an API key may stand in it.
pub struct KnownHead {
    bytes: Box<[u8]>,
    /// Where the digits of `Content-Length` stand in it.
    digits: std::ops::Range<usize>,
}

impl KnownHead {
    /// Keeps the head of these bytes, if it is one of those that are kept.
    #[must_use]
    pub fn of(bytes: &[u8], head: &PushHead<'_>) -> Option<Self> {
        let bytes = bytes.get(..head.length)?;
        let digits = head.body_digits.as_bytes();
        let start = (digits.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
        let digits = start..start + digits.len();
        let is_kept = bytes.len() <= KEPT_BYTES && digits.end <= bytes.len();
        is_kept.then(|| Self {
            bytes: bytes.into(),
            digits,
        })
    }

    /// The bytes of the head and of the body, if these bytes begin with this head, whatever the
    /// length of the body.
    #[must_use]
    pub fn lengths(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let (before, after) = (
            &self.bytes[..self.digits.start],
            &self.bytes[self.digits.end..],
        );
        let (begin, rest) = bytes.split_at_checked(before.len())?;
        let digits = rest.iter().take(MAX_DIGITS);
        let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = rest.split_at(digits);
        let end = rest.get(..after.len())?;
        (is_same(begin, before) & is_same(end, after))
            .then(|| Some((bytes.len() - rest.len() + after.len(), body_length(digits)?)))?
    }
}

/// Whether two texts of one length are the same.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let pairs = one.iter().zip(other);
    pairs.fold(0, |all, (one, other)| all | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sender::push_head::HeadReading;

    const BEGIN: &str = "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: ";
    const END: &str = " \r\nContent-Type: application/json\r\n\r\n";

    fn known(bytes: &[u8]) -> Option<KnownHead> {
        let HeadReading::Push(head) = HeadReading::read(bytes) else {
            panic!("no push: {}", bytes.escape_ascii());
        };
        KnownHead::of(bytes, &head)
    }

    fn head(length: &str) -> Vec<u8> {
        format!("{BEGIN}{length}{END}").into_bytes()
    }

    #[test]
    fn a_head_is_known_again_with_any_length_of_a_body() {
        let known = known(&[&head("7")[..], b"{\"a\": 1}"].concat()).unwrap();
        for (length, number) in [("7", 7), ("16384", 16384), ("007", 7)] {
            let head = head(length);
            assert_eq!(known.lengths(&head), Some((head.len(), number)));
            let more = [&head[..], b"POST"].concat();
            assert_eq!(known.lengths(&more), Some((head.len(), number)));
        }
        for length in [
            "",
            "0",
            "16385",
            "000007",
            "7 7",
            "+7",
            "7\r\nContent-Length: 7",
        ] {
            assert_eq!(known.lengths(&head(length)), None, "{length}");
        }
    }

    #[test]
    fn no_part_and_no_other_head_is_known() {
        let whole = head("12");
        let known = known(&whole).unwrap();
        for at in 0..whole.len() {
            assert_eq!(known.lengths(&whole[..at]), None, "{at}");
            let mut other = whole.clone();
            other[at] ^= 0x20;
            let is_length = (BEGIN.len()..BEGIN.len() + 2).contains(&at);
            assert!(is_length || known.lengths(&other).is_none(), "{at}");
        }
    }

    #[test]
    fn long_heads_are_not_kept() {
        let cookie = format!("Cookie: {}\r\n", "c".repeat(KEPT_BYTES));
        let long = [&head("1")[..BEGIN.len() + 1], b"\r\n", cookie.as_bytes()].concat();
        let end = "Content-Type: application/json\r\n\r\n".as_bytes();
        assert!(known(&[&long[..], end].concat()).is_none());
    }
}
