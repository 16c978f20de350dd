//! Histories in which members publish, and logs are erased.

use super::topics::{TOPIC, come_in, enrol};
use super::{Change, History};
use crate::history::{Event, SECOND};

pub(super) const ALLOWED: &[(&str, Change)] = &[
    ("what a member published comes to another", |history| {
        published_by(history, "z1", Some("z n0.aaaaaaaaaaaa/3"));
    }),
    (
        "what a member published does not come to itself",
        |history| {
            published_by(history, "a1", None);
            history.unheard("t1");
        },
    ),
    ("an entrant gets nothing of what was erased", |history| {
        come_in(history);
        erase(history, None);
        history.unheard("e2");
        history.unheard("e3");
    }),
    (
        "an entrant gets all but the one that was erased",
        |history| {
            lacks_the_erased(history);
        },
    ),
    (
        "what was erased after a stream was asked for, and before it was open",
        |history| {
            let at = 6 * SECOND - 1;
            stream_of_erased(history, at, (6 * SECOND, 6 * SECOND + 400));
        },
    ),
];

pub(super) const PLANTED: &[(&str, &str, Change)] = &[
    ("H5", "what a member published is missing", |history| {
        published_by(history, "z1", None);
        history.unheard("t1");
    }),
    ("H20", "a member's message comes back to it", |history| {
        published_by(history, "a1", Some("a n0.aaaaaaaaaaaa/1"));
    }),
    ("H20", "a member's message says nothing of it", |history| {
        published_by(history, "z1", None);
    }),
    ("H20", "a member's message names another", |history| {
        published_by(history, "z1", Some("a n0.aaaaaaaaaaaa/3"));
    }),
    ("H20", "a sender's message names a member", |history| {
        enrol(history);
        says(history, Some("z n0.aaaaaaaaaaaa/3"));
    }),
    (
        "H11",
        "an entrant lacks one beside the one that was erased",
        |history| {
            lacks_the_erased(history);
            history.unheard("e3");
        },
    ),
    ("H21", "an entrant gets what was erased", |history| {
        come_in(history);
        erase(history, None);
    }),
    (
        "H21",
        "an entrant gets the one that was erased",
        |history| {
            come_in(history);
            erase(history, Some("e3"));
        },
    ),
    (
        "H21",
        "what was erased before a stream was asked for",
        |history| {
            let at = 6 * SECOND + 1;
            stream_of_erased(history, at, (5 * SECOND, 6 * SECOND));
        },
    ),
];

/// The topic's message is of this connection, and says so.
fn published_by(history: &mut History, author: &str, from: Option<&str>) {
    enrol(history);
    let push = history.pushes.last_mut().expect("it was pushed");
    push.author = Some(author.to_owned());
    says(history, from);
}

fn says(history: &mut History, words: Option<&str>) {
    for event in &mut history.events {
        if let Event::Recv { id, from, .. } = event
            && id == "t1"
        {
            *from = words.map(str::to_owned);
        }
    }
}

/// One message of the log was erased, so that one that enters gets the one before it as well.
fn lacks_the_erased(history: &mut History) {
    come_in(history);
    erase(history, Some("e2"));
    for event in &mut history.events {
        if let Event::Recv { id, .. } = event
            && id == "e2"
        {
            *id = "e1".to_owned();
        }
    }
}

/// One that enters at 6.5 s and names the topic when it connects, which it began at this time. The
/// first message that it gets was erased between these.
fn stream_of_erased(history: &mut History, asked: u64, (at, until): (u64, u64)) {
    come_in(history);
    let is_entry = |event: &Event| matches!(event, Event::Subscribed { .. });
    let entry = history.events.iter().position(is_entry);
    let asking = Event::Subscribing {
        conn: "a1".to_owned(),
        topic: TOPIC.to_owned(),
        presence: false,
        at: asked,
    };
    (history.events).insert(entry.expect("it enters"), asking);
    history.events.push(Event::Erased {
        topic: TOPIC.to_owned(),
        id: Some("e2".to_owned()),
        at,
        until,
        is_done: true,
    });
}

/// The topic's log, or one message of it, was erased after all that is in it was kept, and before a
/// connection enters.
fn erase(history: &mut History, id: Option<&str>) {
    history.events.push(Event::Erased {
        topic: TOPIC.to_owned(),
        id: id.map(str::to_owned),
        at: 5 * SECOND,
        until: 5 * SECOND + 500,
        is_done: true,
    });
}
