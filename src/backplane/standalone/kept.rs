//! Inboxes and logs in memory, for a node without Redis. They have the same bounds as those in
//! Redis, and are lost at exit.
//!
//! What must stay true: reading creates nothing, and what is too old goes by itself
//! ([`MemoryLogs::sweep`]), also where nothing is kept or read any more. All of them together have
//! a bound, too: beyond it those go that were not written for longest.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use parking_lot::Mutex;

use crate::backplane::answers::Kept;
use crate::backplane::history::Erasure;
use crate::backplane::standalone::bookmarks::MemoryBookmarks;
use crate::backplane::standalone::marks::Marks;
use crate::local::live_rules::LiveRules;
use crate::local::replay::excerpt::{Excerpt, Span};
use crate::local::replay::page::{Bounds, Entry, LogExtent, PAGE, Page};
use crate::protocol::ids::Subject;
use crate::protocol::position::{
    ERASURE, EntryId, Position, Since, Unwritten, first_number, new_epoch,
};
use crate::protocol::{Message, author_text};

/// Bytes charged for each message in addition to its own.
const OVERHEAD: usize = 128;
/// Bytes charged for each inbox in addition to its messages.
const INBOX_OVERHEAD: usize = 256;
/// Most bytes of all inboxes and logs.
const MOST_BYTES: usize = 256 << 20;
/// What is left of that when inboxes had to go, so that not every message makes one go.
const ENOUGH_BYTES: usize = MOST_BYTES / 8 * 7;

#[derive(Debug)]
pub(crate) struct MemoryLogs {
    state: Mutex<State>,
    started: Instant,
    pub(crate) bookmarks: MemoryBookmarks,
    rules: LiveRules,
}

impl Default for MemoryLogs {
    fn default() -> Self {
        Self::new(LiveRules::default())
    }
}

impl MemoryLogs {
    /// None yet, with bounds that topics may have by these rules.
    pub(crate) fn new(rules: LiveRules) -> Self {
        let state = State {
            inboxes: HashMap::default(),
            bytes: 0,
            epoch: new_epoch(),
            has_shrunk: false,
            marks: Marks::default(),
        };
        Self {
            state: Mutex::new(state),
            started: Instant::now(),
            bookmarks: MemoryBookmarks::default(),
            rules,
        }
    }
}

#[derive(Debug)]
struct State {
    inboxes: HashMap<Subject, Inbox, ahash::RandomState>,
    /// Of all of them.
    bytes: usize,
    /// Of positions in inboxes that do not exist: another one whenever some had to go early.
    epoch: u32,
    /// Some had to go early.
    has_shrunk: bool,
    /// Ids of the last minute. Not a part of the inboxes, which they outlast.
    marks: Marks,
}

#[derive(Debug)]
struct Inbox {
    newest: u64,
    last: EntryId,
    entries: VecDeque<(Entry, Instant)>,
    bytes: usize,
    /// The newest of those that were erased one by one.
    erased: EntryId,
    /// When the newest message was kept.
    written: Instant,
    /// No inbox had to go early before it began, so that it is no second one.
    is_first: bool,
}

impl Inbox {
    fn new(now: Instant, is_first: bool) -> Self {
        Self {
            newest: first_number(),
            last: EntryId::default(),
            entries: VecDeque::new(),
            bytes: 0,
            erased: EntryId::default(),
            written: now,
            is_first,
        }
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
            event: message.event_name().map(str::to_owned),
            from: message.author().map(author_text),
            data: message.data().to_owned(),
        };
        self.bytes += charge(&entry);
        self.entries.push_back((entry, now));
        self.written = now;
        Position {
            n: self.newest,
            entry: self.last,
        }
    }

    fn charge(&self) -> usize {
        self.bytes + INBOX_OVERHEAD
    }

    /// Takes out a message; answers how many those are.
    fn erase(&mut self, name: EntryId) -> u64 {
        let place = self.entries.iter().position(|(one, _)| one.entry == name);
        let Some((erased, _)) = place.and_then(|place| self.entries.remove(place)) else {
            return 0;
        };
        self.bytes -= charge(&erased);
        self.newest = self.newest.wrapping_add(ERASURE);
        self.erased = self.erased.max(name);
        1
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
    let texts = [&entry.id, &entry.event, &entry.from].into_iter().flatten();
    entry.data.len() + texts.map(String::len).sum::<usize>() + OVERHEAD
}

