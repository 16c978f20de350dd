//! The checker held against histories made by hand: a clean one must pass, and each with one
//! planted fault must be found, by exactly the rule that is meant.

mod clients;
mod members;
mod mishaps;
mod redis;
mod topics;

use std::collections::BTreeMap;

use crate::checker::{self, RULES, WINDOW};
use crate::history::{Cause, Event, Field, Inbox, Part, Phase, Push, SECOND, TopicRows};
use crate::wires::Wire;

const NODE: &str = "n0.aaaaaaaaaaaa";

fn push(id: &str, seq: u64, user: &str, sent: u64) -> Push {
    Push {
        id: id.to_owned(),
        by: "h0".to_owned(),
        via: NODE.to_owned(),
        seq,
        to: vec![user.to_owned()],
        attempt: 1,
        sent,
        answered: sent + 1_000,
        status: "routed".to_owned(),
        reason: None,
        kept: false,
        author: None,
        everywhere: false,
        nodes: Vec::new(),
        parts: vec![Part {
            user: user.to_owned(),
            status: "routed".to_owned(),
            connections: 1,
        }],
    }
}

fn open(conn: &str, user: &str, fd: Option<u64>) -> Event {
    Event::Open {
        conn: conn.to_owned(),
        user: user.to_owned(),
        v1: fd.is_some(),
        wire: Wire::default(),
        node: NODE.to_owned(),
        fd,
        inbox: Inbox::Unknown,
        topics: Vec::new(),
        at: SECOND,
    }
}

fn resync(conn: &str, topic: Option<&str>, at: u64) -> Event {
    Event::Resync {
        conn: conn.to_owned(),
        topic: topic.map(str::to_owned),
        at,
    }
}

fn recv(conn: &str, id: &str, user: &str, at: u64) -> Event {
    Event::Recv {
        conn: conn.to_owned(),
        id: id.to_owned(),
        to: vec![user.to_owned()],
        kept: false,
        from: None,
        at,
    }
}

fn close(conn: &str, cause: Cause, code: Option<u16>, at: u64) -> Event {
    Event::Close {
        conn: conn.to_owned(),
        cause,
        code,
        at,
    }
}

fn field(conn: &str, user: &str, fd: u64) -> Field {
    Field {
        user: user.to_owned(),
        field: format!("{NODE}/{fd}"),
        device: conn.to_owned(),
    }
}

fn process(phase: Phase, fds: u64, rss_kib: u64) -> Event {
    Event::Process {
        node: NODE.to_owned(),
        phase,
        fds,
        rss_kib,
        connections: 3,
        at: 90 * SECOND,
    }
}

/// Three connections of three users, one of them plain; one leaves. Three messages to `a`, one
/// to `p`. All is well.
struct History {
    pushes: Vec<Push>,
    events: Vec<Event>,
    fields: Vec<Field>,
    topics: TopicRows,
    values: BTreeMap<String, f64>,
    processes: [Event; 2],
}

impl History {
    fn clean() -> Self {
        let values = [
            ("pushes_total{status=\"routed\"}", 4.0),
            ("deliveries_total", 4.0),
            ("written_total", 4.0),
            ("offered_total", 4.0),
            ("connections", 2.0),
            ("connects_total", 3.0),
            ("closes_total{reason=\"kicked\"}", 1.0),
        ];
        Self {
            pushes: vec![
                push("m1", 1, "a", 2 * SECOND),
                push("m2", 2, "a", 3 * SECOND),
                push("m3", 3, "a", 4 * SECOND),
                push("m4", 4, "p", 5 * SECOND),
            ],
            events: vec![
                open("a1", "a", Some(1)),
                open("p1", "p", None),
                open("z1", "z", Some(3)),
                recv("a1", "m1", "a", 2 * SECOND + 500),
                recv("a1", "m2", "a", 3 * SECOND + 500),
                recv("a1", "m3", "a", 4 * SECOND + 500),
                recv("p1", "m4", "p", 5 * SECOND + 500),
                Event::Bye {
                    conn: "z1".to_owned(),
                    code: 4001,
                    at: 6 * SECOND,
                },
                close("z1", Cause::Node, Some(4001), 6 * SECOND),
            ],
            fields: vec![field("a1", "a", 1), field("p1", "p", 2)],
            topics: TopicRows::new(),
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
            processes: [
                process(Phase::Warm, 40, 30_000),
                process(Phase::End, 45, 40_000),
            ],
        }
    }

