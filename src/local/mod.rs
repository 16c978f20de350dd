//! The connections that this node holds.
//!
//! [`hub`] is what the rest of the node says to them, [`shard`] the one owner of their sockets,
//! [`connection`] one of them without its socket. Nothing here knows of Redis or HTTP, and no
//! file uses one that stands below it.

pub(crate) mod retry;

pub(crate) mod admission;

pub(crate) mod budget;

pub(crate) mod density;

pub(crate) mod map;

pub(crate) mod dirty_rows;

pub(crate) mod row_wait;

pub(crate) mod event_queue;

pub(crate) mod dedup;

pub(crate) mod receipt;

pub(crate) mod pending_call;

pub(crate) mod evictions;

pub(crate) mod presence_queue;

pub(crate) mod directory;

pub(crate) mod membership;

pub(crate) mod live_rules;

pub(crate) mod topics;

pub(crate) mod replay;

pub(crate) mod connection;

pub(crate) mod shard;

pub(crate) mod hub;
