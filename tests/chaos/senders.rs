//! H16: what is promised about senders that misbehave, or come to a node that leaves. A part of the checker, as pure as that.

use crate::checker::Verdict;
use crate::history::{Event, Micros, SECOND};
use crate::index::Index;

/// `PUSH_WRITE_SECONDS`, and time for the node to look and for a busy machine.
const UNREAD: Micros = (10 + 10) * SECOND;

/// A sender that ends its half of the connection after a request is answered all the same. One that
/// reads no answer is sent away, and other senders are answered meanwhile. A node that will leave
/// serves whoever comes.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        match event {
            Event::HalfClosed {
                id,
                node,
                is_answered,
                at,
            } => verdict.expect(*is_answered, || {
                format!("the sender of {id} to {node} ended its half at {at}, and heard nothing")
            }),
            Event::AskedLate {
                node,
                is_answered,
                at,
            } => verdict.expect(*is_answered, || {
                format!("{node} had been told to leave, and did not serve one that came at {at}")
            }),
            Event::Stalled {
                node,
                at,
                ended,
                until,
            } => {
                let limit = index.after(node, *at, UNREAD);
                let is_ended = ended.is_some_and(|ended| ended <= limit);
                verdict.expect(is_ended || *until < limit, || {
                    format!("{node} kept one that did not read, from {at} on; ended: {ended:?}")
                });
                let ended = ended.unwrap_or(Micros::MAX);
                let others = index.messages.values().flatten();
                for push in others.filter(|push| push.via == *node) {
                    let meanwhile = *at <= push.sent && push.sent <= ended.min(*until);
                    verdict.expect(!meanwhile || push.status != "unknown", || {
                        let id = &push.id;
                        format!("{id} to {node} waited for one that did not read, from {at} on")
                    });
                }
            }
            _ => {}
        }
    }
    verdict
}
