//! Looking back in inboxes and logs, and erasing what is in them.

use crate::backplane::Backplane;
use crate::backplane::answers::Unavailable;
use crate::local::replay::excerpt::{Excerpt, Span};
use crate::protocol::ids::Subject;
use crate::protocol::position::EntryId;

/// What is to be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Erasure {
    /// All that is there.
    All,
    /// One message.
    One(EntryId),
}

impl Backplane {
    /// Reads some messages of a user's inbox or a topic's log; reading changes nothing.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn look_back(
        &self,
        subject: &Subject,
        span: Span,
        limit: u16,
    ) -> Result<Excerpt, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.logs().excerpt(subject, span, limit)),
            Self::Redis(redis) => redis.kept.excerpt(subject, span, limit).await,
        }
    }

    /// Erases messages of a user's inbox or a topic's log; answers how many those were. What a
    /// connection was given already is not taken back.
    ///
    /// # Errors
    /// [`Unavailable`]: they may or may not be there.
    pub(crate) async fn erase(
        &self,
        subject: &Subject,
        erasure: Erasure,
    ) -> Result<u64, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(standalone.logs().erase(subject, erasure)),
            Self::Redis(redis) => redis.kept.erase(subject, erasure).await,
        }
    }
}
