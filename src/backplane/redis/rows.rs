//! Reading rows: where a user's or a topic's connections are.
//!
//! A row may name nodes that are dead, for it outlives them for a while, and may be missing
//! although somebody is there, right after Redis has lost it. Neither is taken for the truth
//! without asking.

use fred::prelude::HashesInterface;
use fred::types::Value;

use super::{AWAY, Redis};
use crate::backplane::{About, Locations, Population, Row, Unavailable, parse_field};
use crate::names::{NodeId, Subject, Topic, UserId};

/// Rows looked up in one pipeline.
pub(super) const LOOKUPS: usize = 512;

/// A row as it is read: of a user the field names, of a topic the values too.
type Fields = Vec<String>;

impl Redis {
    pub(in crate::backplane) async fn locate(
        &self,
        subjects: &[Subject],
    ) -> Result<Vec<Option<Locations>>, Unavailable> {
        let rows = match subjects {
            // The one look-up of a single push: fred pipelines it with those of others.
            [Subject::User(user)] => vec![self.row_of(user).await?],
            subjects => self.read_rows(subjects).await?,
        };
        let doubtful = rows.iter().any(Vec::is_empty) && !self.lease.vouches_for_rows().await?;
        let located = subjects.iter().zip(rows).map(|(subject, fields)| {
            let unknown = fields.is_empty() && doubtful;
            (!unknown).then(|| match subject {
                Subject::User(_) => self.others(&fields),
                Subject::Topic(_) => populations(fields)
                    .filter(|(node, _)| node != self.lease.node())
                    .collect(),
            })
        });
        Ok(located.collect())
    }

    async fn row_of(&self, user: &UserId) -> Result<Fields, Unavailable> {
        let key = self.keys.user(user);
        let fields = match self.link.at(&key).hkeys(&key).await {
            Err(error) if error.is_cluster() => {
                self.link.note(&error);
                self.link.call("HKEYS", &key, &[]).await.map(Value::convert)
            }
            fields => fields.map(Ok),
        };
        fields.flatten().map_err(|error| self.away(&error))
    }

    /// The rows in the order of their subjects. Those of users and of topics are read apart,
    /// because a pipeline asks one thing of all its keys.
    async fn read_rows(&self, subjects: &[Subject]) -> Result<Vec<Fields>, Unavailable> {
        let mut rows = vec![Fields::new(); subjects.len()];
        for (command, of_topics) in [("HKEYS", false), ("HGETALL", true)] {
            let is_one = |&place: &usize| matches!(subjects[place], Subject::Topic(_)) == of_topics;
            let places: Vec<usize> = (0..subjects.len()).filter(is_one).collect();
            for places in places.chunks(LOOKUPS) {
                let keys = places.iter().map(|&place| self.keys.row(&subjects[place]));
                let keys: Vec<String> = keys.collect();
                let answers = self.link.read_each(command, &keys).await;
                for (&place, answer) in places.iter().zip(answers.map_err(|_| AWAY)?) {
                    rows[place] = flat(answer).ok_or(AWAY)?;
                }
            }
        }
        Ok(rows)
    }

    /// The nodes in a user's row, by its field names, this one left out.
    fn others(&self, fields: &[String]) -> Locations {
        let mut locations = Locations::new();
        for id in fields.iter().filter_map(|field| parse_field(field)) {
            if id.node == *self.lease.node() {
                continue;
            }
            match locations.iter_mut().find(|(node, _)| *node == id.node) {
                Some((_, count)) => *count += 1,
                None => locations.push((id.node, 1)),
            }
        }
        locations
    }

    pub(in crate::backplane) async fn members(
        &self,
        topic: &Topic,
    ) -> Result<Vec<Population>, Unavailable> {
        let key = self.keys.topic(topic);
        let answer = self.link.call("HGETALL", &key, &[]).await;
        let fields = flat(answer.map_err(|error| self.away(&error))?).ok_or(AWAY)?;
        if fields.is_empty() && !self.lease.vouches_for_rows().await? {
            return Err(Unavailable("the registry is being rebuilt"));
        }
        let mut members = Vec::new();
        for (node, connections) in populations(fields) {
            if self.is_live(&node).await? {
                members.push(Population { node, connections });
            }
        }
        members.sort_unstable();
        Ok(members)
    }

    pub(in crate::backplane) async fn rows(&self, user: &UserId) -> Result<Vec<Row>, Unavailable> {
        let key = self.keys.user(user);
        let fields: Vec<(String, String)> = self
            .link
            .call("HGETALL", &key, &[])
            .await
            .and_then(Value::convert)
            .map_err(|error| self.away(&error))?;
        if fields.is_empty() && !self.lease.vouches_for_rows().await? {
            return Err(Unavailable("the registry is being rebuilt"));
        }
        let mut rows = Vec::new();
        let mut known: Vec<(NodeId, bool)> = Vec::new();
        for (field, about) in fields {
            let Some(id) = parse_field(&field) else {
                continue;
            };
            let is_live = match known.iter().find(|(node, _)| *node == id.node) {
                Some((_, is_live)) => *is_live,
                None => self.is_live(&id.node).await?,
            };
            known.push((id.node.clone(), is_live));
            if is_live {
                let about: About = serde_json::from_str(&about).unwrap_or_default();
                rows.push(Row {
                    node: id.node,
                    fd: id.fd.0,
                    about,
                });
            }
        }
        rows.sort_by(|a, b| (&a.node, a.fd).cmp(&(&b.node, b.fd)));
        Ok(rows)
    }

    /// Whether a node that a row names is there. A lease proves it, and so does somebody who
    /// listens on its channel: a lease may be missing because Redis takes no writes.
    async fn is_live(&self, node: &NodeId) -> Result<bool, Unavailable> {
        if node == self.lease.node() {
            return Ok(true);
        }
        match self.lease.read(node.name()).await? {
            Some(record) if record.node == *node => Ok(true),
            _ if self.lease.is_buried(node) => Ok(false),
            _ => Ok(!self.lease.is_deaf(node).await.map_err(|_| AWAY)?),
        }
    }

    pub(in crate::backplane) async fn forget(&self, subject: &Subject, node: &NodeId) {
        let key = self.keys.row(subject);
        let client = self.link.at(&key);
        let fields = match subject {
            Subject::User(_) => {
                let fields: Result<Vec<String>, _> = client.hkeys(&key).await;
                let mut fields = fields.unwrap_or_default();
                fields.retain(|field| parse_field(field).is_some_and(|id| id.node == *node));
                fields
            }
            Subject::Topic(_) => vec![node.to_string()],
        };
        if !fields.is_empty() {
            // If it fails, the next push there tries again.
            let _: Result<(), _> = client.hdel(&key, fields).await;
        }
    }
}

/// The texts of a list, or of a map as fields and values in turn.
fn flat(answer: Value) -> Option<Vec<String>> {
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

/// The fields of a topic's row that are nodes and numbers.
fn populations(fields: Vec<String>) -> impl Iterator<Item = (NodeId, u32)> {
    let mut fields = fields.into_iter();
    let pairs = std::iter::from_fn(move || fields.next().zip(fields.next()));
    pairs.filter_map(|(node, count)| {
        let count = count.parse().ok().filter(|count| *count > 0)?;
        Some((node.parse().ok()?, count))
    })
}
