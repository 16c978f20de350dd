//! The connections that this node holds.
//!
//! [`hub`] is what the rest of the node says to them, [`shard`] the one owner of their sockets,
//! [`connection`] one of them without its socket. Nothing here knows of Redis or HTTP, and no
//! file uses one that stands below it.

pub mod admission;

pub mod map;

pub mod dirty_rows;

pub mod row_wait;

pub mod event_queue;

pub mod dedup;

pub mod receipt;

pub mod pending_call;

pub mod evictions;

pub mod presence_queue;

pub mod directory;

pub mod membership;

pub mod topics;

pub mod replay;

pub mod connection;

pub mod shard;

pub mod hub;
