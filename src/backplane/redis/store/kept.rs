//! Inboxes in Redis: `pn:inbox:{<user>}` (a stream), `pn:pos:{<user>}` (the number of its newest
//! message) and `pn:kept:{<user>}:<id>` (ids of the last minute). Topics' logs are the same under
//! `pn:log:{<topic>}`, `pn:logpos:{<topic>}` and `pn:logkept:{<topic>}:<id>`.
//!
//! One MULTI writes number and entry, so both have the same order. A push with an id watches the
//! mark of the id first, and the MULTI sets it. So if several nodes send one id, exactly one keeps
//! it, even if Redis stands still for any time in between: no lease can expire. A node that got no
//! answer learns from the mark whether Redis has the message. With Sentinels, what a master answers
//! after it was silent counts only if they still name it: otherwise its successor is asked. Nothing
//! here trusts a node's clock: ages are measured by entry ids, which carry Redis's time. What must
//! stay true: if it is unknown whether Redis has a message, it is written again only if its id can
//! prevent a duplicate.

use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{
    Client, Expiration, KeysInterface, MemoryInterface, SetOptions, StreamsInterface,
};
use fred::types::Value;
use tokio::time::Instant;

use crate::backplane::answers::{Kept, LATE, ReplicaProof, Unavailable};
use crate::backplane::redis::servers::errors::{
    is_broken_off, is_passing, redacted, refusal_reason,
};
use crate::backplane::redis::servers::exclusive::ConnectionPool;
use crate::backplane::redis::servers::{OVERTAKEN, Servers, exec, multi};
use crate::backplane::redis::store::bookmarks::BookmarkStore;
use crate::backplane::redis::store::entries::{DATA, EVENT, FROM, ID, entry_id};
use crate::backplane::redis::store::epoch::Epoch;
use crate::backplane::redis::store::marks::{IS_KEPT, kept_before, look_for_mark, unmark};
use crate::backplane::redis::store::replicas::Replicas;
use crate::backplane::redis::{AWAY, Keys, RedisSettings};
use crate::local::live_rules::LiveRules;
use crate::local::replay::page::{Bounds, REPEAT};
use crate::protocol::ids::Subject;
use crate::protocol::position::{EntryId, Position, first_number};
use crate::protocol::{Message, author_text};

/// The pause before another attempt.
const RETRY: Duration = Duration::from_millis(50);
/// Age and size are checked with every 16th message of an inbox.
const SWEEP: u64 = 16;
/// Fewer messages than this are counted exactly.
const EXACT: usize = 1_000;
/// A counter outlives its inbox by at least this long, so that a client that reconnects late
/// still learns that messages are missing.
pub(super) const COUNTER_SECONDS: i64 = 24 * 3600;
/// Why a push is not kept while another push with the same id is being kept.
const IS_CLAIMED: &str = "another push with this id is under way";
#[derive(Debug)]
pub(crate) struct KeptStore {
    pub(super) servers: Servers,
    connections: ConnectionPool,
    pub(super) keys: Keys,
    pub(super) bounds: Bounds,
    pub(super) rules: LiveRules,
    pub(super) epoch: Epoch,
    replicas: Replicas,
    pub(crate) bookmarks: BookmarkStore,
}

impl KeptStore {
    pub(crate) fn new(servers: Servers, keys: Keys, settings: &RedisSettings) -> Self {
        let lasts = settings.inboxes.age.as_secs() as i64 + COUNTER_SECONDS;
        Self {
            epoch: Epoch::new(servers.clone(), &keys, lasts),
            bookmarks: BookmarkStore::new(servers.clone(), keys.clone(), lasts),
            connections: ConnectionPool::new(servers.clone()),
            servers,
            keys,
            bounds: settings.inboxes,
            rules: settings.rules.clone(),
            replicas: Replicas::new(settings.keep_replicas),
        }
    }

