//! The names of things: users, topics, nodes, connections.
//!
//! Owns the one grammar for each and their parsing and printing. Whatever reaches a Redis key, a
//! channel name, a row or a log line went through here first. A user id is any text, as identity
//! providers give it; into a key or a topic it goes escaped ([`UserId::in_key`],
//! [`UserId::in_topic`]), so it can carry no brace, blank or separator there. Names are cheap to
//! clone (shared text).

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest user id, in bytes.
pub const MAX_USER_BYTES: usize = 256;
/// Longest topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 200;
/// Longest node name, in bytes; the boot id comes on top.
pub const MAX_NODE_NAME_BYTES: usize = 64;

/// A name that does not follow its grammar; the text says what the grammar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {grammar}")]
pub struct BadName {
    what: &'static str,
    grammar: &'static str,
}

const BAD_USER: BadName = BadName {
    what: "user id",
    grammar: "1 to 256 bytes of UTF-8 without control characters",
};
const BAD_TOPIC: BadName = BadName {
    what: "topic",
    grammar: "1 to 200 bytes of A-Z a-z 0-9 . _ : @ = , ; -",
};
const BAD_NODE_NAME: BadName = BadName {
    what: "node name",
    grammar: "1 to 64 bytes of A-Z a-z 0-9 . _ -",
};
const BAD_NODE: BadName = BadName {
    what: "node id",
    grammar: "<name>.<boot>, as in a row of pn:user:{<user>}",
};
const BAD_CONNECTION: BadName = BadName {
    what: "connection id",
    grammar: "<name>.<boot>/<fd>, with an fd from 1 on",
};

/// The id of an authenticated user.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as it stands in the name of a key: each byte other than `A-Z a-z 0-9 . _ : @ - ~` as
    /// `%` and two hexadecimal digits. So a hash tag ends where the id does, no two ids share a
    /// key, and the ids that were possible before stand there as they are.
    #[must_use]
    pub fn in_key(&self) -> Cow<'_, str> {
        escaped(&self.0, b'%', |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'@' | b'-' | b'~')
        })
    }

    /// The id as it stands in a topic: each byte other than `A-Z a-z 0-9 _ @ -` as `=` and two
    /// hexadecimal digits. So it never holds a separator of segments, and no two ids look alike.
    #[must_use]
    pub fn in_topic(&self) -> Cow<'_, str> {
        escaped(&self.0, b'=', |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'@' | b'-')
        })
    }
}

/// The text with each byte that is not `plain` as `sign` and two hexadecimal digits.
fn escaped(text: &str, sign: u8, plain: fn(u8) -> bool) -> Cow<'_, str> {
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "{}{byte:02X}", char::from(sign));
        }
    }
    Cow::Owned(out)
}

impl FromStr for UserId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = (1..=MAX_USER_BYTES).contains(&text.len());
        if fits && !text.contains(is_no_text) {
            Ok(Self(text.into()))
        } else {
            Err(BAD_USER)
        }
    }
}

/// What connections can subscribe to: a push to a topic reaches all of its subscribers.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = (1..=MAX_TOPIC_BYTES).contains(&text.len());
        if fits && text.bytes().all(is_topic_byte) {
            Ok(Self(text.into()))
        } else {
            Err(BAD_TOPIC)
        }
    }
}

/// The items of a comma-separated list of topics or patterns. A comma inside one is `%2C` there;
/// neither has a percent sign of its own.
pub(crate) fn listed(list: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let items = list.split(',').filter(|item| !item.is_empty());
    items.map(|item| match item.contains('%') {
        false => Cow::Borrowed(item),
        true => Cow::Owned(item.replace("%2C", ",").replace("%2c", ",")),
    })
}

/// Whether this character may not stand in a user id. The replacement character stands for bytes
/// that were no text: by it, two different ids would become one.
fn is_no_text(one: char) -> bool {
    one.is_control() || one == char::REPLACEMENT_CHARACTER
}

/// Whether this byte may stand in a topic.
pub(crate) const fn is_topic_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'_' | b':' | b'@' | b'-' | b'=' | b',' | b';')
}

/// What has connections on several nodes: the one a push is for, and whom a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Those of a user.
    User(UserId),
    /// Those that are subscribed to a topic.
    Topic(Topic),
}

/// One process: `<name>.<boot>`.
///
/// The boot part is random and new at each start, so that nothing a dead process has left
/// (a row, a channel, an envelope on its way) can be taken for a live one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// A new id for a process called `name`, with a fresh boot part of 48 random bits.
    ///
    /// # Panics
    /// If the operating system has no random bytes to give.
    #[must_use]
    pub fn boot(name: &NodeName) -> Self {
        let mut random = [0; 6];
        getrandom::fill(&mut random).expect("the operating system gives random bytes");
        let boot: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{name}.{boot}").into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the boot part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.split().0
    }

    /// The boot part.
    #[must_use]
    pub fn boot_part(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('.').expect("checked when parsed")
    }
}

impl FromStr for NodeId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (name, boot) = text.rsplit_once('.').ok_or(BAD_NODE)?;
        let boot_fits =
            (1..=32).contains(&boot.len()) && boot.bytes().all(|b| b.is_ascii_alphanumeric());
        if NodeName::fits(name) && boot_fits {
            Ok(Self(text.into()))
        } else {
            Err(BAD_NODE)
        }
    }
}

