//! pushnode: a push service of many equal nodes over one Redis.
//!
//! Clients hold a WebSocket, an SSE stream or a TCP connection to any node. Each node keeps its
//! connections in a local map (`local`) and writes `user -> node/fd` to Redis (`backplane`).
//! A sender looks the user up and publishes to that node's channel; the node writes to its sockets.
//!
//! The modules stand in reading order, which is the order of dependency: a file uses only what
//! stands above it.

mod shutdown;

mod clock;

pub mod protocol;

mod telemetry;

mod config;

mod http_client;

mod hooks;

mod auth;

mod local;

mod backplane;

mod cluster;

mod presence;

mod delivery;

mod access;

mod app;

mod edge;

mod api;

mod node;

mod command_line;

pub use crate::command_line::output::{UNAVAILABLE, USAGE};
pub use crate::command_line::{Invocation, OneCommand};
pub use crate::config::auth::AuthMode;
pub use crate::config::env_file::env_file;
pub use crate::config::{Config, Listen, LogFormat, VARIABLES};
pub use crate::edge::listeners::{CannotListen, Listeners};
pub use crate::node::{RunError, run};
pub use crate::telemetry::log_writer::LogWriter;
pub use crate::telemetry::metrics::Metrics;

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
