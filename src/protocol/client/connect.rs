//! What a client says when it connects: in the query and headers of a request, or in its first line
//! over TCP. One parser for all transports, so that a parameter means the same everywhere.
//!
//! Nothing of it is believed yet. The handshake checks the user, the token and the topics.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::protocol::InvalidInput;
use crate::protocol::client::event_id::EventId;
use crate::protocol::position::{BadPosition, Since};
use crate::protocol::secret::Secret;

/// What a client says, unchecked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectRequest {
    pub(crate) user: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) device: Option<String>,
    /// The position in its inbox from which it wants to go on.
    pub(crate) since: Option<String>,
    /// `server` to go on where its device has read to.
    pub(crate) resume: Option<String>,
    /// How far it has read, as an event stream has told it. Before `since`, which stays in its
    /// URL. A text that is none of ours is an error.
    #[serde(skip)]
    pub(crate) event_id: Option<Result<EventId, BadPosition>>,
    /// The topics it wants to be subscribed to from the beginning, comma-separated.
    #[serde(deserialize_with = "comma_separated")]
    pub(crate) topics: Option<String>,
    /// How many messages of each of those topics it wants first: text in a query, a number in JSON.
    last: Option<Value>,
    /// Whether it wants join and leave events of those topics: text in a query, a boolean in JSON.
    presence: Option<Value>,
    /// Over an event stream: whether pushes come in whole objects.
    envelope: Option<Value>,
    /// Whether heartbeats should come as objects, which JavaScript sees.
    beat: Option<Value>,
}

/// A text as in a query, or a list as is natural in JSON. A comma in a topic is `%2C` in the text.
fn comma_separated<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "topics must be a text or a list of texts")]
    enum TopicList {
        Text(Option<String>),
        List(Vec<String>),
    }
    Ok(match TopicList::deserialize(from)? {
        TopicList::Text(text) => text,
        TopicList::List(names) => {
            let names = names.into_iter().map(|name| name.replace(',', "%2C"));
            Some(names.collect::<Vec<_>>().join(","))
        }
    })
}

