use super::*;

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

fn topic(name: &str) -> Subject {
    Subject::Topic(name.parse().unwrap())
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn trace(entries: usize) -> Trace {
    Trace::new(node("a.1"), entries)
}

fn to(name: &str) -> Subject {
    Subject::User(user(name))
}

fn verdict_on(trace: &Trace, id: &str) -> String {
    verdict(id, &trace.collect(&user("42"), Some(id)).events, &[])
}

#[test]
fn the_oldest_go_first_and_only_so_many_stay() {
    let trace = trace(STRIPES * 3);
    for fd in 1..=5 {
        trace.connected(&user("42"), Fd(fd), None);
    }
    let known = trace.collect(&user("42"), None);
    let fds = known.events.iter().map(|event| match event.what {
        What::Connected { fd, .. } => fd,
        _ => panic!("{event:?}"),
    });
    assert_eq!(fds.collect::<Vec<_>>(), [3, 4, 5]);
    assert!(known.since.is_some());
}

#[test]
fn an_answer_is_bounded_and_says_from_when_on_it_is_whole() {
    let trace = trace(STRIPES * 2_000);
    for fd in 1..=1_500 {
        trace.connected(&user("42"), Fd(fd), Some(&"d".repeat(64).into()));
    }
    let known = trace.collect(&user("42"), None);
    assert_eq!(known.events.len(), MOST_SHOWN);
    assert_eq!(known.since, Some(known.events[0].at));
    let text = serde_json::to_string(&known).unwrap();
    assert!(
        text.len() < crate::protocol::MAX_ANSWER_BYTES,
        "{}",
        text.len()
    );
}

#[test]
fn nothing_is_kept_where_nothing_is_traced() {
    let trace = trace(0);
    trace.connected(&user("42"), Fd(1), None);
    assert_eq!(trace.collect(&user("42"), None), Known::default());
}

#[test]
fn what_is_delivered_leaves_no_entry() {
    let trace = trace(1000);
    for status in [Status::Routed, Status::Written, Status::Acked] {
        trace.pushed(&to("42"), Some("m"), status, None);
        trace.pushed_elsewhere(&Target::All, Some("m"), status, None);
    }
    trace.caught_up(&user("42"), Fd(1), 0, true);
    trace.dropped(Some(&user("42")), Fd(1), None, "slow", 0);
    assert_eq!(trace.collect(&user("42"), None), Known::default());
}

#[test]
fn a_user_is_told_of_itself_and_of_what_concerns_all() {
    let trace = trace(1000);
    for name in ["42", "43"] {
        trace.pushed(&to(name), Some(name), Status::Offline, None);
    }
    trace.pushed_elsewhere(&Target::All, Some("all"), Status::Unrouted, None);
    trace.lost("lag");
    trace.pushed(&topic("room"), Some("t"), Status::Offline, None);
    trace.dropped(None, Fd(1), Some("n"), "gone", 1);
    let count = |id| trace.collect(&user("42"), id).events.len();
    assert_eq!(count(None), 3);
    assert_eq!(count(Some("42")), 2, "the push and the loss");
    assert_eq!(count(Some("t")), 2, "of a topic, by its id");
    assert_eq!(
        count(Some("n")),
        2,
        "of a connection that had gone, by its id"
    );
}

#[test]
fn an_event_reads_back_as_it_was_written() {
    let trace = trace(1000);
    trace.connected(&user("42"), Fd(1), Some(&"phone".into()));
    trace.closed(&user("42"), Fd(1), CloseReason::Slow, None);
    trace.pushed(&to("42"), Some("m"), Status::Unrouted, Some("why"));
    trace.pushed(&topic("room"), Some("m"), Status::Stored, None);
    trace.arrived(&Target::All, Some("m"), TraceOutcome::Duplicate);
    trace.dropped(Some(&user("42")), Fd(1), Some("m"), "slow", 1);
    trace.lost("lag");
    trace.caught_up(&user("42"), Fd(1), 3, false);
    let known = trace.collect(&user("42"), Some("m"));
    assert_eq!(known.events.len(), 8, "{known:?}");
    let text = serde_json::to_string(&known).unwrap();
    assert_eq!(serde_json::from_str::<Known>(&text).unwrap(), known);
}

#[test]
fn why_it_was_dropped_is_said_for_each_connection() {
    let trace = trace(1000);
    trace.dropped(Some(&user("42")), Fd(7), Some("m"), "slow", 1);
    trace.dropped(Some(&user("42")), Fd(8), Some("m"), "replaced", 1);
    assert_eq!(
        verdict_on(&trace, "m"),
        "dropped for a.1/7: its queue was full; dropped for a.1/8: a newer message of the same \
         key came before it was sent"
    );
}

#[test]
fn what_was_done_on_arrival_is_said() {
    let trace = trace(1000);
    for (id, outcome, words) in [
        (
            "d",
            TraceOutcome::Duplicate,
            "dropped on a.1: this id was seen",
        ),
        ("l", TraceOutcome::LeftOut, "left out on a.1: except named"),
        ("s", TraceOutcome::Stale, "came too late: no client"),
    ] {
        let to = Target::Users(vec![user("41"), user("42")]);
        trace.arrived(&to, Some(id), outcome);
        assert!(verdict_on(&trace, id).starts_with(words), "{id}");
    }
}

#[test]
fn what_its_sender_was_told_is_said() {
    let trace = trace(1000);
    let push = |to: Subject, id, status, why| trace.pushed(&to, Some(id), status, why);
    push(to("42"), "early", Status::Offline, None);
    trace.connected(&user("42"), Fd(1), None);
    trace.closed(&user("42"), Fd(1), CloseReason::Heartbeat, None);
    push(to("42"), "o", Status::Offline, None);
    push(to("42"), "s", Status::Stored, None);
    push(to("42"), "u", Status::Unrouted, Some("Redis is away"));
    push(to("42"), "p", Status::Routed, Some("Redis is away"));
    push(topic("room"), "t", Status::Offline, None);
    push(topic("room"), "k", Status::Stored, None);
    for (id, words) in [
        (
            "early",
            "the user was offline: no connection is known before",
        ),
        ("o", "the user was offline: no connection from "),
        ("s", "stored in the inbox: no connection from "),
        ("u", "not routed, and its sender was told: Redis is away"),
        (
            "p",
            "routed, but not to all nodes, and its sender was told: Redis is away",
        ),
        ("t", "no client was in the topic room"),
        ("k", "kept, while no client was in the topic room"),
    ] {
        assert!(verdict_on(&trace, id).starts_with(words), "{id}");
    }
}

#[test]
fn where_nothing_names_it_the_suspects_are_named() {
    let trace = trace(1000);
    let plain = "no node that answered knows that anything went wrong with it: ";
    let words = verdict_on(&trace, "m");
    assert!(
        words.starts_with(plain) && words.ends_with("never came"),
        "{words}"
    );
    trace.dropped(Some(&user("42")), Fd(7), None, "heartbeat", 3);
    trace.lost("sequence");
    let words = verdict_on(&trace, "m");
    assert!(
        words.contains("3 messages for a.1/7 were thrown away at "),
        "{words}"
    );
    assert!(words.contains("a.1 noticed a loss at "), "{words}");
    let words = verdict("m", &[], &[node("b.2")]);
    assert!(words.ends_with("for want of an answer: b.2"), "{words}");
}

#[test]
fn a_push_that_also_went_where_the_user_had_been_did_not_come_too_late() {
    let (here, there) = (trace(100), Trace::new(node("b.1"), 100));
    let target: Target = to("42").into();
    here.sent_astray(&to("42"), Some("m"), &node("b.1"));
    there.arrived(&target, Some("m"), TraceOutcome::Stale);
    let events = |id| {
        let known = [&here, &there].map(|trace| trace.collect(&user("42"), Some(id)).events);
        known.concat()
    };
    let words = verdict("m", &events("m"), &[]);
    assert!(words.starts_with("no node that answered knows"), "{words}");
    // Where it went by the row, it did.
    there.arrived(&target, Some("n"), TraceOutcome::Stale);
    let words = verdict("n", &events("n"), &[]);
    assert!(words.starts_with("came too late"), "{words}");
    here.pushed(&to("42"), Some("m"), Status::Offline, None);
    let words = verdict("m", &events("m"), &[]);
    assert!(words.starts_with("the user was offline"), "{words}");
}
