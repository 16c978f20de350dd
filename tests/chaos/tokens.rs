//! H14: how long a token lets its bearer stay. A part of the checker, as pure as that.

use crate::checker::{TOKEN_ENDED, Verdict};
use crate::history::{Micros, SECOND};
use crate::index::Index;

/// Time to say goodbye, and for a busy machine.
const LATE: Micros = 5 * SECOND;
/// A session is looked for again 5 s after Redis did not answer; till then it is believed.
const UNSEEN: Micros = 6 * SECOND;
/// How far clocks of the issuer, of Redis and of nodes may be apart: they round.
const EARLY: Micros = 3 * SECOND / 2;

/// A connection ends with its token, and not before. A session that Redis lost is one that ended.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for conn in index.conns.values() {
        let Some(token) = conn.token else { continue };
        let span = LATE + if token.session { UNSEEN } else { 0 };
        let limit = index.after(conn.node, token.ends.min(index.end), span);
        if token.ends < index.end && limit < index.end {
            verdict.expect(conn.closed() <= limit, || {
                format!(
                    "{} on {} was to end at {}, and is there until {}",
                    conn.name,
                    conn.node,
                    token.ends,
                    conn.closed()
                )
            });
        }
        for (_, code, at) in &conn.closes {
            if *code != Some(TOKEN_ENDED) {
                continue;
            }
            let ended = at + EARLY >= token.ends || token.session && index.forgets;
            verdict.expect(ended, || {
                format!(
                    "{} on {} ended by its token at {at}, which was to end at {}",
                    conn.name, conn.node, token.ends
                )
            });
        }
    }
    verdict
}