impl ConnectRequest {
    /// Reads a request over HTTP. `authorization` is the token of that header, which counts before
    /// one in `subprotocols` (the values of `Sec-WebSocket-Protocol`), and that before the query's.
    pub(crate) fn from_http<'a>(
        query: &str,
        authorization: Option<&str>,
        subprotocols: impl Iterator<Item = &'a str>,
    ) -> Result<Self, InvalidInput> {
        let mut request = Self::from_query(query)?;
        let mut offered = subprotocols.flat_map(|value| value.split(','));
        let subprotocol = offered.find_map(|one| one.trim().strip_prefix("bearer."));
        if let Some(token) = authorization.or(subprotocol) {
            request.token = Some(Secret::new(token.to_owned()));
        }
        Ok(request)
    }

    /// Unknown parameters are ignored: they may be meant for a proxy, or for another program.
    /// Repeated topics add up. Of anything else a second one is refused: a proxy may have set the
    /// first, and programs disagree which of them counts.
    fn from_query(query: &str) -> Result<Self, InvalidInput> {
        let mut request = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            let earlier = match &*name {
                "user" => request.user.replace(value).is_some(),
                "token" => request.token.replace(Secret::new(value)).is_some(),
                "device" => request.device.replace(value).is_some(),
                "since" => request.since.replace(value).is_some(),
                "resume" => request.resume.replace(value).is_some(),
                "last" => request.last.replace(value.into()).is_some(),
                "presence" => request.presence.replace(value.into()).is_some(),
                "beat" => request.beat.replace(value.into()).is_some(),
                "envelope" => request.envelope.replace(value.into()).is_some(),
                "topics" => {
                    let all = request.topics.get_or_insert_default();
                    if !all.is_empty() {
                        all.push(',');
                    }
                    all.push_str(&value);
                    false
                }
                _ => false,
            };
            if earlier {
                return Err(InvalidInput::new(format!("{name} must be there once")));
            }
        }
        Ok(request)
    }

    /// Reads the first line of a client that connects by TCP.
    pub(crate) fn from_line(line: &str) -> Result<Self, InvalidInput> {
        #[derive(Deserialize)]
        struct Connect {
            r#type: String,
            #[serde(flatten)]
            request: ConnectRequest,
        }
        let bad = |what: &str| {
            let words = r#"the first line must be {"type":"connect","user":...,"token":...}: "#;
            InvalidInput::new(format!("{words}{what}"))
        };
        match serde_json::from_str(line) {
            Ok(Connect { r#type, request }) if r#type == "connect" => Ok(request),
            Ok(_) => Err(bad("its type is another")),
            Err(error) => Err(bad(&error.to_string())),
        }
    }

    /// From where it wants to read the logs of its topics, if it says so. An empty text is not
    /// there, as in templates of URLs.
    pub(crate) fn wanted_last(&self) -> Result<Option<Since>, InvalidInput> {
        let text = match &self.last {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let last = Since::last_of(&text);
        let last = last.map_err(|error| InvalidInput::new(format!("last {error}")))?;
        Ok(Some(last))
    }

    /// Whether the client wants join and leave events of its topics.
    pub(crate) fn wants_presence(&self) -> Result<bool, InvalidInput> {
        match &self.presence {
            None | Some(Value::Bool(false)) => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(_) => Err(InvalidInput::new("presence must be true or false")),
        }
    }

    /// Whether the client of an event stream wants each push as the whole object.
    pub(crate) fn wants_envelope(&self) -> Result<bool, InvalidInput> {
        switch("envelope", self.envelope.as_ref())
    }

    /// Whether the client wants to go on where its device has read to.
    pub(crate) fn wants_bookmark(&self) -> Result<bool, InvalidInput> {
        match self.resume.as_deref() {
            None | Some("") => Ok(false),
            Some("server") => Ok(true),
            Some(_) => Err(InvalidInput::new("resume must be server")),
        }
    }

    /// Whether a client of WebSockets wants heartbeats as objects.
    pub(crate) fn wants_beats(&self) -> Result<bool, InvalidInput> {
        switch("beat", self.beat.as_ref())
    }
}

/// A wish that is there or not: text in a query, a boolean or a number in JSON.
fn switch(name: &str, value: Option<&Value>) -> Result<bool, InvalidInput> {
    match value {
        None | Some(Value::Bool(false)) => Ok(false),
        Some(Value::Bool(true)) => Ok(true),
        Some(value) => match value
            .as_str()
            .map_or(value.to_string(), str::to_owned)
            .as_str()
        {
            "1" | "true" => Ok(true),
            "0" | "false" | "" => Ok(false),
            _ => Err(InvalidInput::new(format!("{name} must be 1 or 0"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_of_a_first_line_are_a_text_or_a_list() {
        let topics = |json: &str| {
            let line = format!(r#"{{"type":"connect","topics":{json}}}"#);
            ConnectRequest::from_line(&line).map(|request| request.topics)
        };
        for json in [r#""a,b""#, r#"["a","b"]"#] {
            assert_eq!(topics(json).unwrap().as_deref(), Some("a,b"), "{json}");
        }
        assert_eq!(topics("null").unwrap(), None);
        for json in ["7", r#"[7]"#, r#"{"a":1}"#] {
            let refused = topics(json).unwrap_err().to_string();
            assert!(refused.contains("topics must be"), "{json}: {refused}");
        }
    }

    #[test]
    fn repeated_topics_add_up_and_any_other_repetition_is_refused() {
        let read = |query: &str| ConnectRequest::from_http(query, None, std::iter::empty());
        let topics = |query: &str| read(query).unwrap().topics;
        assert_eq!(topics("topics=a&topics=b,c").as_deref(), Some("a,b,c"));
        assert_eq!(topics("topics=&topics=b").as_deref(), Some("b"));
        assert_eq!(topics("user=42"), None);
        for name in [
            "user", "token", "device", "since", "last", "presence", "envelope", "beat", "resume",
        ] {
            let refused = read(&format!("{name}=1&x=2&{name}=1")).unwrap_err();
            assert_eq!(refused.to_string(), format!("{name} must be there once"));
        }
        assert!(read("x=1&x=2").is_ok());
        let line = r#"{"type":"connect","user":"a","user":"b"}"#;
        let refused = ConnectRequest::from_line(line).unwrap_err().to_string();
        assert!(refused.contains("duplicate field"), "{refused}");
    }

    #[test]
    fn a_token_in_a_header_counts_before_one_in_the_query() {
        let token = |authorization, subprotocols: &[&'static str]| {
            let subprotocols = subprotocols.iter().copied();
            let request = ConnectRequest::from_http("token=query", authorization, subprotocols);
            request.unwrap().token.unwrap().reveal().to_owned()
        };
        assert_eq!(token(None, &["pushnode.v1"]), "query");
        assert_eq!(token(None, &["pushnode.v1, bearer.protocol"]), "protocol");
        assert_eq!(token(Some("header"), &["bearer.protocol"]), "header");
    }
}
