//! H13: what is promised to those who watch a topic. A part of the checker, as pure as that.

use std::collections::BTreeSet;

use crate::checker::Verdict;
use crate::history::Event;
use crate::index::{Conn, Index};

/// After quiet, the lists and events that a watcher was told come to who is in the topic. One that
/// was told that it hears no more has nothing to be wrong.
pub(crate) fn check(index: &Index<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut times = index.events.iter().filter_map(|event| match event {
        Event::Registry { at, .. } => Some(*at),
        _ => None,
    });
    let Some(at) = times.next_back() else {
        return verdict;
    };
    let there = |topic: &str| -> BTreeSet<&str> {
        let conns = index.conns.values();
        let members = conns.filter(|conn| conn.is_in(topic, at));
        members.map(|conn| conn.user).collect()
    };
    for conn in index.conns.values() {
        for (topic, view) in &conn.watched {
            if let Some(view) = view.as_ref().filter(|_| conn.is_in(topic, at)) {
                let members = there(topic);
                verdict.expect(*view == members, || {
                    let missing: Vec<_> = members.difference(view).collect();
                    let more: Vec<_> = view.difference(&members).collect();
                    let Conn { name, node, .. } = conn;
                    format!("{name} on {node} watches {topic}: it misses {missing:?}, and was not told that {more:?} left")
                });
            }
        }
    }
    verdict
}
