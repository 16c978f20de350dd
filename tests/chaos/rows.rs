//! H15: what is promised of rows that somebody deletes. A part of the checker, as pure as that.

use std::collections::HashMap;

use crate::checker::Verdict;
use crate::history::{Event, Micros, SECOND};
use crate::index::Index;

/// All rows are compared within this time; a busy machine takes a little longer.
pub(crate) const ROUND: Micros = (30 + 5) * SECOND;

/// Whoever is still connected when a round is over is in the row again.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut back: HashMap<&str, Vec<Micros>> = HashMap::new();
    for event in index.events {
        if let Event::RowBack { conn, at } = event {
            back.entry(conn).or_default().push(*at);
        }
    }
    for event in index.events {
        let Event::RowsDeleted { conns, at, .. } = event else {
            continue;
        };
        for name in conns {
            let Some(conn) = index.conns.get(&**name) else {
                continue;
            };
            let limit = index.after(conn.node, *at, ROUND);
            let seen = back.get(&**name).into_iter().flatten();
            let seen = seen.copied().find(|seen| seen >= at);
            if seen.is_none() && limit > index.end {
                continue;
            }
            let holds = conn.closed() <= limit || seen.is_some_and(|seen| seen <= limit);
            verdict.expect(holds, || {
                format!(
                    "{name} of {} on {}: its row was deleted at {at}, and was back at {seen:?}",
                    conn.user, conn.node
                )
            });
        }
    }
    verdict
}
