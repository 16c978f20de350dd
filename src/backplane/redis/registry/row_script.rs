//! What is said to Redis so that rows and indexes tell of this node's connections as they are.
//!
//! What must stay true: a row is changed only by naming fields of this node, and is never without
//! a TTL once its MULTI is carried out.

use std::fmt::Write as _;

use crate::backplane::redis::wire::script::Script;
use crate::backplane::redis::{Keys, ROW_TTL_SECONDS, WATCHED};
use crate::backplane::rows::RowValue;
use crate::local::directory::LocalConnections;
use crate::local::dirty_rows::Change;
use crate::local::hub::Hub;
use crate::protocol::ids::{Fd, NodeId, Subject};

/// This node's indexes of users and of topics, by whether it is that of topics.
pub(super) const INDEXES: [bool; 2] = [false, true];

/// A row that is dirty, and what it should say.
#[derive(Debug)]
pub(super) struct DirtyRow {
    pub(super) subject: Subject,
    pub(super) change: Change,
    here: Here,
}

/// The current state of a row on this node.
#[derive(Debug)]
enum Here {
    /// A user's connections.
    LocalConnections(LocalConnections),
    /// How many connections are in a topic, and whether clients here watch it.
    Members(u32, bool),
}

impl DirtyRow {
    /// Reads what the hub has now.
    pub(super) fn of(hub: &Hub, (subject, change): (Subject, Change)) -> Self {
        let here = match &subject {
            Subject::User(user) => Here::LocalConnections(hub.seats(user)),
            Subject::Topic(topic) => {
                let topics = hub.topics();
                Here::Members(topics.count(topic), topics.is_watched(topic))
            }
        };
        Self {
            subject,
            change,
            here,
        }
    }

    /// Whether this node has nothing in the row.
    pub(super) fn is_empty(&self) -> bool {
        match &self.here {
            Here::LocalConnections(seats) => seats.is_empty(),
            Here::Members(count, _) => *count == 0,
        }
    }

    pub(super) fn stays(&self) -> bool {
        !self.is_empty()
    }

    fn is_of_topic(&self) -> bool {
        matches!(self.subject, Subject::Topic(_))
    }

    /// The name in the index.
    fn owner(&self) -> &str {
        match &self.subject {
            Subject::User(user) => user.as_str(),
            Subject::Topic(topic) => topic.as_str(),
        }
    }

    pub(super) fn into_change(self) -> (Subject, Change) {
        (self.subject, self.change)
    }
}

/// Writes scripts about rows.
pub(super) struct RowWriter<'a> {
    pub(super) script: Script,
    keys: &'a Keys,
    node: &'a NodeId,
    /// Whether rows mark the node as draining.
    leaving: bool,
    /// Where words are made.
    text: String,
    /// Where the values of fields are made.
    value: Vec<u8>,
}

impl<'a> RowWriter<'a> {
    pub(super) fn new(keys: &'a Keys, node: &'a NodeId, leaving: bool) -> Self {
        Self {
            script: Script::default(),
            keys,
            node,
            leaving,
            text: String::new(),
            value: Vec::new(),
        }
    }

    /// A whole MULTI that makes these rows and their indexes current.
    pub(super) fn transaction(&mut self, rows: &[DirtyRow]) {
        self.script.command(&[b"MULTI"]);
        for of_topics in INDEXES {
            self.index(of_topics, b"SADD", rows, DirtyRow::stays);
        }
        rows.iter().for_each(|row| self.row(row));
        for of_topics in INDEXES {
            self.index(of_topics, b"SREM", rows, DirtyRow::is_empty);
        }
        self.script.command(&[b"EXEC"]);
    }

    /// A whole MULTI that makes one row current, without its index.
    pub(super) fn alone(&mut self, row: &DirtyRow) {
        self.script.command(&[b"MULTI"]);
        self.row(row);
        self.script.command(&[b"EXEC"]);
    }

    /// Adds the owners of the chosen rows to this node's index of users or of topics, or takes them
    /// out. Returns the key of the index, if there is a change to it.
    pub(super) fn index(
        &mut self,
        of_topics: bool,
        command: &[u8],
        rows: &[DirtyRow],
        chosen: fn(&DirtyRow) -> bool,
    ) -> Option<String> {
        let is_one = |row: &&DirtyRow| row.is_of_topic() == of_topics && chosen(row);
        let count = rows.iter().filter(is_one).count();
        if count == 0 {
            return None;
        }
        let key = match of_topics {
            false => self.keys.users(self.node),
            true => self.keys.topics(self.node),
        };
        self.script.begin(2 + count);
        self.script.word(command);
        self.script.word(key.as_bytes());
        for row in rows.iter().filter(is_one) {
            self.script.word(row.owner().as_bytes());
        }
        Some(key)
    }

