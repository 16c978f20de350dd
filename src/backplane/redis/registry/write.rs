//! Writes the rows `pn:user:{<user>}` of this node's users and `pn:topic:{<topic>}` of its topics.
//!
//! By level, not by edge: for each dirty row the hub is asked for the current state. That is
//! written, together with the removal of fields that no longer apply. A row is changed only by
//! naming this node's own fields, so no script is needed and no other node's new connection is
//! erased. HSET and EXPIRE are in one MULTI, so no row is ever without a TTL. The MULTI travels
//! as a pipeline, for the reason given in `servers`.
//!
//! Beside the rows, `pn:users:{<node>}` and `pn:topics:{<node>}` list their owners, for the node
//! that sweeps them when this node is dead. On one server both are written in the same MULTI. In a
//! cluster, where they are in different slots, a name is added before its row is written and
//! removed after the row is: a crash in between leaves a name too many, never one too few.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fred::clients::Pipeline;
use fred::error::{Error, ErrorKind};
use fred::prelude::{
    Client, ClientLike, FredResult, HashesInterface, KeysInterface, SetsInterface,
};
use fred::types::Value;
use futures::stream::{self, StreamExt};
use tokio::time::Instant;

use crate::backplane::redis::registry::offer::RowOffer;
use crate::backplane::redis::registry::unwritten::UnwrittenRows;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::{Servers, asking, multi, queue};
use crate::backplane::redis::{Keys, ROW_TTL_SECONDS, WATCHED};
use crate::backplane::rows::RowValue;
use crate::local::directory::LocalConnections;
use crate::local::dirty_rows::Change;
use crate::local::hub::Hub;
use crate::protocol::ids::{ConnectionId, NodeId, Subject};
use crate::telemetry::metrics::Metrics;

