//! One plain sentence on what became of a message, out of the events that are known of it.
//!
//! It says what the events prove and where to look if they do not tell.

use super::{Event, Outcome, What};
use crate::names::NodeId;
use crate::protocol::Status;
use crate::receipt::Fates;

/// How long after a push a sign of loss may be about it, in milliseconds.
const LOST_WITHIN: u64 = 10_000;

/// What became of the message with this id, for one user. `events` are those of
/// [`super::Trace::collect`], of one node or of several; `asked` are the nodes they come from.
#[must_use]
pub fn verdict(id: &str, events: &[Event], asked: &[NodeId]) -> String {
    let about = |event: &&Event| match &event.what {
        What::Pushed { id: theirs, .. } | What::Arrived { id: theirs, .. } => {
            theirs.as_deref() == Some(id)
        }
        _ => false,
    };
    let mine: Vec<&Event> = events.iter().filter(about).collect();
    let arrived = handed(&mine);
    if arrived.handed > 0 {
        return of_connections(&arrived);
    }
    let outcomes: Vec<(Outcome, bool)> = mine
        .iter()
        .filter_map(|event| match event.what {
            What::Arrived { outcome, all, .. } => Some((outcome, all)),
            _ => None,
        })
        .collect();
    let has = |wanted| outcomes.iter().any(|(outcome, _)| *outcome == wanted);
    if outcomes.contains(&(Outcome::Handed, true)) {
        let first = mine.first().map_or(0, |event| event.at);
        return match was_here(events, first) {
            Some(false) => "sent to everybody while the user had no connection here".to_owned(),
            _ => "sent to everybody here; not traced for each connection, so look for \
                  one that closed as slow"
                .to_owned(),
        };
    }
    if has(Outcome::Duplicate) {
        return "dropped: this id was seen for this target within a minute".to_owned();
    }
    if has(Outcome::LeftOut) {
        return "left out: except named the user or the connections".to_owned();
    }
    let pushed = mine.iter().rev().find_map(|event| match &event.what {
        What::Pushed {
            status,
            nodes,
            reason,
            ..
        } => Some((event.at, *status, nodes, reason.as_deref())),
        _ => None,
    });
    let Some((at, status, nodes, reason)) = pushed else {
        return if has(Outcome::Stale) {
            "came too late: the user was no longer on the node it was sent to".to_owned()
        } else {
            "nothing is known of it here: it was pushed through a node that was not asked, by way \
             of Redis to another, or too long ago"
                .to_owned()
        };
    };
    match status {
        Status::Offline => format!("the user was offline: {}", absence(events, at)),
        Status::Stored => format!("stored in the inbox: {}", absence(events, at)),
        Status::Unrouted => format!(
            "not routed, and its sender was told: {}",
            reason.unwrap_or("no way to the user's node")
        ),
        Status::Duplicate => "dropped: this id was seen for this target within a minute".to_owned(),
        Status::Stale => "came too late: the user was no longer on that node".to_owned(),
        Status::Routed | Status::Written | Status::Acked => {
            elsewhere(events, at, status, nodes, asked, has(Outcome::Stale))
        }
    }
}

/// All that is known of single connections, summed up.
fn handed(mine: &[&Event]) -> Fates {
    let mut all = Fates::default();
    for event in mine {
        if let What::Arrived {
            fates: Some(fates), ..
        } = &event.what
        {
            all.add(fates);
        }
    }
    all
}

fn of_connections(fates: &Fates) -> String {
    let mut parts = Vec::new();
    if fates.acked > 0 {
        parts.push(format!("acknowledged by {}", connections(fates.acked)));
    }
    if fates.written > fates.acked {
        parts.push(format!("delivered to {}", connections(fates.written)));
    }
    let waiting = fates.waiting();
    let others = [
        (fates.slow, "dropped: the queue was full"),
        (fates.replaced, "dropped: a newer one of its key came"),
        (fates.gone, "dropped: the connection ended first"),
        (fates.later, "left to the inbox, to be read from there"),
        (fates.old, "not sent again: the client had it"),
        (waiting, "waiting: the client has not taken it yet"),
    ];
    for (count, words) in others {
        match (count, fates.handed) {
            (0, _) => {}
            (_, 1) => parts.push(words.to_owned()),
            (count, _) => parts.push(format!("{words} ({})", connections(count))),
        }
    }
    parts.join("; ")
}

fn connections(count: u32) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{count} connection{many}")
}

/// It was routed, and no connection is known to have got it here.
fn elsewhere(
    events: &[Event],
    at: u64,
    status: Status,
    nodes: &[NodeId],
    asked: &[NodeId],
    is_stale: bool,
) -> String {
    if is_stale {
        return "came too late: the user was no longer on the node it was sent to".to_owned();
    }
    let others: Vec<&str> = nodes
        .iter()
        .filter(|node| !asked.contains(node))
        .map(NodeId::as_str)
        .collect();
    if !others.is_empty() {
        let (status, others) = (status.as_str(), others.join(", "));
        return format!("{status} to {others}, which can say more");
    }
    let is_loss = |event: &&Event| {
        matches!(event.what, What::Lost { .. }) && (at..at + LOST_WITHIN).contains(&event.at)
    };
    match events.iter().find(is_loss) {
        Some(Event { at, node, .. }) => {
            format!("lost on the way: {node} noticed a loss at {at} and told its clients to resync")
        }
        None => format!("{}, and nothing more is known of it", status.as_str()),
    }
}

/// Whether the user had a connection at this time, where the events tell.
fn was_here(events: &[Event], at: u64) -> Option<bool> {
    let (mut open, mut known) = (0_i32, false);
    for event in events.iter().filter(|event| event.at <= at) {
        match event.what {
            What::Connected { .. } => (open, known) = (open + 1, true),
            What::Closed { .. } => (open, known) = (open - 1, true),
            _ => {}
        }
    }
    known.then_some(open > 0)
}

/// From when until when the user had no connection, as far as the events tell.
fn absence(events: &[Event], at: u64) -> String {
    let closed = events.iter().rev().find_map(|event| match &event.what {
        What::Closed { reason, .. } if event.at <= at => Some((event.at, reason)),
        _ => None,
    });
    let back = events
        .iter()
        .find(|event| event.at >= at && matches!(event.what, What::Connected { .. }))
        .map(|event| event.at);
    let from = match closed {
        Some((from, reason)) => format!("no connection from {from} (closed: {reason})"),
        None => "no connection is known before".to_owned(),
    };
    match back {
        Some(until) => format!("{from} to {until}"),
        None => from,
    }
}