impl MemoryLogs {
    pub(crate) fn keep(&self, subject: &Subject, message: &Message, bounds: &Bounds) -> Kept {
        let now = Instant::now();
        let bounds = &bounds.of(subject, &self.rules);
        let mut state = self.state.lock();
        let State {
            inboxes,
            bytes,
            has_shrunk,
            marks,
            ..
        } = &mut *state;
        if (message.id()).is_some_and(|id| marks.is_repeat(subject, id, now)) {
            return Kept::Before;
        }
        let fresh = || {
            *bytes += INBOX_OVERHEAD;
            Inbox::new(now, !*has_shrunk)
        };
        let inbox = inboxes.entry(subject.clone()).or_insert_with(fresh);
        let before = inbox.charge();
        let position = inbox.push(message, now);
        inbox.trim(bounds, now);
        *bytes = *bytes - before + inbox.charge();
        if *bytes > MOST_BYTES {
            state.shrink(ENOUGH_BYTES);
        }
        Kept::At(position)
    }

    /// Drops what is too old.
    pub(crate) fn sweep(&self, bounds: &Bounds) {
        self.bookmarks.sweep(bounds.age);
        let now = Instant::now();
        let mut state = self.state.lock();
        state.marks.prune(now);
        let inboxes = &mut state.inboxes;
        inboxes.retain(|subject, inbox| {
            let bounds = bounds.of(subject, &self.rules);
            inbox.trim(&bounds, now);
            now.duration_since(inbox.written) < bounds.age
        });
        let bytes = inboxes.values().map(Inbox::charge).sum();
        if inboxes.len() < inboxes.capacity() / 4 {
            inboxes.shrink_to_fit();
        }
        state.bytes = bytes;
    }

    pub(crate) fn excerpt(&self, subject: &Subject, span: Span, limit: u16) -> Excerpt {
        let count = usize::from(limit) + 1;
        let state = self.state.lock();
        let inbox = state.inboxes.get(subject);
        let kept = inbox.into_iter().flat_map(|inbox| &inbox.entries);
        let kept = kept.map(|(entry, _)| entry);
        let entries: Vec<Entry> = match span {
            Span::Newest => kept.rev().take(count).cloned().collect(),
            Span::Before(end) => {
                let earlier = kept.rev().filter(|one| one.entry < end);
                earlier.take(count).cloned().collect()
            }
            Span::After(end) => {
                let later = kept.filter(|one| one.entry > end);
                later.take(count).cloned().collect()
            }
        };
        drop(state);
        Excerpt::new(span, limit, entries)
    }

    pub(crate) fn erase(&self, subject: &Subject, erasure: Erasure) -> u64 {
        let mut state = self.state.lock();
        let State { inboxes, bytes, .. } = &mut *state;
        let Some(inbox) = inboxes.get_mut(subject) else {
            return 0;
        };
        let before = inbox.charge();
        let erased = match erasure {
            Erasure::One(entry) => inbox.erase(entry),
            Erasure::All => {
                inbox.bytes = 0;
                std::mem::take(&mut inbox.entries).len() as u64
            }
        };
        *bytes = *bytes - before + inbox.charge();
        erased
    }

    pub(crate) fn read(&self, subject: &Subject, since: Since, bounds: &Bounds) -> Page {
        let now = Instant::now();
        let bounds = &bounds.of(subject, &self.rules);
        let mut state = self.state.lock();
        let State {
            inboxes,
            bytes,
            epoch,
            ..
        } = &mut *state;
        let inbox = inboxes.get_mut(subject).map(|inbox| {
            let before = inbox.charge();
            inbox.trim(bounds, now);
            *bytes = *bytes - before + inbox.charge();
            &*inbox
        });
        let kept = inbox.into_iter().flat_map(|inbox| &inbox.entries);
        let entries: Vec<Entry> = match since {
            Since::Now => kept.last().into_iter().map(|e| e.0.clone()).collect(),
            Since::Last(count) => {
                let older = kept.clone().count().saturating_sub(usize::from(count) + 1);
                kept.skip(older).map(|e| e.0.clone()).collect()
            }
            since => {
                let later = kept.filter(|(entry, _)| entry.entry > since.entry());
                later.take(PAGE + 1).map(|e| e.0.clone()).collect()
            }
        };
        let extent = LogExtent {
            newest: inbox.map(|inbox| inbox.newest),
            length: inbox.map_or(0, |inbox| inbox.entries.len() as u64),
            holds: true,
            is_untouched: inbox.is_some_and(|inbox| inbox.is_first),
            erased: inbox.map(|inbox| inbox.erased),
            unwritten: Unwritten {
                epoch: *epoch,
                seconds: self.started.elapsed().as_secs() as u32,
            },
            // Its number goes with its messages, and this one is rounded down.
            lasts: bounds.age.as_secs().saturating_sub(1),
        };
        drop(state);
        Page::new(&since, &extent, entries)
    }
}