/// The part of a node id that outlives a restart: a host or container name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    fn fits(text: &str) -> bool {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (1..=MAX_NODE_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_plain)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        match Self::fits(text) {
            true => Ok(Self(text.into())),
            false => Err(BAD_NODE_NAME),
        }
    }
}

/// A connection's number on its node: counted up from 1, never reused within a boot.
///
/// Not the operating system's file descriptor, which is reused at once; that reuse is how
/// other systems hand one user's message to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fd(pub u64);

impl fmt::Display for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A connection in the whole cluster, for ever: `<name>.<boot>/<fd>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The node that holds it.
    pub node: NodeId,
    /// Its number there.
    pub fd: Fd,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.fd)
    }
}

impl FromStr for ConnectionId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (node, fd) = text.rsplit_once('/').ok_or(BAD_CONNECTION)?;
        let node = node.parse().map_err(|_| BAD_CONNECTION)?;
        // `parse` alone would also take "+7" and "007": one connection, one spelling.
        if fd.starts_with(['+', '0']) {
            return Err(BAD_CONNECTION);
        }
        let fd = fd.parse().map_err(|_| BAD_CONNECTION)?;
        Ok(Self { node, fd: Fd(fd) })
    }
}

/// Display, Debug and serde for names that are text: as the text, through the grammar.
macro_rules! text_name {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_name!(UserId, Topic, NodeId, NodeName);

macro_rules! serde_by_text {
    ($($name:ident $(, $numbers:ident)?;)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }
                    $(
                        fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                            $numbers(number)
                        }
                        fn visit_i64<E: de::Error>(self, number: i64) -> Result<$name, E> {
                            $numbers(number)
                        }
                        fn visit_f64<E: de::Error>(self, number: f64) -> Result<$name, E> {
                            // To JSON, 42.0 is the same number as 42.
                            let is_whole = number.fract() == 0.0 && number.abs() < WHOLE;
                            let other = || E::invalid_type(Unexpected::Float(number), &self);
                            is_whole.then_some(number as i64).ok_or_else(other).and_then($numbers)
                        }
                    )?
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    )*};
}
serde_by_text!(UserId, by_number; Topic; NodeId; NodeName; ConnectionId;);

/// Below it, every whole number that a float holds is an `i64`.
const WHOLE: f64 = 9_223_372_036_854_775_808.0;

/// A user by number, as databases have it, is the text of that number.
fn by_number<E: de::Error>(number: impl fmt::Display) -> Result<UserId, E> {
    number.to_string().parse().map_err(E::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_any_text() {
        for good in [
            "4",
            "a.b_c:d@e-f",
            "auth0|abc",
            "google-oauth2|1",
            "a+b@c.d",
            "repo:o/r:ref",
            "Jörg Ödön",
            "{x}",
            "\"\\",
            " a b ",
            "用户",
            &"x".repeat(256),
            &"é".repeat(128),
        ] {
            assert!(good.parse::<UserId>().is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "a\n",
            "a\0",
            "\u{7f}",
            "\u{85}",
            "\u{fffd}",
            &"é".repeat(129),
        ] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_topic_is_of_few_letters() {
        for good in ["4", "a.b_c:d@e-f", "a=b,c;d", &"x".repeat(200)] {
            assert!(good.parse::<Topic>().is_ok(), "{good:?}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "{x}",
            "*",
            "ü",
            "a/b",
            "a%b",
            &"x".repeat(201),
        ] {
            assert!(bad.parse::<Topic>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_user_in_a_key_is_exact_and_those_of_before_are_as_they_were() {
        for (user, key) in [
            ("a.b_c:d@e-f", "a.b_c:d@e-f"),
            ("auth0|abc", "auth0%7Cabc"),
            ("}{", "%7D%7B"),
            ("a%7Db", "a%257Db"),
            ("é", "%C3%A9"),
            (" ", "%20"),
            ("a~b", "a~b"),
        ] {
            assert_eq!(user.parse::<UserId>().unwrap().in_key(), key);
        }
    }

    #[test]
    fn a_user_by_number_is_its_text() {
        let read = |json: &str| serde_json::from_str::<UserId>(json).map(|user| user.to_string());
        assert_eq!(read("42").unwrap(), "42");
        assert_eq!(read("-7").unwrap(), "-7");
        assert_eq!(read("\"42\"").unwrap(), "42");
        for bad in ["4.5", "true", "null", "[]", "1e30"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Topic>("42").is_err());
    }

    #[test]
    fn a_connection_id_reads_back_as_it_was_printed() {
        let node = NodeId::boot(&"host-1.eu".parse().unwrap());
        let id = ConnectionId {
            node: node.clone(),
            fd: Fd(u64::MAX),
        };
        assert_eq!(id.to_string().parse::<ConnectionId>(), Ok(id));
        assert_eq!(node.name(), "host-1.eu");
        assert_eq!(node.boot_part().len(), 12);
    }

    #[test]
    fn a_connection_has_one_spelling_only() {
        for bad in [
            "a.1",
            "a.1/",
            "a.1/0",
            "a.1/01",
            "a.1/+1",
            "a.1/-1",
            "a/1",
            ".1/1",
            "a.1/99999999999999999999",
        ] {
            assert!(bad.parse::<ConnectionId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_boots_of_one_name_differ() {
        let name: NodeName = "a".parse().unwrap();
        assert_ne!(NodeId::boot(&name), NodeId::boot(&name));
    }
}
