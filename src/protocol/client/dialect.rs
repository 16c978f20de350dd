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
    /// Server-sent events: a push is an event that is exactly `data`, objects of ours have names.
    Sse,
    /// Server-sent events with `envelope=1`: a push is an event without a name that is the whole
    /// object.
    SseObjects,
    /// TCP: the objects of `pushnode.v1`, one a line.
    Lines,
}

/// The id of an SSE event that says goodbye for good. An `EventSource` reconnects whatever it is
/// told, but hands in the last id it saw. A client that hands in this one is answered 204, which
/// makes it stop.
pub const GOODBYE_ID: &str = "bye";

/// A comment, which every reader of SSE skips.
const BEAT: &[u8] = b":\n\n";

impl Dialect {
    /// How many there are.
    pub(crate) const COUNT: usize = 5;

    /// Whether clients of it read an event stream.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Sse | Self::SseObjects)
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

    /// Whether clients of it show life after a ping.
    #[must_use]
    pub const fn answers_pings(self) -> bool {
        !self.is_stream()
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
            Self::Sse | Self::SseObjects => "sse",
            Self::Lines => "tcp",
        }
    }

    /// An object of ours as the bytes that go to a client of this dialect.
    #[must_use]
    pub fn encode(self, object: &str) -> Bytes {
        match self {
            Self::Plain | Self::V1 => websocket::text(&[object.as_bytes()]),
            Self::Sse | Self::SseObjects => event(object, None::<&str>, None),
            Self::Lines => [object, "\n"].concat().into(),
        }
    }

    /// The `ready` object. SSE also says where the stream stands and when to come back if the
    /// connection breaks off.
    #[must_use]
    pub fn ready(self, object: &str, id: Option<impl Display>, retry: Duration) -> Bytes {
        match self {
            Self::Sse | Self::SseObjects => event(object, id, Some(retry)),
            _ => self.encode(object),
        }
    }

    /// The frames of a goodbye; without `retry` it is for good.
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
            Self::Sse | Self::SseObjects => {
                let id = retry.is_none().then_some(GOODBYE_ID);
                [Some(event(&bye(), id, retry)), None]
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
            Self::Sse | Self::SseObjects | Self::Lines => true,
        }
    }

    /// A heartbeat that a client answers (not over SSE).
    #[must_use]
    pub fn ping(self, as_objects: bool) -> Bytes {
        match self {
            Self::Plain | Self::V1 if !self.shows_beats(as_objects) => websocket::ping(),
            Self::Sse | Self::SseObjects => Bytes::from_static(BEAT),
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
            Self::Sse => {
                let mut fields = String::new();
                // An event of ours must not be taken for a push, nor a push for one of ours.
                if let Some(name) = name.filter(|name| !OBJECT_TYPES.contains(name)) {
                    let _ = writeln!(fields, "event: {name}");
                }
                write_id(&mut fields, event_id);
                [&*fields, "data: ", data, "\n\n"].concat().into()
            }
            Self::SseObjects => {
                let mut id = String::new();
                write_id(&mut id, event_id);
                [&*id, "data: ", &*head(), data, "}\n\n"].concat().into()
            }
        }
    }
}

/// An event named by the type of an object of ours.
fn event(object: &str, id: Option<impl Display>, retry: Option<Duration>) -> Bytes {
    let kind = object.strip_prefix(r#"{"type":""#).unwrap_or_default();
    let (kind, _) = kind.split_once('"').unwrap_or_default();
    debug_assert!(!kind.is_empty(), "{object} does not begin with its type");
    let mut text = format!("event: {kind}\n");
    write_id(&mut text, id);
    if let Some(retry) = retry {
        let _ = writeln!(text, "retry: {}", retry.as_millis());
    }
    let _ = write!(text, "data: {object}\n\n");
    text.into()
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
    others: OnceLock<Box<[OnceLock<Bytes>; 3]>>,
}

impl Frames {
    pub(crate) fn get(&self, dialect: Dialect, encode: impl FnOnce() -> Bytes) -> Bytes {
        let frame = match dialect {
            Dialect::Plain => &self.plain,
            Dialect::V1 => &self.v1,
            Dialect::Sse => &self.others.get_or_init(Box::default)[0],
            Dialect::SseObjects => &self.others.get_or_init(Box::default)[1],
            Dialect::Lines => &self.others.get_or_init(Box::default)[2],
        };
        frame.get_or_init(encode).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::client::objects::{DEGRADED, PONG, RESYNC, error_object, reply_object};

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
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
            assert_eq!(text(&Dialect::Sse.encode(object)), expected);
            assert_eq!(
                text(&Dialect::Lines.encode(object)),
                format!("{object}\n"),
                "a line"
            );
        }
    }

    #[test]
    fn a_goodbye_over_sse_says_when_to_come_back_or_that_there_is_no_coming_back() {
        let goodbye = |reason, retry| {
            let frames: Vec<Bytes> = Dialect::Sse.goodbye(reason, retry).collect();
            assert_eq!(frames.len(), 1);
            text(&frames[0]).to_owned()
        };
        let retry = Some(Duration::from_millis(250));
        let drain = goodbye(CloseReason::Drain, retry);
        assert!(
            drain.starts_with("event: bye\nretry: 250\ndata: {"),
            "{drain}"
        );
        let kicked = goodbye(CloseReason::Kicked, None);
        assert!(
            kicked.starts_with("event: bye\nid: bye\ndata: {"),
            "{kicked}"
        );
    }

    #[test]
    fn a_message_without_such_receivers_pays_little_for_the_further_dialects() {
        let two = 2 * size_of::<OnceLock<Bytes>>();
        assert!(size_of::<Frames>() <= two + 16);
    }
}
