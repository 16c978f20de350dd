//! Reading rows: where a user's or a topic's connections are.
//!
//! A row may name dead nodes, because it outlives them for a while. Right after Redis has lost
//! it, a row may be missing although its user is connected. Neither is accepted without a check.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::backplane::answers::{SentAhead, Unavailable};
use crate::backplane::nodes::Standing;
use crate::backplane::redis::registry::belief::LeaseSeen;
use crate::backplane::redis::servers::LOOKUPS;
use crate::backplane::redis::servers::errors::refusal_reason;
use crate::backplane::redis::servers::pushes::{FieldTexts, LAG, flat};
use crate::backplane::redis::wire::connection::Awaited;
use crate::backplane::redis::{AWAY, Redis, WATCHED};
use crate::backplane::rows::{
    Locations, MemberCount, Row, RowPlace, RowValue, TopicNodes, parse_field,
};
use crate::protocol::ids::{Fd, NodeId, Subject, Topic, UserId};

/// A row, or why it could not be read.
type RowRead = Result<FieldTexts, Unavailable>;

impl Redis {
    pub(crate) async fn locate(
        &self,
        subjects: &[Subject],
    ) -> Vec<Result<Locations, &'static str>> {
        let rows = self.read_rows(subjects, Some(LAG)).await;
        let is_empty = |row: &RowRead| row.as_ref().is_ok_and(Vec::is_empty);
        let doubt = match rows.iter().any(is_empty) {
            true => self.doubt(&rows).await,
            false => None,
        };
        let located = subjects.iter().zip(rows).map(|(subject, fields)| {
            let fields = fields.map_err(|Unavailable(reason)| reason)?;
            if let Some(reason) = doubt.filter(|_| fields.is_empty()) {
                return Err(reason);
            }
            Ok(match subject {
                Subject::User(_) => self.others(&fields),
                Subject::Topic(_) => populations(fields)
                    .filter(|(node, _)| node != self.lease.node())
                    .map(|(node, connections)| RowPlace {
                        node,
                        connections,
                        oldest: Fd(0),
                    })
                    .collect(),
            })
        });
        located.collect()
    }

    /// Why those of these rows that are missing prove nothing; so it is, too, if that cannot be
    /// asked. Rows that were found do not wait long for that answer: the others may be read again
    /// without them.
    async fn doubt(&self, rows: &[RowRead]) -> Option<&'static str> {
        let is_found = |row: &RowRead| row.as_ref().is_ok_and(|fields| !fields.is_empty());
        let doubt = Box::pin(self.lease.doubts_rows());
        let doubt = match rows.iter().any(is_found) {
            true => tokio::time::timeout(LAG, doubt).await.unwrap_or(Err(AWAY)),
            false => doubt.await,
        };
        doubt.unwrap_or_else(|Unavailable(reason)| Some(reason))
    }

    /// Sends a line to the node where the user was last, and looks the user up in the same write.
    /// `None` if that is not possible now: nothing was sent, and `line` may not have been made.
    pub(crate) fn send_ahead(
        &self,
        user: &UserId,
        line: impl FnOnce() -> String,
        deadline: Instant,
    ) -> Option<(SentAhead, Awaited)> {
        // In a cluster, row and channel may be on two servers, and the row may move to another.
        if self.servers.is_clustered() {
            return None;
        }
        let (node, oldest) = self.outboxes.whereabouts.last(user)?;
        if self.lease.beliefs().standing(&node) != Standing::Alive {
            return None;
        }
        let key = self.keys.user(user);
        let (published, row) = self.outboxes.publish_ahead(&node, key, line, deadline)?;
        let sent = SentAhead {
            node,
            oldest,
            published,
        };
        Some((sent, row))
    }

    pub(crate) async fn locate_user(
        &self,
        user: &UserId,
        row: Option<Awaited>,
    ) -> Result<Locations, &'static str> {
        let row = match row {
            Some(row) => self.servers.told_row(row.answers().await),
            None => self.servers.field_names(&self.keys.user(user)).await,
        };
        let fields = row.map_err(|_| AWAY.0)?;
        if fields.is_empty()
            && let Some(reason) = Box::pin(self.lease.doubts_rows())
                .await
                .map_err(|Unavailable(reason)| reason)?
        {
            return Err(reason);
        }
        let row = self.others(&fields);
        self.outboxes.whereabouts.note(user, &row);
        Ok(row)
    }

    /// The rows in the order of their subjects. Each row is read once: of two pushes of a batch to
    /// one user, the second could else see a row that the first just missed, and overtake it.
    async fn read_rows(&self, subjects: &[Subject], lag: Option<Duration>) -> Vec<RowRead> {
        let mut rows = vec![Err(AWAY); subjects.len()];
        let mut seen = HashMap::with_capacity(subjects.len());
        let first = subjects.iter().enumerate();
        let first: Vec<usize> = first
            .map(|(place, subject)| *seen.entry(subject).or_insert(place))
            .collect();
        let places: Vec<usize> = (0..subjects.len())
            .filter(|&place| first[place] == place)
            .collect();
        for places in places.chunks(LOOKUPS) {
            let reads = places.iter().map(|&place| {
                let command = match subjects[place] {
                    Subject::User(_) => "HKEYS",
                    Subject::Topic(_) => "HGETALL",
                };
                (command, self.keys.row(&subjects[place]))
            });
            let reads: Vec<_> = reads.collect();
            let read = self.servers.rows(&reads, lag).await;
            // Others would be waited for in vain.
            let is_away = read.iter().all(|row| {
                row.as_ref()
                    .is_err_and(|error| refusal_reason(error).is_none())
            });
            for (&place, row) in places.iter().zip(read) {
                rows[place] = row.map_err(|_| AWAY);
            }
            if is_away {
                break;
            }
        }
        for (place, &first) in first.iter().enumerate() {
            if first != place {
                rows[place] = rows[first].clone();
            }
        }
        rows
    }

    /// The nodes in a user's row, by its field names, without this node.
    fn others(&self, fields: &[String]) -> Locations {
        let mut locations = Locations::new();
        for id in fields.iter().filter_map(|field| parse_field(field)) {
            if id.node == *self.lease.node() {
                continue;
            }
            match locations.iter_mut().find(|place| place.node == id.node) {
                Some(place) => {
                    place.connections += 1;
                    place.oldest = place.oldest.min(id.fd);
                }
                None => locations.push(RowPlace {
                    node: id.node,
                    connections: 1,
                    oldest: id.fd,
                }),
            }
        }
        locations
    }

    pub(crate) async fn members(
        &self,
        topics: &[Topic],
    ) -> Result<Vec<Vec<MemberCount>>, Unavailable> {
        let keys: Vec<String> = topics.iter().map(|topic| self.keys.topic(topic)).collect();
        let mut judged = Judged::default();
        let mut all = Vec::with_capacity(topics.len());
        for fields in self.read_whole(&keys).await? {
            let mut members = Vec::new();
            for (node, connections) in populations(fields) {
                if judged.is_live(self, &node).await? {
                    members.push(MemberCount { node, connections });
                }
            }
            members.sort_unstable();
            all.push(members);
        }
        Ok(all)
    }

    pub(crate) async fn parties(&self, topics: &[Topic]) -> Vec<Result<TopicNodes, Unavailable>> {
        let subjects: Vec<Subject> = topics.iter().cloned().map(Subject::Topic).collect();
        // What is not found here is not read again soon.
        let rows = self.read_rows(&subjects, None).await;
        let others = |fields| {
            let parties = parties(fields).filter(|(node, ..)| node != self.lease.node());
            parties.map(|(node, _, watches)| (node, watches)).collect()
        };
        rows.into_iter().map(|row| row.map(others)).collect()
    }

    pub(crate) async fn is_gone(&self, node: &NodeId) -> Result<bool, Unavailable> {
        Ok(Box::pin(self.lease.doubts_rows()).await?.is_none()
            && self.standing(node).await? == Standing::Dead
            && self.is_deaf(node).await?)
    }

    pub(crate) async fn rows(&self, users: &[UserId]) -> Result<Vec<Vec<Row>>, Unavailable> {
        let keys: Vec<String> = users.iter().map(|user| self.keys.user(user)).collect();
        let mut judged = Judged::default();
        let mut all = Vec::with_capacity(users.len());
        for fields in self.read_whole(&keys).await? {
            let mut rows = Vec::new();
            for (field, about) in pairs(fields) {
                let Some(id) = parse_field(&field) else {
                    continue;
                };
                if judged.is_live(self, &id.node).await? {
                    let about: RowValue = serde_json::from_str(&about).unwrap_or_default();
                    rows.push(Row {
                        node: id.node,
                        fd: id.fd.0,
                        about,
                    });
                }
            }
            rows.sort_by(|a, b| (&a.node, a.fd).cmp(&(&b.node, b.fd)));
            all.push(rows);
        }
        Ok(all)
    }

    /// Whole rows, as fields and values in turn; an error if one may be missing by mistake.
    async fn read_whole(&self, keys: &[String]) -> Result<Vec<FieldTexts>, Unavailable> {
        let mut rows = Vec::with_capacity(keys.len());
        for keys in keys.chunks(LOOKUPS) {
            let answers = self.servers.read_each("HGETALL", keys).await;
            for answer in answers.map_err(|error| self.away(&error))? {
                rows.push(flat(answer).ok_or(AWAY)?);
            }
        }
        if rows.iter().any(Vec::is_empty)
            && let Some(reason) = Box::pin(self.lease.doubts_rows()).await?
        {
            return Err(Unavailable(reason));
        }
        Ok(rows)
    }

    /// Whether a node that a row names is live. A lease proves it, and so does a subscriber of
    /// its channel: a lease may be missing because Redis accepts no writes.
    async fn is_live(&self, node: &NodeId) -> Result<bool, Unavailable> {
        if node == self.lease.node() {
            return Ok(true);
        }
        match self.lease.seen(node).await.map_err(|_| AWAY)? {
            LeaseSeen::Held => Ok(true),
            _ => Ok(!self.is_deaf(node).await?),
        }
    }
}

