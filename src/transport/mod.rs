//! Kinds of sockets: each turns a request into a connection of a shard.

pub(crate) mod entrance;
pub mod sse;
pub mod tcp;
pub mod ws;