    /// Takes the message out of the history of the connection.
    fn unheard(&mut self, id: &str) {
        let other = |event: &Event| !matches!(event, Event::Recv { id: heard, .. } if heard == id);
        self.events.retain(other);
    }

    fn count(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    /// So many messages came for clients and were written.
    fn wrote(&mut self, messages: f64) {
        for name in ["offered_total", "deliveries_total", "written_total"] {
            self.count(name, messages);
        }
    }

    /// The rules that it breaks.
    fn broken(self) -> Vec<&'static str> {
        let mut events = self.events;
        events.extend(self.pushes.into_iter().map(Event::Push));
        events.extend(self.processes);
        let at = 100 * SECOND;
        events.push(Event::Registry {
            fields: self.fields,
            topics: self.topics,
            at,
        });
        events.push(Event::Metrics {
            node: NODE.to_owned(),
            values: self.values,
            at,
        });
        events.push(Event::End { at });
        let verdicts = checker::check(&events);
        let rules = RULES.iter().zip(verdicts);
        rules
            .filter(|(_, verdict)| verdict.broken > 0)
            .map(|(rule, _)| rule.0)
            .collect()
    }
}

type Change = fn(&mut History);

/// Histories that are well, although something is missing or double in them.
const ALLOWED: &[(&str, Change)] = &[
    ("a clean history", |_| {}),
    ("messages dropped, left to inboxes and waiting", |history| {
        history.count("offered_total", 10.0);
        history.count("drops_total{reason=\"slow\"}", 1.0);
        history.count("drops_total{reason=\"gone\"}", 1.0);
        history.count("left_to_inbox_total{reason=\"later\"}", 3.0);
        history.count("waiting_messages", 1.0);
    }),
    ("a loss that the client was told of", |history| {
        history.unheard("m2");
        history.events.push(resync("a1", None, 3 * SECOND + WINDOW));
    }),
    ("a loss told late because the node was frozen", |history| {
        history.unheard("m2");
        let (node, at) = (Some(NODE.to_owned()), 4 * SECOND);
        history.events.push(Event::Fault {
            kind: "node-freeze".to_owned(),
            node,
            at,
            until: 19 * SECOND,
        });
        history.events.push(resync("a1", None, 25 * SECOND));
    }),
    (
        "a loss on a plain connection that its node counted",
        |history| {
            history.unheard("m4");
            let sample = |lost, at| Event::Sample {
                node: NODE.to_owned(),
                lost,
                at,
            };
            history
                .events
                .extend([sample(0.0, 4 * SECOND), sample(1.0, 7 * SECOND)]);
        },
    ),
    ("a loss with the connection", |history| {
        history.unheard("m4");
        history
            .events
            .push(close("p1", Cause::Client, None, 8 * SECOND));
        history.fields.pop();
        history.count("connections", 1.0);
        history.count("connects_total", 2.0);
    }),
    (
        "a message that its publisher knows is not routed",
        |history| {
            history.unheard("m3");
            history.pushes[2].status = "unrouted".to_owned();
            history.pushes[2].parts[0].status = "unrouted".to_owned();
            history.count("pushes_total{status=\"routed\"}", 3.0);
            history.count("pushes_total{status=\"unrouted\"}", 1.0);
        },
    ),
    ("a kept message that comes after the next connect", resume),
    (
        "a message that its publisher knows is not everywhere",
        |history| {
            history.unheard("m3");
            history.pushes[2].reason = Some("no answer".to_owned());
        },
    ),
    ("a duplicate of a message that was sent twice", |history| {
        let mut again = push("m2", 2, "a", 3 * SECOND + 2_000);
        again.attempt = 2;
        history.pushes.push(again);
        history.events.push(recv("a1", "m2", "a", 5 * SECOND));
        history.count("pushes_total{status=\"routed\"}", 5.0);
        history.wrote(5.0);
    }),
];

