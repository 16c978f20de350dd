//! A part of an inbox or a log for those who look back. They follow nothing, so it has no position.

use std::sync::LazyLock;
use std::time::Duration;

use crate::local::replay::page::Entry;
use crate::protocol::PastMessage;
use crate::protocol::position::EntryId;
use crate::telemetry::throttle::Throttle;

/// Most bytes of data in one answer, so that it is no larger than what else may wait for a client.
/// One message always fits.
const MAX_BYTES: usize = 256 * 1024;

/// Bad messages in what was read.
static COMPLAINTS: LazyLock<Throttle> = LazyLock::new(|| Throttle::new(Duration::from_secs(60)));

/// Which messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// The newest.
    Newest,
    /// The newest of those before this one.
    Before(EntryId),
    /// The oldest of those after this one.
    After(EntryId),
}

/// Some messages.
#[derive(Debug)]
pub(crate) struct Excerpt {
    /// In order, the oldest first.
    pub(crate) messages: Vec<PastMessage>,
    /// Whether there are others, further away from where it begins.
    pub(crate) more: bool,
}

impl Excerpt {
    /// Of these entries, which come in the order in which they are read: for [`Span::After`] the
    /// oldest first, else the newest. One more than `limit` says that there are others.
    pub(crate) fn new(span: Span, limit: u16, entries: Vec<Entry>) -> Self {
        let limit = usize::from(limit);
        let mut more = entries.len() > limit;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for one in entries.into_iter().take(limit) {
            bytes += one.data.len();
            if bytes > MAX_BYTES && !messages.is_empty() {
                more = true;
                break;
            }
            let Entry {
                entry,
                id,
                event,
                from,
                data,
            } = one;
            match PastMessage::new(entry, id, event, from.as_deref(), &data) {
                Ok(message) => messages.push(message),
                // Written by another program, and not as agreed.
                Err(fault) => {
                    if let Some(unlogged) = COMPLAINTS.pass() {
                        let fault = fault.unquoted();
                        tracing::warn!(%entry, %fault, unlogged, "bad message in a log left out");
                    }
                }
            }
        }
        if !matches!(span, Span::After(_)) {
            messages.reverse();
        }
        Self { messages, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(numbers: impl IntoIterator<Item = u64>, data: &str) -> Vec<Entry> {
        let numbers = numbers.into_iter();
        let entries = numbers.map(|ms| Entry {
            entry: EntryId { ms, seq: 0 },
            id: None,
            event: None,
            from: None,
            data: data.to_owned(),
        });
        entries.collect()
    }

    fn shown(excerpt: &Excerpt) -> (Vec<String>, bool) {
        let texts = excerpt.messages.iter().map(|message| {
            let text = serde_json::to_string(message).unwrap();
            text.split('"').nth(3).unwrap().to_owned()
        });
        (texts.collect(), excerpt.more)
    }

    #[test]
    fn the_oldest_comes_first_whichever_way_it_was_read() {
        let newest = Excerpt::new(Span::Newest, 2, entries([7, 6, 5], "1"));
        assert_eq!(shown(&newest), (vec!["6-0".into(), "7-0".into()], true));
        let after = Excerpt::new(
            Span::After(EntryId { ms: 4, seq: 0 }),
            2,
            entries([5, 6], "1"),
        );
        assert_eq!(shown(&after), (vec!["5-0".into(), "6-0".into()], false));
    }

    #[test]
    fn an_answer_is_bounded_in_bytes_but_one_message_always_fits() {
        let large = format!("\"{}\"", "x".repeat(200 * 1024));
        let newest = Excerpt::new(Span::Newest, 9, entries([7, 6], &large));
        assert_eq!(shown(&newest), (vec!["7-0".into()], true));
        let huge = format!("\"{}\"", "x".repeat(400 * 1024));
        let newest = Excerpt::new(Span::Newest, 9, entries([7], &huge));
        assert_eq!(shown(&newest), (vec!["7-0".into()], false));
    }

    #[test]
    fn what_is_no_message_is_left_out() {
        let newest = Excerpt::new(Span::Newest, 9, entries([7], "no JSON"));
        assert_eq!(shown(&newest), (vec![], false));
    }
}
