//! What is said to clients, in the form of each kind of client: the one place that knows how.
//!
//! All kinds get the same things: messages, objects of ours, a heartbeat now and then, a
//! goodbye. What must stay true: an object of ours begins with its `type` and holds no line
//! break, because that is where SSE finds the event's name and where a line ends.

use std::fmt::{Display, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;

use crate::protocol::client::objects::{OBJECT_TYPES, PING, bye_object};
use crate::protocol::client::websocket;
use crate::protocol::close::CloseReason;

/// The dialect a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// WebSocket without subprotocol: a frame is exactly `data`.
    Plain,
    /// WebSocket with `pushnode.v1`: objects with a `type`.
    V1,
    /// Server-sent events: objects of ours are events named by their type.
    Sse(EventStream),
    /// TCP: the objects of `pushnode.v1`, one a line.
    Lines,
}

/// How server-sent events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventStream {
    /// Each event is a chunk (RFC 9112, 7.1), so that the client knows where it ends, and whether
    /// the stream was finished or cut off. HTTP/1.0 has no chunks.
    pub is_chunked: bool,
    /// With `envelope=1` a push is an event without a name that is the whole object. Otherwise its
    /// data is exactly the push's `data`.
    pub has_envelopes: bool,
}

/// The id of an SSE event that says goodbye for good. An `EventSource` reconnects whatever it is
/// told, but hands in the last id it saw. A client that hands in this one is answered 204, which
/// makes it stop.
pub const GOODBYE_ID: &str = "bye";

