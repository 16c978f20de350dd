//! Connections that one task has to itself for a while.
//!
//! `WATCH` and `WAIT` speak of their connection: what it has read, what it has written. All other
//! commands share one connection to a server, where such a state would be that of all tasks, and a
//! `WAIT` would hold up all that comes after it. What must stay true: a connection never connects
//! again by itself, because an `EXEC` sent over the new one would not know of the `WATCH`; one
//! whose task was cut off is closed, not lent again; nor is one lent that is older than the last
//! change of servers or of their connections: it may have gone silent with those.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backplane::redis::servers::role::{ServerRole, role};
use crate::backplane::redis::servers::vouch::Destination;
use crate::backplane::redis::servers::{ServerPlace, Servers};
use crate::backplane::redis::{COMMAND_TIMEOUT, build_once};

/// Maximum number of connections of one node; as many inboxes are written at once by one batch.
const MOST: usize = 64;
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct PooledClient {
    client: Client,
    task: JoinHandle<Result<(), Error>>,
    /// How often the routes had changed: afterwards its server may be left, or silent.
    turn: u64,
    idle_since: Instant,
}

impl PooledClient {
    /// fred 10.1: a client without a reconnect policy goes on saying that it is connected when its
    /// connection has broken, and lets commands wait for one. Its task ends, though.
    fn is_open(&self) -> bool {
        self.client.is_connected() && !self.task.is_finished()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for PooledClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connections by their server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionPool {
    servers: Servers,
    idle: Arc<Mutex<HashMap<ServerPlace, Vec<PooledClient>>>>,
    permits: Arc<Semaphore>,
}

/// A connection that no other task uses. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Loan {
    connection: PooledClient,
    place: ServerPlace,
    pool: ConnectionPool,
    _permit: OwnedSemaphorePermit,
}

impl Loan {
    pub(crate) fn client(&self) -> &Client {
        &self.connection.client
    }

    /// Its server.
    pub(crate) fn place(&self) -> &ServerPlace {
        &self.place
    }

    /// For the next task. Only if every answer has come and nothing is watched any more.
    pub(crate) fn give_back(self) {
        let Self {
            mut connection,
            place,
            pool,
            ..
        } = self;
        let now = Instant::now();
        connection.idle_since = now;
        let mut all = pool.idle.lock();
        for idle in all.values_mut() {
            idle.retain(|one| now - one.idle_since < IDLE);
        }
        all.retain(|_, idle| !idle.is_empty());
        all.entry(place).or_default().push(connection);
    }

    /// The server refused, perhaps because it is a replica now: no other task should meet that on
    /// an idle connection to it.
    pub(crate) fn close_all(self) {
        self.pool.idle.lock().remove(&self.place);
    }
}

impl ConnectionPool {
    pub(crate) fn new(servers: Servers) -> Self {
        Self {
            servers,
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// A connection to the server that has this key now; waits while all are lent.
    pub(crate) async fn take(&self, key: &str) -> FredResult<Loan> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Error::new(ErrorKind::Canceled, "the node is ending"))?;
        let turn = *self.servers.turns().borrow();
        let place = self.servers.place_of(key);
        let mut connection = match self.idle_one(&place, turn) {
            Some(connection) => connection,
            None => self.open(key).await?,
        };
        connection.turn = turn;
        Ok(Loan {
            connection,
            place,
            pool: self.clone(),
            _permit: permit,
        })
    }

    fn idle_one(&self, place: &ServerPlace, turn: u64) -> Option<PooledClient> {
        let mut all = self.idle.lock();
        let idle = all.get_mut(place)?;
        while let Some(connection) = idle.pop() {
            let is_fresh = connection.turn == turn && connection.idle_since.elapsed() < IDLE;
            if is_fresh && connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    async fn open(&self, key: &str) -> FredResult<PooledClient> {
        open_primary(&self.servers.way_to(key).ok_or_else(away)?).await
    }
}

/// A connection of its own to a server that does not say that it is a replica: its name, or its
/// address, may lead to another server by now.
pub(crate) async fn open_primary(server: &Destination) -> FredResult<PooledClient> {
    let client = build_once(server)?;
    let connection = PooledClient {
        task: client.connect(),
        client,
        turn: 0,
        idle_since: Instant::now(),
    };
    let connected = connection.client.wait_for_connect();
    let connected = tokio::time::timeout(COMMAND_TIMEOUT, connected).await;
    let silent = |_| Error::new(ErrorKind::Timeout, "no connection in time");
    connected.map_err(silent)??;
    match role(&connection.client).await? {
        ServerRole::Replica => Err(Error::new(ErrorKind::Unknown, "READONLY it is a replica")),
        ServerRole::Primary => Ok(connection),
    }
}

fn away() -> Error {
    Error::new(ErrorKind::IO, "no connection")
}
