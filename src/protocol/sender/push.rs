//! What senders ask for over HTTP. Strict: an unknown field is a fault, not a surprise.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{ConnectionId, Topic, UserId};
use crate::protocol::json::{ObjectOnly, from_object, or_default};
use crate::protocol::message::{
    Except, MAX_ID_BYTES, MAX_TOPICS, MAX_USERS, Message, Policy, Push, Target, check_event,
    check_id,
};
use crate::protocol::outcome::{DEFAULT_TIMEOUT, MAX_TIMEOUT, Wait};
use crate::protocol::sender::plain_push::plain_push;

/// Only users have inboxes, and topics logs.
pub(crate) const NOT_KEPT: &str = "keep needs to.user, to.users, to.topic or to.topics";

/// A push as a sender asks for it.
#[derive(Debug)]
pub struct PushRequest {
    /// The push.
    pub push: Push,
    /// Whether it is put into the users' inboxes or topics' logs first.
    pub keep: bool,
    /// When to answer.
    pub wait: Wait,
    /// When to answer at the latest.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushBody<'a> {
    #[serde(borrow)]
    to: ObjectOnly<ToFields<'a>>,
    data: &'a RawValue,
    #[serde(default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    event: Option<Cow<'a, str>>,
    #[serde(default)]
    except: Option<ObjectOnly<ExceptFields>>,
    #[serde(default)]
    policy: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "or_default")]
    keep: bool,
    #[serde(default, deserialize_with = "or_default")]
    wait: Wait,
    #[serde(default)]
    timeout_ms: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToFields<'a> {
    #[serde(default)]
    user: Option<UserId>,
    #[serde(default)]
    users: Option<Vec<UserId>>,
    #[serde(default)]
    topic: Option<Topic>,
    #[serde(default)]
    topics: Option<Vec<Topic>>,
    #[serde(default)]
    fd: Option<ConnectionId>,
    #[serde(default, borrow)]
    all: Option<&'a RawValue>,
}

impl ToFields<'_> {
    pub(crate) fn check(self) -> Result<Target, InvalidInput> {
        let all = match self.all.map(RawValue::get) {
            None | Some("null") => false,
            Some("true") => true,
            Some(_) => return Err(InvalidInput::new("to.all must be true, or absent")),
        };
        match (self.topic, self.topics) {
            (None, None) => {}
            (topic, topics) => {
                let alone = self.user.is_none() && self.users.is_none() && self.fd.is_none();
                return match (topic, topics) {
                    (Some(topic), None) if alone && !all => Ok(Target::Topic(topic)),
                    (None, Some(topics)) if alone && !all => several(topics),
                    _ => Err(InvalidInput::new(ONLY_ONE)),
                };
            }
        }
        match (self.user, self.users, self.fd, all) {
            (user, None, Some(id), false) => Ok(Target::Connection(id, user)),
            (Some(user), None, None, false) => Ok(Target::User(user)),
            (None, Some(users), None, false) if users.is_empty() => {
                Err(InvalidInput::new("to.users must not be empty"))
            }
            (None, Some(users), None, false) if users.len() > MAX_USERS => Err(InvalidInput::new(
                format!("to.users has {} users; {MAX_USERS} at most", users.len()),
            )),
            (None, Some(users), None, false) => Ok(Target::Users(without_repeats(users))),
            (None, None, None, true) => Ok(Target::All),
            (None, None, None, false) => {
                let words = "to must have one of user, users, topic, topics, fd or all";
                Err(InvalidInput::new(words))
            }
            _ => Err(InvalidInput::new(ONLY_ONE)),
        }
    }
}

const ONLY_ONE: &str = "to must have only one of user, users, topic, topics, fd or all";

fn several(topics: Vec<Topic>) -> Result<Target, InvalidInput> {
    match topics.len() {
        0 => Err(InvalidInput::new("to.topics must not be empty")),
        1..=MAX_TOPICS => Ok(Target::Topics(without_repeats(topics))),
        many => Err(InvalidInput::new(format!(
            "to.topics has {many} topics; {MAX_TOPICS} at most"
        ))),
    }
}