/// A comment, which every reader of SSE skips. Without an empty line, which some readers take for
/// the end of an event without data.
const BEAT: &str = ":\n";
/// Says that the stream is finished: the client need not come back.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Dialect {
    /// How many there are.
    pub(crate) const COUNT: usize = 3 + EventStream::COUNT;

    /// Its place among all.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::V1 => 1,
            Self::Lines => 2,
            Self::Sse(form) => 3 + form.index(),
        }
    }

    /// Whether clients of it get objects of ours beside messages.
    #[must_use]
    pub const fn has_objects(self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Whether clients of it can send objects: acknowledge, and ask for something.
    #[must_use]
    pub const fn sends_objects(self) -> bool {
        matches!(self, Self::V1 | Self::Lines)
    }

    /// Whether it is server-sent events.
    #[must_use]
    pub const fn is_event_stream(self) -> bool {
        matches!(self, Self::Sse(_))
    }

    /// Whether clients of it show life after a ping.
    #[must_use]
    pub const fn answers_pings(self) -> bool {
        !self.is_event_stream()
    }

    /// Whether a client of it says goodbye in its turn, before the socket is closed.
    #[must_use]
    pub const fn answers_goodbye(self) -> bool {
        matches!(self, Self::Plain | Self::V1)
    }

    /// The kind of socket, as rows name it.
    #[must_use]
    pub const fn transport(self) -> &'static str {
        match self {
            Self::Plain | Self::V1 => "ws",
            Self::Sse(_) => "sse",
            Self::Lines => "tcp",
        }
    }

    /// An object of ours as the bytes that go to a client of this dialect.
    #[must_use]
    pub fn encode(self, object: &str) -> Bytes {
        match self {
            Self::Plain | Self::V1 => websocket::text(&[object.as_bytes()]),
            Self::Sse(form) => form.event(object, None::<&str>, None),
            Self::Lines => [object, "\n"].concat().into(),
        }
    }

    /// The `ready` object. SSE also says where the stream stands and when to come back if the
    /// connection breaks off.
    #[must_use]
    pub fn ready(self, object: &str, id: Option<impl Display>, retry: Duration) -> Bytes {
        match self {
            Self::Sse(form) => form.event(object, id, Some(retry)),
            _ => self.encode(object),
        }
    }

    /// The frames of a goodbye. An event stream is finished only by one that is for good.
    pub fn goodbye(
        self,
        reason: CloseReason,
        retry: Option<Duration>,
    ) -> impl Iterator<Item = Bytes> {
        let bye = || bye_object(reason, retry);
        let close = || Some(websocket::close(reason.code()?, reason.text()));
        let frames = match self {
            Self::Plain => [None, close()],
            Self::V1 => [Some(self.encode(&bye())), close()],
            Self::Sse(form) => {
                let is_final = reason.is_final();
                let id = is_final.then_some(GOODBYE_ID);
                let last = (is_final && form.is_chunked).then_some(LAST_CHUNK);
                [
                    Some(form.event(&bye(), id, retry)),
                    last.map(Bytes::from_static),
                ]
            }
            Self::Lines => [Some(self.encode(&bye())), None],
        };
        frames.into_iter().flatten()
    }

    /// Whether the client's program sees every heartbeat; `as_objects` if it wants to.
    #[must_use]
    pub const fn shows_beats(self, as_objects: bool) -> bool {
        match self {
            Self::Plain => false,
            Self::V1 => as_objects,
            Self::Sse(_) | Self::Lines => true,
        }
    }

    /// A heartbeat that a client answers (not over SSE).
    #[must_use]
    pub fn ping(self, as_objects: bool) -> Bytes {
        match self {
            Self::Plain | Self::V1 if !self.shows_beats(as_objects) => websocket::ping(),
            Self::Sse(form) => form.stretch(&[BEAT]),
            Self::Plain | Self::V1 | Self::Lines => self.encode(PING),
        }
    }

    /// A push: its data, and the object it is in for those who get objects. SSE also says where
    /// the stream stands after it.
    pub(crate) fn message(
        self,
        head: impl FnOnce() -> String,
        name: Option<&str>,
        data: &str,
        event_id: Option<impl Display>,
    ) -> Bytes {
        match self {
            Self::Plain => websocket::text(&[data.as_bytes()]),
            Self::V1 => websocket::text(&[head().as_bytes(), data.as_bytes(), b"}"]),
            Self::Lines => [&*head(), data, "}\n"].concat().into(),
            Self::Sse(form) => {
                let mut fields = String::new();
                if form.has_envelopes {
                    write_id(&mut fields, event_id);
                    return form.stretch(&[&fields, "data: ", &head(), data, "}\n\n"]);
                }
                // An event of ours must not be taken for a push, nor a push for one of ours.
                if let Some(name) = name.filter(|name| !OBJECT_TYPES.contains(name)) {
                    let _ = writeln!(fields, "event: {name}");
                }
                write_id(&mut fields, event_id);
                form.stretch(&[&fields, "data: ", data, "\n\n"])
            }
        }
    }
}

impl EventStream {
    /// How many there are.
    const COUNT: usize = 4;

    fn index(self) -> usize {
        usize::from(self.is_chunked) + 2 * usize::from(self.has_envelopes)
    }

