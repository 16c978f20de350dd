//! RESP, the language of Redis: where an answer ends, what it says, and how a command is written.
//!
//! Bytes in, values out: nothing here waits, and nothing knows of connections. What must stay true:
//! for any bytes there is an answer or a fault, never a panic; however the bytes are cut, the same
//! answers come out; and no room is made for more than the bytes that are there.

use std::ops::Range;

/// The longest line: a status, a refusal, or the head of a text or list.
const LINE: usize = 64 * 1024;
/// The longest text, as Redis bounds it by default.
const TEXT: u64 = 512 * 1024 * 1024;
/// The most values of one answer.
const VALUES: u64 = 64 * 1024 * 1024;
/// How deep lists may lie in lists.
const DEPTH: u32 = 16;

/// What Redis answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A text, a status or a floating-point number.
    Text(Vec<u8>),
    /// A number, or whether something is so.
    Number(i64),
    /// A list or a set, or a map as keys and values in turn.
    List(Vec<Reply>),
    Nothing,
    /// An error, beginning with its word.
    Refused(String),
}

/// Why bytes are not RESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Finds where answers end, in bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    /// How far the present answer was read, and how many values it still lacks.
    part: Option<(usize, u64)>,
}

impl Framer {
    /// The length of the first answer in these bytes; `None` if it is not whole yet. Then the next
    /// call is given the same bytes and more.
    ///
    /// # Errors
    /// The bytes are no answer. No further call makes sense.
    pub(crate) fn whole(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let (mut at, mut lacks) = self.part.unwrap_or((0, 1));
        while lacks > 0 && at < bytes.len() {
            let Some(line) = line(&bytes[at..])? else {
                break;
            };
            let head = Head::of(line)?;
            at += line.len() + 2;
            lacks -= 1;
            match head {
                Head::Line => {}
                Head::Text(length) => at += length + 2,
                Head::List(count) => lacks += count,
            }
            if lacks > VALUES {
                return Err(Malformed("too many values"));
            }
        }
        let is_whole = lacks == 0 && at <= bytes.len();
        self.part = (!is_whole).then_some((at, lacks));
        Ok(is_whole.then_some(at))
    }
}

/// The first line, without its end; `None` if the end is not there yet.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE)]) {
        Some(end) if end > 1 && bytes[end - 1] == b'\r' => Ok(Some(&bytes[..end - 1])),
        Some(_) => Err(Malformed("a line without its end")),
        None if bytes.len() >= LINE => Err(Malformed("a line that is too long")),
        None => Ok(None),
    }
}

/// What follows a line.
enum Head {
    /// Nothing: the line is all.
    Line,
    /// So many bytes, and a line end.
    Text(usize),
    /// So many values.
    List(u64),
}

impl Head {
    fn of(line: &[u8]) -> Result<Self, Malformed> {
        let (kind, rest) = (line[0], &line[1..]);
        let factor = match kind {
            b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => return Ok(Self::Line),
            b'$' | b'=' | b'!' => {
                return Ok(match length(rest)? {
                    None => Self::Line,
                    Some(length) if length > TEXT => return Err(Malformed("too long a text")),
                    Some(length) => Self::Text(length as usize),
                });
            }
            b'*' | b'~' | b'>' => 1,
            b'%' | b'|' => 2,
            _ => return Err(Malformed("an unknown kind of value")),
        };
        let Some(count) = length(rest)? else {
            return Ok(Self::Line);
        };
        if count > VALUES {
            return Err(Malformed("too many values"));
        }
        // An attribute stands before the value that it is about.
        Ok(Self::List(count * factor + u64::from(kind == b'|')))
    }
}

/// A length; `None` for the -1 that stands for nothing.
fn length(digits: &[u8]) -> Result<Option<u64>, Malformed> {
    match integer(digits)? {
        -1 => Ok(None),
        number => u64::try_from(number)
            .map(Some)
            .map_err(|_| Malformed("a negative length")),
    }
}

fn integer(digits: &[u8]) -> Result<i64, Malformed> {
    let fault = Malformed("not a number");
    let (is_negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.is_empty() {
        return Err(fault);
    }
    let mut number = 0_i64;
    for digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return Err(fault);
        }
        // Downwards, where there is one number more.
        number = number.checked_mul(10).ok_or(fault)?;
        number = number.checked_sub(digit).ok_or(fault)?;
    }
    match is_negative {
        true => Ok(number),
        false => number.checked_neg().ok_or(fault),
    }
}