    /// What must be kept alive for positions in inboxes that do not exist.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch.clone()
    }

    /// Puts a message into an inbox or log; retries until the deadline as long as that is safe.
    pub(crate) async fn keep(
        &self,
        subject: &Subject,
        message: &Message,
        deadline: Instant,
    ) -> Result<(Kept, ReplicaProof), Unavailable> {
        loop {
            let attempt = self.keep_once(subject, message, deadline);
            let attempt = tokio::time::timeout_at(deadline, attempt).await;
            let error = match attempt {
                Ok(Ok(kept)) => return Ok(kept),
                Ok(Err(error)) => error,
                Err(_) => return Err(Unavailable(LATE)),
            };
            tracing::debug!(error = %redacted(&error), "message not kept");
            self.servers.note(&error);
            if is_broken_off(&error) && message.id().is_none() {
                let words = "Redis broke off: the message may have been kept; send it with an id";
                return Err(Unavailable(words));
            }
            // With several servers, another may take over in a moment.
            let waits = is_passing(&error) && self.servers.are_several();
            let refusal = refusal_reason(&error);
            if let Some(reason) = refusal.filter(|_| !waits) {
                return Err(Unavailable(reason));
            }
            if Instant::now() + RETRY >= deadline {
                let is_claimed = error.details() == IS_CLAIMED;
                let words = refusal.or(is_claimed.then_some(IS_CLAIMED));
                return Err(words.map_or(AWAY, Unavailable));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One attempt. Alone on its connection if that must be watched or waited for.
    async fn keep_once(
        &self,
        subject: &Subject,
        message: &Message,
        deadline: Instant,
    ) -> Result<(Kept, ReplicaProof), Error> {
        // All keys of one user or topic are in one slot.
        let inbox = self.keys.inbox(subject);
        if message.id().is_none() && !self.replicas.are_wanted() {
            let place = self.servers.place_of(&inbox);
            let kept = self.add(&self.servers.at(&inbox), subject, message).await?;
            self.servers.confirm(&place).await?;
            return Ok((kept, ReplicaProof::default()));
        }
        let loan = self.connections.take(&inbox).await?;
        let kept = async {
            let kept = self.keep_fenced(loan.client(), subject, message).await?;
            self.servers.confirm(loan.place()).await?;
            Ok::<_, Error>(kept)
        };
        match kept.await {
            Ok(kept) if self.replicas.are_wanted() => {
                Ok((kept, self.replicas.prove(loan, deadline)))
            }
            Ok(kept) => {
                loan.give_back();
                Ok((kept, ReplicaProof::default()))
            }
            Err(error) => {
                // After a refusal all answers have come, and EXEC has ended the watch.
                match is_refusal(&error) {
                    true => loan.give_back(),
                    false => loan.close_all(),
                }
                Err(error)
            }
        }
    }

    /// Adds the message unless its id is there. Redis itself refuses the MULTI if another node has
    /// added it since the id was looked up, however late either arrives.
    async fn keep_fenced(
        &self,
        client: &Client,
        subject: &Subject,
        message: &Message,
    ) -> Result<Kept, Error> {
        let Some(key) = message.id().map(|id| self.keys.kept(subject, id)) else {
            return self.add(client, subject, message).await;
        };
        let inbox = self.keys.inbox(subject);
        loop {
            let mark = look_for_mark(client, &inbox, &key).await?;
            match mark.as_deref() {
                None => match self.add(client, subject, message).await {
                    Err(error) if error.details() == OVERTAKEN => {}
                    Err(error) if is_refusal(&error) => {
                        unmark(client, &inbox, &key, &error).await;
                        return Err(error);
                    }
                    kept => return kept,
                },
                Some(IS_KEPT) => {
                    return kept_before(client, &key, self.replicas.are_wanted()).await;
                }
                // A node of an older version claims ids for 5 s.
                Some(_) => return Err(Error::new(ErrorKind::Unknown, IS_CLAIMED)),
            }
        }
    }

    /// For how many seconds the number of an inbox or a log with these bounds lasts. Not shorter
    /// for a topic than for others: that is what proves that it was never there.
    pub(super) fn number_lasts(&self, bounds: Bounds) -> i64 {
        bounds.age.max(self.bounds.age).as_secs() as i64 + COUNTER_SECONDS
    }

    /// Adds the message in one MULTI.
    async fn add(
        &self,
        client: &Client,
        subject: &Subject,
        message: &Message,
    ) -> Result<Kept, Error> {
        let id_key = message.id().map(|id| self.keys.kept(subject, id));
        let (inbox, counter) = (self.keys.inbox(subject), self.keys.position(subject));
        let mut fields = Vec::with_capacity(4);
        if let Some(id) = message.id() {
            fields.push((ID, id));
        }
        if let Some(event) = message.event_name() {
            fields.push((EVENT, event));
        }
        let from = message.author().map(author_text);
        if let Some(from) = &from {
            fields.push((FROM, from));
        }
        fields.push((DATA, message.data()));
        let bounds = self.bounds.of(subject, &self.rules);
        let age = bounds.age.as_secs() as i64;
        let lasts = self.number_lasts(bounds);

        let transaction = multi(client).await?;
        let _: () = self.first_number(&transaction, &counter).await?;
        let _: () = transaction.incr(&counter).await?;
        // Redis drops whole nodes of a stream, which hold 100 entries.
        let how = if bounds.messages < EXACT { "=" } else { "~" };
        let cap = ("MAXLEN", how, bounds.messages as i64);
        let _: () = transaction.xadd(&inbox, false, cap, "*", fields).await?;
        let _: () = transaction.expire(&inbox, age, None).await?;
        let _: () = transaction.expire(&counter, lasts, None).await?;
        if let Some(key) = &id_key {
            let expire = Expiration::EX(REPEAT.as_secs() as i64);
            let _: () = transaction
                .set(key, IS_KEPT, Some(expire), None, false)
                .await?;
        }
        let answers: Vec<Value> = exec(&transaction).await?;
        let position = match &answers[..] {
            [_, n, entry, ..] => n.as_u64().zip(entry_id(entry)),
            _ => None,
        };
        let Some((n, entry)) = position else {
            return Err(Error::new(ErrorKind::Unknown, "EXEC gave no position"));
        };
        if n % SWEEP == 0 || message.data().len() > bounds.bytes / SWEEP as usize {
            self.sweep(inbox, entry, bounds);
        }
        Ok(Kept::At(Position { n, entry }))
    }

    /// The first number of a new inbox, which differs from that of every other inbox.
    pub(super) async fn first_number(
        &self,
        transaction: &fred::clients::Pipeline<fred::prelude::Client>,
        counter: &str,
    ) -> Result<(), Error> {
        let first = first_number() as i64;
        let expire = Expiration::EX(self.bounds.age.as_secs() as i64 + COUNTER_SECONDS);
        transaction
            .set(counter, first, Some(expire), Some(SetOptions::NX), false)
            .await
    }

    /// Removes messages that are too old or too many. Runs in the background; if it fails, a later
    /// sweep does it.
    fn sweep(&self, inbox: String, newest: EntryId, bounds: Bounds) {
        let client = self.servers.at(&inbox);
        tokio::spawn(async move {
            let oldest = newest.ms.saturating_sub(bounds.age.as_millis() as u64);
            let _: i64 = client
                .xtrim(&inbox, ("MINID", "~", oldest.to_string()))
                .await?;
            let bytes: Option<u64> = client.memory_usage(&inbox, None).await?;
            let bytes = bytes.unwrap_or(0) as usize;
            if bytes > bounds.bytes {
                let length: u64 = client.xlen(&inbox).await?;
                // A user's messages are usually of similar size; the next sweep corrects the rest.
                let fit = length.saturating_mul(bounds.bytes as u64) / bytes as u64;
                let _: i64 = client
                    .xtrim(&inbox, ("MAXLEN", "=", fit.max(1) as i64))
                    .await?;
            }
            Ok::<_, Error>(())
        });
    }
}

/// Whether the server answered, and would answer the same on a new connection.
fn is_refusal(error: &Error) -> bool {
    !is_broken_off(error) && !error.is_cluster() && !error.details().starts_with("READONLY")
}
