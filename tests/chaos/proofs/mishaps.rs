//! Histories of rows that are deleted, and of senders that hang up, stall or repeat themselves.

use super::{Change, History, NODE, kept, push, recv};
use crate::history::{Event, HUNG_UP, SECOND};

pub(super) const ALLOWED: &[(&str, Change)] = &[
    ("a deleted row that comes back in time", |history| {
        delete(history);
        history.events.push(back(44 * SECOND));
    }),
    ("offline while a row is deleted", |history| {
        delete(history);
        history.events.push(back(44 * SECOND));
        deny(history, 20 * SECOND);
    }),
    ("a sender that hung up, and its push", hang_up),
    (
        "a push that its node had not read when it froze",
        |history| {
            late_behind_a_freeze(history, 4, "unknown");
        },
    ),
    (
        "a push that its node had half done when it froze",
        |history| {
            late_behind_a_freeze(history, 6, "unknown");
        },
    ),
    ("senders that misbehave and are treated well", |history| {
        history
            .events
            .extend([half_closed(true), stalled(Some(30)), asked_late(true)]);
    }),
    (
        "batches that meet a dead node, of which two wait",
        |history| {
            let (deaf, suspect) = ("a node in the row does not listen", "it is asked after");
            meet_dead(history, &[&[deaf; 5], &[deaf], &[suspect, suspect]]);
        },
    ),
    (
        "a kept push, repeated elsewhere and stored once",
        |history| {
            repeat(history);
            history.events.push(stored(1));
        },
    ),
];

pub(super) const PLANTED: &[(&str, &str, Change)] = &[
    ("H15", "a deleted row that comes back late", |history| {
        delete(history);
        history.events.push(back(60 * SECOND));
    }),
    ("H15", "a deleted row that does not come back", delete),
    ("H5", "offline after a deleted row was back", |history| {
        delete(history);
        history.events.push(back(15 * SECOND));
        deny(history, 20 * SECOND);
    }),
    ("H5", "a push that was lost with its sender", |history| {
        hang_up(history);
        history.unheard("m3");
    }),
    ("H17", "three calls that wait for a dead node", |history| {
        let deaf = "a node in the row does not listen";
        meet_dead(history, &[&[deaf], &[deaf, "it is asked after"], &[deaf]]);
    }),
    ("H17", "pushes that wait although another does", |history| {
        let suspect = "it is asked after";
        meet_dead(history, &[&[suspect], &[suspect], &[suspect]]);
    }),
    ("H17", "a push taken for a node that vanished", |history| {
        let push = &mut history.pushes[3];
        (push.sent, push.via) = (80 * SECOND, "n1.bbbbbbbbbbbb".to_owned());
        push.answered = push.sent + 1_000;
        let vanished = push.sent - 30 * SECOND;
        // No longer through the node whose counters are known.
        history.count("pushes_total{status=\"routed\"}", 3.0);
        history.unheard("m4");
        history
            .events
            .push(recv("p1", "m4", "p", 80 * SECOND + 500));
        history.events.push(Event::Fault {
            kind: "node-freeze".to_owned(),
            node: Some(NODE.to_owned()),
            at: vanished,
            until: vanished + 40 * SECOND,
        });
    }),
    (
        "H6",
        "a push that was late before its node froze",
        |history| {
            late_behind_a_freeze(history, 7, "routed");
        },
    ),
    ("H6", "a push without an answer, 31 s late", |history| {
        late_behind_a_freeze(history, 36, "unknown");
    }),
    ("H16", "a half-closed sender without an answer", |history| {
        history.events.push(half_closed(false));
    }),
    ("H16", "a door that was closed too early", |history| {
        history.events.push(asked_late(false));
    }),
    ("H16", "a sender that reads nothing and stays", |history| {
        history.events.push(stalled(None));
    }),
    ("H16", "a push that waits for a stalled sender", |history| {
        history.events.push(stalled(Some(30)));
        history.unheard("m4");
        history.pushes[3].sent = 25 * SECOND;
        history.pushes[3].answered = 33 * SECOND;
        history.pushes[3].status = "unknown".to_owned();
        history.pushes[3].parts[0].status = "unknown".to_owned();
        history.count("pushes_total{status=\"routed\"}", 3.0);
    }),
    ("H11", "a kept push that is stored twice", |history| {
        repeat(history);
        history.events.push(stored(2));
    }),
    ("H11", "a kept push that comes twice", |history| {
        repeat(history);
        history.events.push(kept("a1", "m3", "a", 9 * SECOND));
        history.events.push(stored(1));
        history.wrote(5.0);
    }),
];

