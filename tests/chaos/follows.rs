//! H18: what is promised of nodes whose way to Redis is right again. A part of the checker, as pure
//! as that.

use crate::checker::Verdict;
use crate::history::{Event, Micros, SECOND};
use crate::index::Index;

/// A node serves within 5 s after the name leads to the new primary; a busy machine takes a little
/// longer.
const FOLLOWED: Micros = (5 + 5) * SECOND;

/// After a fail-over behind a name, and after an address was silent.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        let Event::Followed {
            node,
            kind,
            at,
            served,
            until,
        } = event
        else {
            continue;
        };
        let limit = index.after(node, *at, FOLLOWED);
        let in_time = served.is_some_and(|served| served <= limit);
        // One that was not watched for so long proves nothing.
        verdict.expect(in_time || served.is_none() && *until < limit, || {
            format!("{node} served at {served:?}; {kind} was over at {at}")
        });
    }
    verdict
}
