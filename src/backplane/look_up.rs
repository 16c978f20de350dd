//! Look-ups in the backplane: where users and topics have connections.
//!
//! A row may name dead nodes: it outlives its node for a while.

use tokio::time::Instant;

use crate::backplane::Backplane;
use crate::backplane::answers::{SentAhead, Unavailable};
use crate::backplane::redis::wire::connection::Awaited;
use crate::backplane::rows::{Locations, MemberCount, Row, TopicNodes};
use crate::protocol::ids::{Subject, Topic, UserId};

impl Backplane {
    /// The nodes that hold connections of each of these users and topics, without this node.
    /// Nodes may be dead: a row outlives its node for a while. If it is unknown, the reason: the
    /// registry is being rebuilt, or Redis refuses to write rows, or cannot be asked.
    pub(crate) async fn locate(
        &self,
        subjects: &[Subject],
    ) -> Vec<Result<Locations, &'static str>> {
        match self {
            Self::Standalone(_) => vec![Ok(Locations::new()); subjects.len()],
            Self::Redis(redis) => redis.locate(subjects).await,
        }
    }

    /// As [`Backplane::locate`], for one user, who is remembered for [`Backplane::send_ahead`].
    /// `row` is on its way if that looked the user up.
    pub(crate) async fn locate_user(
        &self,
        user: &UserId,
        row: Option<Awaited>,
    ) -> Result<Locations, &'static str> {
        match self {
            Self::Standalone(_) => Ok(Locations::new()),
            Self::Redis(redis) => redis.locate_user(user, row).await,
        }
    }

    /// Sends a line to the node where the user was when its row was last read, and looks the user
    /// up in the same write. `None` if no node is remembered, or the line could not leave at once:
    /// nothing was sent.
    pub(crate) fn send_ahead(
        &self,
        user: &UserId,
        line: impl FnOnce() -> String,
        deadline: Instant,
    ) -> Option<(SentAhead, Awaited)> {
        match self {
            Self::Standalone(_) => None,
            Self::Redis(redis) => redis.send_ahead(user, line, deadline),
        }
    }

    /// For each of these topics, how many connections each live node has in it, including this
    /// node.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn members(
        &self,
        topics: &[Topic],
    ) -> Result<Vec<Vec<MemberCount>>, Unavailable> {
        match self {
            Self::Standalone(standalone) => Ok(topics
                .iter()
                .map(|topic| standalone.members(topic))
                .collect()),
            Self::Redis(redis) => redis.members(topics).await,
        }
    }

    /// For each of these topics, the other nodes that have members, and whether their clients
    /// watch it. Taken from the rows, which may name dead nodes and lack live ones.
    ///
    /// # Errors
    /// Of each topic, when its row cannot be read.
    pub(crate) async fn parties(&self, topics: &[Topic]) -> Vec<Result<TopicNodes, Unavailable>> {
        match self {
            Self::Standalone(_) => vec![Ok(TopicNodes::new()); topics.len()],
            Self::Redis(redis) => redis.parties(topics).await,
        }
    }

    /// The user's connections on live nodes, including this node.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn rows(&self, user: &UserId) -> Result<Vec<Row>, Unavailable> {
        let rows = self.rows_of(std::slice::from_ref(user)).await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// The connections of each of these users, as [`Backplane::rows`].
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn rows_of(&self, users: &[UserId]) -> Result<Vec<Vec<Row>>, Unavailable> {
        match self {
            Self::Standalone(standalone) => {
                Ok(users.iter().map(|user| standalone.rows(user)).collect())
            }
            Self::Redis(redis) => redis.rows(users).await,
        }
    }
}
