//! Why a request that came over a connection is refused: a code for programs, words for people.

use std::time::Duration;

use crate::access::subscribe_hook::SubscribeRefusal;
use crate::auth::Denial;
use crate::protocol;
use crate::protocol::ids::Topic;

/// When a client may ask again that a backend gave no answer about.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// When the client may try again, if that makes sense.
    retry: Option<Duration>,
}

impl ClientError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry: None,
        }
    }

    pub(crate) fn retry_after(self, retry: Duration) -> Self {
        Self {
            retry: Some(retry),
            ..self
        }
    }

    /// What the client gets for one of several topics, as members of an object.
    pub(crate) fn fields(&self, topic: &str) -> String {
        protocol::refused_fields(topic, self.code, &self.message)
    }

    /// The object that the client gets; `reference` is its own `ref`.
    pub(crate) fn object(&self, reference: Option<&str>) -> String {
        match self.retry {
            None => protocol::error_object(reference, self.code, &self.message),
            Some(retry) => protocol::later_object(reference, self.code, &self.message, retry),
        }
    }
}

impl From<SubscribeRefusal> for ClientError {
    fn from(refusal: SubscribeRefusal) -> Self {
        match refusal {
            SubscribeRefusal::Forbidden(reason) => Self::new("forbidden", reason),
            SubscribeRefusal::Unavailable => {
                let words = "the application cannot say now whether you may subscribe";
                Self::new("unavailable", words).retry_after(RETRY)
            }
        }
    }
}

/// Why a client does not hear of the members of a topic.
pub(crate) fn no_presence(topic: &Topic) -> String {
    format!("you may not see who is in the topic {topic}")
}

impl From<Denial> for ClientError {
    fn from(denial: Denial) -> Self {
        Self::new(denial.code(), denial.message())
    }
}
