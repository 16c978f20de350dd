//! Calls: a sender asks a client, the client answers. What the sender says and is told.
//!
//! On the bus a call and what became of it have the same form: see `bus/question.rs`. The client's
//! answer is in `client/send.rs`.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::protocol::client::objects::Object;
pub use crate::protocol::client::send::ClientAnswer;
use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{Fd, NodeId, UserId};
use crate::protocol::json::{ObjectOnly, from_object, one_line, present, raw, to_json};
use crate::protocol::message::{Target, check_id};
use crate::protocol::sender::push::{ToFields, check_timeout};

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
    to: ObjectOnly<ToFields<'a>>,
    data: &'a RawValue,
    #[serde(default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    timeout_ms: Option<f64>,
}

impl Call {
    /// Reads a call of a sender, strictly. The same on the bus: who asks for more than a node
    /// knows must hear so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        let body: CallBody<'_> = from_object(body)?;
        let to = body.to.0.check()?;
        if !matches!(to, Target::User(_) | Target::Connection(..)) {
            return Err(InvalidInput::new("a call goes to one of to.user or to.fd"));
        }
        Ok(Self {
            to,
            id: check_id(body.id)?,
            data: one_line(body.data),
            timeout: check_timeout(body.timeout_ms)?,
        })
    }
}

/// As arguments of a question.
impl Serialize for Call {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Fields<'a> {
            to: &'a Target,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a str>,
            timeout_ms: u128,
            data: &'a RawValue,
        }
        let fields = Fields {
            to: &self.to,
            id: self.id.as_deref(),
            timeout_ms: self.timeout.as_millis(),
            data: raw(&self.data),
        };
        fields.serialize(serializer)
    }
}

/// `call`: the client is asked something, and answers under this `ref`.
#[must_use]
pub fn call_object(reference: &str, call: &Call) -> String {
    to_json(&Object::Call {
        reference,
        id: call.id.as_deref(),
        data: raw(&call.data),
    })
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallStatus {
    // In this order: of several connections without an answer the last counts.
    /// The user has no connection.
    Offline,
    /// Only connections that do not speak in objects are there.
    Plain,
    /// Too many calls are under way, or the client's queue is full.
    Busy,
    /// The connection that was asked has gone.
    Gone,
    /// No answer in time.
    Timeout,
    /// Unknown: the way to the user's node is down.
    Unrouted,
    /// The client says that it cannot.
    Failed,
    /// The client has answered.
    Answered,
}

impl CallStatus {
    /// Every status, in their order.
    pub const ALL: [Self; 8] = [
        Self::Offline,
        Self::Plain,
        Self::Busy,
        Self::Gone,
        Self::Timeout,
        Self::Unrouted,
        Self::Failed,
        Self::Answered,
    ];

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
        to_json(self)
    }

    /// Reads what another node says became of it.
    ///
    /// # Errors
    /// When that is no answer to a call.
    pub fn parse(body: &str) -> Result<Self, InvalidInput> {
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
