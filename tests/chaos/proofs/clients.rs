//! Histories of connections that leave topics, watch them, and have tokens.

use super::topics::{TOPIC, admit, enrol, subscribed};
use super::{Change, History, close, open, push, recv};
use crate::history::{Cause, Event, Inbox, News, SECOND};

pub(super) const ALLOWED: &[(&str, Change)] = &[
    ("a push to a topic that was left", |history| {
        leave(history);
        history.pushes.push(push("t2", 6, TOPIC, 9 * SECOND));
        history.count("pushes_total{status=\"routed\"}", 6.0);
    }),
    ("a topic's message while it is being left", |history| {
        leave(history);
        history.pushes.push(push("t2", 6, TOPIC, 8 * SECOND + 100));
        let late = recv("a1", "t2", TOPIC, 8 * SECOND + 300);
        history.events.push(late);
        history.count("pushes_total{status=\"routed\"}", 6.0);
        history.wrote(6.0);
    }),
    ("a watcher who is told of everybody", watch),
    ("a watcher who is told that it hears no more", |history| {
        watch(history);
        history.events.push(news(News::Lost));
        history.events.push(news(News::Join(vec!["z".to_owned()])));
    }),
    ("a token that is renewed", |history| {
        history.events.push(token(false, 20 * SECOND));
        history.events.push(token(false, 200 * SECOND));
    }),
    ("a connection that ends with its token", |history| {
        history.events.push(token(false, 20 * SECOND));
        expire(history, 20 * SECOND);
    }),
    ("a session that Redis lost", |history| {
        history.events.push(token(true, 90 * SECOND));
        history.events.push(Event::Fault {
            kind: "flushall".to_owned(),
            node: None,
            at: 19 * SECOND,
            until: 19 * SECOND,
        });
        expire(history, 20 * SECOND);
    }),
];

pub(super) const PLANTED: &[(&str, &str, Change)] = &[
    ("H1", "a topic's message after it was left", |history| {
        leave(history);
        history.pushes.push(push("t2", 6, TOPIC, 8 * SECOND + 100));
        let late = recv("a1", "t2", TOPIC, 8 * SECOND + 700);
        history.events.push(late);
        history.count("pushes_total{status=\"routed\"}", 6.0);
        history.wrote(6.0);
    }),
    (
        "H5",
        "a topic's message after coming back to it",
        |history| {
            leave(history);
            admit(history, &[]);
            history.events.extend([
                asks(10 * SECOND, false),
                subscribed("a1", Inbox::Unknown, 10 * SECOND + 500),
            ]);
            history.pushes.push(push("t2", 6, TOPIC, 11 * SECOND));
            history.count("pushes_total{status=\"routed\"}", 6.0);
        },
    ),
    (
        "H7",
        "a topic's row counts who has unsubscribed",
        |history| {
            leave(history);
            admit(history, &[]);
        },
    ),
    ("H13", "a watcher misses who came", |history| {
        watch(history);
        let told = |event: &Event| {
            !matches!(
                event,
                Event::Presence {
                    news: News::Join(_),
                    ..
                }
            )
        };
        history.events.retain(told);
    }),
    ("H13", "a watcher was not told who left", |history| {
        watch(history);
        history.events.push(news(News::Join(vec!["z".to_owned()])));
    }),
    ("H13", "a watcher that was told nothing", |history| {
        enrol(history);
        history.events.push(asks(8 * SECOND, true));
    }),
    ("H14", "a connection outlives its token", |history| {
        history.events.push(token(false, 20 * SECOND));
    }),
    ("H14", "a connection ends before its token", |history| {
        history.events.push(token(false, 30 * SECOND));
        expire(history, 20 * SECOND);
    }),
    ("H14", "a signed token is not lost with Redis", |history| {
        history.events.push(token(false, 90 * SECOND));
        history.events.push(Event::Fault {
            kind: "flushall".to_owned(),
            node: None,
            at: 19 * SECOND,
            until: 19 * SECOND,
        });
        expire(history, 20 * SECOND);
    }),
];

fn asks(at: u64, presence: bool) -> Event {
    Event::Subscribing {
        conn: "a1".to_owned(),
        topic: TOPIC.to_owned(),
        presence,
        at,
    }
}

/// A connection leaves the topic after a message.
fn leave(history: &mut History) {
    enrol(history);
    history.topics.clear();
    let (conn, topic) = ("a1".to_owned(), TOPIC.to_owned());
    history.events.extend([
        Event::Unsubscribing {
            conn: conn.clone(),
            topic: topic.clone(),
            at: 8 * SECOND,
        },
        Event::Unsubscribed {
            conn,
            topic,
            at: 8 * SECOND + 500,
        },
    ]);
}

fn news(news: News) -> Event {
    Event::Presence {
        conn: "a1".to_owned(),
        topic: TOPIC.to_owned(),
        news,
        at: 9 * SECOND,
    }
}

/// A connection watches the topic, and is told that another joins and that one is gone.
fn watch(history: &mut History) {
    enrol(history);
    admit(history, &["p1"]);
    let row = [(super::NODE.to_owned(), 2)];
    history.topics.insert(TOPIC.to_owned(), row.into());
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    history.events.extend([
        asks(7 * SECOND, true),
        news(News::Members(names(&["a", "z"]))),
        subscribed("p1", Inbox::Unknown, 8 * SECOND),
        news(News::Join(names(&["p"]))),
        news(News::Leave(names(&["z"]))),
    ]);
}

fn token(session: bool, ends: u64) -> Event {
    Event::Token {
        conn: "a1".to_owned(),
        session,
        ends,
        at: 6 * SECOND,
    }
}

/// The node ends the connection because of its token, and another user's takes its place.
fn expire(history: &mut History, at: u64) {
    history.events.extend([
        Event::Bye {
            conn: "a1".to_owned(),
            code: 4004,
            at,
        },
        close("a1", Cause::Node, Some(4004), at),
        open("q1", "q", Some(9)),
    ]);
    history.fields[0] = super::field("q1", "q", 9);
    history.count("connects_total", 4.0);
    history.count("closes_total{reason=\"expired\"}", 1.0);
}
