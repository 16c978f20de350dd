//! The connections that this node holds.
//!
//! [`hub`] is what the rest of the node says to them, [`shard`] the one owner of their sockets,
//! [`connection`] one of them without its socket. Nothing here knows of Redis or HTTP.

pub mod admission;

pub mod dirty_rows;

pub mod event_queue;

pub mod dedup;

pub mod receipt;

pub mod presence_queue;

pub mod topics;

pub mod membership;

pub mod replay;

pub mod connection;

pub mod shard;

pub mod hub;
