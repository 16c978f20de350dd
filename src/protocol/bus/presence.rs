//! Presence: what senders ask for, and what nodes tell each other about the members of a topic.
//!
//! A node whose clients watch a topic says so to the nodes with members, and again before they
//! forget it:
//!
//! ```text
//! {"cmd":"watch","topic":"room","node":"eu-1.9f86d081884c","begin":true}
//! ```
//!
//! `begin` asks for the whole list, `end` for no more. They tell it which users are in the topic
//! and which have left:
//!
//! ```text
//! {"cmd":"presence","topic":"room","node":"eu-2.60303ae22b99","begin":true,"end":true,
//!  "here":["ann"]}
//! {"cmd":"presence","topic":"room","node":"eu-2.60303ae22b99","gone":["ann"]}
//! ```
//!
//! From `begin` to `end` it is the whole list, on as many lines as it takes. What members show of
//! themselves stands beside the names, so that nodes that do not know it read the names:
//! `"here":["ann"],"info":{"ann":{"name":"Ann"}}`. A member whose `info` has changed is named again.

use serde::{Deserialize, Serialize};

use crate::protocol::bus::question::MAX_ANSWER_BYTES;
use crate::protocol::fault::InvalidInput;
use crate::protocol::ids::{NodeId, Topic, UserId};
use crate::protocol::info::{Info, Infos};
use crate::protocol::json::{from_object, or_default, to_json};
use crate::protocol::message::{MAX_TOPICS, MAX_USERS};

/// Most users of one topic that are listed.
pub const MAX_MEMBERS: usize = 10_000;
/// Room in an answer for what is not a user.
const MARGIN: usize = 1_024;
/// What a listed user takes beside the name, at most: quotes, brackets, commas, the number.
const PER_MEMBER: usize = 16;

/// Whose presence a sender asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum PresenceRequest {
    /// Where each of these users is.
    Users(Vec<UserId>),
    /// How many are in each of these topics.
    Topics(Vec<Topic>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PresenceBody {
    #[serde(default)]
    users: Option<Vec<UserId>>,
    #[serde(default)]
    topics: Option<Vec<Topic>>,
}

impl PresenceRequest {
    /// Reads a request, strictly.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, InvalidInput> {
        let body: PresenceBody = from_object(body)?;
        match (body.users, body.topics) {
            (Some(users), None) => {
                check_count("users", users.len(), MAX_USERS)?;
                Ok(Self::Users(users))
            }
            (None, Some(topics)) => {
                check_count("topics", topics.len(), MAX_TOPICS)?;
                Ok(Self::Topics(topics))
            }
            _ => Err(InvalidInput::new("one of users and topics is needed")),
        }
    }
}

fn check_count(what: &str, count: usize, most: usize) -> Result<(), InvalidInput> {
    match count {
        0 => Err(InvalidInput::new(format!("{what} must not be empty"))),
        count if count > most => Err(InvalidInput::new(format!("{count} {what}; {most} at most"))),
        _ => Ok(()),
    }
}

/// Who of a node is in a topic, as it answers.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMembers {
    /// By name: each user, and with how many connections.
    pub users: Vec<(UserId, u32)>,
    /// What they show of themselves.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Infos::is_empty"
    )]
    pub info: Infos,
    /// There are more.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub truncated: bool,
}

impl NodeMembers {
    /// Takes as many of these as an answer may have.
    #[must_use]
    pub fn new(mut users: Vec<(UserId, u32)>, mut info: Infos) -> Self {
        let all = users.len();
        let mut room = MAX_ANSWER_BYTES - MARGIN;
        let fits = users.iter().take(MAX_MEMBERS).take_while(|(user, _)| {
            let shown = info.get(user).map_or(0, |info| shown_bytes(user, info));
            let bytes = user.as_str().len() + PER_MEMBER + shown;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let fits = fits.count();
        if let Some((first, _)) = users.get(fits) {
            info.split_off(first);
        }
        users.truncate(fits);
        Self {
            users,
            info,
            truncated: fits < all,
        }
    }

    /// As the body of an answer.
    #[must_use]
    pub fn to_body(&self) -> String {
        to_json(self)
    }

    /// Reads the body of an answer; none if the node could not tell.
    #[must_use]
    pub fn parse(body: &str) -> Option<Self> {
        serde_json::from_str(body).ok()
    }
}

/// Most names in one line or in one object.
pub const MAX_NAMES: usize = 1_000;
/// Most bytes of what members show of themselves in one line or in one object, so that a client's
/// queue holds it.
const MAX_SHOWN_BYTES: usize = 32 * 1_024;

/// What an `info` takes where it stands, at most: it, the name again, quotes, brackets, commas.
fn shown_bytes(user: &UserId, info: &Info) -> usize {
    info.len() + 2 * user.as_str().len() + PER_MEMBER
}

/// How many of these users one line or one object names, with what they show of themselves.
#[must_use]
pub fn fitting(users: &[UserId], infos: &Infos) -> usize {
    let mut room = MAX_SHOWN_BYTES;
    let fits = users.iter().take(MAX_NAMES).take_while(|user| {
        let bytes = infos.get(*user).map_or(0, |info| shown_bytes(user, info));
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    });
    fits.count()
}

/// These users in parts, each for one line or one object. Without users there is no part.
pub fn parts<'a>(mut users: &'a [UserId], infos: &Infos) -> impl Iterator<Item = &'a [UserId]> {
    std::iter::from_fn(move || {
        let (part, rest) = users.split_at(fitting(users, infos));
        users = rest;
        (!part.is_empty()).then_some(part)
    })
}

