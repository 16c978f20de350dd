//! Kept messages as those read them who look back: senders over HTTP, and members of a topic.
//!
//! A message is named by its stream entry, which is the same for all that read the log, also
//! straight from Redis. What must stay true: `data` goes out as the bytes it came in.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{ConnectionId, Topic, UserId};
use crate::protocol::json::{members, one_line};
use crate::protocol::message::{Author, check_event};
use crate::protocol::position::EntryId;

/// The member of a topic that published a message.
#[derive(Debug, Clone, Serialize)]
struct PastAuthor {
    user: UserId,
    connection: ConnectionId,
}

/// A message in an inbox or a log.
#[derive(Debug, Clone, Serialize)]
pub struct PastMessage {
    entry: EntryId,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<str>>,
    #[serde(rename = "from", skip_serializing_if = "Option::is_none")]
    author: Option<PastAuthor>,
    data: Box<RawValue>,
}

impl PastMessage {
    /// A message as it lies there.
    ///
    /// # Errors
    /// When the data is not JSON, or the event's name none: another program wrote it there.
    pub fn new(
        entry: EntryId,
        id: Option<String>,
        event: Option<String>,
        from: Option<&str>,
        data: &str,
    ) -> Result<Self, InvalidInput> {
        let author: Option<Author> = from.map(serde_json::from_str).transpose()?;
        let data: &RawValue = serde_json::from_str(data)?;
        let data = RawValue::from_string(one_line(data).into())?;
        Ok(Self {
            entry,
            id: id.map(String::into_boxed_str),
            event: check_event(event.map(Into::into))?,
            author: author.map(|author| PastAuthor {
                user: author.user,
                connection: author.connection,
            }),
            data,
        })
    }
}

/// What a member who looks back reads in its reply. `more`: there are others, further back.
#[must_use]
pub fn history_fields(topic: &Topic, messages: &[PastMessage], more: bool) -> String {
    #[derive(Serialize)]
    struct History<'a> {
        topic: &'a Topic,
        status: &'static str,
        messages: &'a [PastMessage],
        more: bool,
    }
    members(&History {
        topic,
        status: "history",
        messages,
        more,
    })
}
