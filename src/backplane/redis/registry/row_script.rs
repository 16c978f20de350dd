//! What is said to Redis so that rows and indexes tell of this node's connections as they are.
//!
//! The answers tell of a row that another program deleted: what was written before is written by a
//! command of its own, and a field that it adds was missing.
//!
//! What must stay true: a row is changed only by naming fields of this node, and is never without
//! a TTL once its MULTI is carried out. A connection counts as written only after that.

use std::fmt::Write as _;

use smallvec::SmallVec;

use crate::backplane::redis::wire::resp::Reply;
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
    /// A user's connections, and which of them were not written before.
    Connections(LocalConnections, NewFds),
    /// A topic's connections.
    Members(LocalMembers),
}

/// In order, as they are searched.
type NewFds = SmallVec<[Fd; 1]>;

/// What a topic's row says of this node.
#[derive(Debug, Clone, Copy)]
struct LocalMembers {
    count: u32,
    /// Whether clients here watch the topic.
    is_watched: bool,
    /// Whether the row has been written since the first of them came.
    is_written: bool,
}

impl DirtyRow {
    /// Reads what the hub has now.
    pub(super) fn of(hub: &Hub, (subject, change): (Subject, Change)) -> Self {
        let here = match &subject {
            Subject::User(user) => {
                let seats = hub.seats(user);
                let fds = seats.iter().map(|seat| seat.fd);
                let mut new: NewFds = fds.filter(|fd| !hub.is_written(*fd)).collect();
                new.sort_unstable();
                Here::Connections(seats, new)
            }
            Subject::Topic(topic) => {
                let topics = hub.topics();
                Here::Members(LocalMembers {
                    count: topics.count(topic),
                    is_watched: topics.is_watched(topic),
                    is_written: topics.is_written(topic),
                })
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
            Here::Connections(seats, _) => seats.is_empty(),
            Here::Members(here) => here.count == 0,
        }
    }

    /// Redis lacked something of the row. Answers whether that is a loss that was not known.
    pub(super) fn note_lack(&mut self) -> bool {
        let is_news = !self.change.forgotten && !self.change.lost;
        self.change.lost |= is_news;
        is_news
    }

    /// The row has been written.
    pub(super) fn note_written(&self, hub: &Hub) {
        match (&self.subject, &self.here) {
            (_, Here::Connections(_, new)) => {
                let gone = self.change.gone.iter();
                hub.note_written(new.iter().chain(gone).copied());
            }
            (Subject::Topic(topic), Here::Members(here)) if here.count > 0 => {
                hub.topics().note_written(topic);
            }
            _ => {}
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
    /// How many commands stand before the first one in the MULTI.
    before: usize,
    /// Where the commands of each row end in the MULTI, if that is noted.
    ends: Option<Vec<usize>>,
    /// Which commands in the MULTI must add no field, and of which row each is.
    standing: Vec<(usize, usize)>,
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
            before: 0,
            ends: None,
            standing: Vec::new(),
            text: String::new(),
            value: Vec::new(),
        }
    }

    /// A whole MULTI that makes these rows and their indexes current.
    pub(super) fn transaction(&mut self, rows: &[DirtyRow]) {
        self.begin();
        for of_topics in INDEXES {
            self.index(of_topics, b"SADD", rows, DirtyRow::stays);
        }
        self.note_end();
        for (at, row) in rows.iter().enumerate() {
            self.row(at, row);
            self.note_end();
        }
        for of_topics in INDEXES {
            self.index(of_topics, b"SREM", rows, DirtyRow::is_empty);
        }
        self.script.command(&[b"EXEC"]);
    }

    /// By whom each command of [`RowWriter::transaction`] is: the place of its row, or `None` if it
    /// is of an index. Asked for only after a refusal.
    pub(super) fn owners(mut self, rows: &[DirtyRow]) -> Vec<Option<usize>> {
        self.ends = Some(Vec::with_capacity(rows.len()));
        self.transaction(rows);
        // Without the EXEC.
        let commands = self.script.commands() - self.before - 1;
        let ends = self.ends.unwrap_or_default();
        let mut owners = vec![None; commands];
        // The first are those that add to the indexes.
        let mut from = ends[0];
        for (at, end) in ends[1..].iter().enumerate() {
            owners[from..*end].fill(Some(at));
            from = *end;
        }
        owners
    }

    /// A whole MULTI that makes one row current, without its index.
    pub(super) fn alone(&mut self, row: &DirtyRow) {
        self.begin();
        self.row(0, row);
        self.script.command(&[b"EXEC"]);
    }

    fn begin(&mut self) {
        self.script.command(&[b"MULTI"]);
        self.before = self.script.commands();
    }

    /// What tells from the answers which rows lacked something.
    pub(super) fn into_written_before(self) -> WrittenBefore {
        WrittenBefore(self.standing)
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

    /// The commands that make a row current, the one at this place.
    fn row(&mut self, at: usize, row: &DirtyRow) {
        let key = self.keys.row(&row.subject);
        match &row.here {
            Here::Connections(seats, new) => self.seats(at, &key, &row.change, (seats, new)),
            Here::Members(here) => self.members(at, &key, *here),
        }
    }

    fn note_end(&mut self) {
        let end = self.script.commands() - self.before;
        if let Some(ends) = &mut self.ends {
            ends.push(end);
        }
    }

    /// The next command must add no field to this row.
    fn note_standing(&mut self, at: usize) {
        self.standing
            .push((self.script.commands() - self.before, at));
    }

    fn members(&mut self, at: usize, key: &str, here: LocalMembers) {
        let (key, node) = (key.as_bytes(), self.node.as_str().as_bytes());
        let count = here.count;
        if count == 0 {
            return self.script.command(&[b"HDEL", key, node]);
        }
        self.text.clear();
        let _ = match here.is_watched {
            true => write!(self.text, "{count},{WATCHED}"),
            false => write!(self.text, "{count}"),
        };
        if here.is_written {
            self.note_standing(at);
        }
        self.script
            .command(&[b"HSET", key, node, self.text.as_bytes()]);
        self.expire(key);
    }

    fn seats(
        &mut self,
        at: usize,
        key: &str,
        change: &Change,
        (seats, new): (&LocalConnections, &NewFds),
    ) {
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
        if new.len() < seats.len() {
            self.note_standing(at);
            self.set(key, seats, |fd| new.binary_search(&fd).is_err());
        }
        if !new.is_empty() {
            self.set(key, seats, |fd| new.binary_search(&fd).is_ok());
        }
        self.expire(key);
    }

    /// Sets the fields of the chosen connections.
    fn set(&mut self, key: &[u8], seats: &LocalConnections, is_chosen: impl Fn(Fd) -> bool) {
        let chosen = || seats.iter().filter(|seat| is_chosen(seat.fd));
        self.script.begin(2 + 2 * chosen().count());
        self.script.word(b"HSET");
        self.script.word(key);
        for seat in chosen() {
            let about = RowValue {
                leaving: self.leaving,
                ..RowValue::of(seat)
            };
            self.field(seat.fd);
            self.value.clear();
            serde_json::to_writer(&mut self.value, &about).expect("plain fields");
            self.script.word(&self.value);
        }
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

/// Which commands of a MULTI write what was written before, and of which row each is.
#[derive(Debug)]
pub(super) struct WrittenBefore(Vec<(usize, usize)>);

impl WrittenBefore {
    /// The rows of which something was missing, by what the commands were answered.
    pub(super) fn lacking(&self, answers: &[Reply]) -> impl Iterator<Item = usize> {
        let adds_fields = |command: usize| matches!(answers.get(command), Some(Reply::Number(1..)));
        let rows = self
            .0
            .iter()
            .filter(move |(command, _)| adds_fields(*command));
        rows.map(|(_, row)| *row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::directory::{LocalConnection, LocalConnections};
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

    fn members(count: u32) -> Here {
        Here::Members(LocalMembers {
            count,
            is_watched: true,
            is_written: true,
        })
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
    fn what_was_written_before_is_written_by_a_command_of_its_own() {
        let (keys, node) = (Keys::new("pn:", 0), "a.1".parse().unwrap());
        let user: Subject = Subject::User("u".parse().unwrap());
        let seats = |written: [bool; 2]| {
            let fds = [7, 8].map(Fd);
            let new = fds.into_iter().zip(written).filter(|(_, is)| !is);
            let new = new.map(|(fd, _)| fd).collect();
            Here::Connections(fds.map(LocalConnection::of_row).into_iter().collect(), new)
        };
        let lacking = |written, first_made| {
            let mut writer = RowWriter::new(&keys, &node, false);
            writer.alone(&row(user.clone(), &[6], seats(written)));
            let answers = [1, first_made, 1, 1].map(Reply::Number);
            writer.into_written_before().lacking(&answers).count()
        };
        assert_eq!(
            (lacking([true, false], 0), lacking([true, false], 1)),
            (0, 1)
        );
        assert_eq!((lacking([true, true], 0), lacking([true, true], 2)), (0, 1));
        assert_eq!(lacking([false, false], 2), 0, "they are new");
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
                Here::Connections(LocalConnections::new(), NewFds::new()),
            ),
            row(news, &[], members(3)),
            row(old, &[], members(0)),
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
        let owners = RowWriter::new(&keys, &node, false).owners(&rows);
        let [user, news, old] = [0, 1, 2].map(Some);
        assert_eq!(owners, [None, user, news, news, old, None, None]);
        // Of the rows, only that of `news` was written before and has something to write.
        let answers = |made: i64| [1, 0, made, 1, 1, 1, 1].map(Reply::Number);
        let standing = writer.into_written_before();
        assert_eq!(standing.lacking(&answers(0)).count(), 0);
        assert_eq!(standing.lacking(&answers(1)).collect::<Vec<_>>(), [1]);
    }
}
