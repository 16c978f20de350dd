//! H20 and H21: what is promised of members that publish, and of logs that are erased. A part of the
//! checker, as pure as that.

use crate::checker::Verdict;
use crate::index::Index;
use crate::wires::Wire;

/// What a member published bears its name, set by its node, and nothing else does. It goes to all
/// members but the connection that published it, unless that asks for the log later.
pub(crate) fn named(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for conn in index.conns.values() {
        for recv in &conn.recvs {
            let Some(attempts) = index.messages.get(recv.id) else {
                continue;
            };
            let author = attempts[0].author.as_deref();
            let sent = attempts[0].sent;
            let has_asked = (conn.seats.iter())
                .any(|seat| attempts[0].to == [seat.of] && (sent..recv.at).contains(&seat.asked));
            let is_own = author == Some(conn.name);
            verdict.expect(!is_own || attempts[0].kept && has_asked, || {
                format!("{} got its own {} at {}", conn.name, recv.id, recv.at)
            });
            // Neither plain clients nor event streams are told who it was.
            if matches!(conn.wire, Wire::Plain | Wire::Sse) {
                continue;
            }
            let author = author.and_then(|author| index.conns.get(author));
            let expected = author.and_then(|author| {
                let fd = author.fd?;
                Some(format!("{} {}/{fd}", author.user, author.node))
            });
            verdict.expect(recv.from == expected.as_deref(), || {
                format!(
                    "{} got {} from {:?} and not {expected:?} at {}",
                    conn.name, recv.id, recv.from, recv.at
                )
            });
        }
    }
    verdict
}

/// Whoever asks for a log after it was erased gets nothing of what was in it.
pub(crate) fn erased(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for erasure in index.erasures.iter().filter(|erasure| erasure.is_done) {
        for conn in index.conns.values() {
            let seats = conn.seats.iter().filter(|seat| seat.of == erasure.topic);
            for seat in seats.filter(|seat| seat.asked > erasure.until) {
                let in_time = |at: u64| (seat.asked..=seat.left).contains(&at);
                for recv in conn.recvs.iter().filter(|recv| in_time(recv.at)) {
                    // A repeat may be kept anew.
                    let attempts = index.messages.get(recv.id).map(Vec::as_slice);
                    let Some([push]) = attempts else { continue };
                    let is_meant = erasure.id.is_none_or(|id| id == push.id);
                    let was_there = is_meant
                        && push.kept
                        && push.answered < erasure.at
                        && push.status != "unknown"
                        && push.to == [erasure.topic];
                    verdict.expect(!was_there, || {
                        format!(
                            "{} asked at {} and got {}, answered at {}, erased at {}",
                            conn.name, seat.asked, recv.id, push.answered, erasure.until
                        )
                    });
                }
            }
        }
    }
    verdict
}
