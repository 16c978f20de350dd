//! What is wrong with input.
//!
//! Decoding in this folder is total: any bytes become a value or an [`InvalidInput`]. Its text
//! names the field and is written for the one who sent the input.

/// Input that is not what it should be. The text names the field and is safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidInput(String);

impl InvalidInput {
    /// Says in these words what is wrong.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text for a log, without what it quotes of the input: that may be a part of a message.
    /// Our own texts quote nothing. Those of serde_json end with a place and quote before it.
    #[must_use]
    pub fn unquoted(&self) -> String {
        let Some((said, place)) = self.0.rsplit_once(" at line ") else {
            return self.0.clone();
        };
        let names_a_field = ["missing field", "duplicate field"];
        if names_a_field.iter().any(|start| said.starts_with(start)) {
            return self.0.clone();
        }
        let said = said.split(['"', '`']).next().unwrap_or_default();
        format!("{} at line {place}", said.trim_end())
    }
}

impl From<serde_json::Error> for InvalidInput {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}