/// The fields of a topic's row that are nodes with a number of connections.
fn populations(fields: Vec<String>) -> impl Iterator<Item = (NodeId, u32)> {
    parties(fields).map(|(node, count, _)| (node, count))
}

/// As [`populations`], and whether clients of the node watch the topic.
fn parties(fields: Vec<String>) -> impl Iterator<Item = (NodeId, u32, bool)> {
    pairs(fields).filter_map(|(node, value)| {
        let (count, mark) = value.split_once(',').unwrap_or((&value, ""));
        let count = count.parse().ok().filter(|count| *count > 0)?;
        Some((node.parse().ok()?, count, mark == WATCHED))
    })
}

fn pairs(fields: Vec<String>) -> impl Iterator<Item = (String, String)> {
    let mut fields = fields.into_iter();
    std::iter::from_fn(move || fields.next().zip(fields.next()))
}

/// The nodes judged during one request: each is checked once.
#[derive(Default)]
struct Judged(HashMap<NodeId, bool>);

impl Judged {
    async fn is_live(&mut self, redis: &Redis, node: &NodeId) -> Result<bool, Unavailable> {
        if let Some(is_live) = self.0.get(node) {
            return Ok(*is_live);
        }
        let is_live = redis.is_live(node).await?;
        self.0.insert(node.clone(), is_live);
        Ok(is_live)
    }
}
