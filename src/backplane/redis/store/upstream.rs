//! The streams of services: `pn:upstream:<service>`.
//!
//! One XADD adds each client message, in the order of each client. A service reads by a consumer
//! group. What all groups have acknowledged is trimmed, and what remains is measured in entries and
//! bytes. What must stay true: an entry is added at most once, so an XADD without an answer is
//! not repeated; and no entry is trimmed that a group has not acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, MemoryInterface, StreamsInterface};
use fred::types::{CustomCommand, Value};
use tokio::time::Instant;

use crate::backplane::answers::{Unavailable, Unsent, UpstreamBacklog, UpstreamEntry};
use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::errors::{is_broken_off, is_denied, redacted};
use crate::backplane::redis::{AWAY, Keys};
use crate::protocol::position::EntryId;

/// The pause before another attempt, if it is certain that no entry was added.
const RETRY: Duration = Duration::from_millis(50);
/// Entries counted per page if Redis cannot tell a group's lag.
const PAGE: u64 = 500;

#[derive(Debug)]
pub(crate) struct Streams {
    servers: Servers,
    keys: Keys,
    /// The `MAXLEN ~` of each stream.
    length: u64,
    /// Whether it was logged that Redis does not allow to trim.
    warned: AtomicBool,
    /// Whether it was logged that a stream has no group.
    told_groupless: AtomicBool,
}

/// The backlog of one consumer group.
#[derive(Debug, Default)]
struct Group {
    name: String,
    pending: u64,
    /// `None` before Redis 7, and after some deletions.
    lag: Option<u64>,
    last_delivered: String,
}

impl Streams {
    pub(crate) fn new(servers: Servers, keys: Keys, length: u64) -> Self {
        Self {
            servers,
            keys,
            length,
            warned: AtomicBool::new(false),
            told_groupless: AtomicBool::new(false),
        }
    }

    /// Adds an entry; retries until the deadline as long as that is safe.
    pub(crate) async fn add(
        &self,
        service: &str,
        entry: &UpstreamEntry<'_>,
        deadline: Instant,
    ) -> Result<(), Unsent> {
        let key = self.keys.upstream(service);
        let mut words = vec!["MAXLEN".to_owned(), "~".to_owned(), self.length.to_string()];
        words.push("*".to_owned());
        let mut field = |name: &str, value: String| words.extend([name.to_owned(), value]);
        field("route", entry.route.to_owned());
        field("user", entry.user.to_string());
        field("from", entry.from.to_string());
        if let Some(reference) = entry.reference {
            field("ref", reference.to_owned());
        }
        field("data", entry.data.to_owned());
        loop {
            // A command that fred holds until it has a connection might be sent after the deadline.
            let error = if self.servers.at(&key).is_connected() {
                let place = self.servers.place_of(&key);
                let added = async {
                    self.servers.call("XADD", &key, &words).await?;
                    self.servers.confirm(&place).await
                };
                match added.await {
                    Ok(()) => return Ok(()),
                    Err(error) if is_broken_off(&error) => {
                        tracing::debug!(error = %redacted(&error), service, "it is unknown whether the entry was added");
                        return Err(Unsent::Unknown);
                    }
                    Err(error) => error,
                }
            } else {
                Error::new(ErrorKind::IO, "no connection")
            };
            tracing::debug!(error = %redacted(&error), service, "not added");
            if Instant::now() + RETRY >= deadline || !may_pass(&error) {
                return Err(Unsent::Refused(AWAY));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// How many entries of a service's stream are unfinished: those of its slowest group, or all
    /// entries if there is no group. Counts no further than just beyond `most`. First trims what
    /// all groups have finished; the bytes are of what remains.
    pub(crate) async fn backlog(
        &self,
        service: &str,
        most: u64,
    ) -> Result<UpstreamBacklog, Unavailable> {
        let counted = self.count(&self.keys.upstream(service), most).await;
        counted.map_err(|error| {
            tracing::debug!(error = %redacted(&error), service, "could not read the backlog");
            self.servers.note(&error);
            AWAY
        })
    }

    async fn count(&self, key: &str, most: u64) -> Result<UpstreamBacklog, Error> {
        let client = self.servers.at(key);
        if !client.is_connected() {
            return Err(Error::new(ErrorKind::IO, "no connection"));
        }
        let command = CustomCommand::new_static("XINFO", None, false);
        let groups: Result<Value, Error> = client.custom(command, vec!["GROUPS", key]).await;
        let groups = match groups {
            Err(error) if error.details().contains("no such key") => {
                return Ok(UpstreamBacklog::default());
            }
            groups => groups?.into_array(),
        };
        let groups: Vec<Group> = groups.into_iter().map(group).collect();
        let bytes = match self.trim(&client, key, &groups).await {
            Ok(bytes) => bytes,
            // Without the right to trim, the bound in entries still holds.
            Err(error) if is_denied(&error) => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        error = %redacted(&error), key,
                        "cannot trim or measure a service's stream; \
                         allow XPENDING, XTRIM and MEMORY USAGE"
                    );
                }
                0
            }
            Err(error) => return Err(error),
        };
        let entries = self.count_entries(&client, key, &groups, most).await?;
        // A worker that reads by plain XREAD is not seen, and its clients soon hear `busy`.
        let is_groupless = groups.is_empty() && entries > most / 2;
        if is_groupless && !self.told_groupless.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                key,
                entries,
                "a service's stream has no consumer group, so all its entries count as unread; \
                 read it by XREADGROUP"
            );
        }
        Ok(UpstreamBacklog { entries, bytes })
    }

    /// Removes the entries that all groups have finished; returns the bytes of the others.
    async fn trim(&self, client: &Client, key: &str, groups: &[Group]) -> Result<u64, Error> {
        let mut unfinished = Vec::with_capacity(groups.len());
        for group in groups {
            unfinished.push(match group.pending {
                0 => after(&group.last_delivered),
                _ => oldest_pending(client, key, &group.name).await?,
            });
        }
        // Where the first unfinished entry is unknown, nothing goes.
        let first: Option<Vec<EntryId>> = unfinished.into_iter().collect();
        if let Some(first) = first.and_then(|all| all.into_iter().min()) {
            let _: u64 = client.xtrim(key, ("MINID", "=", first.to_string())).await?;
        }
        let bytes: Option<u64> = client.memory_usage(key, None).await?;
        Ok(bytes.unwrap_or(0))
    }

    async fn count_entries(
        &self,
        client: &Client,
        key: &str,
        groups: &[Group],
        most: u64,
    ) -> Result<u64, Error> {
        let is_known = !groups.is_empty() && groups.iter().all(|group| group.lag.is_some());
        let length = if is_known { 0 } else { client.xlen(key).await? };
        if groups.is_empty() {
            return Ok(length);
        }
        let mut backlog = 0;
        for group in groups {
            let behind = match group.lag {
                Some(lag) => lag + group.pending,
                // Pending entries are in the stream too, so there cannot be more than that.
                None if length < most => length,
                None => {
                    let last = group.last_delivered.clone();
                    group.pending + self.count_behind(key, last, most).await?
                }
            };
            backlog = backlog.max(behind);
        }
        Ok(backlog)
    }

    /// Counts the entries after `last`, page by page.
    async fn count_behind(&self, key: &str, mut last: String, most: u64) -> Result<u64, Error> {
        let mut count = 0;
        while count <= most {
            let from = format!("({last}");
            let page: Value = self
                .servers
                .at(key)
                .xrange(key, from, "+", Some(PAGE))
                .await?;
            let page = page.into_array();
            count += page.len() as u64;
            let newest = page.into_iter().next_back().and_then(|entry| {
                let id = entry.into_array().into_iter().next()?;
                id.as_str().map(|id| id.into_owned())
            });
            match newest {
                Some(id) if count.is_multiple_of(PAGE) => last = id,
                _ => break,
            }
        }
        Ok(count)
    }
}

