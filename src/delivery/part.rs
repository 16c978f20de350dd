//! The parts of a push: one for each user or topic that it names.

use std::borrow::Cow;

use crate::local::live_rules::LiveRules;
use crate::protocol::ids::{Subject, Topic, UserId};
use crate::protocol::{Push, PushRequest, Target};

/// The part of a push that goes to one user or topic.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) subject: Subject,
    pub(crate) push: Cow<'a, Push>,
    /// Whether it is kept first: as its sender says, or as the rule of its topic does.
    pub(crate) keep: bool,
}

/// The parts of a push to users or topics. Users share its message; a topic's message names it.
pub(crate) fn parts_of<'a>(request: &'a PushRequest, rules: &LiveRules) -> Vec<Part<'a>> {
    let PushRequest { push, keep, .. } = request;
    let user = |user: &UserId| Part {
        subject: Subject::User(user.clone()),
        push: Cow::Borrowed(push),
        keep: *keep,
    };
    let topic = |topic: &Topic, push| Part {
        subject: Subject::Topic(topic.clone()),
        push,
        keep: *keep || rules.find(topic).is_some_and(|rule| rule.keep.every),
    };
    match &push.to {
        Target::User(only) => vec![user(only)],
        Target::Users(users) => users.iter().map(user).collect(),
        Target::Topic(only) => vec![topic(only, Cow::Borrowed(push))],
        Target::Topics(topics) => {
            let pushes = push.to_each(topics).into_iter().map(Cow::Owned);
            let parts = topics.iter().zip(pushes);
            parts.map(|(one, push)| topic(one, push)).collect()
        }
        Target::Connection(..) | Target::All => Vec::new(),
    }
}
