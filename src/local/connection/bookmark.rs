//! How far a client has read its inbox, as its node remembers it for the client's device.
//!
//! A client that can speak says so (`ack`). Of one that only listens, what was written to it
//! counts as read once the stream has stood for another beat, or has ended in order. What must
//! stay true: nothing counts as read that the client was not given, and the position never goes
//! back.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::local::connection::Connection;
use crate::local::connection::timer_wheel::Tick;
use crate::protocol::Message;
use crate::protocol::ids::UserId;
use crate::protocol::position::Position;

/// Most messages whose ids are remembered until they are acknowledged.
const MAX_GIVEN: usize = 256;
/// So often a position is saved that has not changed, so that it outlives the client's silence.
const RENEWAL_TICKS: Tick = 3_600;

/// A position to be saved.
#[derive(Debug)]
pub(crate) struct SavedBookmark {
    pub(crate) user: UserId,
    pub(crate) device: Arc<str>,
    pub(crate) position: Position,
}

/// How far one connection has read.
#[derive(Debug)]
pub(crate) struct Bookmark {
    device: Arc<str>,
    /// All up to here is read.
    read: Option<Position>,
    /// All up to here is given.
    newest: Option<Position>,
    /// What that was at the last beat.
    at_beat: Option<Position>,
    /// What is given and not acknowledged; the oldest first.
    given: VecDeque<(Option<Box<str>>, Position)>,
    is_unsaved: bool,
    saved: Tick,
}

impl Bookmark {
    fn give(&mut self, message: &Message, position: Position, may_ack: bool) {
        self.newest = Some(position);
        if !may_ack {
            return;
        }
        if self.given.len() == MAX_GIVEN {
            self.given.pop_front();
        }
        self.given
            .push_back((message.id().map(Into::into), position));
    }

    /// All up to this position is read, if that much was given.
    fn read_up_to(&mut self, position: Position) {
        let is_given = self
            .newest
            .is_some_and(|newest| position.entry <= newest.entry);
        let is_later = self.read.is_none_or(|read| position.entry > read.entry);
        if is_given && is_later {
            self.read = Some(position);
            self.is_unsaved = true;
            self.given.retain(|(_, given)| given.entry > position.entry);
        }
    }
}

impl Connection {
    /// Remembers how far the client reads, which begins here.
    pub(crate) fn begin_bookmark(&mut self, device: Arc<str>) {
        self.extras.set_bookmark(Bookmark {
            device,
            read: None,
            newest: None,
            at_beat: None,
            given: VecDeque::new(),
            is_unsaved: false,
            saved: 0,
        });
    }

    /// The client comes back to this position.
    pub(crate) fn open_bookmark(&mut self, here: Option<Position>) {
        if let Some(bookmark) = self.extras.bookmark() {
            (bookmark.read, bookmark.newest, bookmark.at_beat) = (here, here, here);
            bookmark.is_unsaved = here.is_some();
        }
    }

    /// The client is given a message of its inbox.
    pub(crate) fn note_in_bookmark(&mut self, message: &Message) {
        let may_ack = self.dialect.sends_objects();
        if let (Some(bookmark), Some(position)) = (self.extras.bookmark(), message.position())
            && message.topic().is_none()
        {
            bookmark.give(message, position, may_ack);
        }
    }

    /// The client has read all up to the message of this id.
    pub(crate) fn has_read_id(&mut self, id: &str) {
        if let Some(bookmark) = self.extras.bookmark() {
            let of_id = |(given, _): &&(Option<Box<str>>, Position)| given.as_deref() == Some(id);
            let given = bookmark.given.iter().rev().find(of_id);
            if let Some(position) = given.map(|(_, position)| *position) {
                bookmark.read_up_to(position);
            }
        }
    }

    /// The client has read all up to this position.
    pub(crate) fn has_read(&mut self, position: Position) {
        if let Some(bookmark) = self.extras.bookmark() {
            bookmark.read_up_to(position);
        }
    }

