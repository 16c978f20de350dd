//! Reading kept messages: where an inbox or a log ends, and pages of it.
//!
//! Most readers have all or want none, so its end is looked at first, over the lean connection, and
//! a page is read only if there is one: pages are large, and pushes would wait behind them. What
//! must stay true: what is said of a whole inbox holds for one moment.

use std::collections::HashMap;

use fred::error::{Error, ErrorKind};
use fred::prelude::{KeysInterface, StreamsInterface};
use fred::types::Value;

use crate::backplane::answers::Unavailable;
use crate::backplane::redis::AWAY;
use crate::backplane::redis::servers::errors::{is_denied, redacted};
use crate::backplane::redis::servers::{exec, multi};
use crate::backplane::redis::store::entries::{entries, entry_id};
use crate::backplane::redis::store::kept::{COUNTER_SECONDS, KeptStore};
use crate::backplane::redis::wire::script::{Script, as_value, executed};
use crate::local::replay::page::{Entry, LogExtent, PAGE, Page};
use crate::protocol::ids::Subject;
use crate::protocol::position::{EntryId, Since, Unwritten};

/// So much sooner a position where nothing was kept proves nothing any more: Redis's clock may be
/// corrected meanwhile.
const MARGIN_SECONDS: u64 = 3600;

impl KeptStore {
    /// The page after `since`. What it says of the whole inbox comes from one MULTI, and so holds
    /// for one moment.
    pub(crate) async fn read(&self, subject: &Subject, since: Since) -> Result<Page, Unavailable> {
        let read = self.read_once(subject, since).await;
        read.map_err(|error| {
            tracing::debug!(error = %redacted(&error), "inbox not read");
            self.servers.note(&error);
            AWAY
        })
    }

    async fn read_once(&self, subject: &Subject, since: Since) -> Result<Page, Error> {
        let (inbox, counter) = (self.keys.inbox(subject), self.keys.position(subject));
        let place = self.servers.place_of(&inbox);
        let told = match self.look_at_end(&inbox, &counter, since).await? {
            Some(told) => told,
            None => self.read_range(&inbox, &counter, since).await?,
        };
        // What a master has that is being replaced may be kept again by its successor.
        self.servers.confirm(&place).await?;
        let LogPart {
            newest,
            length,
            mut entries,
        } = told;
        let holds = match (since, entries.first()) {
            (Since::Now, _) => true,
            (Since::Last(_), _) => {
                entries.reverse();
                true
            }
            (since, Some(first)) if first.entry == since.entry() => {
                entries.remove(0);
                true
            }
            (since, _) => since.entry() == EntryId::default(),
        };
        if !matches!(since, Since::Last(_)) {
            // One more than a page says that there is another.
            entries.truncate(PAGE + 1);
        }
        let mut extent = LogExtent {
            holds,
            ..self.extent(since, newest, length).await?
        };
        let read = entries.last().map(|newest| newest.entry);
        let decides = match since {
            Since::Now => false,
            Since::Beginning => read.is_some() && extent.is_counted(),
            Since::Last(count) => {
                let are_enough = entries.len() >= usize::from(count);
                read.is_some() && (are_enough || extent.is_counted())
            }
            Since::After(position) => extent.was_erased_since(&position),
        };
        if decides {
            let removals = self.removals(&inbox, read).await?;
            extent.is_untouched = removals.are_none;
            extent.erased = removals.newest_erased;
        }
        Ok(Page::new(&since, &extent, entries))
    }

    /// What a reader who has all, or wants none, needs to know; `None` if there may be more to
    /// read, or if the inbox is at another server.
    async fn look_at_end(
        &self,
        inbox: &str,
        counter: &str,
        since: Since,
    ) -> Result<Option<LogPart>, Error> {
        if matches!(since, Since::Last(_)) {
            return Ok(None);
        }
        let mut script = Script::default();
        script.command(&[b"MULTI"]);
        script.command(&[b"GET", counter.as_bytes()]);
        script.command(&[b"XLEN", inbox.as_bytes()]);
        script.command(&[b"XREVRANGE", inbox.as_bytes(), b"+", b"-", b"COUNT", b"1"]);
        script.command(&[b"EXEC"]);
        let asked = self.servers.wire_at(inbox).play(&script);
        let answers = executed(asked.answers().await);
        let Some(answers) = self.servers.unless_moved(answers)? else {
            return Ok(None);
        };
        let answers: Result<_, Error> = answers.into_iter().map(as_value).collect();
        let mut told = LogPart::of(answers?)?;
        let has_more = |newest: &Entry| since != Since::Now && newest.entry > since.entry();
        if told.entries.first().is_some_and(has_more) {
            return Ok(None);
        }
        if since != Since::Now {
            told.entries.retain(|newest| newest.entry == since.entry());
        }
        Ok(Some(told))
    }

