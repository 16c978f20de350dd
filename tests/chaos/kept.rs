//! H11: what is promised of kept messages. A part of the checker, as pure as that.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::checker::{Verdict, WINDOW};
use crate::history::{Event, HUNG_UP, Inbox, Micros, Part, Push};
use crate::index::{Conn, Index, Recv, Seat};

/// Connections of a device that follow one inbox or log, with their seats in it.
type Chain<'a> = Vec<(&'a Conn<'a>, &'a Seat<'a>)>;

/// A device that follows its user's inbox, or a topic's log, over its connections: from the one that
/// begins to the last that continues, each kept message comes once and in order, and none is missing
/// that had time to come. What Redis lost with everything else may be, if it was told, and so may what
/// Sentinels left behind when they turned to another server by themselves.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut chains: BTreeMap<(&str, &str), Chain<'_>> = BTreeMap::new();
    let mut conns: Vec<&Conn<'_>> = index.conns.values().collect();
    conns.sort_by_key(|conn| conn.opened);
    for (conn, seat) in conns
        .into_iter()
        .flat_map(|conn| conn.seats.iter().map(move |seat| (conn, seat)))
    {
        let link = (conn, seat);
        match seat.inbox {
            Inbox::Unknown => {}
            Inbox::Begins(device) => {
                if let Some(chain) = chains.insert((device, seat.of), vec![link]) {
                    once_in_order(index, seat.of, &chain, &mut verdict);
                    all_there(index, device, seat.of, &chain, &mut verdict);
                }
            }
            Inbox::Continues(device) => {
                chains.entry((device, seat.of)).or_default().push(link);
            }
        }
    }
    for ((device, of), chain) in &chains {
        once_in_order(index, of, chain, &mut verdict);
        all_there(index, device, of, chain, &mut verdict);
    }
    for conn in index.conns.values() {
        for seat in &conn.seats {
            if let Some(last) = seat.last {
                entered(index, conn, seat, usize::from(last), &mut verdict);
            }
        }
    }
    for event in index.events {
        if let Event::Stored { id, times, at } = event {
            stored_once(index, id, *times, *at, &mut verdict);
        }
    }
    verdict
}

/// However often it was sent under its id, and wherever: it is kept once and comes once.
fn stored_once(index: &Index<'_>, id: &str, times: u64, at: u64, verdict: &mut Verdict) {
    verdict.expect(times <= 1, || {
        format!("the kept {id} stands {times} times in its inbox at {at}")
    });
    for conn in index.conns.values() {
        let count = conn.recvs.iter().filter(|recv| recv.id == id).count();
        verdict.expect(count <= 1, || {
            format!("{} got the kept {id} {count} times", conn.name)
        });
    }
}

/// One that came to a topic for the first time was told that it gets the last messages of its log: no
/// more than it asked for, fewer only if there are no more, and from the first it gets on all of them.
/// That none comes twice holds of it as of others. What Sentinels left behind by themselves is not in
/// the log any more.
fn entered(
    index: &Index<'_>,
    conn: &Conn<'_>,
    seat: &Seat<'_>,
    last: usize,
    verdict: &mut Verdict,
) {
    if index.forgets {
        return;
    }
    let end = conn.closed().min(seat.leaving);
    let in_time = |at: Micros| (seat.asked..=seat.left).contains(&at);
    let got = conn.recvs.iter().filter(|recv| in_time(recv.at));
    let got: HashMap<&str, Micros> = got
        .filter(|recv| recv.kept && recv.log(conn.user) == seat.of)
        .map(|recv| (recv.id, recv.at))
        .collect();
    // What certainly is in the log, once, by each publisher and node in the order of their numbers.
    let mut sources: HashMap<(&str, &str), Vec<&Push>> = HashMap::new();
    for attempts in index.messages.values() {
        let [push] = attempts.as_slice() else {
            continue;
        };
        let part = push.parts.iter().find(|part| part.user == seat.of);
        let is_stored = part
            .is_some_and(|part| matches!(&*part.status, "routed" | "written" | "acked" | "stored"));
        let is_there = is_stored && !index.is_erased(seat.of, push);
        if push.kept && is_there && push.reason.is_none() {
            let source = sources.entry((&push.by, &push.via));
            source.or_default().push(push);
        }
    }
    let known = sources.values().flatten();
    let before = known.filter(|push| push.answered < seat.asked && got.contains_key(&*push.id));
    let before = before.count();
    verdict.expect(before <= last, || {
        format!(
            "{} got {before} messages of {} that were there, not {last}",
            conn.name, seat.of
        )
    });
    let replayed = index
        .messages
        .iter()
        .filter(|(id, attempts)| attempts[0].sent < seat.since && got.contains_key(**id));
    let is_all = replayed.count() < last;
    for pushes in sources.values_mut() {
        pushes.sort_by_key(|push| push.seq);
        let first = pushes.iter().position(|push| got.contains_key(&*push.id));
        let from = match is_all {
            true => 0,
            false => first.unwrap_or(pushes.len()),
        };
        let latest = pushes.iter().rposition(|push| got.contains_key(&*push.id));
        for (place, push) in pushes.iter().enumerate().skip(from) {
            let limit = index.after(conn.node, push.answered.max(seat.since), WINDOW);
            // A later one came, or it had time enough.
            let is_passed = latest.is_some_and(|latest| place < latest);
            let is_due = is_passed || limit < end.min(index.end);
            if push.sent >= seat.since || !is_due {
                continue;
            }
            let later = latest.filter(|_| is_passed);
            let later = later.and_then(|latest| got.get(&*pushes[latest].id));
            if index.was_left_behind(push, later.copied().unwrap_or(limit)) {
                continue;
            }
            let is_told = conn.told(seat.of, push.sent, limit);
            verdict.expect(got.contains_key(&*push.id) || is_told, || {
                format!(
                    "{} entered {} at {} with the last {last} and never got {}, answered at {}",
                    conn.name, seat.of, seat.asked, push.id, push.answered
                )
            });
        }
    }
}