    /// A beat is due: what a client that only listens had been given by the last one is read, if
    /// it takes what is written.
    pub(crate) fn settle_bookmark(&mut self) {
        let may_settle = self.dialect.is_event_stream() && self.queue.is_empty();
        if let Some(bookmark) = self.extras.bookmark().filter(|_| may_settle) {
            if let Some(position) = bookmark.at_beat {
                bookmark.read_up_to(position);
            }
            bookmark.at_beat = bookmark.newest;
        }
    }

    /// The client has closed its side in order: it has read what was written. A socket that is
    /// closed over unread bytes breaks instead.
    pub(crate) fn close_bookmark(&mut self) {
        let has_read = self.dialect.is_event_stream() && self.queue.is_empty();
        if let Some(bookmark) = self.extras.bookmark().filter(|_| has_read)
            && let Some(position) = bookmark.newest
        {
            bookmark.read_up_to(position);
        }
    }

    /// The position to be saved, if that is due.
    pub(crate) fn take_bookmark(&mut self, now: Tick) -> Option<SavedBookmark> {
        let bookmark = self.extras.bookmark()?;
        let position = bookmark.read?;
        if !bookmark.is_unsaved && now < bookmark.saved + RENEWAL_TICKS {
            return None;
        }
        (bookmark.is_unsaved, bookmark.saved) = (false, now);
        Some(SavedBookmark {
            user: self.user.clone(),
            device: bookmark.device.clone(),
            position,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ids::Fd;
    use crate::protocol::position::EntryId;
    use crate::protocol::{Dialect, PushRequest};

    fn at(n: u64) -> Position {
        let entry = EntryId { ms: n, seq: 0 };
        Position { n, entry }
    }

    fn connection(dialect: Dialect) -> Connection {
        let mut connection = Connection::reserve(Fd(1), "a".parse().unwrap(), dialect, 0);
        connection.begin_bookmark("tab".into());
        connection.open_bookmark(Some(at(1)));
        assert_eq!(saved(&mut connection, 0), Some(1));
        connection
    }

    fn saved(connection: &mut Connection, now: Tick) -> Option<u64> {
        connection.take_bookmark(now).map(|saved| saved.position.n)
    }

    fn give(connection: &mut Connection, n: u64) {
        let body = format!(r#"{{"to":{{"user":"a"}},"id":"m{n}","data":1}}"#);
        let push = PushRequest::parse(body.as_bytes()).unwrap().push;
        connection.note_in_bookmark(&push.message.kept_at(at(n)));
    }

    #[test]
    fn what_stood_written_for_a_beat_is_read_by_a_stream() {
        let mut stream = connection(Dialect::Sse(crate::protocol::EventStream {
            is_chunked: true,
            has_envelopes: false,
        }));
        give(&mut stream, 2);
        stream.settle_bookmark();
        assert_eq!(
            saved(&mut stream, 1),
            None,
            "it was written within the beat"
        );
        give(&mut stream, 3);
        stream.settle_bookmark();
        assert_eq!(saved(&mut stream, 2), Some(2));
        stream.queue.push(bytes::Bytes::from_static(b"x"));
        stream.settle_bookmark();
        stream.close_bookmark();
        assert_eq!(
            saved(&mut stream, 3),
            None,
            "it does not take what is written"
        );
        assert_eq!(saved(&mut stream, 2 + RENEWAL_TICKS), Some(2), "kept alive");
    }

    #[test]
    fn only_what_was_given_is_acknowledged_and_never_taken_back() {
        let mut client = connection(Dialect::V1);
        client.has_read(at(2));
        assert_eq!(saved(&mut client, 1), None, "not given yet");
        for n in 2..=4 {
            give(&mut client, n);
        }
        client.settle_bookmark();
        client.close_bookmark();
        assert_eq!(saved(&mut client, 1), None, "it can speak for itself");
        client.has_read_id("m3");
        assert_eq!(saved(&mut client, 1), Some(3));
        client.has_read_id("m2");
        client.has_read(at(1));
        client.has_read(at(9));
        assert_eq!(saved(&mut client, 1), None);
        client.has_read(at(4));
        assert_eq!(saved(&mut client, 1), Some(4));
    }
}
