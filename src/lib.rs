//! pushnode: a push service of many equal nodes over one Redis.
//!
//! Clients hold a WebSocket, an SSE stream or a TCP connection to any node. Each node keeps its
//! connections in a local map ([`local`]) and writes `user -> node/fd` to Redis ([`backplane`]).
//! A sender looks the user up and publishes to that node's channel; the node writes to its sockets.
//!
//! The modules stand in reading order, which is the order of dependency: a file uses only what
//! stands above it.

pub mod shutdown;

mod clock;

pub mod protocol;

pub mod telemetry;

pub mod config;

pub mod auth;

pub mod local;

pub mod backplane;

pub mod cluster;

pub mod presence;

pub mod delivery;

pub mod access;

pub(crate) mod app;

pub mod edge;

pub mod api;

pub mod node;

pub use crate::edge::listeners::{CannotListen, Listeners};
pub use crate::node::{RunError, run};

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