/// The first id after this one.
fn after(id: &str) -> Option<EntryId> {
    let id: EntryId = id.parse().ok()?;
    Some(EntryId {
        seq: id.seq.checked_add(1)?,
        ..id
    })
}

/// The oldest entry that a group has delivered and not acknowledged; `None` if that has changed.
async fn oldest_pending(client: &Client, key: &str, group: &str) -> Result<Option<EntryId>, Error> {
    let command = CustomCommand::new_static("XPENDING", None, false);
    let summary: Value = client.custom(command, vec![key, group]).await?;
    // The number of entries, the oldest, the newest, and consumers.
    let oldest = summary.into_array().into_iter().nth(1);
    Ok(oldest.and_then(|id| id.as_str()?.parse().ok()))
}

/// Whether another attempt may succeed soon.
fn may_pass(error: &Error) -> bool {
    error.is_cluster()
        || [
            "READONLY",
            "MASTERDOWN",
            "LOADING",
            "CLUSTERDOWN",
            "TRYAGAIN",
        ]
        .iter()
        .any(|word| error.details().starts_with(word))
}

/// One group as XINFO shows it: a map, or names and values in turn.
fn group(value: Value) -> Group {
    let mut group = Group::default();
    let pairs: Vec<(String, Value)> = match value {
        Value::Map(map) => map
            .inner()
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap_or_default(), value))
            .collect(),
        other => {
            let mut words = other.into_array().into_iter();
            std::iter::from_fn(|| Some((words.next()?.into_string()?, words.next()?))).collect()
        }
    };
    for (name, value) in pairs {
        match &*name {
            "name" => group.name = value.into_string().unwrap_or_default(),
            "pending" => group.pending = value.as_u64().unwrap_or(0),
            "lag" => group.lag = value.as_u64(),
            "last-delivered-id" => group.last_delivered = value.into_string().unwrap_or_default(),
            _ => {}
        }
    }
    group
}
