//! The id of an SSE event: how far the client has read its inbox and the logs of its topics.
//!
//! An `EventSource` hands it in again as `Last-Event-ID`, whatever node it comes to. To clients it
//! is opaque. A stream without topics has the position in the inbox alone, as
//! `203685477581.1752672000000-0`; one with topics has all of them, as
//! `i:203685477581.1752672000000-0;t:run.17=68719476737.1752672000001-0`.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::protocol::ids::Topic;
use crate::protocol::position::{BadPosition, Position, Since};

/// Most topics whose logs an event stream resumes: the id comes with each kept message, and
/// proxies limit the size of a header.
pub const MAX_RESUMED_TOPICS: usize = 8;

/// What stands between parts of an id must not stand in a topic's name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b':')
    .remove(b'@')
    .remove(b'-');

/// How far a client has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventId {
    /// Its inbox, if that is known.
    pub inbox: Option<Since>,
    /// The logs of topics, as far as they are known; none twice.
    pub logs: Vec<(Topic, Position)>,
}

impl EventId {
    /// How far it has read the log of this topic.
    #[must_use]
    pub fn log(&self, topic: &Topic) -> Option<Position> {
        let log = self.logs.iter().find(|(one, _)| one == topic);
        log.map(|(_, position)| *position)
    }
}

impl FromStr for EventId {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        if let Ok(inbox) = text.parse() {
            return Ok(Self {
                inbox: Some(inbox),
                logs: Vec::new(),
            });
        }
        let mut id = Self::default();
        for part in text.split(';') {
            if let Some(inbox) = part.strip_prefix("i:") {
                if id.inbox.is_some() {
                    return Err(BadPosition);
                }
                id.inbox = Some(Since::After(inbox.parse()?));
                continue;
            }
            let log = part.strip_prefix("t:").ok_or(BadPosition)?;
            let (topic, position) = log.split_once('=').ok_or(BadPosition)?;
            let topic = percent_decode_str(topic).decode_utf8();
            let topic: Topic = topic
                .map_err(|_| BadPosition)?
                .parse()
                .map_err(|_| BadPosition)?;
            if id.logs.len() == MAX_RESUMED_TOPICS || id.log(&topic).is_some() {
                return Err(BadPosition);
            }
            id.logs.push((topic, position.parse()?));
        }
        Ok(id)
    }
}

/// How far the client of one event stream has been given its inbox and its topics' logs. Kept
/// only for streams with topics.
#[derive(Debug, Clone)]
pub struct StreamPosition {
    inbox: Option<Position>,
    logs: Vec<(Topic, Option<Position>)>,
}

impl StreamPosition {
    /// Before anything is given. A log whose position is not known yet is left out of ids.
    #[must_use]
    pub const fn new(inbox: Option<Position>, logs: Vec<(Topic, Option<Position>)>) -> Self {
        Self { inbox, logs }
    }

    /// Whether ids name this topic, or the inbox if there is none.
    #[must_use]
    pub fn covers(&self, topic: Option<&Topic>) -> bool {
        topic.is_none_or(|topic| self.logs.iter().any(|(one, _)| one == topic))
    }

    /// The client is given all up to this position of a topic's log, or of its inbox.
    pub fn advance(&mut self, topic: Option<&Topic>, position: Position) {
        match topic {
            None => self.inbox = Some(position),
            Some(topic) => {
                for (_, at) in self.logs.iter_mut().filter(|(one, _)| one == topic) {
                    *at = Some(position);
                }
            }
        }
    }
}

impl fmt::Display for StreamPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(inbox) = self.inbox {
            write!(f, "i:{inbox}")?;
            separator = ";";
        }
        for (topic, position) in &self.logs {
            if let Some(position) = position {
                let topic = utf8_percent_encode(topic.as_str(), ENCODED);
                write!(f, "{separator}t:{topic}={position}")?;
                separator = ";";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let topics: [Topic; 2] = ["run.17", "a:b"].map(|topic| topic.parse().unwrap());
        let logs = topics.iter().map(|topic| (topic.clone(), None)).collect();
        let mut stream = StreamPosition::new(None, logs);
        let at = |text: &str| text.parse::<Position>().unwrap();
        stream.advance(Some(&topics[0]), at("7.8-9"));
        assert_eq!(stream.to_string(), "t:run.17=7.8-9");
        stream.advance(None, at("1.2-3"));
        stream.advance(Some(&topics[1]), at("4.5-6"));
        let text = stream.to_string();
        assert_eq!(text, "i:1.2-3;t:run.17=7.8-9;t:a:b=4.5-6");
        let id: EventId = text.parse().unwrap();
        assert_eq!(id.inbox, Some(Since::After(at("1.2-3"))));
        assert_eq!(id.log(&topics[1]), Some(at("4.5-6")));
        // Of a stream without topics.
        let id: EventId = "1.2-3".parse().unwrap();
        assert_eq!(
            (id.inbox, id.logs.len()),
            (Some(Since::After(at("1.2-3"))), 0)
        );
    }

    #[test]
    fn what_was_never_given_out_is_refused() {
        let many: Vec<String> = (0..9).map(|n| format!("t:t{n}=1.2-3")).collect();
        for bad in [
            "42",
            "urn:uuid:36d883aa-4015-4241-aaae-bde887c2662e",
            "i:",
            "i:0",
            "i:1.2-3;",
            "i:1.2-3;i:1.2-3",
            "t:a",
            "t:a=0",
            "t:=1.2-3",
            "t:%ff=1.2-3",
            "t:a=1.2-3;t:a=1.2-3",
            "é",
            &many.join(";"),
        ] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }
}
