//! Histories in which connections are in a topic, and follow its log.

use super::{Change, History, NODE, kept, push, recv, resume, resync};
use crate::history::{Event, Inbox, SECOND, TOPICS};

pub(super) const TOPIC: &str = TOPICS[0];

pub(super) const ALLOWED: &[(&str, Change)] = &[
    ("messages to a topic", enrol),
    ("a loss that a topic's member was told of", |history| {
        enrol(history);
        history.unheard("t1");
        let told = resync("a1", Some(TOPIC), 8 * SECOND);
        history.events.push(told);
    }),
    ("a push to a topic before the subscription", |history| {
        enrol(history);
        history.pushes.push(push("t0", 4, TOPIC, 6 * SECOND));
        history.count("pushes_total{status=\"routed\"}", 6.0);
    }),
    ("a topic's kept message that comes later", come_back),
    (
        "a topic's kept message that was erased before it was told so",
        |history| {
            erase(history);
            history
                .events
                .push(resync("d7r2", Some(TOPIC), 13 * SECOND));
        },
    ),
    ("the last messages of a topic come first", come_in),
    (
        "a batch to a topic and a user, the later first",
        |history| {
            enrol(history);
            let beside = push("m5", 4, "a", 7 * SECOND);
            history.pushes.push(beside);
            history.events.push(recv("a1", "m5", "a", 8 * SECOND));
            history.count("pushes_total{status=\"routed\"}", 6.0);
            history.wrote(6.0);
        },
    ),
];

pub(super) const PLANTED: &[(&str, &str, Change)] = &[
    (
        "H1",
        "a topic's message reaches who is not in it",
        |history| {
            enrol(history);
            history.events.push(recv("p1", "t1", TOPIC, 8 * SECOND));
            history.wrote(7.0);
        },
    ),
    (
        "H3",
        "a topic's message behind a later one to a user",
        |history| {
            enrol(history);
            history.pushes.push(push("m5", 6, "a", 8 * SECOND));
            let early = recv("a1", "m5", "a", 9 * SECOND);
            history.events.insert(3, early);
            history.count("pushes_total{status=\"routed\"}", 6.0);
            history.wrote(6.0);
        },
    ),
    ("H5", "a topic's message is missing", |history| {
        enrol(history);
        history.unheard("t1");
    }),
    ("H5", "another topic's resync is no sign", |history| {
        enrol(history);
        history.unheard("t1");
        let told = resync("a1", Some(TOPICS[1]), 8 * SECOND);
        history.events.push(told);
    }),
    ("H7", "a topic's row counts who has left", |history| {
        enrol(history);
        let row = [(NODE.to_owned(), 2)];
        history.topics.insert(TOPIC.to_owned(), row.into());
    }),
    ("H7", "a topic's row outlives its members", |history| {
        let row = [(NODE.to_owned(), 1)];
        history.topics.insert(TOPIC.to_owned(), row.into());
    }),
    ("H11", "a topic's kept message missed for ever", |history| {
        come_back(history);
        history.unheard("t2");
    }),
    ("H11", "a claim that nothing erased is missing", |history| {
        erase(history);
        history
            .events
            .push(resync("d7r2", Some(TOPIC), 13 * SECOND + 10));
    }),
    ("H11", "a topic's kept message again", |history| {
        come_back(history);
        history.events.push(kept("d7r1", "t2", TOPIC, 9 * SECOND));
    }),
    ("H11", "one that enters lacks the newest", |history| {
        come_in(history);
        history.unheard("e3");
    }),
    ("H11", "one that enters gets too many", |history| {
        come_in(history);
        let more = kept("a1", "e1", TOPIC, 6 * SECOND + 550);
        let second = |event: &Event| matches!(event, Event::Recv { id, .. } if id == "e2");
        let place = history.events.iter().position(second);
        history.events.insert(place.unwrap_or_default(), more);
        history.wrote(7.0);
    }),
];

pub(super) fn subscribed(conn: &str, inbox: Inbox, at: u64) -> Event {
    Event::Subscribed {
        last: None,
        conn: conn.to_owned(),
        topic: TOPIC.to_owned(),
        inbox,
        at,
    }
}

/// They may get the topic's messages.
pub(super) fn admit(history: &mut History, members: &[&str]) {
    for event in &mut history.events {
        if let Event::Open { conn, topics, .. } = event
            && members.contains(&&**conn)
        {
            topics.push(TOPIC.to_owned());
        }
    }
    let row = [(NODE.to_owned(), 1)];
    history.topics.insert(TOPIC.to_owned(), row.into());
}

/// A message to the topic, which one connection is in.
pub(super) fn enrol(history: &mut History) {
    admit(history, &["a1"]);
    history.pushes.push(push("t1", 5, TOPIC, 7 * SECOND));
    history.events.extend([
        subscribed("a1", Inbox::Unknown, 6 * SECOND + 500),
        recv("a1", "t1", TOPIC, 7 * SECOND + 500),
    ]);
    history.count("pushes_total{status=\"routed\"}", 5.0);
    history.wrote(5.0);
}

/// One enters the topic and asks for the last two of three messages of its log.
pub(super) fn come_in(history: &mut History) {
    admit(history, &["a1"]);
    for (id, seq) in [("e1", 5), ("e2", 6), ("e3", 7)] {
        let mut push = push(id, seq, TOPIC, (seq - 3) * SECOND);
        push.kept = true;
        for status in [&mut push.status, &mut push.parts[0].status] {
            "stored".clone_into(status);
        }
        history.pushes.push(push);
    }
    let mut entered = subscribed("a1", Inbox::Begins("d9".to_owned()), 6 * SECOND + 500);
    if let Event::Subscribed { last, .. } = &mut entered {
        *last = Some(2);
    }
    history.events.push(entered);
    for (id, at) in [("e2", 600), ("e3", 700)] {
        history.events.push(kept("a1", id, TOPIC, 6 * SECOND + at));
    }
    history.count("pushes_total{status=\"stored\"}", 3.0);
    history.wrote(6.0);
}

/// A device comes back to the topic with the token it saw last; one is kept for it, which it gets only then.
/// As [`come_back`], but the message is erased while the device is away.
fn erase(history: &mut History) {
    come_back(history);
    history.unheard("t2");
    history.events.push(Event::Erased {
        topic: TOPIC.to_owned(),
        id: Some("t2".to_owned()),
        at: 9 * SECOND,
        until: 9 * SECOND + 10,
        is_done: true,
    });
}

fn come_back(history: &mut History) {
    resume(history);
    admit(history, &["d7r1", "d7r2"]);
    let mut missed = push("t2", 7, TOPIC, 8 * SECOND);
    missed.kept = true;
    history.pushes.push(missed);
    let device = || "d7".to_owned();
    history.events.extend([
        subscribed("d7r1", Inbox::Begins(device()), 2 * SECOND),
        subscribed("d7r2", Inbox::Continues(device()), 13 * SECOND),
        kept("d7r2", "t2", TOPIC, 14 * SECOND),
    ]);
    history.count("pushes_total{status=\"routed\"}", 7.0);
}
