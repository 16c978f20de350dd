//! Calls: a sender asks a client, the client answers. What each of the three says.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::protocol::bus::line::write_target;
use crate::protocol::ids::{Fd, NodeId, UserId};
use crate::protocol::sender::push::{ToFields, check_id, check_timeout};
use crate::protocol::{Fault, Target, one_line};

/// A call on its way to the connections of one user, or to one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `User` or `Connection`.
    pub to: Target,
    /// The sender's name for it, by which a client can tell that one is repeated.
    pub id: Option<Box<str>>,
    /// What is asked: JSON in one line.
    pub data: Box<str>,
    /// How long the answer may take.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallBody<'a> {
    #[serde(borrow)]
    to: ToFields<'a>,
    data: &'a RawValue,
    #[serde(default)]
    id: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    timeout_ms: Option<f64>,
}

impl Call {
    /// Reads a call of a sender, strictly. The same on the bus: who asks for more than a node
    /// knows must hear so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        let body: CallBody<'_> = serde_json::from_slice(body)?;
        let to = body.to.check()?;
        if !matches!(to, Target::User(_) | Target::Connection(..)) {
            return Err(Fault::new("a call goes to one of to.user or to.fd"));
        }
        Ok(Self {
            to,
            id: check_id(body.id)?,
            data: one_line(body.data),
            timeout: check_timeout(body.timeout_ms)?,
        })
    }

    /// As arguments of a question: a JSON object.
    pub(crate) fn write(&self, out: &mut String) {
        out.push_str(r#"{"to":"#);
        write_target(out, &self.to);
        write_id(out, self.id.as_deref());
        let ms = self.timeout.as_millis();
        let _ = write!(out, r#","timeout_ms":{ms},"data":{}}}"#, self.data);
    }
}

fn write_id(out: &mut String, id: Option<&str>) {
    if let Some(id) = id {
        let id = serde_json::to_string(id).expect("text becomes JSON");
        let _ = write!(out, r#","id":{id}"#);
    }
}

/// `call`: the client is asked something, and answers under this `ref`.
#[must_use]
pub fn call_object(reference: &str, call: &Call) -> String {
    let mut out = format!(r#"{{"type":"call","ref":"{reference}""#);
    write_id(&mut out, call.id.as_deref());
    let _ = write!(out, r#","data":{}}}"#, call.data);
    out
}

/// A client's answer to a call.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientAnswer {
    /// From the call.
    pub reference: Box<str>,
    /// What it says, or a text why it cannot; both as JSON in one line.
    pub result: Result<Box<str>, Box<str>>,
}

impl ClientAnswer {
    /// Reads an object of the type `answer`; `reference` is its `ref`, as JSON.
    pub(crate) fn parse(text: &str, reference: Option<&str>) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(default, borrow, deserialize_with = "present")]
            data: Option<&'a RawValue>,
            #[serde(default, borrow)]
            error: Option<&'a RawValue>,
        }
        let reference = reference.and_then(|json| serde_json::from_str::<String>(json).ok());
        let reference = reference.ok_or("answer needs the ref of the call, a string")?;
        let fields: Fields<'_> =
            serde_json::from_str(text).map_err(|_| "answer is not understood")?;
        let result = match (fields.data, fields.error) {
            (Some(data), None) => Ok(one_line(data)),
            (None, Some(error)) if error.get().starts_with('"') => Err(one_line(error)),
            (None, Some(_)) => return Err("the error of an answer must be a text"),
            _ => return Err("answer needs one of data or error"),
        };
        Ok(Self {
            reference: reference.into(),
            result,
        })
    }
}

/// A member that is there, whatever it holds: `null` is an answer too.
pub(crate) fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallStatus {
    // In this order: of several connections without an answer the last counts.
    /// Nobody is there.
    Offline,
    /// Only connections that do not speak in objects are there.
    Plain,
    /// Too many calls are under way, or the client's queue is full.
    Busy,
    /// Who was asked has gone.
    Gone,
    /// No answer in time.
    Timeout,
    /// Nobody can tell: the way to the user's node is down.
    Unrouted,
    /// The client says that it cannot.
    Failed,
    /// The client has answered.
    Answered,
}

impl CallStatus {
    /// As in answers and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Plain => "plain",
            Self::Busy => "busy",
            Self::Gone => "gone",
            Self::Timeout => "timeout",
            Self::Unrouted => "unrouted",
            Self::Failed => "failed",
            Self::Answered => "answered",
        }
    }

    /// Whether a client has said something.
    #[must_use]
    pub const fn is_said(self) -> bool {
        matches!(self, Self::Failed | Self::Answered)
    }
}

/// What became of a call on one node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Called {
    /// How far it got.
    pub status: CallStatus,
    /// Which connection has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<Fd>,
    /// And whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// What it said.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub data: Option<Box<RawValue>>,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
}

impl Called {
    /// A call that no client has answered.
    #[must_use]
    pub const fn unanswered(status: CallStatus) -> Self {
        Self {
            status,
            fd: None,
            user: None,
            data: None,
            error: None,
        }
    }

    /// A client's answer.
    #[must_use]
    pub fn answered(fd: Fd, user: UserId, result: Result<Box<str>, Box<str>>) -> Self {
        let raw = |json: Box<str>| RawValue::from_string(json.into()).ok();
        let (status, data, error) = match result {
            Ok(data) => (CallStatus::Answered, raw(data), None),
            Err(error) => (CallStatus::Failed, None, raw(error)),
        };
        Self {
            status,
            fd: Some(fd),
            user: Some(user),
            data,
            error,
        }
    }

    /// The answer to a question.
    #[must_use]
    pub fn to_body(&self) -> String {
        serde_json::to_string(self).expect("our own types become JSON")
    }

    /// Reads what another node says became of it.
    ///
    /// # Errors
    /// When that is no answer to a call.
    pub fn parse(body: &str) -> Result<Self, Fault> {
        Ok(serde_json::from_str(body)?)
    }
}

/// The answer to a call as a sender gets it.
#[derive(Debug, Serialize)]
pub struct CallAnswer<'a> {
    /// The sender's name for the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// Where the connection is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a NodeId>,
    /// What became of it.
    #[serde(flatten)]
    pub called: &'a Called,
}
