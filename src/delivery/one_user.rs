//! A push to one user, as most pushes are.
//!
//! Most users are where they were: then their row and the answer to the line that went ahead are
//! all that is needed, without the room that a batch takes. What is not as usual goes the way of
//! all pushes. What must stay true: the answer is the one that a batch of this push alone gets.

use std::slice;

use tokio::time::Instant;

use crate::backplane::answers::{LATE, Published};
use crate::delivery::ahead::Ahead;
use crate::delivery::answer::Answer;
use crate::delivery::carrier::Carrier;
use crate::delivery::ledger::OutcomeLedger;
use crate::delivery::operation::Operation;
use crate::delivery::router::Router;
use crate::delivery::share::Delivery;
use crate::protocol::PushRequest;
use crate::protocol::ids::{Subject, UserId};

impl Router {
    /// As [`Router::push_all`], for one push to a user that is not kept.
    pub(super) async fn push_to_user(&self, request: &PushRequest, user: &UserId) -> Answer {
        let deadline = Instant::now() + request.timeout;
        let metrics = &self.carrier.metrics;
        let ledger = OutcomeLedger::open(slice::from_ref(request), metrics);
        let answer = match self.carrier.backplane.is_shared() {
            // Boxed, or a node without Redis would carry the room for what this may wait for.
            true => Box::pin(self.push_anywhere(request, user, deadline)).await,
            // All connections are here.
            false => {
                let answer = self.push_here(request, deadline).await;
                self.trace(request, answer)
            }
        };
        metrics.pushed(answer.status);
        ledger.settle(slice::from_ref(&answer));
        answer
    }

    async fn push_anywhere(
        &self,
        request: &PushRequest,
        user: &UserId,
        deadline: Instant,
    ) -> Answer {
        let carrier = &self.carrier;
        let (operation, subject) = (Operation::Push(&request.push), Subject::User(user.clone()));
        let mut share = Delivery::new(operation, subject, request.wait, deadline);
        carrier.deliver_here(&mut share).await;
        carrier.carry_alone(&mut share, user).await;
        let all = slice::from_mut(&mut share);
        if all[0].is_open() || all[0].wants_receipts() {
            Box::pin(carrier.carry_rest(all)).await;
            Box::pin(carrier.settle_all(all)).await;
        }
        carrier.note_sent(all);
        let id = request.push.message.id();
        share.trace(id, carrier.hub.trace());
        Answer {
            id: id.map(Into::into),
            ..share.answer()
        }
    }
}

impl Carrier {
    /// One round for one share.
    async fn carry_alone(&self, share: &mut Delivery<'_>, user: &UserId) {
        if share.deadline <= Instant::now() {
            return;
        }
        let row = self.send_ahead(share, user);
        let located = self.backplane.locate_user(user, row);
        let locations = match tokio::time::timeout_at(share.deadline, located).await {
            Ok(Ok(locations)) => locations,
            Ok(Err(reason)) => return share.stays_open(reason),
            Err(_) => return share.stays_open(LATE),
        };
        match &locations[..] {
            [] => {
                share.looked_up();
                self.note_astray(share);
                return;
            }
            [place] => {
                let ahead = share.ahead.take_if(|ahead| ahead.node == place.node);
                if let Some(ahead) = ahead {
                    let answer = ahead.published.receivers(share.deadline).await;
                    if matches!(answer, Ok(1..)) {
                        share.looked_up();
                        return share.heard(&place.node, place.connections);
                    }
                    let published = Published::now(answer);
                    share.ahead = Some(Ahead { published, ..ahead });
                }
            }
            _ => {}
        }
        let subjects = [share.subject.clone()];
        let rows = vec![Ok(locations)];
        Box::pin(self.serve(slice::from_mut(share), &[0], &subjects, rows)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<Given, Told: Future>(_: impl Fn(Given) -> Told) -> usize {
        size_of::<Told>()
    }

    /// A future is copied into its box, and each call of fred that it may wait for takes 6.5 KiB.
    #[test]
    fn a_push_has_no_room_for_what_is_rare() {
        type Given = (&'static Router, &'static PushRequest, &'static UserId);
        let sizes = [
            size_of_future(|(router, request, _): Given| router.push(request)),
            size_of_future(|(router, request, user): Given| {
                router.push_anywhere(request, user, Instant::now())
            }),
            size_of_future(|(router, request, _): Given| router.push_all(slice::from_ref(request))),
        ];
        assert!(sizes.iter().all(|size| *size <= 3_072), "{sizes:?}");
    }
}
