//! The few pieces of JSON that are read or written by hand, for the files of this folder.
//!
//! A payload (`data`) is never re-serialised: it passes through as the bytes it came in, except
//! that line breaks between its tokens become blanks, because on the bus a line is an envelope.

use std::fmt::{self, Display, Write as _};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::UserId;

/// Longest `ref` of a client's request, in bytes of JSON.
const MAX_REFERENCE_BYTES: usize = 64;

/// Deserializes a member that is there, whatever it holds: `null` is a value too.
pub(super) fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A value that must be an object. A struct that is derived takes an array too, field by field.
pub(super) struct ObjectOnly<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ObjectOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = ObjectOnly<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<ObjectOnly<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(ObjectOnly)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// The body of a request, which must be an object.
pub(super) fn from_object<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, InvalidInput> {
    Ok(serde_json::from_slice::<ObjectOnly<T>>(body)?.0)
}

/// JSON as it came, but in one line.
pub(super) fn one_line(json: &RawValue) -> Box<str> {
    let json = json.get();
    // Inside a JSON string a line break is always escaped, so these are between tokens.
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_some() {
        json.replace(['\n', '\r'], " ").into()
    } else {
        json.into()
    }
}

/// Reads the `ref` of a client: a string or a number, which is sent back as it came.
pub(super) fn reference(json: Option<&RawValue>) -> Result<Option<Box<str>>, &'static str> {
    match json.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(json) if is_reference(json) => Ok(Some(json.into())),
        Some(_) => Err("ref must be a string or a number of 64 bytes at most"),
    }
}

fn is_reference(json: &str) -> bool {
    json.len() <= MAX_REFERENCE_BYTES
        && json.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit())
}

/// One of our own types as JSON.
pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our own types become JSON")
}

/// The members of an object, without its braces.
pub(super) fn members(value: &impl Serialize) -> String {
    let mut text = to_json(value);
    text.pop();
    text.remove(0);
    text
}

/// JSON that was read before, to stand in an object as it is.
pub(super) fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).expect("this was read as JSON")
}

/// Deserializes a member for which `null` is as good as being absent.
pub(super) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A user id as JSON. Its grammar has no control characters, so only these two are escaped.
pub(super) struct Quoted<'a>(pub(super) &'a UserId);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl Quoted<'_> {
    pub(super) fn write(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_char('"')?;
        let mut rest = self.0.as_str();
        while let Some(at) = memchr::memchr2(b'"', b'\\', rest.as_bytes()) {
            f.write_str(&rest[..at])?;
            f.write_char('\\')?;
            f.write_str(&rest[at..=at])?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)?;
        f.write_char('"')
    }
}

/// A list of users as JSON.
pub(super) struct Users<I>(pub(super) I);

impl<'a, I: Iterator<Item = &'a UserId> + Clone> Display for Users<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (i, user) in self.0.clone().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", Quoted(user))?;
        }
        f.write_char(']')
    }
}

/// A list of topics, nodes or connections as JSON. They need no escaping: their grammar has no
/// quote and no backslash.
pub(super) struct Names<I>(pub(super) I);

impl<T: Display, I: Iterator<Item = T> + Clone> Display for Names<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (i, name) in self.0.clone().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}\"{name}\"")?;
        }
        f.write_char(']')
    }
}
