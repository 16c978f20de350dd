//! A whole node as its clients, senders and operators meet it: real processes, real sockets.
//! Clusters have a test binary of their own.

#[path = "../common/mod.rs"]
mod common;
mod raw;
mod sender;

mod start;

mod connect;
mod credits;
mod frames;
mod framing;
mod handshakes;
mod idle_and_stuck;
mod limits;
mod origins;
mod strangers;

mod addresses;
mod bad_input;
mod batches;
mod calls;
mod commands;
mod cors;
mod doors;
mod identity;
mod keep;
mod passes;
mod presence;
mod push;
mod refusals;
mod slow;
mod streams;
mod stumbles;
mod tokens;
mod topics;
mod trace;
mod transports;
mod users;

mod documents;
mod metrics;
mod openapi;
mod operations;
mod tidy;
