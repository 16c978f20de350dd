//! What each push needs of Redis, over the lean connections: look-ups, publishing and listening.
//! And whether a new client's user is banned.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::prelude::FredResult;
use fred::types::Value;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::role::{ServerRole, role_over};
use crate::backplane::redis::wire::connection::Wire;
use crate::backplane::redis::wire::queue::{Answers, only};
use crate::backplane::redis::wire::resp::{self, Reply};
use crate::backplane::redis::wire::script::odd;

/// How long what is known already waits for a server that has not answered. What that one has is
/// unknown then, and is asked for again without the rest: so a server that is always slower than
/// the others by more than this is not waited for in vain.
pub(crate) const LAG: Duration = Duration::from_millis(100);

/// A row as it is read: the field names for a user, names and values for a topic.
pub(crate) type FieldTexts = Vec<String>;

impl Servers {
    /// Publishes to a channel; returns how many subscribers received the payload.
    pub(crate) async fn publish(&self, channel: &str, payload: Bytes) -> FredResult<u32> {
        self.publish_over(&self.publisher(channel), channel, payload)
            .await
    }

    /// As [`Servers::publish`], to the channel of all nodes, by the server that has this key: in a
    /// cluster, that of the node's own channel may be silent.
    pub(crate) async fn publish_by(
        &self,
        key: &str,
        channel: &str,
        payload: Bytes,
    ) -> FredResult<u32> {
        self.publish_over(&self.wire_at(key), channel, payload)
            .await
    }

    async fn publish_over(&self, wire: &Wire, channel: &str, payload: Bytes) -> FredResult<u32> {
        let asked = wire.ask(|out| self.write_publish(channel, &payload, out));
        self.receivers(channel, asked.answers().await)
    }

    /// The connection by which this channel is published to.
    pub(crate) fn publisher(&self, channel: &str) -> Wire {
        let is_classic = self.is_clustered() && channel == self.0.global;
        let key = if is_classic { &self.0.own } else { channel };
        self.wire_at(key)
    }

    /// The lean connection to the server that has this key now.
    pub(crate) fn wire_at(&self, key: &str) -> Wire {
        self.0.routes.read().server(key).wire.clone()
    }

    /// Writes what publishes a payload; returns how many commands that takes.
    ///
    /// In a cluster, a node's channel is a sharded one, whose count is true, but for a moment after
    /// a fail-over ([`Servers::may_deny_falsely`]). But a replica, such as a master that has just
    /// been deposed, answers 0 to SPUBLISH and still delivers, and the line would be sent again as
    /// if no node had received it. Asked for a key, a replica answers MOVED.
    pub(crate) fn write_publish(&self, channel: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
        if !self.is_clustered() || channel == self.0.global {
            resp::command(out, &[b"PUBLISH", channel.as_bytes(), payload]);
            return 1;
        }
        // A key of the same node, and so of the same slot.
        let key = channel.replacen("n:{", "users:{", 1);
        resp::command(out, &[b"EXISTS", key.as_bytes()]);
        resp::command(out, &[b"SPUBLISH", channel.as_bytes(), payload]);
        2
    }

    /// How many subscribers received a payload, by the answers to [`Servers::write_publish`].
    ///
    /// In a cluster, the channel of all nodes is a classic one, where the server counts only its own
    /// subscribers. The answer is then at least the number of live nodes, and never 0, which would
    /// cause a second publish.
    pub(crate) fn receivers(&self, channel: &str, answers: Answers) -> FredResult<u32> {
        let told = match answers {
            Ok(mut both) if both.len() == 2 => {
                let receivers = both.pop().map(|told| told.and_then(|reply| count(&reply)));
                match (both.pop(), receivers) {
                    (Some(exists), Some(Ok(receivers))) => self.believed(exists, receivers),
                    (_, Some(Err(error))) => Err(error),
                    _ => Err(odd()),
                }
            }
            answers => only(answers).and_then(|reply| count(&reply)),
        };
        let told = told.inspect_err(|error| self.note(error))?;
        match self.is_clustered() && channel == self.0.global {
            true => Ok(told.max(self.0.population.load(Ordering::Relaxed).max(1))),
            false => Ok(told),
        }
    }

