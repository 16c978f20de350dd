//! A push sent ahead: in the same write as the look-up of its user, to the node where the user was
//! when the row was last read.
//!
//! The row decides, as for every push. If it names the node, the line counts as sent to it: Redis
//! read the row first, so who is named was there when the line came. Every other node that the row
//! names gets its line then. If the row does not name the node, the line went astray: that node
//! does not have the user any more, and drops it.
//!
//! What must stay true: no connection gets a push twice. A row that names the node in a later round
//! only (it was not known in the first, or another node did not listen) does not tell whether the
//! line found anyone. It did if the oldest connection is the one remembered. Else the line goes
//! again only if its node drops repeats of its id; without one the sender hears that it is not
//! known.

use tokio::time::Instant;

use crate::backplane::answers::Published;
use crate::local::budget::Claim;
use crate::protocol::ids::{Fd, NodeId};

/// Why a push is not known to have reached a node that the row names.
pub(super) const UNCLEAR: &str = "it is not known whether the node got it for this connection";

/// What a share has sent ahead.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) node: NodeId,
    /// The oldest of the connections that were remembered.
    pub(super) oldest: Fd,
    pub(super) published: Published,
    /// What its line takes of the node's memory.
    pub(super) claim: Option<Claim>,
    /// The row that was read with it is the one at hand.
    pub(super) is_with_row: bool,
}

/// What is still to be done for a node in the row that got a line ahead.
#[derive(Debug)]
pub(super) enum AfterRow {
    /// To publish the line: nothing went there, or a repeat does no harm.
    Publish,
    /// To hear what became of the line.
    Hear(Published, Option<Claim>),
    /// Nothing: the line may have reached it or not.
    Unclear(Ahead),
}

impl Ahead {
    /// What is to be done for its node, of which the oldest connection in the row is this one.
    pub(super) async fn after_row(
        self,
        oldest: Fd,
        drops_repeats: bool,
        deadline: Instant,
    ) -> AfterRow {
        if self.is_with_row {
            return AfterRow::Hear(self.published, self.claim);
        }
        let answer = self.published.receivers(deadline).await;
        if answer == Ok(0) {
            return AfterRow::Publish;
        }
        let published = Published::now(answer);
        if self.oldest == oldest {
            return AfterRow::Hear(published, self.claim);
        }
        match drops_repeats {
            true => AfterRow::Publish,
            false => AfterRow::Unclear(Self { published, ..self }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::answers::Unavailable;

    /// What is done after this answer, if the row names this connection.
    async fn after(
        answer: Result<u32, Unavailable>,
        is_with_row: bool,
        oldest: u64,
        drops_repeats: bool,
    ) -> &'static str {
        let ahead = Ahead {
            node: "a.1".parse().expect("a node"),
            oldest: Fd(7),
            published: Published::now(answer),
            claim: None,
            is_with_row,
        };
        let next = ahead.after_row(Fd(oldest), drops_repeats, Instant::now());
        match next.await {
            AfterRow::Publish => "publish",
            AfterRow::Hear(..) => "hear",
            AfterRow::Unclear(_) => "unclear",
        }
    }

    #[tokio::test]
    async fn a_line_goes_again_only_where_it_reached_no_one_or_repeats_are_dropped() {
        let away = Err(Unavailable("away"));
        for answer in [Ok(0), Ok(1), away] {
            assert_eq!(after(answer, true, 8, false).await, "hear", "{answer:?}");
        }
        for answer in [Ok(1), away] {
            assert_eq!(after(answer, false, 7, false).await, "hear", "{answer:?}");
            assert_eq!(after(answer, false, 8, true).await, "publish");
            assert_eq!(after(answer, false, 8, false).await, "unclear");
        }
        assert_eq!(after(Ok(0), false, 7, false).await, "publish");
        assert_eq!(after(Ok(0), false, 8, false).await, "publish");
    }
}
