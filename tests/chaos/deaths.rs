//! H17: what is promised of nodes that die or vanish. A part of the checker, as pure as that.

use std::collections::BTreeMap;

use crate::checker::Verdict;
use crate::history::{Event, Micros, Push, SECOND};
use crate::index::{Conn, Index};

/// A dead node's users are free within 20 s; a busy machine takes a little longer.
pub(crate) const FREE: Micros = (20 + 3) * SECOND;
/// Redis knows after this that nothing listens any more, and a node that a client is gone.
const CLOSED: Micros = SECOND / 2;
/// A client hears that it is in so soon after its row is there.
const COMING: Micros = SECOND / 2;
/// A push that took as long has waited for its own deadline.
const WAITED: Micros = SECOND * 9 / 10;
/// Calls through one node that may wait for a dead one: the first, and one more if the node was
/// heard of once more after its death. All pushes of a batch are answered together, so they count
/// as one.
const FIRST: usize = 2;
/// What a push is told that has waited for a node in vain.
const WAITED_IN_VAIN: &str = "a node in the row does not listen";
/// What a push is told that has waited for Redis.
const REDIS_IS_LATE: &str = "no answer from Redis in time";

/// No push is taken by a node that vanished, or for users who are only there, and of the calls that
/// meet a dead one only the first wait for it.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for event in index.events {
        let Event::Fault {
            kind,
            node: Some(node),
            at,
            until,
        } = event
        else {
            continue;
        };
        let during = |from: Micros| {
            let pushes = index.messages.values().flatten();
            pushes.filter(move |push| {
                at + from <= push.sent && push.answered < *until && push.via != *node
            })
        };
        match &**kind {
            "node-freeze" => {
                let mut thaws = index.thaws.iter();
                let thaw = thaws.find(|(whom, thaw)| whom == node && at <= thaw);
                // From then on it may write its rows again, and take what still waits for it.
                let until = thaw.map_or(*until, |(_, thaw)| *until.min(thaw));
                let pushes = during(FREE).filter(|push| push.answered < until);
                // Redis counts a node that vanished among the listeners of all nodes.
                for push in pushes.filter(|push| !push.everywhere) {
                    let is_taken = taken(index, push, node, *at);
                    verdict.expect(!is_taken, || {
                        format!("{} was taken for {node}, which vanished at {at}", push.id)
                    });
                }
            }
            "node-kill" => {
                let mut calls: BTreeMap<(&str, &str, Micros), Vec<&Push>> = BTreeMap::new();
                // Nodes have a dot in their ids. A publisher over Redis asks none, and how long it
                // tries is its own affair.
                for push in during(CLOSED).filter(|push| push.via.contains('.')) {
                    let call = (&*push.via, &*push.by, push.sent);
                    calls.entry(call).or_default().push(push);
                }
                let mut waited: BTreeMap<&str, usize> = BTreeMap::new();
                for ((via, ..), pushes) in calls {
                    let has_waited = pushes.iter().any(|push| has_waited(push, pushes.len()));
                    *waited.entry(via).or_default() += usize::from(has_waited);
                }
                for (via, waited) in waited {
                    verdict.expect(waited <= FIRST, || {
                        format!("{waited} calls through {via} waited for {node}, dead at {at}")
                    });
                }
            }
            _ => {}
        }
    }
    verdict
}

/// Whether it has waited for a dead node, in a call of so many pushes. The others of a batch may wait
/// for one that is not acknowledged; then each says why it was not routed itself.
fn has_waited(push: &Push, pushes: usize) -> bool {
    let waits = match push.reason.as_deref() {
        // Even if connections on other nodes got it.
        Some(WAITED_IN_VAIN) => true,
        Some(REDIS_IS_LATE) => false,
        _ => pushes == 1 && push.status == "unrouted",
    };
    waits && push.answered - push.sent >= WAITED
}

/// Whether it was taken by this node, or for a user all of whose connections are there since before
/// it vanished.
fn taken(index: &Index<'_>, push: &Push, node: &str, vanished: Micros) -> bool {
    // A publisher over Redis knows which nodes took it. One that asks a node does not.
    if !push.nodes.is_empty() {
        return push.nodes.iter().any(|one| one == node);
    }
    push.parts.iter().any(|part| {
        let conns = index.conns.values();
        let conns = conns.filter(|conn| conn.user == part.user && is_known(conn, push));
        let mut conns = conns.peekable();
        let words = ["routed", "written", "acked"];
        words.contains(&&*part.status)
            && conns.peek().is_some()
            && conns.all(|conn| conn.node == node && conn.opened < vanished)
    })
}

/// Whether a node may have known this connection while the push was under way. It does before the
/// client has heard so, as what came meanwhile proves, and until it has heard of the end.
fn is_known(conn: &Conn<'_>, push: &Push) -> bool {
    let mut recvs = conn.recvs.iter();
    // What is kept comes to later ones, too.
    let is_coming = !push.kept || conn.opened < push.answered + COMING;
    conn.opened < push.answered && push.sent < conn.closed().saturating_add(CLOSED)
        || is_coming && recvs.any(|recv| recv.id == push.id && push.sent <= recv.at)
}