    /// The commands that make a row current.
    fn row(&mut self, row: &DirtyRow) {
        let key = self.keys.row(&row.subject);
        match &row.here {
            Here::LocalConnections(seats) => self.seats(&key, &row.change, seats),
            Here::Members(count, watched) => self.members(&key, *count, *watched),
        }
    }

    fn members(&mut self, key: &str, count: u32, watched: bool) {
        let (key, node) = (key.as_bytes(), self.node.as_str().as_bytes());
        if count == 0 {
            return self.script.command(&[b"HDEL", key, node]);
        }
        self.text.clear();
        let _ = match watched {
            true => write!(self.text, "{count},{WATCHED}"),
            false => write!(self.text, "{count}"),
        };
        self.script
            .command(&[b"HSET", key, node, self.text.as_bytes()]);
        self.expire(key);
    }

    fn seats(&mut self, key: &str, change: &Change, seats: &LocalConnections) {
        let key = key.as_bytes();
        if !change.gone.is_empty() {
            self.script.begin(2 + change.gone.len());
            self.script.word(b"HDEL");
            self.script.word(key);
            for fd in &change.gone {
                self.field(*fd);
            }
        }
        if seats.is_empty() {
            return;
        }
        self.script.begin(2 + 2 * seats.len());
        self.script.word(b"HSET");
        self.script.word(key);
        for seat in seats {
            let about = RowValue {
                leaving: self.leaving,
                ..RowValue::of(seat)
            };
            self.field(seat.fd);
            self.value.clear();
            serde_json::to_writer(&mut self.value, &about).expect("plain fields");
            self.script.word(&self.value);
        }
        self.expire(key);
    }

    /// The field of a connection, as a word.
    fn field(&mut self, fd: Fd) {
        self.text.clear();
        let _ = write!(self.text, "{}/{fd}", self.node);
        self.script.word(self.text.as_bytes());
    }

    fn expire(&mut self, key: &[u8]) {
        self.text.clear();
        let _ = write!(self.text, "{ROW_TTL_SECONDS}");
        self.script.command(&[b"EXPIRE", key, self.text.as_bytes()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::directory::LocalConnections;
    use crate::protocol::ids::Subject;

    fn row(subject: Subject, gone: &[u64], here: Here) -> DirtyRow {
        let change = Change {
            gone: gone.iter().map(|fd| Fd(*fd)).collect(),
            ..Change::default()
        };
        DirtyRow {
            subject,
            change,
            here,
        }
    }

    /// The words of each command.
    fn said(script: &Script) -> Vec<String> {
        let text = String::from_utf8(script.bytes().to_vec()).unwrap();
        let mut said = Vec::new();
        for command in text.split('*').skip(1) {
            let words = command.split("\r\n").skip(2).step_by(2);
            let words: Vec<&str> = words.collect();
            said.push(words.join(" "));
        }
        said
    }

    #[test]
    fn a_transaction_writes_rows_between_what_their_indexes_gain_and_lose() {
        let (keys, node) = (Keys::new("pn:", 0), "a.1".parse().unwrap());
        let user = Subject::User("u".parse().unwrap());
        let [news, old] = ["news", "old"].map(|topic| Subject::Topic(topic.parse().unwrap()));
        let rows = [
            row(
                user,
                &[7, 8],
                Here::LocalConnections(LocalConnections::new()),
            ),
            row(news, &[], Here::Members(3, true)),
            row(old, &[], Here::Members(0, false)),
        ];
        let mut writer = RowWriter::new(&keys, &node, false);
        writer.transaction(&rows);
        assert_eq!(
            said(&writer.script),
            [
                "MULTI",
                "SADD pn:topics:{a.1} news",
                "HDEL pn:user:{u} a.1/7 a.1/8",
                "HSET pn:topic:{news} a.1 3,watch",
                "EXPIRE pn:topic:{news} 86400",
                "HDEL pn:topic:{old} a.1",
                "SREM pn:users:{a.1} u",
                "SREM pn:topics:{a.1} old",
                "EXEC",
            ]
        );
    }
}
