//! Entries of inboxes and logs: their fields in Redis, and how they are read.

use fred::types::Value;

use crate::local::replay::page::Entry;
use crate::protocol::position::EntryId;

/// The field of an entry that holds the message.
pub(super) const DATA: &str = "data";
/// The field that holds its id, if it has one.
pub(super) const ID: &str = "id";
/// The field that holds the name of its event, if it has one. Older nodes pass it over.
pub(super) const EVENT: &str = "event";
/// The field that tells which member of the topic published it, if one did. Older nodes pass it
/// over.
pub(super) const FROM: &str = "from";

pub(super) fn entry_id(value: &Value) -> Option<EntryId> {
    value.as_str()?.parse().ok()
}

/// The answer to XRANGE: pairs of an id and a list of fields and values.
pub(super) fn entries(answer: Value) -> Vec<Entry> {
    answer
        .into_array()
        .into_iter()
        .filter_map(|entry| {
            let mut parts = entry.into_array().into_iter();
            let entry = entry_id(&parts.next()?)?;
            let fields: Vec<(String, String)> = parts.next()?.convert().unwrap_or_default();
            let field = |name: &str| {
                let found = fields.iter().find(|(field, _)| field == name);
                found.map(|(_, value)| value.clone())
            };
            Some(Entry {
                entry,
                id: field(ID),
                event: field(EVENT),
                from: field(FROM),
                // Without it the entry is not a pushnode message; the reader reports that.
                data: field(DATA).unwrap_or_default(),
            })
        })
        .collect()
}