/// A node dies, and calls through another one meet it. Each takes two seconds, with a push for each
/// of these reasons.
fn meet_dead(history: &mut History, calls: &[&[&str]]) {
    for (call, reasons) in calls.iter().enumerate() {
        for (i, reason) in reasons.iter().enumerate() {
            let mut push = push(&format!("x{call}-{i}"), i as u64 + 1, "x", 20 * SECOND);
            push.by = format!("x{call}");
            push.via = "n1.bbbbbbbbbbbb".to_owned();
            push.answered = push.sent + 2 * SECOND;
            push.status = "unrouted".to_owned();
            push.parts[0].status = "unrouted".to_owned();
            push.reason = Some((*reason).to_owned());
            history.pushes.push(push);
        }
    }
    history.events.push(Event::Fault {
        kind: "node-kill".to_owned(),
        node: Some("n2.cccccccccccc".to_owned()),
        at: 10 * SECOND,
        until: 40 * SECOND,
    });
}

/// The row of a connection is deleted.
fn delete(history: &mut History) {
    history.events.push(Event::RowsDeleted {
        conns: vec!["a1".to_owned()],
        topics: Vec::new(),
        at: 10 * SECOND,
    });
}

fn back(at: u64) -> Event {
    Event::RowBack {
        conn: "a1".to_owned(),
        at,
    }
}

/// The last message to `a` is sent at this time, does not come, and is answered `offline`.
fn deny(history: &mut History, at: u64) {
    history.unheard("m3");
    let push = &mut history.pushes[2];
    (push.sent, push.answered) = (at, at + 1_000);
    push.status = "offline".to_owned();
    push.parts[0].status = "offline".to_owned();
    history.count("pushes_total{status=\"routed\"}", 3.0);
    history.count("pushes_total{status=\"offline\"}", 1.0);
}

/// The sender of the last message to `a` closed after its request. Its node counts it all the same.
fn hang_up(history: &mut History) {
    history.pushes[2].status = HUNG_UP.to_owned();
    history.pushes[2].parts[0].status = HUNG_UP.to_owned();
}

/// The message to `p` goes at 5 s through another node, which freezes at this second for 35 s, and
/// comes 37 s later. Answered is it after one second, with this.
fn late_behind_a_freeze(history: &mut History, freezes: u64, status: &str) {
    history.unheard("m4");
    let push = &mut history.pushes[3];
    push.via = "n1.bbbbbbbbbbbb".to_owned();
    push.answered = push.sent + SECOND;
    push.status = status.to_owned();
    push.parts[0].status = status.to_owned();
    let at = freezes * SECOND;
    history.events.push(Event::Fault {
        kind: "node-freeze".to_owned(),
        node: Some(push.via.clone()),
        at,
        until: at + 35 * SECOND,
    });
    history.events.push(recv("p1", "m4", "p", 42 * SECOND));
    // No longer through the node whose counters are known.
    history.count("pushes_total{status=\"routed\"}", 3.0);
}

fn asked_late(is_answered: bool) -> Event {
    Event::AskedLate {
        node: NODE.to_owned(),
        is_answered,
        at: 20 * SECOND,
    }
}

fn half_closed(is_answered: bool) -> Event {
    Event::HalfClosed {
        id: "m3".to_owned(),
        node: NODE.to_owned(),
        is_answered,
        at: 20 * SECOND,
    }
}

fn stalled(ended: Option<u64>) -> Event {
    Event::Stalled {
        node: NODE.to_owned(),
        at: 20 * SECOND,
        ended: ended.map(|ended| ended * SECOND),
        until: 50 * SECOND,
    }
}

/// The last message to `a` is kept, and was sent again to another node.
fn repeat(history: &mut History) {
    history.pushes[2].kept = true;
    let mut again = history.pushes[2].clone();
    again.via = "n1.bbbbbbbbbbbb".to_owned();
    again.attempt = 2;
    history.pushes.push(again);
    history.unheard("m3");
    history.events.push(kept("a1", "m3", "a", 5 * SECOND));
}

fn stored(times: u64) -> Event {
    Event::Stored {
        id: "m3".to_owned(),
        times,
        at: 60 * SECOND,
    }
}