/// What a whole answer says.
///
/// # Errors
/// It is not one whole answer.
pub(crate) fn reply(whole: &[u8]) -> Result<Reply, Malformed> {
    let mut cursor = Cursor { rest: whole };
    let reply = cursor.value(0)?;
    match cursor.rest.is_empty() {
        true => Ok(reply),
        false => Err(Malformed("more than one answer")),
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn line(&mut self) -> Result<&'a [u8], Malformed> {
        let line = line(self.rest)?.ok_or(Malformed("an answer that is not whole"))?;
        self.rest = &self.rest[line.len() + 2..];
        Ok(line)
    }

    fn text(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let cut = Malformed("an answer that is not whole");
        let text = self.rest.get(..length).ok_or(cut)?;
        match self.rest.get(length..length + 2) {
            Some(b"\r\n") => {
                self.rest = &self.rest[length + 2..];
                Ok(text)
            }
            Some(_) => Err(Malformed("a text without its end")),
            None => Err(cut),
        }
    }

    fn value(&mut self, depth: u32) -> Result<Reply, Malformed> {
        if depth > DEPTH {
            return Err(Malformed("lists that lie too deep"));
        }
        let line = self.line()?;
        let (kind, rest) = (line[0], &line[1..]);
        Ok(match (Head::of(line)?, kind) {
            (Head::Text(length), b'!') => Reply::Refused(lossy(self.text(length)?)),
            (Head::Text(length), b'=') => {
                // Its first four bytes say what it is.
                let text = self.text(length)?;
                Reply::Text(text.get(4..).unwrap_or_default().to_vec())
            }
            (Head::Text(length), _) => Reply::Text(self.text(length)?.to_vec()),
            (Head::List(count), b'|') => {
                for _ in 1..count {
                    self.value(depth + 1)?;
                }
                self.value(depth + 1)?
            }
            (Head::List(count), _) => {
                // The shortest value has three bytes.
                let most = self.rest.len() / 3;
                let mut list = Vec::with_capacity((count as usize).min(most));
                for _ in 0..count {
                    list.push(self.value(depth + 1)?);
                }
                Reply::List(list)
            }
            (Head::Line, b'-') => Reply::Refused(lossy(rest)),
            (Head::Line, b':') => Reply::Number(integer(rest)?),
            (Head::Line, b'#') => Reply::Number(i64::from(rest == b"t")),
            (Head::Line, b'+' | b',' | b'(') => Reply::Text(rest.to_vec()),
            (Head::Line, _) => Reply::Nothing,
        })
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Whether an answer is none to a command: Redis sends it by itself.
pub(crate) fn is_pushed(whole: &[u8]) -> bool {
    whole.first() == Some(&b'>')
}

/// Whether Redis confirms a subscription.
pub(crate) fn confirms(pushed: &[u8]) -> bool {
    pushed.starts_with(b">3\r\n$9\r\nsubscribe\r\n")
        || pushed.starts_with(b">3\r\n$10\r\nssubscribe\r\n")
}

/// A message of a channel: where its channel and its payload stand in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessagePlaces {
    pub(crate) channel: Range<usize>,
    pub(crate) payload: Range<usize>,
}

/// The message that Redis sent by itself; `None` if it sent something else.
///
/// # Errors
/// It is not RESP.
pub(crate) fn message(whole: &[u8]) -> Result<Option<MessagePlaces>, Malformed> {
    let mut cursor = Cursor { rest: whole };
    if cursor.line()? != b">3" {
        return Ok(None);
    }
    let mut places = [0..0, 0..0, 0..0];
    for place in &mut places {
        let Head::Text(length) = Head::of(cursor.line()?)? else {
            return Ok(None);
        };
        let start = whole.len() - cursor.rest.len();
        cursor.text(length)?;
        *place = start..start + length;
    }
    let [kind, channel, payload] = places;
    let is_message = matches!(&whole[kind], b"message" | b"smessage");
    Ok(is_message.then_some(MessagePlaces { channel, payload }))
}

/// Writes a command.
pub(crate) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    begin(out, words.len());
    words.iter().for_each(|one| word(out, one));
}

/// Begins a command of so many words.
pub(crate) fn begin(out: &mut Vec<u8>, words: usize) {
    head(out, b'*', words);
}

