//! H11: what is promised of kept messages. A part of the checker, as pure as that.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::checker::{Verdict, WINDOW};
use crate::history::{Inbox, Micros, Part};
use crate::index::{Conn, Index, Recv};

/// A device that follows its user's inbox over its connections: from the one that begins to the
/// last that continues, each kept message comes once and in order; and if it is there to the end,
/// none is missing. What Redis lost with everything else may be, if it was told.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut chains: BTreeMap<&str, Vec<&Conn<'_>>> = BTreeMap::new();
    let mut conns: Vec<&Conn<'_>> = index.conns.values().collect();
    conns.sort_by_key(|conn| conn.opened);
    for conn in conns {
        match conn.inbox {
            Inbox::Unknown => {}
            Inbox::Begins(device) => {
                if let Some(chain) = chains.insert(device, vec![conn]) {
                    once_in_order(index, &chain, &mut verdict);
                }
            }
            Inbox::Continues(device) => chains.entry(device).or_default().push(conn),
        }
    }
    for (device, chain) in &chains {
        once_in_order(index, chain, &mut verdict);
        if chain
            .last()
            .is_some_and(|conn| conn.closed() == Micros::MAX)
        {
            all_there(index, device, chain, &mut verdict);
        }
    }
    verdict
}

fn once_in_order(index: &Index<'_>, chain: &[&Conn<'_>], verdict: &mut Verdict) {
    let mut seen = HashSet::new();
    let mut last: HashMap<(&str, &str), u64> = HashMap::new();
    for conn in chain {
        for Recv { id, at, .. } in conn.recvs.iter().filter(|recv| recv.kept) {
            let attempts = index.messages.get(id);
            let repeated = attempts.is_some_and(|attempts| attempts.len() > 1);
            verdict.expect(seen.insert(*id) || repeated, || {
                format!("{} got the kept {id} again at {at}", conn.name)
            });
            let Some([push]) = index.messages.get(id).map(Vec::as_slice) else {
                continue;
            };
            let before = last.insert((&push.by, &push.via), push.seq);
            let ordered = before.is_none_or(|before| before < push.seq);
            verdict.expect(ordered || push.status == "unknown", || {
                format!(
                    "{} got the kept {id} after number {before:?} at {at}",
                    conn.name
                )
            });
        }
    }
}

fn all_there(index: &Index<'_>, device: &str, chain: &[&Conn<'_>], verdict: &mut Verdict) {
    // One that came while Redis was away has no token at first, and gets them with its messages.
    let ours = |conn: &&Conn<'_>| {
        conn.name
            .split_once('r')
            .is_some_and(|(one, _)| one == device)
    };
    let ids = index.conns.values().filter(ours);
    let heard: HashSet<&str> = ids.flat_map(|conn| &conn.ids).copied().collect();
    let (user, from) = (chain[0].user, chain[0].opened);
    for (id, attempts) in &index.messages {
        let (first, last) = (attempts[0], attempts[attempts.len() - 1]);
        let of_user = |part: &&Part| part.user == user;
        let Some(part) = last.parts.iter().find(of_user) else {
            continue;
        };
        let stored = matches!(&*part.status, "routed" | "written" | "acked" | "stored");
        if !first.kept || !stored || last.partial || first.sent <= from {
            continue;
        }
        let node = chain[chain.len() - 1].node;
        let limit = index.after(node, last.answered, WINDOW).min(index.end);
        let told = |at: &Micros| (first.sent..=limit).contains(at);
        let resynced = chain.iter().any(|conn| conn.resyncs.iter().any(told));
        verdict.expect(heard.contains(id) || index.forgets && resynced, || {
            let name = chain[chain.len() - 1].name;
            format!(
                "{name} and those before it never got the kept {id}, sent {}, answered {}",
                first.sent, part.status
            )
        });
    }
}
