//! Commands by key: to the only server, or in a cluster to the server of the key's slot.
//!
//! What must stay true: with one server, no key is hashed and no command is sorted.

use std::sync::Arc;

use fred::clients::Pipeline;
use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::{CustomCommand, Value};
use futures::future::join_all;

use crate::backplane::redis::servers::Servers;
use crate::backplane::redis::servers::server::Server;
use crate::backplane::redis::wire::connection::Wire;

impl Servers {
    /// Sends one reading command for each key, such as `HKEYS`; answers in the order of the keys.
    pub(crate) async fn read_each(
        &self,
        command: &'static str,
        keys: &[String],
    ) -> FredResult<Vec<Value>> {
        let answers = self.try_each(command, keys).await;
        answers.into_iter().collect()
    }

    /// As [`Servers::read_each`], with an answer for each key: one that cannot be read, or whose
    /// server is away, spoils no other.
    pub(crate) async fn try_each(
        &self,
        command: &'static str,
        keys: &[String],
    ) -> Vec<FredResult<Value>> {
        let command = CustomCommand::new_static(command, None, false);
        let routes = self.routes();
        let mut parts = vec![Vec::new(); routes.servers.len()];
        match routes.slots {
            None => parts[0].extend(0..keys.len()),
            Some(_) => {
                for (place, key) in keys.iter().enumerate() {
                    parts[routes.index(key)].push(place);
                }
            }
        }
        let reads = parts
            .iter()
            .zip(&routes.servers)
            .map(async |(part, server)| {
                let keys: Vec<String> = part.iter().map(|&place| keys[place].clone()).collect();
                match try_all(&server.client, &command, &keys).await {
                    Ok(answers) => {
                        let each = keys.iter().zip(answers);
                        join_all(each.map(|(key, answer)| self.follow(&command, key, answer))).await
                    }
                    Err(error) => {
                        self.note(&error);
                        vec![Err(error); keys.len()]
                    }
                }
            });
        let mut all = vec![Ok(Value::Null); keys.len()];
        for (part, answers) in parts.iter().zip(join_all(reads).await) {
            for (&place, answer) in part.iter().zip(answers) {
                all[place] = answer;
            }
        }
        all
    }

    /// The answer for a key. One that is moving to another server is asked for there.
    async fn follow(
        &self,
        command: &CustomCommand,
        key: &str,
        answer: FredResult<Value>,
    ) -> FredResult<Value> {
        let error = match answer {
            Ok(_) => return answer,
            Err(error) => error,
        };
        self.note(&error);
        match error.is_cluster() {
            true => self.call(&command.cmd, key, &[]).await,
            false => Err(error),
        }
    }

    /// One command on one key; follows the key to the server it is moving to.
    pub(crate) async fn call(
        &self,
        command: &str,
        key: &str,
        arguments: &[String],
    ) -> FredResult<Value> {
        let mut words = vec![key.to_owned()];
        words.extend_from_slice(arguments);
        let custom = CustomCommand::new(command.to_owned(), None, false);
        match self.at(key).custom(custom.clone(), words.clone()).await {
            Err(error) if error.is_ask() => {
                let server = self.asked(&error).ok_or(error)?;
                let pipeline = server.client.pipeline();
                let _: () = pipeline.custom(asking(), Vec::<String>::new()).await?;
                let _: () = pipeline.custom(custom, words).await?;
                pipeline.last().await
            }
            answer => answer.inspect_err(|error| self.note(error)),
        }
    }

    /// The server that an ASK error names, if this node has a connection to it.
    pub(crate) fn asked(&self, error: &Error) -> Option<Arc<Server>> {
        let (host, port) = error.details().rsplit_once(' ')?.1.rsplit_once(':')?;
        let host = (host.to_owned(), port.parse().ok()?);
        let routes = self.routes();
        let server = routes
            .servers
            .iter()
            .find(|server| server.host.as_ref() == Some(&host));
        if server.is_none() {
            self.note(error);
        }
        server.cloned()
    }

    /// Equal for keys that have the same server now.
    pub(crate) fn lane(&self, key: impl FnOnce() -> String) -> usize {
        match self.is_clustered() {
            true => Arc::as_ptr(self.routes().server(&key())) as usize,
            false => 0,
        }
    }

    /// Groups items by the server that has their key, to be written over its lean connection.
    pub(crate) fn by_server<T>(
        &self,
        items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Vec<(Wire, Vec<T>)> {
        let routes = self.routes();
        if routes.slots.is_none() {
            return vec![(routes.servers[0].wire.clone(), items)];
        }
        let mut parts: Vec<Vec<T>> = routes.servers.iter().map(|_| Vec::new()).collect();
        for item in items {
            parts[routes.index(&key(&item))].push(item);
        }
        let wires = routes.servers.iter().map(|server| server.wire.clone());
        wires
            .zip(parts)
            .filter(|(_, part)| !part.is_empty())
            .collect()
    }
}

fn asking() -> CustomCommand {
    CustomCommand::new_static("ASKING", None, false)
}

/// One command for each key, with an answer or a refusal for each. An error is one for all of them.
async fn try_all(
    client: &Client,
    command: &CustomCommand,
    keys: &[String],
) -> FredResult<Vec<FredResult<Value>>> {
    let pipeline = client.pipeline();
    for key in keys {
        // Queued in memory only: the answers come once it is sent.
        let _: () = pipeline.custom(command.clone(), vec![key.as_str()]).await?;
    }
    let mut answers = pipeline.try_all().await;
    if answers.len() == keys.len() {
        return Ok(answers);
    }
    // fred: where no answers come, it gives one error for the whole pipeline.
    let error = answers.pop().and_then(Result::err);
    Err(error.unwrap_or_else(|| Error::new(ErrorKind::Protocol, "not an answer for each key")))
}

/// Begins a MULTI as a pipeline, whose commands fred writes together.
///
/// fred 10.1: its own transactions wait for all other commands first, without end if the server
/// is frozen, and answer MOVED by connecting again.
pub(crate) async fn multi(client: &Client) -> FredResult<Pipeline<Client>> {
    let pipeline = client.pipeline();
    queue(&pipeline, "MULTI").await?;
    Ok(pipeline)
}

/// Why a MULTI did nothing: a key that its connection watches has changed.
pub(crate) const OVERTAKEN: &str = "a watched key has changed";

/// Ends a MULTI and sends it. Returns the answer to EXEC, or the first error.
pub(crate) async fn exec(pipeline: &Pipeline<Client>) -> FredResult<Vec<Value>> {
    queue(pipeline, "EXEC").await?;
    let answers: Vec<Value> = pipeline.all().await?;
    match answers.into_iter().next_back() {
        Some(Value::Array(answers)) => Ok(answers),
        Some(Value::Null) => Err(Error::new(ErrorKind::Unknown, OVERTAKEN)),
        _ => Err(Error::new(ErrorKind::Protocol, "EXEC gave no list")),
    }
}

/// Queues a command without arguments.
pub(crate) async fn queue(pipeline: &Pipeline<Client>, command: &'static str) -> FredResult<()> {
    let command = CustomCommand::new_static(command, None, false);
    pipeline.custom(command, Vec::<String>::new()).await
}