/// Adds a word to a command that was begun.
pub(crate) fn word(out: &mut Vec<u8>, word: &[u8]) {
    head(out, b'$', word.len());
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

fn head(out: &mut Vec<u8>, kind: u8, mut number: usize) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers in these bytes, cut after every `step`.
    fn answers(bytes: &[u8], step: usize) -> Result<Vec<Reply>, Malformed> {
        let (mut framer, mut replies, mut input) = (Framer::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(length) = framer.whole(&input)? {
                replies.push(reply(&input[..length])?);
                input.drain(..length);
            }
        }
        assert!(input.is_empty(), "{input:?}");
        Ok(replies)
    }

    fn text(text: &str) -> Reply {
        Reply::Text(text.into())
    }

    #[test]
    fn answers_of_each_kind_are_read_however_they_are_cut() {
        let bytes =
            b"+OK\r\n-ERR no\r\n:-12\r\n$2\r\na\n\r\n$-1\r\n$0\r\n\r\n*-1\r\n*2\r\n$1\r\na\r\n\
            *1\r\n:1\r\n%1\r\n+k\r\n#t\r\n~1\r\n_\r\n,1.5\r\n(99\r\n=5\r\ntxt:a\r\n!5\r\nERR b\r\n\
            |1\r\n+about\r\n:1\r\n:2\r\n*0\r\n:-9223372036854775808\r\n";
        let expected = vec![
            text("OK"),
            Reply::Refused("ERR no".to_owned()),
            Reply::Number(-12),
            text("a\n"),
            Reply::Nothing,
            text(""),
            Reply::Nothing,
            Reply::List(vec![text("a"), Reply::List(vec![Reply::Number(1)])]),
            Reply::List(vec![text("k"), Reply::Number(1)]),
            Reply::List(vec![Reply::Nothing]),
            text("1.5"),
            text("99"),
            text("a"),
            Reply::Refused("ERR b".to_owned()),
            Reply::Number(2),
            Reply::List(vec![]),
            Reply::Number(i64::MIN),
        ];
        for step in 1..=bytes.len() {
            assert_eq!(answers(bytes, step), Ok(expected.clone()), "{step}");
        }
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        let deep = b"*1\r\n".repeat(DEPTH as usize + 2);
        let long = vec![b'+'; LINE + 1];
        for bytes in [
            &b"\r\n"[..],
            b"\n",
            b"?\r\n",
            b"+a\n",
            b"$a\r\n",
            b"$-2\r\n",
            b"$?\r\n",
            b"*99999999999\r\n",
            b"$99999999999\r\n",
            b"$99999999999999999999999\r\n",
            b":\r\n",
            b"$1\r\nabc",
            &[&deep[..], b":1\r\n"].concat(),
            &long,
        ] {
            let told = answers(bytes, (bytes.len() / 100).max(1));
            assert!(told.is_err(), "{:?}: {told:?}", lossy(bytes));
            assert_eq!(told, answers(bytes, bytes.len()), "{:?}", lossy(bytes));
        }
    }

    #[test]
    fn no_room_is_made_for_values_that_are_not_there() {
        let promise = format!("*{VALUES}\r\n");
        assert_eq!(Framer::default().whole(promise.as_bytes()), Ok(None));
        assert!(reply(promise.as_bytes()).is_err());
        let more = format!("*2\r\n*{VALUES}\r\n");
        assert!(Framer::default().whole(more.as_bytes()).is_err());
    }

    #[test]
    fn messages_are_told_from_all_else_that_is_pushed() {
        let of = |bytes: &[u8]| {
            assert!(is_pushed(bytes));
            let places = message(bytes).expect("RESP")?;
            Some((lossy(&bytes[places.channel]), lossy(&bytes[places.payload])))
        };
        let heard = Some(("c".to_owned(), "a\r\nb".to_owned()));
        assert_eq!(
            of(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n"),
            heard
        );
        assert_eq!(
            of(b">3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n"),
            heard
        );
        assert_eq!(of(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"), None);
        assert_eq!(of(b">3\r\n$8\r\npmessage\r\n$1\r\nc\r\n$1\r\nd\r\n"), None);
        assert_eq!(of(b">2\r\n$10\r\ninvalidate\r\n*-1\r\n"), None);
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        let mut out = Vec::new();
        command(&mut out, &[b"PUBLISH", b"a b", b"0123456789", b""]);
        let words = ["PUBLISH", "a b", "0123456789", ""];
        assert_eq!(reply(&out), Ok(Reply::List(words.map(text).to_vec())));
    }
}
