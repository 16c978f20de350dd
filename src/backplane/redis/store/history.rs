//! Looking back in inboxes and logs in Redis, and erasing.
//!
//! All messages of an inbox go by XTRIM, which is no different from what a bound throws out: the
//! numbers tell. One that goes from the middle leaves numbers that would fit. So the same MULTI
//! raises the number of the newest message by [`ERASURE`]: a reader from an earlier position
//! sees by that how often something was erased since, and asks the stream what it was. The stream
//! stays in either case, because it knows the newest entry: another one could give a name again.

use fred::error::{Error, ErrorKind};
use fred::prelude::{KeysInterface, StreamsInterface};
use fred::types::Value;

use crate::backplane::answers::Unavailable;
use crate::backplane::history::Erasure;
use crate::backplane::redis::AWAY;
use crate::backplane::redis::servers::errors::{redacted, refusal_reason};
use crate::backplane::redis::servers::{exec, multi};
use crate::backplane::redis::store::entries::entries;
use crate::backplane::redis::store::kept::KeptStore;
use crate::local::replay::excerpt::{Excerpt, Span};
use crate::local::replay::page::Entry;
use crate::protocol::ids::Subject;
use crate::protocol::position::{ERASURE, EntryId};

impl KeptStore {
    /// Some messages, read in one command.
    pub(crate) async fn excerpt(
        &self,
        subject: &Subject,
        span: Span,
        limit: u16,
    ) -> Result<Excerpt, Unavailable> {
        let read = self.read_span(subject, span, u64::from(limit) + 1).await;
        let entries = read.map_err(|error| self.refused(&error, "history not read"))?;
        Ok(Excerpt::new(span, limit, entries))
    }

    async fn read_span(
        &self,
        subject: &Subject,
        span: Span,
        count: u64,
    ) -> Result<Vec<Entry>, Error> {
        let inbox = self.keys.inbox(subject);
        let client = self.servers.at(&inbox);
        match span {
            Span::Before(EntryId { ms: 0, seq: 0 }) => Ok(Vec::new()),
            Span::Newest | Span::Before(_) => {
                let newest = match span {
                    Span::Before(entry) => entry.before().to_string(),
                    _ => "+".to_owned(),
                };
                let answer: Value = client.xrevrange(&inbox, newest, "-", Some(count)).await?;
                Ok(entries(answer))
            }
            Span::After(entry) => {
                // The entry itself comes first, if it is there. Redis before 6.2 cannot leave it
                // out.
                let from = entry.to_string();
                let answer: Value = client.xrange(&inbox, from, "+", Some(count + 1)).await?;
                let mut entries = entries(answer);
                entries.retain(|one| one.entry > entry);
                entries.truncate(count as usize);
                Ok(entries)
            }
        }
    }

    /// Erases messages; answers how many.
    pub(crate) async fn erase(
        &self,
        subject: &Subject,
        erasure: Erasure,
    ) -> Result<u64, Unavailable> {
        let place = self.servers.place_of(&self.keys.inbox(subject));
        let erased = async {
            let erased = match erasure {
                Erasure::All => self.erase_all(subject).await?,
                Erasure::One(entry) => self.erase_one(subject, entry).await?,
            };
            // The successor of a master that is being replaced may still have them.
            self.servers.confirm(&place).await?;
            Ok(erased)
        };
        erased
            .await
            .map_err(|error| self.refused(&error, "messages not erased"))
    }

    async fn erase_all(&self, subject: &Subject) -> Result<u64, Error> {
        let inbox = self.keys.inbox(subject);
        let none = ("MAXLEN", "=", 0i64);
        self.servers.at(&inbox).xtrim(&inbox, none).await
    }

    async fn erase_one(&self, subject: &Subject, entry: EntryId) -> Result<u64, Error> {
        let (inbox, counter) = (self.keys.inbox(subject), self.keys.position(subject));
        let (client, name) = (self.servers.at(&inbox), entry.to_string());
        let answer: Value = client.xrange(&inbox, &*name, &*name, Some(1)).await?;
        if entries(answer).is_empty() {
            // Nothing is written for what is not there.
            return Ok(0);
        }
        let transaction = multi(&client).await?;
        let _: () = self.first_number(&transaction, &counter).await?;
        let _: () = transaction.xdel(&inbox, name).await?;
        let _: () = transaction.incr_by(&counter, ERASURE as i64).await?;
        let lasts = self.number_lasts(self.bounds.of(subject, &self.rules));
        let _: () = transaction.expire(&counter, lasts, None).await?;
        let answers: Vec<Value> = exec(&transaction).await?;
        let erased = answers.get(1).and_then(Value::as_u64);
        erased.ok_or_else(|| Error::new(ErrorKind::Unknown, "EXEC gave no count"))
    }

    fn refused(&self, error: &Error, what: &'static str) -> Unavailable {
        tracing::debug!(error = %redacted(error), what);
        self.servers.note(error);
        refusal_reason(error).map_or(AWAY, Unavailable)
    }
}
