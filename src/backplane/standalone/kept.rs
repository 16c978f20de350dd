//! Inboxes and logs in memory, for a node without Redis. They have the same bounds as those in
//! Redis, and are lost at exit.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

use crate::backplane::answers::Kept;
use crate::local::replay::page::{Bounds, Entry, PAGE, Page, REPEAT, first_number};
use crate::protocol::Message;
use crate::protocol::ids::Subject;
use crate::protocol::position::{EntryId, Position, Since};

/// Inboxes unused for longer than their messages' age are looked for once in this many messages.
const SWEEP: u64 = 1_024;
/// Bytes charged for each message in addition to its own.
const OVERHEAD: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct MemoryLogs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    inboxes: HashMap<Subject, Inbox, ahash::RandomState>,
    kept: u64,
}

#[derive(Debug)]
struct Inbox {
    newest: u64,
    last: EntryId,
    entries: VecDeque<(Entry, Instant)>,
    bytes: usize,
    /// When it was last written or read.
    used: Instant,
}

impl Inbox {
    fn new(now: Instant) -> Self {
        Self {
            newest: first_number(),
            last: EntryId::default(),
            entries: VecDeque::new(),
            bytes: 0,
            used: now,
        }
    }

    fn is_repeat(&self, id: &str, now: Instant) -> bool {
        let recent = |(_, at): &&(Entry, Instant)| now.duration_since(*at) < REPEAT;
        let mut recent = self.entries.iter().rev().take_while(recent);
        recent.any(|(entry, _)| entry.id.as_deref() == Some(id))
    }

    fn push(&mut self, message: &Message, now: Instant) -> Position {
        let ms = crate::clock::unix_ms();
        self.last = if ms > self.last.ms {
            EntryId { ms, seq: 0 }
        } else {
            EntryId {
                seq: self.last.seq + 1,
                ..self.last
            }
        };
        self.newest = self.newest.wrapping_add(1);
        let entry = Entry {
            entry: self.last,
            id: message.id().map(str::to_owned),
            data: message.data().to_owned(),
        };
        self.bytes += charge(&entry);
        self.entries.push_back((entry, now));
        Position {
            n: self.newest,
            entry: self.last,
        }
    }

    /// Drops messages that are too old or too many; the newest message always stays.
    fn trim(&mut self, bounds: &Bounds, now: Instant) {
        while self.entries.len() > 1
            && let Some((oldest, at)) = self.entries.front()
        {
            let too_many = self.bytes > bounds.bytes || self.entries.len() > bounds.messages;
            if !too_many && now.duration_since(*at) < bounds.age {
                break;
            }
            self.bytes -= charge(oldest);
            self.entries.pop_front();
        }
    }
}

fn charge(entry: &Entry) -> usize {
    entry.data.len() + entry.id.as_ref().map_or(0, String::len) + OVERHEAD
}

impl MemoryLogs {
    pub(crate) fn keep(&self, subject: &Subject, message: &Message, bounds: &Bounds) -> Kept {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.kept += 1;
        if state.kept.is_multiple_of(SWEEP) {
            let is_used = |inbox: &Inbox| now.duration_since(inbox.used) < bounds.age;
            state.inboxes.retain(|_, inbox| is_used(inbox));
        }
        let inbox = state.inbox(subject, now);
        if message.id().is_some_and(|id| inbox.is_repeat(id, now)) {
            return Kept::Before;
        }
        let position = inbox.push(message, now);
        inbox.trim(bounds, now);
        Kept::At(position)
    }

    pub(crate) fn read(&self, subject: &Subject, since: Since, bounds: &Bounds) -> Page {
        let now = Instant::now();
        let mut state = self.0.lock();
        let inbox = state.inbox(subject, now);
        inbox.trim(bounds, now);
        let entries: Vec<Entry> = match since {
            Since::Now => inbox
                .entries
                .back()
                .into_iter()
                .map(|e| e.0.clone())
                .collect(),
            since => {
                let behind = |(entry, _): &&(Entry, Instant)| entry.entry > since.entry();
                let behind = inbox.entries.iter().filter(behind);
                behind.take(PAGE + 1).map(|e| e.0.clone()).collect()
            }
        };
        Page::new(&since, inbox.newest, inbox.entries.len() as u64, entries)
    }
}

impl State {
    fn inbox(&mut self, subject: &Subject, now: Instant) -> &mut Inbox {
        let fresh = || Inbox::new(now);
        let inbox = self.inboxes.entry(subject.clone()).or_insert_with(fresh);
        inbox.used = now;
        inbox
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::PushRequest;

    const BOUNDS: Bounds = Bounds {
        messages: 3,
        bytes: 10_000,
        age: Duration::from_secs(60),
    };

    fn message(id: &str, data: &str) -> std::sync::Arc<Message> {
        let body = format!(r#"{{"to":{{"user":"a"}},"keep":true,"id":"{id}","data":"{data}"}}"#);
        PushRequest::parse(body.as_bytes()).unwrap().push.message
    }

    fn ids(page: &Page) -> Vec<String> {
        let id = |message: &std::sync::Arc<Message>| message.id().unwrap().to_owned();
        page.messages.iter().map(id).collect()
    }

    #[test]
    fn what_is_kept_is_read_from_any_position() {
        let (inboxes, user) = (MemoryLogs::default(), Subject::User("a".parse().unwrap()));
        let before = inboxes.read(&user, Since::Now, &BOUNDS);
        for id in ["1", "2", "3"] {
            assert!(matches!(
                inboxes.keep(&user, &message(id, id), &BOUNDS),
                Kept::At(_)
            ));
        }
        let page = inboxes.read(&user, Since::After(before.end), &BOUNDS);
        assert_eq!(ids(&page), ["1", "2", "3"]);
        assert!(page.is_continuous && page.is_last);
        let rest = Since::After(page.messages[1].position().unwrap());
        assert_eq!(ids(&inboxes.read(&user, rest, &BOUNDS)), ["3"]);
        // A fourth throws out the first.
        inboxes.keep(&user, &message("4", "4"), &BOUNDS);
        let page = inboxes.read(&user, Since::After(before.end), &BOUNDS);
        assert_eq!(ids(&page), ["2", "3", "4"]);
        assert!(!page.is_continuous);
        assert!(inboxes.read(&user, rest, &BOUNDS).is_continuous);
    }

    #[test]
    fn a_repeat_is_not_kept_again() {
        let (inboxes, user) = (MemoryLogs::default(), Subject::User("a".parse().unwrap()));
        inboxes.keep(&user, &message("1", "x"), &BOUNDS);
        assert_eq!(
            inboxes.keep(&user, &message("1", "x"), &BOUNDS),
            Kept::Before
        );
        assert_eq!(ids(&inboxes.read(&user, Since::Beginning, &BOUNDS)), ["1"]);
    }

    #[test]
    fn the_bound_in_bytes_holds_but_one_message_always_fits() {
        let (inboxes, user) = (MemoryLogs::default(), Subject::User("a".parse().unwrap()));
        for id in ["1", "2"] {
            inboxes.keep(&user, &message(id, &"x".repeat(20_000)), &BOUNDS);
        }
        assert_eq!(ids(&inboxes.read(&user, Since::Beginning, &BOUNDS)), ["2"]);
    }
}