impl State {
    /// Drops the inboxes that were not written for longest, until so many bytes are left.
    fn shrink(&mut self, enough: usize) {
        self.epoch = new_epoch();
        self.has_shrunk = true;
        let mut oldest: Vec<(Instant, Subject)> = (self.inboxes.iter())
            .map(|(subject, inbox)| (inbox.written, subject.clone()))
            .collect();
        oldest.sort_unstable_by_key(|(written, _)| *written);
        for (_, subject) in oldest {
            if self.bytes <= enough {
                return;
            }
            let gone = self.inboxes.remove(&subject);
            self.bytes -= gone.map_or(0, |inbox| inbox.charge());
        }
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
        assert!(inboxes.read(&user, Since::Beginning, &BOUNDS).is_continuous);
        let rest = Since::After(page.messages[1].position().unwrap());
        assert_eq!(ids(&inboxes.read(&user, rest, &BOUNDS)), ["3"]);
        // A fourth throws out the first.
        inboxes.keep(&user, &message("4", "4"), &BOUNDS);
        let page = inboxes.read(&user, Since::After(before.end), &BOUNDS);
        assert_eq!(ids(&page), ["2", "3", "4"]);
        assert!(!page.is_continuous);
        assert!(!inboxes.read(&user, Since::Beginning, &BOUNDS).is_continuous);
        assert!(inboxes.read(&user, rest, &BOUNDS).is_continuous);
    }

    #[test]
    fn reading_creates_nothing_and_what_is_old_goes_by_itself() {
        let inboxes = MemoryLogs::default();
        let user = |n: u32| Subject::User(format!("u{n}").parse().unwrap());
        for n in 0..1_000 {
            inboxes.read(&user(n), Since::Now, &BOUNDS);
            inboxes.read(&user(n), Since::Beginning, &BOUNDS);
        }
        assert_eq!(inboxes.state.lock().inboxes.len(), 0);
        inboxes.keep(&user(1), &message("1", "x"), &BOUNDS);
        inboxes.sweep(&BOUNDS);
        assert_eq!(inboxes.state.lock().inboxes.len(), 1);
        let ended = Bounds {
            age: Duration::ZERO,
            ..BOUNDS
        };
        inboxes.sweep(&ended);
        let state = inboxes.state.lock();
        assert_eq!((state.inboxes.len(), state.bytes), (0, 0));
    }

    #[test]
    fn what_goes_for_the_bound_of_all_is_not_claimed_to_be_there() {
        let inboxes = MemoryLogs::default();
        let user = |n: u32| Subject::User(format!("u{n}").parse().unwrap());
        let before = inboxes.read(&user(1), Since::Now, &BOUNDS);
        for n in 1..=3 {
            inboxes.keep(&user(n), &message("1", "x"), &BOUNDS);
        }
        let since = Since::After(before.end);
        let page = inboxes.read(&user(1), since, &BOUNDS);
        assert!(page.is_continuous && page.messages.len() == 1);
        let bytes = inboxes.state.lock().bytes;
        inboxes.state.lock().shrink(bytes - 1);
        assert_eq!(inboxes.state.lock().inboxes.len(), 2);
        assert!(!inboxes.read(&user(1), since, &BOUNDS).is_continuous);
        // Nor is that it is all there ever was, once it begins again.
        inboxes.keep(&user(1), &message("2", "x"), &BOUNDS);
        let all = |n: u32| {
            inboxes
                .read(&user(n), Since::Beginning, &BOUNDS)
                .is_continuous
        };
        assert!(!all(1) && all(2));
        // Those that are still there are counted by their own numbers.
        let rest = inboxes.read(&user(2), Since::Beginning, &BOUNDS);
        let since = Since::After(rest.end);
        assert!(inboxes.read(&user(2), since, &BOUNDS).is_continuous);
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
    fn an_id_outlasts_its_message() {
        let (inboxes, user) = (MemoryLogs::default(), Subject::User("a".parse().unwrap()));
        let one = Bounds {
            messages: 1,
            ..BOUNDS
        };
        let keep = |id| inboxes.keep(&user, &message(id, "x"), &one);
        assert!(matches!([keep("1"), keep("2")], [Kept::At(_), Kept::At(_)]));
        assert_eq!(keep("1"), Kept::Before, "trimmed");
        inboxes.erase(&user, Erasure::All);
        assert_eq!(keep("2"), Kept::Before, "erased");
        let ended = Bounds {
            age: Duration::ZERO,
            ..BOUNDS
        };
        inboxes.sweep(&ended);
        assert_eq!(keep("2"), Kept::Before, "forgotten with its inbox");
        let other = Subject::Topic("a".parse().unwrap());
        let kept = inboxes.keep(&other, &message("2", "x"), &one);
        assert!(matches!(kept, Kept::At(_)), "it is an id of the user's");
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
