//! Who is there: what senders ask for, and who is in a topic as nodes tell each other.

use serde::{Deserialize, Serialize};

use super::{Fault, MAX_ANSWER_BYTES, MAX_TOPICS, MAX_USERS};
use crate::names::{Topic, UserId};

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
    pub fn parse(body: &[u8]) -> Result<Self, Fault> {
        let body: PresenceBody = serde_json::from_slice(body)?;
        match (body.users, body.topics) {
            (Some(users), None) => {
                check_count("users", users.len(), MAX_USERS)?;
                Ok(Self::Users(users))
            }
            (None, Some(topics)) => {
                check_count("topics", topics.len(), MAX_TOPICS)?;
                Ok(Self::Topics(topics))
            }
            _ => Err(Fault::new("one of users and topics is needed")),
        }
    }
}

fn check_count(what: &str, count: usize, most: usize) -> Result<(), Fault> {
    match count {
        0 => Err(Fault::new(format!("{what} must not be empty"))),
        count if count > most => Err(Fault::new(format!("{count} {what}; {most} at most"))),
        _ => Ok(()),
    }
}

/// Who of a node is in a topic, as it answers.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMembers {
    /// By name: each user, and with how many connections.
    pub users: Vec<(UserId, u32)>,
    /// There are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl NodeMembers {
    /// Takes as many of these as an answer may have.
    #[must_use]
    pub fn new(mut users: Vec<(UserId, u32)>) -> Self {
        let all = users.len();
        let mut room = MAX_ANSWER_BYTES - MARGIN;
        let fits = users.iter().take(MAX_MEMBERS).take_while(|(user, _)| {
            let bytes = user.as_str().len() + PER_MEMBER;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let fits = fits.count();
        users.truncate(fits);
        Self {
            users,
            truncated: fits < all,
        }
    }

    /// As the body of an answer.
    #[must_use]
    pub fn to_body(&self) -> String {
        serde_json::to_string(self).expect("plain fields")
    }

    /// Reads the body of an answer; none if the node could not tell.
    #[must_use]
    pub fn parse(body: &str) -> Option<Self> {
        serde_json::from_str(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lists_what_fits_and_says_so() {
        let long = |i: usize| format!("{i:0>128}").parse().unwrap();
        let few = NodeMembers::new((0..10).map(|i| (long(i), 1)).collect());
        assert_eq!((few.users.len(), few.truncated), (10, false));
        let many = NodeMembers::new((0..MAX_MEMBERS).map(|i| (long(i), u32::MAX)).collect());
        assert!(many.truncated && many.users.len() > 5_000);
        let body = many.to_body();
        assert!(body.len() <= MAX_ANSWER_BYTES);
        assert_eq!(NodeMembers::parse(&body), Some(many));
        let short = (0..=MAX_MEMBERS).map(|i| (i.to_string().parse().unwrap(), 1));
        let short = NodeMembers::new(short.collect());
        assert_eq!((short.users.len(), short.truncated), (MAX_MEMBERS, true));
    }

    #[test]
    fn a_bad_request_is_told_what_is_wrong() {
        let many = format!(r#"{{"users":{:?}}}"#, vec!["a"; MAX_USERS + 1]);
        for (body, words) in [
            (r#"{"users":[]}"#, "users must not be empty"),
            (&many, "1001 users; 1000 at most"),
            (r#"{"users":["a b"]}"#, "user id must be"),
            (r#"{"users":["a"],"topics":["b"]}"#, "one of users and topics"),
            (r#"{}"#, "one of users and topics"),
            (r#"{"user":"a"}"#, "unknown field"),
        ] {
            let fault = PresenceRequest::parse(body.as_bytes()).unwrap_err();
            assert!(fault.to_string().contains(words), "{fault}");
        }
    }
}
