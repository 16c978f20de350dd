//! H19: what is promised of kept messages that a client cannot take. A part of the checker, as pure
//! as that.

use crate::checker::Verdict;
use crate::history::Event;
use crate::index::Index;

/// Each message over the client's limit is passed over after some connects, and the client is told.
/// All others come once and in order, and devices that can take them get all.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        let Event::Stumbled {
            user,
            kept,
            large,
            got,
            passed,
            is_claimed,
            other,
            connects,
            allowed,
            at,
        } = event
        else {
            continue;
        };
        let small: Vec<&String> = kept.iter().filter(|id| !large.contains(id)).collect();
        verdict.expect(got.iter().eq(small.iter().copied()), || {
            format!("{user} took {got:?} of {small:?} in {connects} connects, at {at}")
        });
        verdict.expect(passed == large, || {
            format!("{user} was told that it does not get {passed:?}; over its limit are {large:?}, at {at}")
        });
        verdict.expect(!is_claimed, || {
            format!(
                "{user} was told that nothing is missing, and {passed:?} was passed over, at {at}"
            )
        });
        verdict.expect(connects <= allowed, || {
            format!(
                "{user} connected {connects} times to get past {large:?}, not {allowed}, at {at}"
            )
        });
        verdict.expect(other == kept, || {
            format!("another device of {user} took {other:?} of {kept:?}, at {at}")
        });
    }
    verdict
}
