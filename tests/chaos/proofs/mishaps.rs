//! Histories of rows that are deleted, and of senders that hang up, stall or repeat themselves.

use super::{Change, History, NODE, close, kept, push, recv};
use crate::history::{Cause, Event, HUNG_UP, Inbox, SECOND};
use crate::wires::Wire;

/// Another node, whose counters are not known.
const OTHER: &str = "n1.bbbbbbbbbbbb";

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
    ("a push that waited until its node went on", |history| {
        outlive_a_freeze(history);
        history.pushes[3].answered += SECOND;
        history.events.push(thaw(81));
    }),
    (
        "a push to a client that is just coming elsewhere",
        |history| {
            outlive_a_freeze(history);
            elsewhere(history, 80 * SECOND + 3_000, 90 * SECOND);
            history
                .events
                .push(recv("p2", "m4", "p", 80 * SECOND + 4_000));
        },
    ),
    (
        "a push to a client that has just left elsewhere",
        |history| {
            outlive_a_freeze(history);
            elsewhere(history, 60 * SECOND, 80 * SECOND - 1_000);
        },
    ),
    ("a push over Redis that another node took", |history| {
        outlive_a_freeze(history);
        let push = &mut history.pushes[3];
        push.via = "redis".to_owned();
        push.nodes = vec![OTHER.to_owned()];
    }),
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
        outlive_a_freeze(history);
    }),
    ("H17", "a push taken before the node goes on", |history| {
        outlive_a_freeze(history);
        history.events.push(thaw(81));
    }),
    (
        "H17",
        "a push taken for one who had left elsewhere",
        |history| {
            outlive_a_freeze(history);
            elsewhere(history, 60 * SECOND, 79 * SECOND);
        },
    ),
    (
        "H17",
        "a push that came to another node before, not now",
        |history| {
            outlive_a_freeze(history);
            elsewhere(history, 60 * SECOND, 79 * SECOND);
            history.events.push(recv("p2", "m4", "p", 78 * SECOND));
        },
    ),
    (
        "H17",
        "a kept push that came to a later connection",
        |history| {
            outlive_a_freeze(history);
            history.pushes[3].kept = true;
            elsewhere(history, 82 * SECOND, 90 * SECOND);
            history.events.push(kept("p2", "m4", "p", 83 * SECOND));
        },
    ),
    (
        "H17",
        "a vanished node in a row, beside another",
        |history| {
            outlive_a_freeze(history);
            elsewhere(history, 60 * SECOND, 90 * SECOND);
            let push = &mut history.pushes[3];
            push.via = "redis".to_owned();
            push.nodes = vec![OTHER.to_owned(), NODE.to_owned()];
            history
                .events
                .push(recv("p2", "m4", "p", 80 * SECOND + 700));
        },
    ),
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

/// The node stands still from 50 to 90 s. At 80 s the message to `p`, who is there, is taken all the
/// same, as another node says.
fn outlive_a_freeze(history: &mut History) {
    let push = &mut history.pushes[3];
    (push.sent, push.via) = (80 * SECOND, OTHER.to_owned());
    push.answered = push.sent + 1_000;
    // No longer through the node whose counters are known.
    history.count("pushes_total{status=\"routed\"}", 3.0);
    history.unheard("m4");
    history
        .events
        .push(recv("p1", "m4", "p", 80 * SECOND + 500));
    history.events.push(Event::Fault {
        kind: "node-freeze".to_owned(),
        node: Some(NODE.to_owned()),
        at: 50 * SECOND,
        until: 90 * SECOND,
    });
}

fn thaw(second: u64) -> Event {
    Event::Thaw {
        node: NODE.to_owned(),
        at: second * SECOND,
    }
}

/// `p` has a second connection meanwhile, at another node.
fn elsewhere(history: &mut History, from: u64, until: u64) {
    history.events.push(Event::Open {
        conn: "p2".to_owned(),
        user: "p".to_owned(),
        v1: false,
        wire: Wire::default(),
        node: OTHER.to_owned(),
        fd: None,
        inbox: Inbox::Unknown,
        topics: Vec::new(),
        at: from,
    });
    history.events.push(close("p2", Cause::Client, None, until));
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
