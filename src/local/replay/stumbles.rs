//! Kept messages that clients cannot take: at which entries their connects have ended.
//!
//! A message over a library's limit ends the connection. It comes again after each reconnect, with
//! all that is behind it waiting. So it is counted at which entry the connects of a device end, and
//! an entry at which [`MOST`] have ended is passed over. What must stay true: the client is told
//! what it does not get, and a client that shows that it took the entry is not counted. One node
//! counts for itself, within bounds, and forgets when it ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use parking_lot::Mutex;

use crate::local::replay::page::Page;
use crate::protocol::Message;
use crate::protocol::ids::{Topic, UserId};
use crate::protocol::position::EntryId;

/// So many connects that ended at one entry are enough.
const MOST: u8 = 3;
/// No known library refuses a message of fewer bytes. So if a connect ends there without a
/// complaint, it was cut off, perhaps by a network that lets no connect live for long.
const SMALL: usize = 16 * 1024;
/// A connect that ends later than this did not end at its first message.
const WATCH: Duration = Duration::from_secs(60);
/// How long a count lasts at least.
const WINDOW: Duration = Duration::from_secs(1800);
/// Most entries in one generation.
const CAPACITY: usize = 10_000;

/// Whose connects ended where: of a device or, where clients name none, of a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct KeptReader {
    pub(crate) user: UserId,
    pub(crate) device: Option<Arc<str>>,
    /// Whose log it is, if it is not the inbox.
    pub(crate) topic: Option<Topic>,
}

type Place = (KeptReader, EntryId);

#[derive(Debug)]
struct StumbleCounts {
    young: HashMap<Place, u8, RandomState>,
    old: HashMap<Place, u8, RandomState>,
    turned: Instant,
}

impl StumbleCounts {
    fn count(&self, place: &Place) -> u8 {
        let count = self.young.get(place).or_else(|| self.old.get(place));
        count.copied().unwrap_or(0)
    }

    fn put(&mut self, place: &Place, count: u8) {
        if self.turned.elapsed() >= WINDOW || self.young.len() >= CAPACITY {
            self.old = std::mem::take(&mut self.young);
            self.turned = Instant::now();
        }
        self.young.insert(place.clone(), count);
    }
}

/// The counts of one node.
#[derive(Debug)]
pub(crate) struct Stumbles(Mutex<StumbleCounts>);

impl Default for Stumbles {
    fn default() -> Self {
        Self(Mutex::new(StumbleCounts {
            young: HashMap::default(),
            old: HashMap::default(),
            turned: Instant::now(),
        }))
    }
}

/// What a reader who comes back does not get, and what is watched.
#[derive(Debug, Default)]
pub(crate) struct Tryout {
    /// Its connects ended at these.
    pub(crate) passed: Vec<Arc<Message>>,
    /// The first message it gets.
    pub(crate) trial: Option<Trial>,
}

/// The first message that a reader who came back gets: its connect may end there.
#[derive(Debug)]
pub(crate) struct Trial {
    place: Place,
    /// Whether a connect has ended there before.
    pub(crate) is_suspect: bool,
    /// It may have taken the message and not said so: only a complaint proves that it could not.
    pub(crate) needs_complaint: bool,
    began: Instant,
    stumbles: Arc<Stumbles>,
}

impl Tryout {
    /// For a reader whose position says what it acknowledged, not what it was given.
    pub(crate) fn ask_for_complaint(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.needs_complaint = true;
        }
    }
}

impl Stumbles {
    /// Takes out of the first page of a reader who came back what it could not take.
    pub(crate) fn judge(self: &Arc<Self>, reader: KeptReader, page: &mut Page) -> Tryout {
        let mut tryout = Tryout::default();
        let mut place = (reader, EntryId::default());
        while let Some(first) = page.messages.first()
            && let Some(position) = first.position()
        {
            place.1 = position.entry;
            let count = self.0.lock().count(&place);
            if count < MOST {
                tryout.trial = Some(Trial {
                    place,
                    is_suspect: count > 0,
                    needs_complaint: first.data().len() < SMALL,
                    began: Instant::now(),
                    stumbles: self.clone(),
                });
                break;
            }
            tryout.passed.push(page.messages.remove(0));
            // A client that hears nothing more comes back from behind it.
            page.start = position;
        }
        tryout
    }
}

impl Trial {
    /// The connect ended, and nothing shows that the client took the message.
    pub(crate) fn failed(&self) {
        if self.began.elapsed() > WATCH {
            return;
        }
        let mut counts = self.stumbles.0.lock();
        let count = counts.count(&self.place).saturating_add(1);
        counts.put(&self.place, count);
    }

    /// The client took the message.
    pub(crate) fn taken(&self) {
        if self.is_suspect {
            self.stumbles.0.lock().put(&self.place, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::replay::page::{Entry, LogExtent};
    use crate::protocol::position::{Position, Since};

    fn page() -> Page {
        let entries = (6..=8).map(|n| Entry {
            event: None,
            from: None,
            entry: EntryId { ms: n, seq: 0 },
            id: None,
            data: n.to_string(),
        });
        let since = Since::After(Position {
            n: 5,
            entry: EntryId { ms: 5, seq: 0 },
        });
        Page::new(&since, &LogExtent::of(8, 8), entries.collect())
    }

    fn reader(user: &str, device: Option<&str>) -> KeptReader {
        KeptReader {
            user: user.parse().unwrap(),
            device: device.map(Into::into),
            topic: None,
        }
    }

    /// What it gets and does not get, after so many of its connects have ended at the first.
    fn judge(stumbles: &Arc<Stumbles>, reader: KeptReader) -> (Vec<String>, Tryout) {
        let mut page = page();
        let tryout = stumbles.judge(reader, &mut page);
        let data = page.messages.iter().map(|one| one.data().to_owned());
        (data.collect(), tryout)
    }

    #[test]
    fn an_entry_is_passed_over_after_three_connects_of_its_reader_ended_there() {
        let stumbles = Arc::new(Stumbles::default());
        let phone = || reader("42", Some("phone"));
        for before in 0..MOST {
            let (data, tryout) = judge(&stumbles, phone());
            assert_eq!(data, ["6", "7", "8"]);
            let trial = tryout.trial.expect("watched");
            assert_eq!(trial.is_suspect, before > 0);
            trial.failed();
        }
        let (data, tryout) = judge(&stumbles, phone());
        assert_eq!(data, ["7", "8"]);
        assert_eq!(tryout.passed[0].data(), "6");
        assert!(!tryout.trial.expect("the next one").is_suspect);
        for other in [reader("42", None), reader("43", Some("phone"))] {
            assert_eq!(judge(&stumbles, other).0, ["6", "7", "8"]);
        }
    }

    #[test]
    fn who_took_it_begins_at_none_again() {
        let stumbles = Arc::new(Stumbles::default());
        let trial = || judge(&stumbles, reader("42", None)).1.trial.expect("one");
        trial().failed();
        trial().failed();
        trial().taken();
        trial().failed();
        assert!(trial().is_suspect);
        trial().failed();
        assert_eq!(judge(&stumbles, reader("42", None)).0, ["6", "7", "8"]);
    }

    #[test]
    fn counts_are_bounded() {
        let stumbles = Arc::new(Stumbles::default());
        for n in 0..=3 * CAPACITY {
            let trial = judge(&stumbles, reader(&n.to_string(), None)).1.trial;
            trial.expect("one").failed();
        }
        let counts = stumbles.0.lock();
        assert!(counts.young.len() + counts.old.len() <= 2 * CAPACITY);
    }
}