/// Histories with one fault each, and the rule that must find it.
const PLANTED: &[(&str, &str, Change)] = &[
    ("H0", "a node ends by itself", |history| {
        history.events.push(Event::Died {
            node: NODE.to_owned(),
            how: "signal 6".to_owned(),
            at: 7 * SECOND,
        });
    }),
    ("H1", "a message for a reaches p too", |history| {
        let misled = recv("p1", "m1", "a", 2 * SECOND + 700);
        history.events.insert(3, misled);
        history.wrote(5.0);
    }),
    ("H2", "a message that nobody sent", |history| {
        history.events.push(recv("a1", "m9", "a", 6 * SECOND));
        history.wrote(5.0);
    }),
    ("H3", "two messages in the wrong order", |history| {
        history.events.swap(3, 4);
    }),
    ("H4", "a message twice", |history| {
        history.events.push(recv("a1", "m2", "a", 3 * SECOND + 900));
        history.wrote(5.0);
    }),
    (
        "H5",
        "a routed message is missing and nothing was said",
        |history| history.unheard("m2"),
    ),
    ("H5", "resync comes too late", |history| {
        history.unheard("m2");
        history.events.push(resync("a1", None, 4 * SECOND + WINDOW));
    }),
    ("H5", "resync came before the loss", |history| {
        history.unheard("m2");
        history.events.push(resync("a1", None, 2 * SECOND));
    }),
    (
        "H5",
        "a loss on a plain connection that nobody counted",
        |history| history.unheard("m4"),
    ),
    ("H5", "another node's freeze is no excuse", |history| {
        history.unheard("m2");
        let (node, at) = (Some("n1.bbbbbbbbbbbb".to_owned()), 4 * SECOND);
        history.events.push(Event::Fault {
            kind: "node-freeze".to_owned(),
            node,
            at,
            until: 19 * SECOND,
        });
        history.events.push(resync("a1", None, 25 * SECOND));
    }),
    ("H5", "offline, although connected", |history| {
        history.unheard("m3");
        history.pushes[2].status = "offline".to_owned();
        history.pushes[2].parts[0].status = "offline".to_owned();
        history.count("pushes_total{status=\"routed\"}", 3.0);
        history.count("pushes_total{status=\"offline\"}", 1.0);
    }),
    ("H6", "a message 40 s late", |history| {
        history.unheard("m3");
        history.events.push(recv("a1", "m3", "a", 44 * SECOND));
    }),
    ("H7", "a connection without a row", |history| {
        history.fields.pop();
    }),
    ("H7", "a row without a connection", |history| {
        history.fields.push(field("z1", "z", 3));
    }),
    ("H7", "a row with another connection's number", |history| {
        history.fields[0] = field("a1", "a", 9);
    }),
    ("H8", "an answer that was not counted", |history| {
        history.count("pushes_total{status=\"routed\"}", 3.0);
    }),
    (
        "H8",
        "a message taken, neither written nor counted as dropped",
        |history| history.count("deliveries_total", 5.0),
    ),
    ("H9", "a connection ends twice", |history| {
        history
            .events
            .push(close("z1", Cause::Lost, None, 7 * SECOND));
    }),
    ("H9", "a connection is lost without a word", |history| {
        history.events.pop();
        history.events.pop();
        history
            .events
            .push(close("z1", Cause::Lost, None, 6 * SECOND));
    }),
    (
        "H9",
        "the last word is not the code of the close frame",
        |history| {
            history.events[7] = Event::Bye {
                conn: "z1".to_owned(),
                code: 1012,
                at: 6 * SECOND,
            };
        },
    ),
    ("H9", "an end that was not counted", |history| {
        history.count("closes_total{reason=\"kicked\"}", 0.0);
    }),
    ("H10", "descriptors leak", |history| {
        history.processes[1] = process(Phase::End, 400, 40_000);
    }),
    ("H10", "memory leaks", |history| {
        history.processes[1] = process(Phase::End, 45, 900_000);
    }),
    (
        "H12",
        "a message meant for a client that no counter knows of",
        |history| history.count("offered_total", 5.0),
    ),
    ("H12", "a share without an outcome", |history| {
        history.count("shares_total", 4.0);
        history.count("share_outcomes_total{status=\"routed\"}", 3.0);
    }),
    ("H12", "an envelope that nobody saw arrive", |history| {
        history.count("envelopes_total", 4.0);
        history.count("arrivals_matched_total", 3.0);
    }),
    ("H12", "a line without an answer", |history| {
        history.count("lines_total", 4.0);
        history.count("line_outcomes_total{status=\"taken\"}", 3.0);
    }),
    (
        "H11",
        "a kept message missed between two connections",
        |history| {
            resume(history);
            history.unheard("k1");
        },
    ),
    ("H11", "a kept message again after coming back", |history| {
        resume(history);
        let again = kept("d7r2", "k0", "r", 12 * SECOND + 500);
        history.events.insert(history.events.len() - 1, again);
    }),
];

