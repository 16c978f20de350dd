//! Who a client has proven to be, and for how long.

use std::sync::Arc;

use tokio::time::Instant;

use crate::auth::Grants;
use crate::protocol::ids::UserId;
pub use crate::protocol::session_id::{BadSessionId, SessionId};

/// Who a client is, by its token or, under `PUSH_AUTH=none`, by its own word.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// What it may subscribe to, if its token says so. Otherwise the settings do.
    pub grants: Option<Arc<Grants>>,
    /// Its class of device, if its token names one; then it counts, and not what the client says.
    pub device: Option<Arc<str>>,
    /// When this ends, by this process's own clock.
    pub expires: Option<Instant>,
    /// The session it rests on.
    pub session: Option<SessionId>,
}

impl Identity {
    /// A user by its own word.
    #[must_use]
    pub fn claimed(user: UserId) -> Self {
        Self {
            user,
            grants: None,
            device: None,
            expires: None,
            session: None,
        }
    }
}