    /// A page, and its inbox at that moment.
    async fn read_range(&self, inbox: &str, counter: &str, since: Since) -> Result<LogPart, Error> {
        let transaction = multi(&self.servers.at(inbox)).await?;
        let _: () = transaction.get(counter).await?;
        let _: () = transaction.xlen(inbox).await?;
        let _: Value = match since {
            Since::Now => transaction.xrevrange(inbox, "+", "-", Some(1)).await?,
            Since::Last(count) => {
                let count = Some(u64::from(count) + 1);
                transaction.xrevrange(inbox, "+", "-", count).await?
            }
            since => {
                // The entry itself comes first, if it is there.
                let from = since.entry().to_string();
                let count = PAGE as u64 + 2;
                transaction.xrange(inbox, from, "+", Some(count)).await?
            }
        };
        LogPart::of(exec(&transaction).await?)
    }

    /// What was ever thrown out of a stream: what is said of it holds for all that was read
    /// before, to this entry. Redis 6 does not tell, and access rules may not allow to ask.
    async fn removals(&self, inbox: &str, read: Option<EntryId>) -> Result<Removals, Error> {
        let client = self.servers.at(inbox);
        let about: HashMap<String, Value> = match client.xinfo_stream(inbox, false, None).await {
            // Removed since it was read.
            Err(error) if is_denied(&error) || error.details().contains("no such key") => {
                return Ok(Removals::default());
            }
            about => about?,
        };
        let number = |name: &str| about.get(name).and_then(Value::as_u64);
        let entry = |name: &str| about.get(name).and_then(entry_id);
        // Else it may be another stream of the same name, which knows of nothing before it. Of the
        // same one, some of what was read may be gone by now.
        let first = entry("recorded-first-entry-id");
        let is_same = read.is_none_or(|read| first.is_some_and(|first| first <= read));
        let erased = entry("max-deleted-entry-id").filter(|_| is_same);
        let added = number("entries-added");
        let is_full = added.is_some() && added == number("length");
        Ok(Removals {
            are_none: is_full && erased == Some(EntryId::default()),
            newest_erased: erased,
        })
    }

    /// The extent of an inbox that was read a moment ago. After that, so that an epoch that is
    /// still the same proves that nothing was lost before.
    async fn extent(
        &self,
        since: Since,
        newest: Option<u64>,
        length: u64,
    ) -> Result<LogExtent, Error> {
        let unwritten = match since {
            Since::After(position) if Unwritten::of(&position).is_some() => {
                self.epoch.now().await?
            }
            _ if newest.is_none() => self.epoch.recent().await?,
            _ => Unwritten::UNKNOWN,
        };
        Ok(LogExtent {
            newest,
            length,
            holds: true,
            is_untouched: false,
            erased: None,
            unwritten,
            lasts: self.bounds.age.as_secs() + COUNTER_SECONDS as u64 - MARGIN_SECONDS,
        })
    }
}

/// What was read of an inbox, all at one moment.
struct LogPart {
    /// The number of its newest message.
    newest: Option<u64>,
    length: u64,
    entries: Vec<Entry>,
}

impl LogPart {
    /// From the answers to GET, XLEN and a range.
    fn of(answers: Vec<Value>) -> Result<Self, Error> {
        let [newest, length, range] = <[Value; 3]>::try_from(answers)
            .map_err(|_| Error::new(ErrorKind::Unknown, "EXEC gave no inbox"))?;
        let length = length.as_u64();
        Ok(Self {
            newest: newest.as_u64(),
            length: length.ok_or_else(|| Error::new(ErrorKind::Unknown, "XLEN gave no number"))?,
            entries: entries(range),
        })
    }
}

/// What is no longer in a stream.
#[derive(Debug, Default)]
struct Removals {
    /// Nothing was ever thrown out of it.
    are_none: bool,
    /// As [`LogExtent::erased`].
    newest_erased: Option<EntryId>,
}
