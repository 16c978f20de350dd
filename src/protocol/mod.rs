//! Everything that is said on a wire, and its grammar.
//!
//! The only folder that knows field names. It does no I/O, starts no task and imports nothing from
//! the rest of the program, so it compiles alone (the fuzz crate does that). Decoding is total: any
//! bytes become a value or an `InvalidInput`.
//!
//! The modules stand in dependency order: a file uses only what stands above it.

pub mod ids;

pub mod session_id;

pub mod topic_pattern;

pub mod topic_rules;

pub mod route;

pub mod secret;

pub mod position;

pub mod close;

pub mod fault;

mod json;

pub mod info;

pub mod client;

pub mod message;

pub mod history;

pub mod outcome;

pub mod sender;

pub mod hooks;

pub mod bus;

pub use crate::protocol::bus::event::*;
pub use crate::protocol::bus::line::*;
pub use crate::protocol::bus::node_lines::*;
pub use crate::protocol::bus::presence::*;
pub use crate::protocol::bus::question::*;
pub use crate::protocol::bus::signature::{ClusterKeys, Proof, is_command};
pub use crate::protocol::client::connect_head::*;
pub use crate::protocol::client::dialect::{Dialect, EventStream, GOODBYE_ID};
pub use crate::protocol::client::event_id::{EventId, MAX_RESUMED_TOPICS, StreamPosition};
pub use crate::protocol::client::objects::*;
pub use crate::protocol::client::refusal::*;
pub use crate::protocol::client::requests::*;
pub use crate::protocol::client::send::*;
pub use crate::protocol::fault::InvalidInput;
pub use crate::protocol::history::*;
pub use crate::protocol::info::*;
pub use crate::protocol::message::*;
pub use crate::protocol::outcome::*;
pub use crate::protocol::sender::access::*;
pub use crate::protocol::sender::call::*;
pub use crate::protocol::sender::known_head::*;
pub use crate::protocol::sender::plain_push::lines;
pub use crate::protocol::sender::push::PushRequest;
pub use crate::protocol::sender::push_head::*;

#[cfg(test)]
mod tests;