/// Maximum number of rows in one MULTI.
const ROWS: usize = 256;
/// Maximum number of transactions under way at once.
const IN_FLIGHT: usize = 8;
/// The pause between two attempts while Redis fails.
const RETRY: Duration = Duration::from_millis(100);
/// The time between two checks whether all is written.
const SETTLE_STEP: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub(crate) struct Registry {
    servers: Servers,
    keys: Keys,
    hub: Arc<Hub>,
    offer: RowOffer,
    unwritten: UnwrittenRows,
    /// Whether rows mark the node as draining.
    leaving: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

type RowChanges = Vec<(Subject, Change)>;
/// Changes, each with the current state.
type RowFields = Vec<((Subject, Change), Here)>;

/// The current state of a row on this node.
enum Here {
    /// A user's connections.
    LocalConnections(LocalConnections),
    /// How many connections are in a topic, and whether clients here watch it.
    Members(u32, bool),
}

impl Here {
    fn of(hub: &Hub, subject: &Subject) -> Self {
        match subject {
            Subject::User(user) => Self::LocalConnections(hub.seats(user)),
            Subject::Topic(topic) => {
                let topics = hub.topics();
                Self::Members(topics.count(topic), topics.is_watched(topic))
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::LocalConnections(seats) => seats.is_empty(),
            Self::Members(count, _) => *count == 0,
        }
    }
}

impl Registry {
    pub(crate) fn new(
        servers: &Servers,
        keys: &Keys,
        hub: &Arc<Hub>,
        (offer, unwritten): (&RowOffer, &UnwrittenRows),
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            servers: servers.clone(),
            keys: keys.clone(),
            hub: hub.clone(),
            offer: offer.clone(),
            unwritten: unwritten.clone(),
            leaving: Arc::default(),
            metrics: metrics.clone(),
        }
    }

    /// Has every row mark this node as draining, as soon as possible.
    pub(crate) fn mark_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.hub.changes().mark(self.hub.subjects());
    }

    /// Writes all dirty rows, for ever. Changes that arrive during a write go into the next one:
    /// batching by availability. While the subscription is not heard, they wait.
    pub(crate) async fn write(self) {
        loop {
            let changes = self.hub.changes().take().await;
            while !self.offer.stands() && !self.leaving.load(Ordering::Relaxed) {
                self.offer.until_it_stands(RETRY).await;
            }
            match self.write_all(changes).await {
                true => self.unwritten.note_written(),
                false => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Waits until all is written, for `patience` at most; returns whether it is.
    pub(crate) async fn settle(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.hub.changes().is_settled() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(SETTLE_STEP).await;
        }
        true
    }

    /// Returns whether all writes succeeded; failed ones are dirty again.
    async fn write_all(&self, changes: RowChanges) -> bool {
        let mut parts = Vec::with_capacity(changes.len().div_ceil(ROWS));
        let by_server = self
            .servers
            .by_server(changes, |(subject, _)| self.keys.row(subject));
        for (client, changes) in by_server {
            let mut rest = changes.into_iter().peekable();
            while rest.peek().is_some() {
                parts.push((
                    client.clone(),
                    rest.by_ref().take(ROWS).collect::<RowChanges>(),
                ));
            }
        }
        // Different parts are different rows: their order does not matter.
        let writes = parts
            .into_iter()
            .map(|(client, part)| self.write_part(client, part));
        stream::iter(writes)
            .buffer_unordered(IN_FLIGHT)
            // Not `all`, which would drop the rest, and their changes, at the first failure.
            .fold(true, async |all, well| all && well)
            .await
    }

    async fn write_part(&self, client: Client, changes: RowChanges) -> bool {
        // Read once, for rows and index alike. A later change makes its row dirty again.
        self.metrics
            .registry_batch_size
            .observe(changes.len() as f64);
        let rows = changes.into_iter().map(|change| {
            let here = Here::of(&self.hub, &change.0);
            (change, here)
        });
        let (written, failed) = self.write_rows(&client, rows.collect()).await;
        self.metrics.registry_writes.inc_by(written.len() as u64);
        self.hub.changes().written(written);
        let well = failed.is_empty();
        if !well {
            self.metrics.registry_errors.inc();
            self.hub.changes().put_back(failed);
        }
        well
    }

    /// Writes rows and index. Returns which changes are written and which are not.
    async fn write_rows(&self, client: &Client, rows: RowFields) -> (RowChanges, RowChanges) {
        if self.servers.is_clustered() {
            return self.write_in_cluster(client, rows).await;
        }
        match self.transact(client, &rows).await {
            Ok(()) => (changes(rows), RowChanges::new()),
            Err(error) => {
                self.note(&error, rows.len());
                (RowChanges::new(), changes(rows))
            }
        }
    }

    /// Writes rows and index, in that order for removals and in the reverse order for additions.
    async fn write_in_cluster(&self, client: &Client, rows: RowFields) -> (RowChanges, RowChanges) {
        let here = Indexes::of(&rows, |here| !here.is_empty());
        let gone = Indexes::of(&rows, Here::is_empty);
        if let Err(error) = self.add_to_indexes(here).await {
            self.note(&error, rows.len());
            return (RowChanges::new(), changes(rows));
        }
        let (written, mut failed) = self.write_each(client, rows).await;
        let taken: FredResult<()> = match failed.is_empty() {
            true => self.take_from_indexes(gone).await,
            // Failed changes come again, and with them the names that stay in the index for now.
            false => Ok(()),
        };
        match taken {
            Ok(()) if failed.is_empty() => (written, failed),
            Ok(()) => {
                // Only subjects that stay need no second check of the index.
                let (stay, again) = written
                    .into_iter()
                    .partition::<RowChanges, _>(|(_, change)| !change.removes());
                failed.extend(again);
                (stay, failed)
            }
            Err(error) => {
                self.note(&error, written.len());
                (RowChanges::new(), written)
            }
        }
    }

    async fn add_to_indexes(&self, names: Indexes) -> FredResult<()> {
        for (index, names) in names.keyed(&self.keys, self.hub.node()) {
            let _: () = self.servers.at(&index).sadd(&index, names).await?;
        }
        Ok(())
    }

    async fn take_from_indexes(&self, names: Indexes) -> FredResult<()> {
        for (index, names) in names.keyed(&self.keys, self.hub.node()) {
            let _: () = self.servers.at(&index).srem(&index, names).await?;
        }
        Ok(())
    }

    fn note(&self, error: &Error, rows: usize) {
        tracing::debug!(error = %redacted(error), rows, "rows not written; retrying");
        self.unwritten.note(error);
        self.servers.note(error);
    }

    /// Writes all of these and the index in one MULTI.
    async fn transact(&self, client: &Client, rows: &RowFields) -> FredResult<()> {
        let (node, pipeline) = (self.hub.node(), multi(client).await?);
        let here = Indexes::of(rows, |here| !here.is_empty());
        for (index, names) in here.keyed(&self.keys, node) {
            let _: () = pipeline.sadd(&index, names).await?;
        }
        for row in rows {
            self.queue(&pipeline, row).await?;
        }
        let gone = Indexes::of(rows, Here::is_empty);
        for (index, names) in gone.keyed(&self.keys, node) {
            let _: () = pipeline.srem(&index, names).await?;
        }
        queue(&pipeline, "EXEC").await?;
        outcome(
            &mut pipeline.try_all::<Value>().await.into_iter(),
            usize::MAX,
        )
    }

    /// Writes each of these in its own MULTI, because in a cluster no MULTI may span slots.
    /// Returns which are written and which are not.
    async fn write_each(&self, client: &Client, rows: RowFields) -> (RowChanges, RowChanges) {
        let pipeline = client.pipeline();
        let mut queued = Vec::with_capacity(rows.len());
        for row in &rows {
            queued.push(self.queue_alone(&pipeline, row).await);
        }
        let mut answers = pipeline.try_all::<Value>().await.into_iter();
        let (mut written, mut failed) = (RowChanges::new(), RowChanges::new());
        for (row, count) in rows.into_iter().zip(queued) {
            let mut result = outcome(&mut answers, count);
            if let Err(error) = &result
                && let Some(server) = self.servers.asked(error)
            {
                // The row is moving to another server, and is written there.
                let pipeline = server.client.pipeline();
                let _: Result<(), _> = pipeline.custom(asking(), Vec::<String>::new()).await;
                let count = self.queue_alone(&pipeline, &row).await + 1;
                let answers = pipeline.try_all::<Value>().await;
                result = outcome(&mut answers.into_iter(), count);
            }
            match result {
                Ok(()) => written.push(row.0),
                Err(error) => {
                    self.note(&error, 1);
                    failed.push(row.0);
                }
            }
        }
        (written, failed)
    }

    /// Queues a whole MULTI; returns how many commands it has.
    async fn queue_alone(
        &self,
        pipeline: &Pipeline<Client>,
        row: &((Subject, Change), Here),
    ) -> usize {
        let queue = async {
            queue(pipeline, "MULTI").await?;
            let count = self.queue(pipeline, row).await?;
            queue(pipeline, "EXEC").await?;
            Ok::<_, Error>(count + 2)
        };
        // Queued in memory only, which cannot fail.
        queue.await.unwrap_or_default()
    }

    /// Queues the commands that make a row current; returns how many there are.
    async fn queue(
        &self,
        pipeline: &Pipeline<Client>,
        ((subject, change), here): &((Subject, Change), Here),
    ) -> FredResult<usize> {
        let key = self.keys.row(subject);
        match here {
            Here::LocalConnections(seats) => self.queue_seats(pipeline, &key, change, seats).await,
            Here::Members(count, watched) => {
                self.queue_members(pipeline, &key, *count, *watched).await
            }
        }
    }

    async fn queue_members(
        &self,
        pipeline: &Pipeline<Client>,
        key: &str,
        count: u32,
        watched: bool,
    ) -> FredResult<usize> {
        let node = self.hub.node().to_string();
        if count == 0 {
            let _: () = pipeline.hdel(key, node).await?;
            return Ok(1);
        }
        let value = match watched {
            true => format!("{count},{WATCHED}"),
            false => count.to_string(),
        };
        let _: () = pipeline.hset(key, (node, value)).await?;
        let _: () = pipeline.expire(key, ROW_TTL_SECONDS, None).await?;
        Ok(2)
    }

    async fn queue_seats(
        &self,
        pipeline: &Pipeline<Client>,
        key: &str,
        change: &Change,
        seats: &LocalConnections,
    ) -> FredResult<usize> {
        let node = self.hub.node();
        let leaving = self.leaving.load(Ordering::Relaxed);
        let field = |fd| {
            ConnectionId {
                node: node.clone(),
                fd,
            }
            .to_string()
        };
        let mut count = 0;
        if !change.gone.is_empty() {
            let gone: Vec<String> = change.gone.iter().map(|fd| field(*fd)).collect();
            let _: () = pipeline.hdel(key, gone).await?;
            count += 1;
        }
        if !seats.is_empty() {
            let rows: Vec<(String, String)> = seats
                .iter()
                .map(|seat| {
                    let about = RowValue {
                        leaving,
                        ..RowValue::of(seat)
                    };
                    let about = serde_json::to_string(&about).expect("plain fields");
                    (field(seat.fd), about)
                })
                .collect();
            let _: () = pipeline.hset(key, rows).await?;
            let _: () = pipeline.expire(key, ROW_TTL_SECONDS, None).await?;
            count += 2;
        }
        Ok(count)
    }
}

/// Names for the indexes of this node's rows.
struct Indexes {
    users: Vec<String>,
    topics: Vec<String>,
}

impl Indexes {
    fn of(rows: &RowFields, chosen: impl Fn(&Here) -> bool) -> Self {
        let (mut users, mut topics) = (Vec::new(), Vec::new());
        for ((subject, _), here) in rows {
            match subject {
                _ if !chosen(here) => {}
                Subject::User(user) => users.push(user.to_string()),
                Subject::Topic(topic) => topics.push(topic.to_string()),
            }
        }
        Self { users, topics }
    }

    /// The indexes that are not empty, by their keys.
    fn keyed(self, keys: &Keys, node: &NodeId) -> impl Iterator<Item = (String, Vec<String>)> {
        let all = [
            (keys.users(node), self.users),
            (keys.topics(node), self.topics),
        ];
        all.into_iter().filter(|(_, names)| !names.is_empty())
    }
}

fn changes(rows: RowFields) -> RowChanges {
    rows.into_iter().map(|(change, _)| change).collect()
}

/// Takes `count` answers; returns the first error among them. No answer at all is an error too:
/// then the whole pipeline has failed.
fn outcome(answers: &mut impl Iterator<Item = FredResult<Value>>, count: usize) -> FredResult<()> {
    let mut seen = false;
    let mut first = Ok(());
    for answer in answers.take(count) {
        seen = true;
        // An error inside EXEC's answer also counts as one of the whole answer.
        first = first.and(answer.map(drop));
    }
    if seen {
        first
    } else {
        Err(Error::new(ErrorKind::Unknown, "no answer to the pipeline"))
    }
}
