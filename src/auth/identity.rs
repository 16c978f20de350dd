//! A client's proven identity, and how long it lasts.

use std::sync::Arc;

use tokio::time::Instant;

use crate::protocol::ids::UserId;
use crate::protocol::info::Info;
pub(crate) use crate::protocol::session_id::SessionId;
use crate::protocol::topic_pattern::TopicPatterns;

/// A client's identity: from its token or, under `PUSH_AUTH=none`, as the client claims it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The user id.
    pub user: UserId,
    /// The topics it may subscribe to, if its token lists them. Otherwise the settings decide.
    pub grants: Option<Arc<TopicPatterns>>,
    /// The device class that its token names, if any. It overrides the one that the client names.
    pub device: Option<Arc<str>>,
    /// What it shows of itself to the members of its topics.
    pub info: Option<Info>,
    /// When this identity expires, by this process's own clock.
    pub expires: Option<Instant>,
    /// The session that this identity rests on, if any.
    pub session: Option<SessionId>,
}

impl Identity {
    /// The identity of a user that the client claims without proof.
    pub(crate) fn claimed(user: UserId) -> Self {
        Self {
            user,
            grants: None,
            device: None,
            info: None,
            expires: None,
            session: None,
        }
    }
}