fn kept(conn: &str, id: &str, to: &str, at: u64) -> Event {
    Event::Recv {
        conn: conn.to_owned(),
        id: id.to_owned(),
        to: vec![to.to_owned()],
        kept: true,
        from: None,
        at,
    }
}

/// Two connections of a device that resumes; a kept message on the first, one between them.
fn resume(history: &mut History) {
    let connection = |conn: &str, fd, inbox, at| Event::Open {
        conn: conn.to_owned(),
        user: "r".to_owned(),
        v1: true,
        wire: Wire::default(),
        node: NODE.to_owned(),
        fd: Some(fd),
        inbox,
        topics: Vec::new(),
        at,
    };
    let device = || "d7".to_owned();
    for (id, seq, at) in [("k0", 5, 7), ("k1", 6, 11)] {
        let mut push = push(id, seq, "r", at * SECOND);
        push.kept = true;
        history.pushes.push(push);
    }
    history.events.extend([
        connection("d7r1", 4, Inbox::Begins(device()), SECOND),
        kept("d7r1", "k0", "r", 8 * SECOND),
        close("d7r1", Cause::Client, None, 10 * SECOND),
        connection("d7r2", 5, Inbox::Continues(device()), 12 * SECOND),
        kept("d7r2", "k1", "r", 13 * SECOND),
    ]);
    history.fields.push(field("d7r2", "r", 5));
    history.count("pushes_total{status=\"routed\"}", 6.0);
    history.wrote(9.0);
    history.count("connections", 3.0);
    history.count("connects_total", 5.0);
    history.count("closes_total{reason=\"by_client\"}", 1.0);
}

/// Runs all; answers whether the checker is to be believed.
pub(crate) fn run() -> bool {
    let mut well = true;
    let allowed = ALLOWED
        .iter()
        .chain(topics::ALLOWED)
        .chain(clients::ALLOWED)
        .chain(members::ALLOWED)
        .chain(mishaps::ALLOWED)
        .chain(redis::ALLOWED)
        .map(|(words, change)| (None, *words, *change));
    let planted = PLANTED
        .iter()
        .chain(topics::PLANTED)
        .chain(clients::PLANTED)
        .chain(members::PLANTED)
        .chain(mishaps::PLANTED)
        .chain(redis::PLANTED)
        .map(|(rule, words, change)| (Some(*rule), *words, *change));
    let (mut fine, mut faulty) = (0, 0);
    for (rule, words, change) in allowed.chain(planted) {
        *if rule.is_none() {
            &mut fine
        } else {
            &mut faulty
        } += 1;
        let mut history = History::clean();
        change(&mut history);
        let broken = history.broken();
        if broken != rule.as_slice() {
            println!("{words}: expected {rule:?}, the checker found {broken:?}");
            well = false;
        }
    }
    println!(
        "checker: {fine} histories that are well, {faulty} with a planted fault: {}",
        if well { "ok" } else { "FAILED" }
    );
    well
}