/// What these users show of themselves.
#[must_use]
pub fn infos_of(users: &[UserId], infos: &Infos) -> Infos {
    if infos.is_empty() {
        return Infos::new();
    }
    let shown = users.iter();
    let shown = shown.filter_map(|user| Some((user.clone(), infos.get(user)?.clone())));
    shown.collect()
}

/// What nodes tell each other about the members of a topic.
#[derive(Debug, PartialEq, Eq)]
pub enum PresenceLine {
    /// A node wants to hear.
    Watch(Watch),
    /// A node tells.
    Told(Told),
}

/// A node's wish to hear who of another node is in a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Watch {
    /// The topic.
    pub topic: Topic,
    /// Who wants to hear.
    pub node: NodeId,
    /// From the beginning, whatever it was told before.
    pub begin: bool,
    /// No longer.
    pub end: bool,
}

/// Who of a node is in a topic, or a part of that.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// The topic.
    pub topic: Topic,
    /// Whose members these are.
    pub node: NodeId,
    /// A whole list begins.
    pub begin: bool,
    /// It ends: who was not in it is not there.
    pub end: bool,
    /// Members that are there.
    pub here: Vec<UserId>,
    /// What these show of themselves.
    pub info: Infos,
    /// Who was, and is no longer.
    pub gone: Vec<UserId>,
}

/// Both are written alike, but for the names.
impl From<Told> for Watch {
    fn from(told: Told) -> Self {
        let (begin, end) = (told.begin, told.end);
        Self {
            topic: told.topic,
            node: told.node,
            begin,
            end,
        }
    }
}

impl PresenceLine {
    /// As a line for a channel.
    #[must_use]
    pub fn to_line(&self) -> String {
        #[derive(Serialize)]
        struct Fields<'a> {
            cmd: &'static str,
            topic: &'a Topic,
            node: &'a NodeId,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            begin: bool,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            end: bool,
            #[serde(skip_serializing_if = "<[UserId]>::is_empty")]
            here: &'a [UserId],
            #[serde(skip_serializing_if = "Option::is_none")]
            info: Option<&'a Infos>,
            #[serde(skip_serializing_if = "<[UserId]>::is_empty")]
            gone: &'a [UserId],
        }
        to_json(&match self {
            Self::Watch(watch) => Fields {
                cmd: "watch",
                topic: &watch.topic,
                node: &watch.node,
                begin: watch.begin,
                end: watch.end,
                here: &[],
                info: None,
                gone: &[],
            },
            Self::Told(told) => Fields {
                cmd: "presence",
                topic: &told.topic,
                node: &told.node,
                begin: told.begin,
                end: told.end,
                here: &told.here,
                info: Some(&told.info).filter(|info| !info.is_empty()),
                gone: &told.gone,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(bytes: usize) -> Info {
        let json = format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes - 8));
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_part_has_what_one_object_may_hold() {
        let users: Vec<UserId> = (0..2_500)
            .map(|i| format!("{i:04}").parse().unwrap())
            .collect();
        let lengths = |infos: &Infos| -> Vec<usize> {
            let parts = parts(&users, infos).collect::<Vec<_>>();
            assert_eq!(parts.concat(), users);
            parts.iter().map(|part| part.len()).collect()
        };
        assert_eq!(lengths(&Infos::new()), [1_000, 1_000, 500]);
        assert_eq!(parts(&[], &Infos::new()).count(), 0);
        let shown = users.iter().take(100);
        let infos: Infos = shown.map(|user| (user.clone(), info(1_000))).collect();
        assert_eq!(lengths(&infos)[..3], [32, 32, 32]);
        assert_eq!(infos_of(&users[99..], &infos).len(), 1);
    }

    #[test]
    fn an_answer_lists_what_fits_and_says_so() {
        let long = |i: usize| format!("{i:0>128}").parse().unwrap();
        let few = NodeMembers::new((0..10).map(|i| (long(i), 1)).collect(), Infos::new());
        assert_eq!((few.users.len(), few.truncated), (10, false));
        let users = || (0..MAX_MEMBERS).map(|i| (long(i), u32::MAX)).collect();
        let many = NodeMembers::new(users(), Infos::new());
        assert!(many.truncated && many.users.len() > 5_000);
        let body = many.to_body();
        assert!(body.len() <= MAX_ANSWER_BYTES);
        assert_eq!(NodeMembers::parse(&body), Some(many));
        let short = (0..=MAX_MEMBERS).map(|i| (i.to_string().parse().unwrap(), 1));
        let short = NodeMembers::new(short.collect(), Infos::new());
        assert_eq!((short.users.len(), short.truncated), (MAX_MEMBERS, true));
        let shown = (0..MAX_MEMBERS).map(|i| (long(i), info(1_000)));
        let shown = NodeMembers::new(users(), shown.collect());
        assert!(shown.truncated && shown.users.len() > 700);
        assert_eq!(shown.info.len(), shown.users.len());
        let body = shown.to_body();
        assert!(body.len() <= MAX_ANSWER_BYTES);
        assert_eq!(NodeMembers::parse(&body), Some(shown));
    }

    #[test]
    fn a_bad_request_is_told_what_is_wrong() {
        let many = format!(r#"{{"users":{:?}}}"#, vec!["a"; MAX_USERS + 1]);
        for (body, words) in [
            (r#"{"users":[]}"#, "users must not be empty"),
            (&many, "1001 users; 1000 at most"),
            (r#"{"users":["a\u0001b"]}"#, "user id must be"),
            (
                r#"{"users":["a"],"topics":["b"]}"#,
                "one of users and topics",
            ),
            (r#"{}"#, "one of users and topics"),
            (r#"{"user":"a"}"#, "unknown field"),
        ] {
            let fault = PresenceRequest::parse(body.as_bytes()).unwrap_err();
            assert!(fault.to_string().contains(words), "{fault}");
        }
    }
}
