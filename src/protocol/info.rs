//! What a member of a topic shows of itself to the others: a name, a colour, a picture.
//!
//! It is an object of JSON that the token or a hook gives. Nodes pass it on as it came.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::UserId;
use crate::protocol::json::{one_line, raw};

/// Most bytes of one `info`.
pub const MAX_INFO_BYTES: usize = 1_024;

/// What is wrong with one that is not taken.
pub const BAD_INFO: &str = "info must be an object of at most 1024 bytes";

/// What a member shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Info(Arc<str>);

/// What members show of themselves; those that show nothing are not there.
pub type Infos = BTreeMap<UserId, Info>;

impl Info {
    /// Takes an object of JSON; none if it is `null`.
    ///
    /// # Errors
    /// If it is something else, or too large.
    pub fn read(json: &RawValue) -> Result<Option<Self>, InvalidInput> {
        let text = json.get();
        if text == "null" {
            return Ok(None);
        }
        if !text.starts_with('{') || text.len() > MAX_INFO_BYTES {
            return Err(InvalidInput::new(BAD_INFO));
        }
        Ok(Some(Self(one_line(json).into())))
    }

    /// How many bytes it takes.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "an object has two bytes at least"
    )]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Serialize for Info {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        raw(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Info {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json: Box<RawValue> = Deserialize::deserialize(deserializer)?;
        let read = Self::read(&json).map_err(D::Error::custom)?;
        read.ok_or_else(|| D::Error::custom(BAD_INFO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<Info>, InvalidInput> {
        Info::read(serde_json::from_str(json).expect("JSON"))
    }

    #[test]
    fn an_object_of_a_thousand_bytes_is_taken_as_it_came() {
        let json = format!(r#"{{"a": "{}"}}"#, "x".repeat(MAX_INFO_BYTES - 9));
        let info = read(&json).expect("good").expect("there");
        assert_eq!(info.len(), MAX_INFO_BYTES);
        assert_eq!(serde_json::to_string(&info).expect("JSON"), json);
        let lines = read("{\n\"a\":1}").expect("good").expect("there");
        assert_eq!(serde_json::to_string(&lines).expect("JSON"), "{ \"a\":1}");
        assert_eq!(read("null"), Ok(None));
        let long = format!(r#"{{"a": "{}"}}"#, "x".repeat(MAX_INFO_BYTES - 8));
        for bad in [long.as_str(), "[]", "1", "\"a\"", "true"] {
            let fault = read(bad).expect_err(bad);
            assert!(fault.to_string().contains(BAD_INFO), "{fault}");
        }
    }
}
