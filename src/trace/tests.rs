use std::time::Duration;

use super::*;
use crate::protocol::Wait;

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn trace(entries: usize) -> Trace {
    Trace::new(node("a.1"), entries)
}

fn pushed(id: &str, status: Status, nodes: &[&str]) -> Pushed {
    Pushed {
        id: Some(id.into()),
        status,
        connections: nodes.len() as u32,
        nodes: nodes.iter().map(|name| node(name)).collect(),
        reason: None,
    }
}

fn verdict_on(trace: &Trace, id: &str) -> String {
    let events = trace.collect(&user("42"), Some(id));
    verdict(id, &events, &[node("a.1")])
}

#[test]
fn the_oldest_go_first_and_only_so_many_stay() {
    let trace = trace(STRIPES * 3);
    for fd in 1..=5 {
        trace.connected(&user("42"), Fd(fd), None);
    }
    let events = trace.collect(&user("42"), None);
    let fds = events.iter().map(|event| match event.what {
        What::Connected { fd, .. } => fd,
        _ => panic!("{event:?}"),
    });
    assert_eq!(fds.collect::<Vec<_>>(), [3, 4, 5]);
    assert!(trace.since(&user("42")).is_some());
}

#[test]
fn nothing_is_kept_where_nothing_is_traced() {
    let trace = trace(0);
    trace.connected(&user("42"), Fd(1), None);
    assert_eq!(trace.collect(&user("42"), None), []);
    assert!(trace.handing(None, None).receipt(&user("42")).is_none());
}

#[test]
fn a_user_is_told_of_itself_and_of_what_concerns_all() {
    let trace = trace(1000);
    for name in ["42", "43"] {
        trace.pushed(Some(&user(name)), || pushed(name, Status::Routed, &["a.1"]));
    }
    trace.pushed(None, || pushed("all", Status::Routed, &[]));
    trace.lost("lag");
    let events = trace.collect(&user("42"), None);
    assert_eq!(events.len(), 3, "{events:?}");
    let events = trace.collect(&user("42"), Some("42"));
    assert_eq!(events.len(), 2, "the push and the loss: {events:?}");
}

#[test]
fn an_event_reads_back_as_it_was_written() {
    let trace = trace(1000);
    trace.connected(&user("42"), Fd(1), Some(&"phone".into()));
    trace.closed(&user("42"), Fd(1), CloseReason::Slow);
    trace.pushed(Some(&user("42")), || pushed("m", Status::Written, &["b.2"]));
    drop(trace.handing(Some("m"), None).receipt(&user("42")));
    trace.arrived(&Target::User(user("42")), None, Outcome::Duplicate);
    trace.lost("lag");
    trace.caught_up(&user("42"), Fd(1), 3, false);
    let events = trace.collect(&user("42"), None);
    assert_eq!(events.len(), 7);
    let text = serde_json::to_string(&events).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Event>>(&text).unwrap(), events);
}

#[tokio::test(start_paused = true)]
async fn counting_settles_nobody_early_and_changes_no_receipt() {
    let trace = trace(1000);
    let (asked, waiter) = Receipt::new(Wait::Written);
    let mut handing = trace.handing(Some("m"), Some(&asked));
    for _ in 0..2 {
        handing.receipt(&user("42")).unwrap().written();
    }
    drop(handing);
    drop(asked);
    let far = tokio::time::Instant::now() + Duration::from_secs(3600);
    assert_eq!(waiter.settle(far).await, (Status::Written, 2));
    assert!(tokio::time::Instant::now() < far, "the trace holds it open");
    assert_eq!(verdict_on(&trace, "m"), "delivered to 2 connections");
}

#[test]
fn what_became_of_it_on_each_connection_is_said() {
    let trace = trace(1000);
    let mut handing = trace.handing(Some("m"), None);
    let mut receipt = || handing.receipt(&user("42")).unwrap();
    receipt().written();
    assert_eq!(verdict_on(&trace, "m"), "delivered to 1 connection");
    receipt().note(crate::receipt::Fate::Slow);
    assert_eq!(
        verdict_on(&trace, "m"),
        "delivered to 1 connection; dropped: the queue was full (1 connection)"
    );
    let waiting = trace.handing(Some("n"), None).receipt(&user("42"));
    assert_eq!(
        verdict_on(&trace, "n"),
        "waiting: the client has not taken it yet"
    );
    waiting.unwrap().note(crate::receipt::Fate::Gone);
    assert_eq!(
        verdict_on(&trace, "n"),
        "dropped: the connection ended first"
    );
}

#[test]
fn what_reached_nobody_is_explained() {
    let to = Target::User(user("42"));
    let says = |status, nodes: &[&str], outcome: Option<Outcome>| {
        let trace = trace(1000);
        trace.pushed(Some(&user("42")), || pushed("m", status, nodes));
        if let Some(outcome) = outcome {
            trace.arrived(&to, Some("m"), outcome);
        }
        verdict_on(&trace, "m")
    };
    for (status, nodes, outcome, words) in [
        (
            Status::Offline,
            &[][..],
            None,
            "the user was offline: no connection is known before",
        ),
        (
            Status::Stored,
            &[],
            None,
            "stored in the inbox: no connection is known before",
        ),
        (
            Status::Unrouted,
            &[],
            None,
            "not routed, and its sender was told: no way to the user's node",
        ),
        (
            Status::Routed,
            &["b.2", "c.3"],
            None,
            "routed to b.2, c.3, which can say more",
        ),
        (
            Status::Routed,
            &["a.1"],
            None,
            "routed, and nothing more is known of it",
        ),
        (
            Status::Duplicate,
            &[],
            None,
            "dropped: this id was seen for this target within a minute",
        ),
        (
            Status::Routed,
            &["a.1"],
            Some(Outcome::Duplicate),
            "dropped: this id was seen for this target within a minute",
        ),
        (
            Status::Routed,
            &["a.1"],
            Some(Outcome::LeftOut),
            "left out: except named the user or the connections",
        ),
        (
            Status::Routed,
            &["a.1"],
            Some(Outcome::Stale),
            "came too late: the user was no longer on the node it was sent to",
        ),
    ] {
        assert_eq!(says(status, nodes, outcome), words);
    }
    let unknown = verdict_on(&trace(1000), "m");
    assert!(unknown.starts_with("nothing is known of it"), "{unknown}");
}

#[test]
fn an_absence_is_told_from_when_until_when() {
    let at = |at, what| Event {
        at,
        node: node("a.1"),
        what,
    };
    let reason = "slow".to_owned();
    let push = What::Pushed {
        id: Some("m".to_owned()),
        status: Status::Offline,
        connections: 0,
        nodes: Vec::new(),
        reason: None,
        all: false,
    };
    let events = [
        at(
            1,
            What::Connected {
                fd: 1,
                device: None,
            },
        ),
        at(2, What::Closed { fd: 1, reason }),
        at(3, push),
        at(
            4,
            What::Connected {
                fd: 2,
                device: None,
            },
        ),
    ];
    assert_eq!(
        verdict("m", &events, &[node("a.1")]),
        "the user was offline: no connection from 2 (closed: slow) to 4"
    );
}

#[test]
fn a_message_lost_on_the_way_is_told_with_the_loss() {
    let trace = trace(1000);
    trace.pushed(Some(&user("42")), || pushed("m", Status::Routed, &["a.1"]));
    trace.lost("sequence");
    let words = verdict_on(&trace, "m");
    assert!(words.starts_with("lost on the way: a.1"), "{words}");
}