    /// The count, if the server that gave it was the right one. Otherwise the outcome is unknown,
    /// and the payload is sent again under its number.
    fn believed(&self, exists: Result<Reply, Error>, receivers: u32) -> FredResult<u32> {
        match exists {
            // The slot is migrating; this key has moved before the rest of the slot.
            Err(error) if error.is_ask() => Ok(receivers),
            Err(error) => {
                self.note(&error);
                let words = format!("published by a server that answered {error}");
                Err(Error::new(ErrorKind::Unknown, words))
            }
            Ok(_) => Ok(receivers),
        }
    }

    /// Writes what subscribes to this node's channel and to that of all nodes.
    pub(crate) fn write_subscribe(&self, out: &mut Vec<u8>) {
        let (own, global) = (self.0.own.as_bytes(), self.0.global.as_bytes());
        if self.is_clustered() {
            resp::command(out, &[b"SSUBSCRIBE", own]);
            resp::command(out, &[b"SUBSCRIBE", global]);
        } else {
            resp::command(out, &[b"SUBSCRIBE", own, global]);
        }
    }

    /// Writes what ends both subscriptions, and a PING.
    pub(crate) fn write_unsubscribe(&self, out: &mut Vec<u8>) {
        let (own, global) = (self.0.own.as_bytes(), self.0.global.as_bytes());
        if self.is_clustered() {
            resp::command(out, &[b"SUNSUBSCRIBE", own]);
            resp::command(out, &[b"UNSUBSCRIBE", global]);
        } else {
            resp::command(out, &[b"UNSUBSCRIBE", own, global]);
        }
        resp::command(out, &[b"PING"]);
    }

    /// The field names of one row.
    pub(crate) async fn field_names(&self, key: &str) -> FredResult<FieldTexts> {
        let wire = self.wire_at(key);
        let asked = wire.ask(|out| Self::write_look_up(key, out));
        let told = only(asked.answers().await);
        self.row("HKEYS", key, told).await
    }

    /// Writes what reads the field names of one row.
    pub(crate) fn write_look_up(key: &str, out: &mut Vec<u8>) -> usize {
        resp::command(out, &[b"HKEYS", key.as_bytes()]);
        1
    }

    /// The field names, by the answer to [`Servers::write_look_up`] of the only server.
    pub(crate) fn told_row(&self, answers: Answers) -> FredResult<FieldTexts> {
        let told = only(answers).and_then(|reply| fields(reply).ok_or_else(odd));
        told.inspect_err(|error| self.note(error))
    }

    /// Whether the connection by which this channel is published to is up.
    pub(crate) fn is_publisher_up(&self, channel: &str) -> bool {
        self.0.routes.read().server(channel).wire.is_connected()
    }

    /// The answer to PTTL for one key.
    pub(crate) async fn ask_time_left(&self, key: &str) -> FredResult<i64> {
        let asked = self.wire_at(key).ask(|out| {
            resp::command(out, &[b"PTTL", key.as_bytes()]);
            1
        });
        match self.unless_moved(only(asked.answers().await))? {
            Some(Reply::Number(left)) => Ok(left),
            Some(_) => Err(odd()),
            None => Box::pin(self.call("PTTL", key, &[])).await?.convert(),
        }
    }

    /// What a server answered over its lean connection. `None` if another one has the key (MOVED,
    /// ASK): ask again through fred, which finds it.
    pub(crate) fn unless_moved<T>(&self, told: FredResult<T>) -> FredResult<Option<T>> {
        match told {
            Err(error) if error.is_cluster() => {
                self.note(&error);
                Ok(None)
            }
            told => told.map(Some),
        }
    }