fn once_in_order(index: &Index<'_>, of: &str, chain: &Chain<'_>, verdict: &mut Verdict) {
    let mut seen = HashSet::new();
    let mut last: HashMap<(&str, &str), u64> = HashMap::new();
    for (conn, seat) in chain {
        // A connection that left a topic and came back to it has two seats.
        let ours = |recv: &&Recv<'_>| {
            let while_in = (seat.asked..=seat.left).contains(&recv.at);
            recv.kept && recv.log(conn.user) == of && while_in
        };
        for Recv { id, at, .. } in conn.recvs.iter().filter(ours) {
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
            let has_order = !matches!(&*push.status, "unknown" | HUNG_UP);
            verdict.expect(ordered || !has_order, || {
                format!(
                    "{} got the kept {id} after number {before:?} at {at}",
                    conn.name
                )
            });
        }
    }
}

/// None is missing of what had time to come on one of the connections: each of them, but the first,
/// was told that it missed nothing.
fn all_there(index: &Index<'_>, device: &str, of: &str, chain: &Chain<'_>, verdict: &mut Verdict) {
    // One that came while Redis was away has no token at first, and gets them with its messages.
    let ours = |conn: &&Conn<'_>| {
        conn.name
            .split_once('r')
            .is_some_and(|(one, _)| one == device)
    };
    let ids = index.conns.values().filter(ours);
    let mut heard: HashSet<&str> = ids.flat_map(|conn| &conn.ids).copied().collect();
    // What it has published itself comes to its other connections alone.
    let authored = |push: &&&Push| {
        let author = push.author.as_deref().and_then(|name| name.split_once('r'));
        author.is_some_and(|(one, _)| one == device)
    };
    let pushes = index.messages.values().flatten();
    heard.extend(pushes.filter(authored).map(|push| &*push.id));
    let (from, Conn { name, node, .. }) = (chain[0].1.since, chain[chain.len() - 1].0);
    for (id, attempts) in &index.messages {
        let (first, last) = (attempts[0], attempts[attempts.len() - 1]);
        let ours = |part: &&Part| part.user == of;
        let Some(part) = last.parts.iter().find(ours) else {
            continue;
        };
        let stored = matches!(
            &*part.status,
            "routed" | "written" | "acked" | "stored" | HUNG_UP
        );
        if !first.kept || !stored || last.reason.is_some() || first.sent <= from {
            continue;
        }
        // To be told later is not enough for one that was told that it missed nothing.
        let mut claims = chain.iter().skip(1).map(|(_, seat)| seat);
        let claim = claims.find(|seat| index.was_erased(of, last, seat.asked));
        if let Some(seat) = claim {
            let is_told = |(conn, _): &(&Conn<'_>, _)| conn.told(of, first.sent, seat.since);
            verdict.expect(heard.contains(id) || chain.iter().any(is_told), || {
                format!(
                    "{name} was told at {} that it missed nothing of {of}, but lacks {id}, erased",
                    seat.since
                )
            });
        }
        // The first connection that stayed long enough to get it.
        let limits = chain.iter().filter_map(|(conn, seat)| {
            let limit = index.after(node, last.answered.max(seat.since), WINDOW);
            (limit < conn.closed().min(seat.leaving)).then_some(limit)
        });
        let Some(limit) = limits.min() else { continue };
        let limit = limit.min(index.end);
        let resynced = chain
            .iter()
            .any(|(conn, _)| conn.told(of, first.sent, limit));
        let is_lost = index.forgets || index.was_left_behind(last, limit);
        let may_lack = is_lost || index.is_erased(of, last);
        verdict.expect(heard.contains(id) || may_lack && resynced, || {
            format!(
                "{name} and those before it never got the kept {id} to {of}, sent {}, answered {}",
                first.sent, part.status
            )
        });
    }
}
