//! The usual push, read by hand: to one user, perhaps with an `id`, its `data` last.
//!
//! A body of a request and a line on a channel look the same then, and most of both look so. What
//! this does not know, or what is wrong, it leaves to serde, which also finds the words for it.
//! What must stay true: what this reads, serde reads as the same push (`tests/plain.rs`).

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::protocol::ids::UserId;
use crate::protocol::message::{Message, Push, Target, check_id};

/// The lines of a payload or a body, without their line breaks. The last one may be empty.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', text).chain([text.len()]);
    ends.map(move |end| &text[std::mem::replace(&mut start, end + 1)..end])
}

/// Reads `{"to":{"user":"<user>"},"id":"<id>","data":<data>}`, with or without the id. Makes
/// nothing before all of it is known to be so: others should not pay for this.
pub(in crate::protocol) fn plain_push(json: &[u8]) -> Option<Push> {
    let mut rest = match json.strip_prefix(br#"{"to":{"user":"#) {
        Some(rest) => Unread(rest),
        None if json.starts_with(br#"{"to":{""#) => return None,
        None => {
            let mut rest = Unread(json);
            for token in [&b"{"[..], b"\"to\"", b":", b"{", b"\"user\"", b":"] {
                rest.token(token)?;
            }
            rest
        }
    };
    let user = rest.text()?;
    rest.token(b"}")?;
    rest.token(b",")?;
    let mut id = None;
    if rest.token(b"\"id\"").is_some() {
        rest.token(b":")?;
        id = Some(rest.text()?);
        rest.token(b",")?;
    }
    rest.token(b"\"data\"")?;
    rest.token(b":")?;
    let data = rest.last_value()?;
    let user: UserId = std::str::from_utf8(user).ok()?.parse().ok()?;
    let id = match id {
        Some(id) => check_id(Some(Cow::Borrowed(std::str::from_utf8(id).ok()?))).ok()?,
        None => None,
    };
    Some(Push {
        to: Target::User(user),
        except: None,
        message: Arc::new(Message::new(id, data, None)),
    })
}

/// What is left to read of a JSON text.
struct Unread<'a>(&'a [u8]);

impl<'a> Unread<'a> {
    fn skip_blanks(&mut self) {
        while let [first, rest @ ..] = self.0
            && is_blank(*first)
        {
            self.0 = rest;
        }
    }

    /// Takes these bytes, after blanks.
    fn token(&mut self, token: &[u8]) -> Option<()> {
        self.skip_blanks();
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    /// Takes a string without escapes. The caller refuses control characters, as JSON does.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.token(b"\"")?;
        let end = memchr::memchr2(b'"', b'\\', self.0)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest;
        self.token(b"\"")?;
        Some(text)
    }

    /// Takes a value and the end of the object that it is the last member of.
    fn last_value(mut self) -> Option<&'a RawValue> {
        self.skip_blanks();
        let value = without_blanks_at_end(without_blanks_at_end(self.0).strip_suffix(b"}")?);
        // Where it ends otherwise, other members follow: seen before all of it is read for nothing.
        let ends_well = match (value.first()?, value.last()?) {
            (b'{', last) => *last == b'}',
            (b'[', last) => *last == b']',
            (b'"', last) => *last == b'"',
            _ => true,
        };
        ends_well.then(|| serde_json::from_slice(value).ok())?
    }
}

/// What may stand between tokens. A form feed may not, though it is white space to ASCII.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn without_blanks_at_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}
