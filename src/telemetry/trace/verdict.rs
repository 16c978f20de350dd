//! One plain sentence on what became of a message, from the events that are known of it.
//!
//! Events record only deviations. So the sentence says what they prove; if they prove nothing, it
//! says what may have dropped the message without naming it.

use crate::protocol::ids::NodeId;
use crate::protocol::outcome::Status;
use crate::telemetry::trace::{TraceEvent, TraceOutcome, What};

/// What became of the message with this id, for one user. `events` are what
/// [`Trace::collect`](crate::telemetry::trace::Trace::collect) returned on the nodes that were
/// asked; `missing` are the nodes that did not answer.
pub(crate) fn verdict(id: &str, events: &[TraceEvent], missing: &[NodeId]) -> String {
    let about = |event: &&TraceEvent| match &event.what {
        What::Pushed { id: theirs, .. }
        | What::Arrived { id: theirs, .. }
        | What::SentAstray { id: theirs, .. }
        | What::Dropped { id: theirs, .. } => theirs.as_deref() == Some(id),
        _ => false,
    };
    let mine: Vec<&TraceEvent> = events.iter().filter(about).collect();
    let proven = drops(&mine)
        .or_else(|| on_arrival(&mine))
        .or_else(|| on_push(events, &mine));
    match proven {
        Some(words) => words,
        None => unproven(events, missing),
    }
}

/// It was dropped for connections.
fn drops(mine: &[&TraceEvent]) -> Option<String> {
    let mut parts = Vec::new();
    for event in mine {
        if let What::Dropped { fd, reason, .. } = &event.what {
            let words = match &**reason {
                "slow" => "its queue was full",
                "replaced" => "a newer message of the same key came before it was sent",
                "gone" => "the connection ended first",
                other => other,
            };
            parts.push(format!("dropped for {}/{fd}: {words}", event.node));
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn on_arrival(mine: &[&TraceEvent]) -> Option<String> {
    // Sent to where the user had been, and after that to where it was.
    let went_astray = |node: &NodeId| {
        let mut events = mine.iter();
        events.any(|event| matches!(&event.what, What::SentAstray { to, .. } if to == node))
    };
    let outcomes = mine.iter().filter_map(|event| match &event.what {
        What::Arrived { outcome, .. }
            if !(*outcome == TraceOutcome::Stale && went_astray(&event.node)) =>
        {
            Some((*outcome, &event.node))
        }
        _ => None,
    });
    // A push that is repeated to one node only may be a part of one that another node took.
    let (outcome, node) = outcomes.min_by_key(|(outcome, _)| *outcome as u8)?;
    Some(match outcome {
        TraceOutcome::Duplicate => {
            format!("dropped on {node}: this id was seen for this target within a minute")
        }
        TraceOutcome::LeftOut => {
            format!("left out on {node}: except named the user or the connections")
        }
        TraceOutcome::Stale => {
            format!("came too late: no client it was for was on {node} any more")
        }
    })
}

/// Its sender was told that it did not arrive.
fn on_push(events: &[TraceEvent], mine: &[&TraceEvent]) -> Option<String> {
    let pushed = mine.iter().rev().find_map(|event| match &event.what {
        What::Pushed {
            status,
            reason,
            topic,
            ..
        } => Some((*event, *status, reason.as_deref(), topic.as_ref())),
        _ => None,
    });
    let (push, status, reason, topic) = pushed?;
    let reason = reason.unwrap_or("no way to a node");
    Some(match (status, topic) {
        (Status::Offline, Some(topic)) => format!("no client was in the topic {topic}"),
        (Status::Offline, None) => format!("the user was offline: {}", absence(events, push)),
        (Status::Stored, Some(topic)) => format!("kept, while no client was in the topic {topic}"),
        (Status::Stored, None) => format!("stored in the inbox: {}", absence(events, push)),
        (Status::Unrouted, _) => format!("not routed, and its sender was told: {reason}"),
        (Status::Duplicate, _) => {
            "dropped: this id was seen for this target within a minute".to_owned()
        }
        (Status::Stale, _) => {
            "came too late: the user was no longer on the node it was sent to".to_owned()
        }
        (Status::Routed | Status::Written | Status::Acked, _) => format!(
            "{}, but not to all nodes, and its sender was told: {reason}",
            status.as_str()
        ),
    })
}

/// No event names the message. What could have dropped it all the same?
fn unproven(events: &[TraceEvent], missing: &[NodeId]) -> String {
    let mut suspects = Vec::new();
    for TraceEvent { at, node, what } in events {
        match what {
            What::Dropped {
                fd,
                id: None,
                reason,
                messages,
            } => suspects.push(format!(
                "{messages} messages for {node}/{fd} were thrown away at {at} ({reason})"
            )),
            What::Lost { sign } => suspects.push(format!(
                "{node} noticed a loss at {at} ({sign}) and told its clients to resync"
            )),
            What::CaughtUp {
                fd,
                continuous: false,
                ..
            } => suspects.push(format!(
                "kept messages were gone before {node}/{fd} could read them at {at}"
            )),
            _ => {}
        }
    }
    let mut words = "no node that answered knows that anything went wrong with it: it was \
                     delivered, it waits for a client that takes nothing, or it never came"
        .to_owned();
    if !suspects.is_empty() {
        words += &format!("; but {}", suspects.join(", and "));
    }
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(NodeId::as_str).collect();
        words += &format!("; not asked, for want of an answer: {}", missing.join(", "));
    }
    words
}

/// The time in which the user had no connection, as far as the events around a push tell.
fn absence(events: &[TraceEvent], push: &TraceEvent) -> String {
    // By place: much happens in one millisecond.
    let here = events.iter().position(|event| std::ptr::eq(event, push));
    let (before, after) = events.split_at(here.unwrap_or(events.len()));
    let closed = before.iter().rev().find_map(|event| match &event.what {
        What::Closed { reason, .. } => Some((event.at, reason)),
        _ => None,
    });
    let is_back = |event: &&TraceEvent| matches!(event.what, What::Connected { .. });
    let back = after.iter().find(is_back).map(|event| event.at);
    let from = match closed {
        Some((from, reason)) => format!("no connection from {from} (closed: {reason})"),
        None => "no connection is known before".to_owned(),
    };
    match back {
        Some(until) => format!("{from} to {until}"),
        None => from,
    }
}
