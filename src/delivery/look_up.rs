//! The look-up of rows for a round, and the line that goes ahead with it.

use crate::backplane::answers::SentAhead;
use crate::backplane::redis::wire::connection::Awaited;
use crate::backplane::rows::{Locations, RowPlace};
use crate::delivery::ahead::{AfterRow, Ahead, UNCLEAR};
use crate::delivery::carrier::Carrier;
use crate::delivery::operation::Operation;
use crate::delivery::share::Delivery;
use crate::protocol::Wait;
use crate::protocol::ids::{Subject, UserId};

impl Delivery<'_> {
    /// Whether its line is the same for all nodes, and none was sent.
    fn may_go_ahead(&self) -> bool {
        self.wait == Wait::Routed
            && matches!(self.operation, Operation::Push(_))
            && self.ahead.is_none()
            && self.served.is_empty()
            && self.unheard.is_empty()
    }

    fn id(&self) -> Option<&str> {
        match self.operation {
            Operation::Push(push) => push.message.id(),
            Operation::Kick(_) | Operation::Enroll(..) | Operation::Look => None,
        }
    }

    /// What is to be done for a node in the row.
    pub(super) async fn after_row(&mut self, place: &RowPlace) -> AfterRow {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.node == place.node) else {
            return AfterRow::Publish;
        };
        let drops_repeats = self.id().is_some();
        let next = ahead.after_row(place.oldest, drops_repeats, self.deadline);
        next.await
    }

    /// The line may have reached this node or not.
    pub(super) fn note_unclear(&mut self, ahead: Ahead) {
        self.not_heard(&ahead.node, UNCLEAR);
        self.ahead = Some(ahead);
    }
}

impl Carrier {
    /// Reads the rows of the open shares. A push to one user goes ahead if the user is remembered.
    pub(super) async fn look_up(
        &self,
        shares: &mut [Delivery<'_>],
        open: &[usize],
        subjects: &[Subject],
    ) -> Vec<Result<Locations, &'static str>> {
        for &i in open {
            if let Some(ahead) = &mut shares[i].ahead {
                ahead.is_with_row = false;
            }
        }
        if let ([i], [Subject::User(user)]) = (open, subjects) {
            let row = self.send_ahead(&mut shares[*i], user);
            return vec![self.backplane.locate_user(user, row).await];
        }
        self.backplane.locate(subjects).await
    }

    /// Sends the push to the node where its user is remembered, and asks for the row.
    pub(super) fn send_ahead(&self, share: &mut Delivery<'_>, user: &UserId) -> Option<Awaited> {
        if !share.may_go_ahead() {
            return None;
        }
        let mut claim = None;
        let line = || {
            let line = share.operation.line(&share.subject.clone().into(), None);
            claim = Some(self.hub.memory().claim(line.len()));
            line
        };
        let (sent, row) = self.backplane.send_ahead(user, line, share.deadline)?;
        let SentAhead {
            node,
            oldest,
            published,
        } = sent;
        self.metrics.sent_ahead.inc();
        share.ahead = Some(Ahead {
            node,
            oldest,
            published,
            claim,
            is_with_row: true,
        });
        Some(row)
    }

    /// Notes, once the row is known, that it does not name the node that got the line.
    pub(super) fn note_astray(&self, share: &Delivery<'_>) {
        if let Some(ahead) = &share.ahead
            && ahead.is_with_row
        {
            self.metrics.sent_astray.inc();
            let trace = self.hub.trace();
            trace.sent_astray(&share.subject, share.id(), &ahead.node);
        }
    }
}