    /// An event named by the type of an object of ours.
    fn event(self, object: &str, id: Option<impl Display>, retry: Option<Duration>) -> Bytes {
        let kind = object.strip_prefix(r#"{"type":""#).unwrap_or_default();
        let (kind, _) = kind.split_once('"').unwrap_or_default();
        debug_assert!(!kind.is_empty(), "{object} does not begin with its type");
        let mut head = format!("event: {kind}\n");
        write_id(&mut head, id);
        if let Some(retry) = retry {
            let _ = writeln!(head, "retry: {}", retry.as_millis());
        }
        self.stretch(&[&head, "data: ", object, "\n\n"])
    }

    /// A stretch of an event stream: a chunk, where the stream is cut into such.
    fn stretch(self, parts: &[&str]) -> Bytes {
        if !self.is_chunked {
            return parts.concat().into();
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        // 16 digits and two line ends at most.
        let mut chunk = String::with_capacity(length + 20);
        let _ = write!(chunk, "{length:x}\r\n");
        chunk.extend(parts.iter().copied());
        chunk.push_str("\r\n");
        chunk.into()
    }
}

fn write_id(out: &mut String, id: Option<impl Display>) {
    if let Some(id) = id {
        let _ = writeln!(out, "id: {id}");
    }
}

/// One message as the bytes for each dialect, made when they are first needed.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    plain: OnceLock<Bytes>,
    v1: OnceLock<Bytes>,
    /// SSE and lines; apart, so that a message without such receivers is no larger for them.
    others: OnceLock<Box<[OnceLock<Bytes>; Dialect::COUNT - 2]>>,
}

impl Frames {
    pub(crate) fn get(&self, dialect: Dialect, encode: impl FnOnce() -> Bytes) -> Bytes {
        let frame = match dialect {
            Dialect::Plain => &self.plain,
            Dialect::V1 => &self.v1,
            other => &self.others.get_or_init(Box::default)[other.index() - 2],
        };
        frame.get_or_init(encode).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::client::objects::{DEGRADED, PONG, RESYNC, error_object, reply_object};

    const fn stream(is_chunked: bool) -> Dialect {
        Dialect::Sse(EventStream {
            is_chunked,
            has_envelopes: false,
        })
    }

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_dialect_has_a_place_of_its_own() {
        let mut all = vec![Dialect::Plain, Dialect::V1, Dialect::Lines];
        for (is_chunked, has_envelopes) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            all.push(Dialect::Sse(EventStream {
                is_chunked,
                has_envelopes,
            }));
        }
        let mut places: Vec<usize> = all.iter().map(|dialect| dialect.index()).collect();
        places.sort_unstable();
        assert_eq!(places, (0..Dialect::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn every_object_of_ours_has_an_events_name() {
        let bye = bye_object(CloseReason::Kicked, None);
        let (error, reply) = (error_object(None, "busy", "x"), reply_object(None, ""));
        for (object, name) in [
            (RESYNC, "resync"),
            (DEGRADED, "degraded"),
            (PONG, "pong"),
            (&*bye, "bye"),
            (&*error, "error"),
            (&*reply, "reply"),
        ] {
            let expected = format!("event: {name}\ndata: {object}\n\n");
            assert_eq!(text(&stream(false).encode(object)), expected);
            let chunk = format!("{:x}\r\n{expected}\r\n", expected.len());
            assert_eq!(text(&stream(true).encode(object)), chunk);
            assert_eq!(
                text(&Dialect::Lines.encode(object)),
                format!("{object}\n"),
                "a line"
            );
        }
    }

    #[test]
    fn a_goodbye_over_sse_says_when_to_come_back_or_that_there_is_no_coming_back() {
        let goodbye = |dialect: Dialect, reason, retry| {
            let frames: Vec<Bytes> = dialect.goodbye(reason, retry).collect();
            String::from_utf8(frames.concat()).unwrap()
        };
        let retry = Some(Duration::from_millis(250));
        for (reason, retry, fields) in [
            (CloseReason::Drain, retry, "event: bye\nretry: 250\ndata: {"),
            (CloseReason::TokenExpired, None, "event: bye\ndata: {"),
            (CloseReason::Kicked, None, "event: bye\nid: bye\ndata: {"),
            (CloseReason::TooFast, None, "event: bye\nid: bye\ndata: {"),
        ] {
            let bye = goodbye(stream(false), reason, retry);
            assert!(bye.starts_with(fields), "{bye}");
            assert!(bye.ends_with("}\n\n"), "{bye}");
            let chunk = format!("{:x}\r\n{bye}\r\n", bye.len());
            let chunked = goodbye(stream(true), reason, retry);
            let last = if reason.is_final() { "0\r\n\r\n" } else { "" };
            assert_eq!(chunked, chunk + last, "{reason:?}");
        }
    }

    #[test]
    fn a_beat_is_a_comment_and_ends_no_event() {
        assert_eq!(text(&stream(false).ping(false)), ":\n");
        assert_eq!(text(&stream(true).ping(false)), "2\r\n:\n\r\n");
    }

    #[test]
    fn a_message_without_such_receivers_pays_little_for_the_further_dialects() {
        let two = 2 * size_of::<OnceLock<Bytes>>();
        assert!(size_of::<Frames>() <= two + 16);
    }
}
