//! The names of all keys and channels in Redis, as PROTOCOL.md lists them.
//!
//! What must stay true: keys that one MULTI writes share a hash tag, so that in a cluster they
//! are all on one server. Redis keeps the keys of two databases apart, but not their channels: a
//! channel of a database other than 0 has its number.

use std::sync::Arc;

use crate::protocol::ids::{NodeId, Subject, Topic, UserId};
use crate::protocol::session_id::SessionId;

#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: Arc<str>,
    /// The prefix of channels.
    channels: Arc<str>,
}

impl Keys {
    /// All names begin with `prefix`.
    pub(crate) fn new(prefix: &str, database: u8) -> Self {
        let channels = match database {
            0 => prefix.to_owned(),
            number => format!("{prefix}{number}:"),
        };
        Self {
            prefix: prefix.into(),
            channels: channels.into(),
        }
    }

    /// The prefixes of keys and of channels.
    pub(crate) fn prefixes(&self) -> (&str, &str) {
        (&self.prefix, &self.channels)
    }

    /// A key of a user. In a hash tag the id is escaped, so that it ends where the tag does.
    fn tagged(&self, kind: &str, user: &UserId) -> String {
        // Not formatted: every push makes one.
        [&self.prefix, kind, ":{", &user.in_key(), "}"].concat()
    }

    /// Hash: `<node>/<fd>` to the data of that connection.
    pub(crate) fn user(&self, user: &UserId) -> String {
        self.tagged("user", user)
    }

    /// Hash: `<node>` to the number of its connections in the topic.
    pub(crate) fn topic(&self, topic: &Topic) -> String {
        format!("{}topic:{{{topic}}}", self.prefix)
    }

    /// The row of a user or topic.
    pub(crate) fn row(&self, subject: &Subject) -> String {
        match subject {
            Subject::User(user) => self.user(user),
            Subject::Topic(topic) => self.topic(topic),
        }
    }

    /// Stream: the messages kept for a user or a topic.
    pub(crate) fn inbox(&self, subject: &Subject) -> String {
        match subject {
            Subject::User(user) => self.tagged("inbox", user),
            Subject::Topic(topic) => format!("{}log:{{{topic}}}", self.prefix),
        }
    }

    /// String: the position of the newest message ever kept there.
    pub(crate) fn position(&self, subject: &Subject) -> String {
        match subject {
            Subject::User(user) => self.tagged("pos", user),
            Subject::Topic(topic) => format!("{}logpos:{{{topic}}}", self.prefix),
        }
    }

    /// String: exists for a minute after a message with this id was kept there.
    pub(crate) fn kept(&self, subject: &Subject, id: &str) -> String {
        match subject {
            Subject::User(user) => format!("{}:{id}", self.tagged("kept", user)),
            Subject::Topic(topic) => format!("{}logkept:{{{topic}}}:{id}", self.prefix),
        }
    }

    /// Hash: devices to how far they have read the user's inbox.
    pub(crate) fn bookmarks(&self, user: &UserId) -> String {
        self.tagged("read", user)
    }

    /// String: a random number that is lost when Redis loses all it has.
    pub(crate) fn epoch(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    /// String: the claims of a session; any application may write it.
    pub(crate) fn session(&self, id: SessionId) -> String {
        format!("{}session:{id}", self.prefix)
    }

    /// String: why a user is banned.
    pub(crate) fn ban(&self, user: &UserId) -> String {
        self.tagged("ban", user)
    }

    /// Stream of one entry, whose id is the ordinal of the user's newest connection.
    pub(crate) fn seat(&self, user: &UserId) -> String {
        self.tagged("seat", user)
    }

    /// String: the lease of the node that has this name.
    pub(crate) fn lease(&self, name: &str) -> String {
        format!("{}node:{name}", self.prefix)
    }

    /// Set: names of nodes.
    pub(crate) fn nodes(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    /// Set: users whose row has a connection of this node. May name too many, never too few.
    pub(crate) fn users(&self, node: &NodeId) -> String {
        format!("{}users:{{{node}}}", self.prefix)
    }

    /// Set: topics whose row has a field of this node. May name too many, never too few.
    pub(crate) fn topics(&self, node: &NodeId) -> String {
        format!("{}topics:{{{node}}}", self.prefix)
    }

    /// Set: full ids of nodes whose rows have not been swept.
    pub(crate) fn boots(&self) -> String {
        format!("{}boots", self.prefix)
    }

    /// String: the node that sweeps this dead node's rows.
    pub(crate) fn sweep(&self, node: &NodeId) -> String {
        format!("{}sweep:{{{node}}}", self.prefix)
    }

    /// Stream: events of nodes and users, for any reader.
    pub(crate) fn events(&self) -> String {
        format!("{}events", self.prefix)
    }

    /// Stream: the messages that clients send to a service.
    pub(crate) fn upstream(&self, service: &str) -> String {
        format!("{}upstream:{service}", self.prefix)
    }

    pub(crate) fn node_channel(&self, node: &NodeId) -> String {
        [&self.channels, "n:{", node.as_str(), "}"].concat()
    }

    pub(crate) fn global_channel(&self) -> String {
        format!("{}g", self.channels)
    }
}
