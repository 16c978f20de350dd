//! Histories of nodes that follow Redis, of a Redis that Sentinels leave by themselves, and of
//! clients that cannot take a kept message.

use super::topics::come_in;
use super::{Change, History, NODE, resume, resync};
use crate::history::{Event, SECOND};

pub(super) const ALLOWED: &[(&str, Change)] = &[
    ("a node that follows a name in time", |history| {
        history.events.push(followed(Some(22), 22));
    }),
    (
        "a node that follows late because it was frozen",
        |history| {
            history.events.push(Event::Fault {
                kind: "node-freeze".to_owned(),
                node: Some(NODE.to_owned()),
                at: 21 * SECOND,
                until: 25 * SECOND,
            });
            history.events.push(followed(Some(31), 31));
        },
    ),
    ("a client that is led past what it cannot take", |history| {
        stumble(history, |_| {});
    }),
    ("a log that Sentinels left behind", |history| {
        lose_log(history);
        history.events.push(switched(5 * SECOND));
    }),
    (
        "a kept message that Sentinels left behind, told of",
        |history| {
            resume(history);
            history.unheard("k1");
            history.events.push(switched(11 * SECOND + 500_000));
            history.events.push(resync("d7r2", None, 14 * SECOND));
        },
    ),
];

pub(super) const PLANTED: &[(&str, &str, Change)] = &[
    ("H18", "a node that follows a name too late", |history| {
        history.events.push(followed(Some(31), 31));
    }),
    ("H18", "a node that does not follow a name", |history| {
        history.events.push(followed(None, 35));
    }),
    ("H11", "a log that is lost without a switch", lose_log),
    (
        "H11",
        "a log that is lost in a planned fail-over",
        |history| {
            lose_log(history);
            history.events.push(Event::Fault {
                kind: "master-kill".to_owned(),
                node: None,
                at: 4 * SECOND + 500_000,
                until: 5 * SECOND,
            });
        },
    ),
    ("H11", "a log that is lost before a switch", |history| {
        lose_log(history);
        history.events.push(switched(40 * SECOND));
    }),
    (
        "H11",
        "a part of a log that was answered after a switch",
        |history| {
            lose_log(history);
            history.events.push(switched(3 * SECOND + 500_000));
        },
    ),
    (
        "H11",
        "a gap in what came of a log before a switch",
        |history| {
            come_in(history);
            history.unheard("e2");
            history.events.push(switched(8 * SECOND));
        },
    ),
    (
        "H11",
        "a kept message that Sentinels left behind, untold",
        |history| {
            resume(history);
            history.unheard("k1");
            history.events.push(switched(11 * SECOND + 500_000));
        },
    ),
    (
        "H11",
        "a kept message that was answered after a switch",
        |history| {
            resume(history);
            history.unheard("k1");
            history.events.push(switched(10 * SECOND + 500_000));
            history.events.push(resync("d7r2", None, 14 * SECOND));
        },
    ),
    ("H19", "a client that is shut out", |history| {
        stumble(history, |one| {
            one.got.clear();
            one.passed.clear();
        });
    }),
    ("H19", "a client that hears nothing of a gap", |history| {
        stumble(history, |one| one.passed.clear());
    }),
    (
        "H19",
        "a client that is told that there is no gap",
        |history| {
            stumble(history, |one| one.is_claimed = true);
        },
    ),
    ("H19", "a client that gets a message twice", |history| {
        stumble(history, |one| one.got.push("k3".to_owned()));
    }),
    ("H19", "a client that has to come too often", |history| {
        stumble(history, |one| one.connects = 11);
    }),
    (
        "H19",
        "a device that can take it and does not get it",
        |history| {
            stumble(history, |one| drop(one.other.remove(1)));
        },
    ),
];

/// The name leads to the primary from the 20th second on.
fn followed(served: Option<u64>, until: u64) -> Event {
    Event::Followed {
        node: NODE.to_owned(),
        kind: "demotion".to_owned(),
        at: 20 * SECOND,
        served: served.map(|served| served * SECOND),
        until: until * SECOND,
    }
}

/// One enters a topic and gets none of three messages of its log, which were answered from the
/// second to the fourth second.
fn lose_log(history: &mut History) {
    come_in(history);
    history.unheard("e2");
    history.unheard("e3");
}

fn switched(at: u64) -> Event {
    Event::Switched {
        from: 7002,
        to: 7001,
        at,
    }
}

/// What a client came to that cannot take the second of three messages.
struct Stumble {
    got: Vec<String>,
    passed: Vec<String>,
    is_claimed: bool,
    other: Vec<String>,
    connects: u64,
}

fn stumble(history: &mut History, change: fn(&mut Stumble)) {
    let ids = |ids: &[&str]| -> Vec<String> { ids.iter().map(|id| (*id).to_owned()).collect() };
    let mut one = Stumble {
        got: ids(&["k1", "k3"]),
        passed: ids(&["k2"]),
        is_claimed: false,
        other: ids(&["k1", "k2", "k3"]),
        connects: 4,
    };
    change(&mut one);
    history.events.push(Event::Stumbled {
        user: "s1".to_owned(),
        kept: ids(&["k1", "k2", "k3"]),
        large: ids(&["k2"]),
        got: one.got,
        passed: one.passed,
        is_claimed: one.is_claimed,
        other: one.other,
        connects: one.connects,
        allowed: 10,
        at: 30 * SECOND,
    });
}