    /// Reads rows, each by `HKEYS` or `HGETALL`, in the order of their keys: one write for each
    /// server. Each has its own answer: a key of another type, or a server that is away, hides no
    /// others. Once one server has answered, the others are waited for no longer than `lag`.
    pub(crate) async fn rows(
        &self,
        reads: &[(&'static str, String)],
        lag: Option<Duration>,
    ) -> Vec<FredResult<FieldTexts>> {
        let routes = self.routes();
        let mut parts = vec![Vec::new(); routes.servers.len()];
        for (place, (_, key)) in reads.iter().enumerate() {
            parts[routes.index(key)].push(place);
        }
        let write = |part: &[usize], out: &mut Vec<u8>| {
            for &place in part {
                let (command, ref key) = reads[place];
                resp::command(out, &[command.as_bytes(), key.as_bytes()]);
            }
            part.len()
        };
        let asked = parts.iter().zip(&routes.servers);
        let asked = asked.filter(|(part, _)| !part.is_empty());
        let mut asked: FuturesUnordered<_> = asked
            .map(|(part, server)| {
                let asked = server.wire.ask(|out| write(part, out));
                asked.answers().map(move |answers| (part, answers))
            })
            .collect();
        let mut rows: Vec<_> = reads.iter().map(|_| Err(lagging())).collect();
        let mut until = None;
        while let Some((part, answers)) = next_by(until, &mut asked).await {
            match answers {
                Ok(answers) => {
                    until = until.or_else(|| Some(Instant::now() + lag?));
                    for (&place, told) in part.iter().zip(answers) {
                        let (command, ref key) = reads[place];
                        rows[place] = self.row(command, key, told).await;
                    }
                }
                Err(error) => {
                    self.note(&error);
                    part.iter()
                        .for_each(|&place| rows[place] = Err(error.clone()));
                }
            }
        }
        rows
    }

    /// One row as it was answered. A key may be moving to another server: then it is asked there.
    async fn row(
        &self,
        command: &'static str,
        key: &str,
        told: Result<Reply, Error>,
    ) -> FredResult<FieldTexts> {
        let told = self.unless_moved(told);
        match told.inspect_err(|error| self.note(error))? {
            Some(reply) => fields(reply).ok_or_else(odd),
            None => {
                let answer = Box::pin(self.call(command, key, &[])).await?;
                flat(answer).ok_or_else(odd)
            }
        }
    }

    /// What the only server says that it is, over the connection of the pushes.
    ///
    /// # Errors
    /// No answer came.
    pub(crate) async fn role_for_pushes(&self) -> FredResult<ServerRole> {
        let wire = self.routes().servers[0].wire.clone();
        role_over(&wire).await
    }
}

/// The next answer that is there by then; `None` if there is no other one.
async fn next_by<T>(
    until: Option<Instant>,
    asked: &mut (impl Stream<Item = T> + Unpin),
) -> Option<T> {
    match until {
        Some(until) => tokio::time::timeout_at(until, asked.next()).await.ok()?,
        None => asked.next().await,
    }
}

fn lagging() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "other servers have answered long before",
    )
}

fn count(reply: &Reply) -> FredResult<u32> {
    match reply {
        Reply::Number(number) => u32::try_from(*number).map_err(|_| odd()),
        _ => Err(odd()),
    }
}

/// The texts of a list, or of a map as fields and values in turn.
fn fields(reply: Reply) -> Option<FieldTexts> {
    let Reply::List(list) = reply else {
        return matches!(reply, Reply::Nothing).then(Vec::new);
    };
    // Not collected: that would shrink the memory of the list, which costs more than new one.
    let mut texts = Vec::with_capacity(list.len());
    for value in list {
        texts.push(match value {
            Reply::Text(text) => String::from_utf8(text).ok()?,
            Reply::Number(number) => number.to_string(),
            _ => return None,
        });
    }
    Some(texts)
}

/// As [`fields`], of an answer that fred has read.
pub(crate) fn flat(answer: Value) -> Option<FieldTexts> {
    let values = match answer {
        Value::Map(map) => map
            .inner()
            .into_iter()
            .flat_map(|(field, value)| [Value::from(field), value])
            .collect(),
        Value::Null => Vec::new(),
        list => list.into_array(),
    };
    values
        .into_iter()
        .map(|value| value.into_string())
        .collect()
}
