//! Lines that a client sends over plain TCP: cut out of what the socket gave. No I/O.
//!
//! A line ends with a line feed, a carriage return before it is not part of it. As with frames
//! the parser is total, a line that arrived whole is handed on without a copy, and what is
//! gathered is bounded.

use crate::protocol::client::websocket::Violation;
use crate::protocol::close::CloseReason;

const TOO_LONG: Violation = Violation {
    close: CloseReason::TooBig,
    rule: "line over the size limit",
};
const NOT_UTF8: Violation = Violation {
    close: CloseReason::InvalidText,
    rule: "a line must be UTF-8",
};

/// The parser's state between two reads: the beginning of a line. Nothing for an idle connection.
#[derive(Debug, Default)]
pub struct LineReader(Option<Box<Begun>>);

/// One pointer away, so that an idle connection does not hold an empty vector.
#[derive(Debug, Default)]
struct Begun(Vec<u8>);

impl LineReader {
    /// Whether the client is between two lines.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Takes the next bytes from the socket and calls `each` for every whole line, in order.
    /// `each` answers whether to go on.
    ///
    /// # Errors
    /// A line that is longer than `most` bytes or no text. The connection is to be closed;
    /// nothing more may be fed.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        most: usize,
        each: &mut impl FnMut(&str) -> bool,
    ) -> Result<(), Violation> {
        while let Some(end) = memchr::memchr(b'\n', input) {
            let (line, rest) = (&input[..end], &input[end + 1..]);
            input = rest;
            let go_on = match self.0.take() {
                None => each(whole(line, most)?),
                Some(mut begun) => {
                    let begun = &mut begun.0;
                    begun.extend_from_slice(line);
                    each(whole(begun, most)?)
                }
            };
            if !go_on {
                return Ok(());
            }
        }
        if input.is_empty() {
            return Ok(());
        }
        let begun = &mut self.0.get_or_insert_default().0;
        // One more: it may be the carriage return.
        if begun.len() + input.len() > most + 1 {
            return Err(TOO_LONG);
        }
        begun.extend_from_slice(input);
        Ok(())
    }
}

fn whole(line: &[u8], most: usize) -> Result<&str, Violation> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > most {
        return Err(TOO_LONG);
    }
    std::str::from_utf8(line).map_err(|_| NOT_UTF8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 10;

    /// What is made of `input` cut after every `step` bytes.
    fn lines(input: &[u8], step: usize) -> (Vec<String>, Option<CloseReason>) {
        let mut reader = LineReader::default();
        let mut lines = Vec::new();
        for piece in input.chunks(step) {
            let fed = reader.feed(piece, MOST, &mut |line| {
                lines.push(line.to_owned());
                true
            });
            if let Err(violation) = fed {
                return (lines, Some(violation.close));
            }
        }
        (lines, None)
    }

    #[test]
    fn however_it_is_cut_the_lines_are_the_same() {
        let input = "one\r\ntwo\n\nthrée\n1234567890\r\nbegun".as_bytes();
        for step in 1..=input.len() {
            let expected = ["one", "two", "", "thrée", "1234567890"];
            assert_eq!(
                lines(input, step),
                (expected.map(str::to_owned).to_vec(), None)
            );
        }
    }

    #[test]
    fn what_is_too_long_or_no_text_ends_it() {
        for (input, reason) in [
            (&b"12345678901\n"[..], CloseReason::TooBig),
            (b"123456789012 and no end", CloseReason::TooBig),
            (b"\xFF\n", CloseReason::InvalidText),
        ] {
            for step in 1..=input.len() {
                assert_eq!(lines(input, step), (Vec::new(), Some(reason)), "{step}");
            }
        }
    }

    #[test]
    fn between_two_lines_nothing_is_held() {
        let mut reader = LineReader::default();
        reader.feed(b"be", MOST, &mut |_| true).unwrap();
        assert!(reader.0.is_some());
        reader.feed(b"gun\n", MOST, &mut |_| true).unwrap();
        assert!(reader.0.is_none());
    }
}