/// A name that stands twice gets the message once.
fn without_repeats<T: Clone + Eq + std::hash::Hash>(mut names: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(names.len());
    names.retain(|name| seen.insert(name.clone()));
    names
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExceptFields {
    #[serde(default, deserialize_with = "or_default")]
    users: Vec<UserId>,
    #[serde(default, deserialize_with = "or_default")]
    fds: Vec<ConnectionId>,
}

impl ExceptFields {
    pub(crate) fn check(self) -> Result<Option<Arc<Except>>, InvalidInput> {
        let Self { users, fds } = self;
        if users.len().max(fds.len()) > MAX_USERS {
            let words = format!("except has over {MAX_USERS} users or fds");
            return Err(InvalidInput::new(words));
        }
        if users.is_empty() && fds.is_empty() {
            return Ok(None);
        }
        let (users, connections) = (users.into_iter().collect(), fds.into_iter().collect());
        Ok(Some(Arc::new(Except { users, connections })))
    }
}

pub(crate) fn check_policy(policy: Option<&str>) -> Result<Option<Policy>, InvalidInput> {
    match policy {
        None => Ok(None),
        Some("close") => Ok(Some(Policy::Close)),
        Some("drop") => Ok(Some(Policy::Drop)),
        Some(other) => match other.strip_prefix("latest:") {
            Some(key) if (1..=MAX_ID_BYTES).contains(&key.len()) => {
                Ok(Some(Policy::Latest(key.into())))
            }
            _ => Err(InvalidInput::new(
                "policy must be close, drop or latest:<key>",
            )),
        },
    }
}

pub(crate) fn check_timeout(timeout_ms: Option<f64>) -> Result<Duration, InvalidInput> {
    let timeout = timeout_ms.map_or(Some(DEFAULT_TIMEOUT), whole_ms);
    timeout
        .filter(|timeout| *timeout <= MAX_TIMEOUT)
        .ok_or_else(|| InvalidInput::new("timeout_ms must be from 1 to 30000"))
}

/// To JSON 1000.0 is the same number as 1000, and some languages print it so.
fn whole_ms(ms: f64) -> Option<Duration> {
    (ms >= 1.0 && ms.fract() == 0.0).then(|| Duration::from_millis(ms as u64))
}

impl PushRequest {
    /// A push to a topic that asks for nothing beside.
    #[must_use]
    pub fn to_topic(topic: &Topic, message: Message) -> Self {
        Self {
            push: Push {
                to: Target::Topic(topic.clone()),
                except: None,
                message: Arc::new(message),
            },
            keep: false,
            wait: Wait::default(),
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Reads one push of a sender, strictly: an unknown field is a fault, not a surprise.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        match plain_push(body) {
            Some(push) => Ok(Self {
                push,
                keep: false,
                wait: Wait::default(),
                timeout: DEFAULT_TIMEOUT,
            }),
            None => Self::parse_any(body),
        }
    }

    /// As [`PushRequest::parse`], without its short way for the usual push.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_any(body: &[u8]) -> Result<Self, InvalidInput> {
        let body: PushBody<'_> = from_object(body)?;
        let timeout = check_timeout(body.timeout_ms)?;
        let to = body.to.0.check()?;
        let except = body.except.map_or(Ok(None), |except| except.0.check())?;
        if body.keep {
            if matches!(to, Target::Connection(..) | Target::All) {
                return Err(InvalidInput::new(NOT_KEPT));
            }
            if except.is_some() || body.policy.is_some() {
                // An inbox or log is the same for all connections, and a slow one reads it later.
                return Err(InvalidInput::new(
                    "keep goes with neither except nor policy",
                ));
            }
        }
        let message = Message::new(
            check_id(body.id)?,
            body.data,
            check_policy(body.policy.as_deref())?,
        )
        .named(check_event(body.event)?);
        let message = match &to {
            Target::Topic(topic) => message.in_topic(topic),
            _ => message,
        };
        let push = Push {
            to,
            except,
            message: Arc::new(message),
        };
        Ok(Self {
            push,
            keep: body.keep,
            wait: body.wait,
            timeout,
        })
    }
}
